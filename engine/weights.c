#include "engine/weights.h"

#include "engine/gguf.h"
#include "engine/gguf_split.h"
#include "engine/weights_gguf.h"
#include "shared/base/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static bool has_suffix(const char *text, const char *suffix)
{
    size_t len = strlen(text), n = strlen(suffix);
    return len >= n && strcmp(text + len - n, suffix) == 0;
}

int weights_open(const char *path, struct weights **out, struct error *err)
{
    struct gguf *g;
    struct stat st;
    if (stat(path, &st) < 0)
        return error_set(err, -errno, "can't open model '%s': %s", path, strerror(errno));
    if (S_ISDIR(st.st_mode) || has_suffix(path, ".safetensors"))
        return error_set(err, E_UNSUPPORTED,
                         "model '%s' is not a GGUF file: Hugging Face folders are not supported, "
                         "give a .gguf file",
                         path);
    int rc = gguf_split_open(path, &g, err);
    if (rc < 0) return error_prefix(err, rc, "can't read model");
    rc = weights_gguf_take(g, out, err);
    return rc < 0 ? error_prefix(err, rc, "can't use model '%s'", path) : 0;
}

void weights_close(struct weights *w)
{
    if (!w) return;
    arena_deinit(&w->arena);
    gguf_close(w->gguf);
    free(w);
}
