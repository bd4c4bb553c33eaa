/* weights.h - an opened model: its configuration and views of its tensors, checked against each
 * other. The loader is chosen by what the path is. Immutable after open; the views borrow from the
 * mapping and die with weights_close(). */
#ifndef LM_ENGINE_WEIGHTS_H
#define LM_ENGINE_WEIGHTS_H

#include "engine/model_config.h"
#include "kernels/backend.h"
#include "shared/base/arena.h"
#include "shared/base/error.h"

struct gguf;

struct weights {
    struct model_config config;
    struct model_params params; // what backend_ops.load() takes
    int64_t parameters;         // elements of all tensors
    struct gguf *gguf;          // owned; the tokenizer and the chat template are read from it too
    struct arena arena;         // layers, tables, vectors converted to float32
};

/* E_FORMAT, E_UNSUPPORTED, -errno: one line that names the file and what to do. */
FALLIBLE int weights_open(const char *path, struct weights **out, struct error *err);
void weights_close(struct weights *w); // NULL is fine

#endif
