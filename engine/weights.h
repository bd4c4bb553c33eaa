/* weights.h - an opened model: its configuration and views of its tensors, checked against each
 * other. The loader is chosen by what the path is: a GGUF file, or a folder as Hugging Face has
 * them (config.json and safetensors). Immutable after open except for weights_fit_rope(); the views
 * borrow from the mapping and die with weights_close(). */
#ifndef LM_ENGINE_WEIGHTS_H
#define LM_ENGINE_WEIGHTS_H

#include "engine/model_config.h"
#include "kernels/backend.h"
#include "shared/base/arena.h"
#include "shared/base/error.h"

struct gguf;
struct made_memory;
struct safetensors;

/* How a model is opened. Zeroes: fast, and as its files say. */
struct weights_options {
    /* What the backend computes in. With COMPUTE_F32 quantised formats of folders that kernels don't read
     * become their exact values, otherwise one that is small and fast but rounded (weights_quantized.h). */
    enum compute_type compute;
    /* "hf" (not quantised), "awq", "gptq", "fp8", "mxfp4": how the linear layers of a folder are stored.
     * It may say what config.json leaves open; what contradicts it is E_INVALID, and so is any for a GGUF
     * file. NULL: as config.json says. */
    const char *format;
    bool
        plain_inputs; // the backend can't put a matrix's input in another order: what needs one becomes
                      // float32
    bool scale_grids; // the backend takes F8_E4M3 as it is stored
};

struct weights {
    struct model_config config;
    struct model_params params; // what backend_ops.load() takes
    int64_t parameters;         // elements of all tensors
    /* Where tokenizer and chat template are read from too: exactly one of these is set. */
    struct gguf *gguf;               // owned
    const char *folder;              // owned (arena)
    struct safetensors *safetensors; // owned; of a folder
    struct made_memory *made;        // matrices that are in no file as a backend takes them
    const char *format; // how linear layers are stored: "gguf", "hf", "awq", ...; static
    struct arena arena; // layers, tables, vectors converted to float32
};

/* E_FORMAT, E_UNSUPPORTED, E_NOT_FOUND, -errno: one line that names the file and what to do. */
FALLIBLE int weights_open(const char *path, struct weights **out, struct error *err);
/* The same with options; weights_open() opens for COMPUTE_F32. */
FALLIBLE int weights_open_with(const char *path, const struct weights_options *options,
                               struct weights **out, struct error *err);
void weights_close(struct weights *w); // NULL is fine

/* Make the sets of rope tables for prompts of up to `positions` (rope_set.h); before
 * backend_ops.load(). weights_open() made those for config.context_len, which is enough unless the
 * model is served with more. */
void weights_fit_rope(struct weights *w, int positions);

/* ---- for loaders ---- */

/* An empty one. */
struct weights *weights_create(void);
/* Zeroed memory that is given back page by page as a backend packs what is in it. */
void *weights_make(struct weights *w, size_t bytes);

#endif
