/* model_config.h - what a model is, in numbers and flags, whatever file it came from.
 *
 * One decoder serves every family: a family is a row of model_config_hf.c or model_config_gguf.c
 * plus what its file says. Plain values, no ownership, except where a line says otherwise. */
#ifndef LM_ENGINE_MODEL_CONFIG_H
#define LM_ENGINE_MODEL_CONFIG_H

#include "engine/rope.h"
#include "kernels/backend.h"
#include "shared/base/error.h"
#include "shared/base/str.h"

struct arena;
struct gguf;
struct json;
struct tensor_names;

/* Bounds of what a file may claim: products of two of them fit an int64. */
#define MODEL_LAYERS_MAX   1024
#define MODEL_WIDTH_MAX    (1 << 20) // hidden, ffn
#define MODEL_HEADS_MAX    4096
#define MODEL_HEAD_DIM_MAX 1024
#define MODEL_VOCAB_MAX    (1 << 22)
#define MODEL_CONTEXT_MAX  (1 << 28)
#define MODEL_EXPERTS_MAX  1024

enum qk_norm {
    QK_NORM_NONE,
    QK_NORM_PER_HEAD,   // [head_dim]: Qwen3, Gemma 3
    QK_NORM_SPANS_HEADS // [heads * head_dim]: OLMo 2
};

/* Where a layer has its norms: before attention and FFN, behind both (OLMo 2), or both (Gemma). */
enum norm_placement { NORMS_BEFORE, NORMS_AFTER, NORMS_BOTH };

/* Multi-head latent attention (struct latent_params of kernels/backend.h). */
struct latent_config {
    int q_rank, kv_rank; // kv_rank 0: the model has none; q_rank 0: a plain q
    int rope_dims;       // of head_dim, the last ones
    int value_dim;
};

enum tied_head {
    HEAD_TIED_IF_ABSENT, // the file doesn't say
    HEAD_TIED,
    HEAD_OWN,
};

struct layer_config {
    int window;     // attend to the last `window` positions only; 0: all
    int rope_table; // index into model_config.rope, or ROPE_NONE
    bool experts;   // a mixture of experts in the place of the FFN
};

struct model_config {
    char architecture[64]; // "llama", "LlamaForCausalLM"
    char name[128];        // the file's own name of the model; "" if it has none
    const struct tensor_names *names;
    int layers, hidden, heads, kv_heads, head_dim, ffn;
    int vocab;       // 0 until the embedding's shape is known, if the file doesn't say
    int context_len; // positions the model was made for
    enum rope_style rope_style;
    struct rope_source rope[ROPE_TABLES_MAX]; // all with the same dims
    int rope_count;
    enum ffn_activation activation;
    float norm_eps;
    float attention_scale;
    float embedding_scale, residual_scale, logit_scale;
    float attention_softcap, logit_softcap; // 0: none
    enum qk_norm qk_norm;
    enum norm_placement norms;
    bool norm_plus_one; // stored norm weights lack the 1 (Gemma's Hugging Face files)
    bool qkv_bias;      // there must be one; otherwise there may be
    enum tied_head head;
    struct latent_config latent;
    struct expert_shape experts;
    struct layer_config layer[MODEL_LAYERS_MAX];
};

/* Everything that a family leaves alone; layers are set once their number is known. */
void model_config_init(struct model_config *c);
/* What both kinds of file must satisfy. E_FORMAT, E_UNSUPPORTED. */
FALLIBLE int model_config_check(const struct model_config *c, struct error *err);
/* A copy that may go to logs and terminals: printable ASCII, cut to fit. */
void model_config_copy_text(char *out, size_t size, struct str text);

/* E_UNSUPPORTED: an architecture or feature that we don't have, by name. E_FORMAT: a key is missing
 * or its value can't be. */
FALLIBLE int model_config_from_gguf(const struct gguf *g, struct model_config *out,
                                    struct error *err);
/* From a parsed config.json, in the older style (rope_theta, rope_scaling) or the newer one
 * (rope_parameters). Lists that rope sources point to are made in `arena`. */
FALLIBLE int model_config_from_json(const struct json *root, struct arena *arena,
                                    struct model_config *out, struct error *err);

#endif
