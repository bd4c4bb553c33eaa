/* hub.h - what MODEL names: a file, a folder, or a repository of the Hugging Face hub.
 *
 *     PATH               as it is, if there is something
 *     OWNER/NAME         the repository's folder; of one without safetensors, its only GGUF model
 *     OWNER/NAME:TEXT    its GGUF model with TEXT in the file name, as in :Q4_K_M
 *
 * A repository is looked for in the cache that Hugging Face's tools share, and downloaded into it if
 * it isn't there. The layout (models--OWNER--NAME/refs, /snapshots/COMMIT) and the variables HF_HUB_CACHE,
 * HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE are those of the huggingface_hub documentation,
 * "Manage your cache" and "Environment variables". Blocking: not for a loop thread. */
#ifndef LM_AGENT_HUB_H
#define LM_AGENT_HUB_H

#include <stdbool.h>
#include <stddef.h>

#include "shared/base/error.h"

struct hub_options {
    const char *cache;    // NULL: as the environment says
    const char *revision; // branch, tag or commit; NULL: main
};

/* "OWNER/NAME" or "OWNER/NAME:TEXT", and there is nothing of that name on this machine. *id_len: bytes of
 * the first two. */
bool hub_names_repository(const char *model, size_t *id_len);

/* *path: owned, a file or a folder. E_NOT_FOUND, E_INVALID, E_UPSTREAM, -errno: what to do is said. */
FALLIBLE int hub_locate(const char *model, const struct hub_options *options, char **path,
                        struct error *err);

#endif
