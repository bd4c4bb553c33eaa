/* model_config.h - what a model is, in numbers and flags, whatever file it came from.
 *
 * One decoder serves every family: a family is a row of defaults in model_config.c plus what its
 * file says. Plain values, no ownership. */
#ifndef LM_ENGINE_MODEL_CONFIG_H
#define LM_ENGINE_MODEL_CONFIG_H

#include "kernels/backend.h"
#include "shared/base/error.h"

struct gguf;

struct model_config {
    char architecture[32]; // "llama"
    char name[128];        // general.name; "" if the file has none
    int layers, hidden, heads, kv_heads, head_dim, ffn;
    int vocab;       // 0 until the embedding's shape is known, if the file doesn't say
    int context_len; // positions the model was made for
    int window;      // sliding window of all layers; 0: none
    enum rope_style rope_style;
    int rope_dims;
    double rope_base;
    double rope_linear_factor; // positions are divided by it; 1: no scaling
    enum ffn_activation activation;
    float norm_eps;
    float attention_scale;
};

/* E_UNSUPPORTED: an architecture or feature that we don't have, by name. E_FORMAT: a key is missing
 * or its value can't be. */
FALLIBLE int model_config_from_gguf(const struct gguf *g, struct model_config *out,
                                    struct error *err);

#endif
