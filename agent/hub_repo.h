/* hub_repo.h - a repository of the hub and its place in the cache; for hub*.c. */
#ifndef LM_AGENT_HUB_REPO_H
#define LM_AGENT_HUB_REPO_H

#include <stdbool.h>

#include "shared/base/error.h"
#include "shared/base/str.h"

#define HUB_NAME_MAX 255 // bytes of a file's name in a repository

struct hub_repo {
    char *id;       // "OWNER/NAME"
    char *quant;    // text that its GGUF file's name has; NULL: any
    char *revision; // "main"
    char *folder;   // <cache>/models--OWNER--NAME
};

/* A GGUF model by its file's name: not a projector of images, of a split one the first part. */
bool hub_is_gguf_model(struct str name, const char *quant);

/* hub_download.c: all files of the repository that a model needs, under snapshots/COMMIT, then
 * refs/REVISION. What was there in part goes on where it stopped. */
FALLIBLE int hub_download(const struct hub_repo *r, struct error *err);

#endif
