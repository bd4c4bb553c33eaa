/* tiny_models.h - the models that backends are tested with; each is a build_fn of tiny_runner.h. */
#ifndef LM_TESTS_TINY_MODELS_H
#define LM_TESTS_TINY_MODELS_H

#include "tests/kernels/tiny_runner.h"

/* ---- dense ---- */

/* Llama-like, formats of the default model. */
static inline void model_plain(struct tiny_model *t, struct rng *r)
{
    static const enum dtype types[] = {DTYPE_Q8_0, DTYPE_Q4_1, DTYPE_Q4_1, DTYPE_Q4_0};
    t->params = scalars(96, 6, 2, 16, 160, 131);
    tiny_fill(t, r, types, 4, false);
}

/* Everything that a family may switch on, 16-bit and 32-bit weights, odd sizes. */
static inline void model_extras(struct tiny_model *t, struct rng *r)
{
    static const enum dtype types[] = {DTYPE_BF16, DTYPE_F16, DTYPE_F32};
    struct model_params p = scalars(52, 4, 1, 22, 75, 77);
    p.layers = 3;
    p.rope_dims = 14;
    p.rope_style = ROPE_HALF_SPLIT;
    p.activation = FFN_GELU_TANH;
    p.embedding_scale = 7.5f;
    p.residual_scale = 0.4f;
    p.logit_scale = 0.7f;
    p.attention_softcap = 20;
    p.logit_softcap = 4;
    p.rope_table_count = 2;
    t->params = p;
    tiny_fill(t, r, types, 3, true);
}

static inline void model_floats(struct tiny_model *t, struct rng *r)
{
    static const enum dtype types[] = {DTYPE_F32};
    t->params = scalars(64, 4, 2, 16, 96, 80);
    tiny_fill(t, r, types, 1, false);
}

static inline void model_k_quants(struct tiny_model *t, struct rng *r)
{
    static const enum dtype types[] = {DTYPE_Q6_K, DTYPE_Q4_K, DTYPE_Q4_K};
    t->params = scalars(256, 8, 8, 32, 512, 100);
    tiny_fill(t, r, types, 3, false);
}

/* Every other type somewhere. Those with minimums are not q or k: rows that have a mean make scores
 * that the reference's plain exp() can't hold. */
static inline void model_small_weights(struct tiny_model *t, struct rng *r)
{
    static const enum dtype types[] = {
        DTYPE_IQ4_XS, DTYPE_Q3_K,  DTYPE_Q5_K,  DTYPE_Q2_K,   DTYPE_Q5_0,    DTYPE_IQ3_S,
        DTYPE_MXFP4,  DTYPE_IQ2_S, DTYPE_IQ1_M, DTYPE_Q5_1,   DTYPE_IQ2_XXS, DTYPE_IQ3_XXS,
        DTYPE_TQ1_0,  DTYPE_TQ2_0, DTYPE_IQ1_S, DTYPE_IQ2_XS, DTYPE_IQ4_NL};
    t->params = scalars(256, 8, 4, 32, 256, 100);
    t->params.layers = 3;
    tiny_fill(t, r, types, ARRAY_LEN(types), false);
}

/* ---- mixtures of experts ---- */

/* Mixtral: the best two, then softmax; two kinds of quantised weights. */
static inline void model_selected(struct tiny_model *t, struct rng *r)
{
    static const enum dtype types[] = {DTYPE_Q8_0, DTYPE_Q4_1, DTYPE_Q4_0};
    t->params = scalars(96, 6, 2, 16, 0, 131);
    t->params.ffn = 64;
    t->params.expert_shape = (struct expert_shape){
        .experts = 5, .used = 2, .ffn = 160, .scoring = EXPERTS_SOFTMAX_SELECTED, .scale = 1};
    tiny_fill(t, r, types, 3, false);
    for (int i = 0; i < t->params.layers; i++)
        tiny_add_experts(t, r, i, types, 3);
}

/* Qwen2-MoE: softmax over all, a shared expert with a scale of its own, and a dense layer first. */
static inline void model_softmax(struct tiny_model *t, struct rng *r)
{
    static const enum dtype types[] = {DTYPE_BF16, DTYPE_F32, DTYPE_F16};
    t->params = scalars(52, 4, 2, 14, 75, 77);
    t->params.layers = 3;
    t->params.expert_shape = (struct expert_shape){.experts = 19,
                                                   .used = 4,
                                                   .ffn = 21,
                                                   .shared_ffn = 35,
                                                   .scoring = EXPERTS_SOFTMAX,
                                                   .scale = 1};
    tiny_fill(t, r, types, 3, false);
    for (int i = 1; i < 3; i++)
        tiny_add_experts(t, r, i, types, 3)->shared_scale = tiny_floats(t, r, 52, 0, 0.3f);
}

/* Qwen3-MoE: the same with weights that are divided by their sum, and K-quants. */
static inline void model_normalised(struct tiny_model *t, struct rng *r)
{
    static const enum dtype types[] = {DTYPE_Q6_K, DTYPE_Q4_K};
    t->params = scalars(256, 8, 2, 32, 256, 60);
    t->params.expert_shape = (struct expert_shape){.experts = 8,
                                                   .used = 3,
                                                   .ffn = 256,
                                                   .scoring = EXPERTS_SOFTMAX,
                                                   .normalise = true,
                                                   .scale = 1};
    tiny_fill(t, r, types, 2, false);
    tiny_add_experts(t, r, 1, types, 2);
}

/* DeepSeek-V3: each scored by itself, a correction that chooses only, groups, a shared expert. */
static inline void model_groups(struct tiny_model *t, struct rng *r)
{
    static const enum dtype types[] = {DTYPE_F32, DTYPE_Q8_0, DTYPE_Q4_0};
    t->params = scalars(64, 4, 4, 16, 96, 50);
    t->params.expert_shape = (struct expert_shape){.experts = 16,
                                                   .used = 4,
                                                   .ffn = 32,
                                                   .shared_ffn = 64,
                                                   .scoring = EXPERTS_SIGMOID,
                                                   .normalise = true,
                                                   .scale = 2.5f,
                                                   .groups = 4,
                                                   .groups_used = 2};
    tiny_fill(t, r, types, 3, false);
    for (int i = 0; i < 2; i++)
        tiny_add_experts(t, r, i, types, 3)->correction = tiny_floats(t, r, 16, 0, 0.3f);
}

/* DeepSeek-V2: a group is as good as its best expert. */
static inline void model_softmax_groups(struct tiny_model *t, struct rng *r)
{
    static const enum dtype types[] = {DTYPE_F32};
    t->params = scalars(48, 2, 1, 16, 40, 50);
    t->params.expert_shape = (struct expert_shape){.experts = 12,
                                                   .used = 3,
                                                   .ffn = 24,
                                                   .scoring = EXPERTS_SOFTMAX,
                                                   .scale = 4,
                                                   .groups = 6,
                                                   .groups_used = 2};
    tiny_fill(t, r, types, 1, false);
    for (int i = 0; i < 2; i++)
        tiny_add_experts(t, r, i, types, 1);
}

/* gpt-oss: biases everywhere, clamps, sinks, windows on every other layer, odd sizes. Expert 2 is
 * never chosen and holds NaN: it must not be touched. Experts 3 and 4 always tie. */
static inline void model_biases(struct tiny_model *t, struct rng *r)
{
    static const enum dtype types[] = {DTYPE_F32, DTYPE_F16};
    struct model_params p = scalars(52, 6, 3, 22, 40, 77);
    p.activation = FFN_SWIGLU_CLAMPED;
    p.expert_shape = (struct expert_shape){
        .experts = 6, .used = 3, .ffn = 43, .scoring = EXPERTS_SOFTMAX_SELECTED, .scale = 1};
    t->params = p;
    tiny_fill(t, r, types, 2, true);
    for (int i = 0; i < 2; i++) {
        struct expert_params *x = tiny_add_experts(t, r, i, types, 1);
        float *bias = tiny_floats(t, r, 6, 0, 0.5f), *router = (float *)(uintptr_t)x->router.data;
        x->gate_bias = tiny_floats(t, r, 6 * 43, 2, 5.0f);
        x->up_bias = tiny_floats(t, r, 6 * 43, 0, 9.0f);
        x->down_bias = tiny_floats(t, r, 6 * 52, 0, 0.5f);
        x->router_bias = bias;
        bias[2] = -1e6f;
        bias[3] = bias[4];
        memcpy(router + 3 * 52, router + 4 * 52, 52 * sizeof *router);
        memset((void *)(uintptr_t)x->up[2].data, 0xff, matrix_bytes(&x->up[2]));
        t->layer[i].sinks = tiny_floats(t, r, 6, 0, 2.0f);
    }
}

/* OLMo 2 and SmolLM3: norms behind the sub-layers only, one norm over all heads, and a layer
 * without rotation. */
static inline void model_spans(struct tiny_model *t, struct rng *r)
{
    static const enum dtype types[] = {DTYPE_F16, DTYPE_Q8_0};
    t->params = scalars(64, 4, 2, 16, 96, 77);
    t->params.rope_style = ROPE_HALF_SPLIT;
    t->params.qk_norm_spans_heads = true;
    tiny_fill(t, r, types, 2, true);
    for (int i = 0; i < 2; i++) {
        t->layer[i].q_norm = tiny_floats(t, r, 4 * 16, 1, 0.3f);
        t->layer[i].k_norm = tiny_floats(t, r, 2 * 16, 1, 0.3f);
        t->layer[i].attn_norm = t->layer[i].ffn_norm = NULL;
    }
    t->layer[1].rope_table = ROPE_NONE;
    t->layer[1].sinks = tiny_floats(t, r, 4, 0, 2.0f);
}

/* ---- latent attention, widths of V ---- */

/* DeepSeek-V3: latents for q, k and v, experts behind a dense layer. */
static inline void model_latent(struct tiny_model *t, struct rng *r)
{
    static const enum dtype types[] = {DTYPE_Q8_0, DTYPE_Q4_0, DTYPE_F32};
    t->params = scalars(64, 4, 4, 24, 96, 77);
    t->params.value_dim = 16;
    t->params.rope_dims = 8;
    t->params.q_rank = 32;
    t->params.kv_rank = 64;
    t->params.expert_shape = (struct expert_shape){.experts = 8,
                                                   .used = 2,
                                                   .ffn = 32,
                                                   .scoring = EXPERTS_SIGMOID,
                                                   .normalise = true,
                                                   .scale = 1.5f};
    tiny_fill(t, r, types, 3, false);
    for (int i = 0; i < 2; i++)
        tiny_add_latent(t, r, i, types, 3);
    tiny_add_experts(t, r, 1, types, 3);
}

/* DeepSeek-V2-Lite: a plain q; odd sizes, and a window on the second layer. */
static inline void model_plain_q(struct tiny_model *t, struct rng *r)
{
    static const enum dtype types[] = {DTYPE_F16, DTYPE_F32, DTYPE_BF16};
    t->params = scalars(52, 3, 3, 22, 40, 77);
    t->params.value_dim = 26;
    t->params.rope_dims = 10;
    t->params.rope_style = ROPE_HALF_SPLIT;
    t->params.kv_rank = 37;
    tiny_fill(t, r, types, 3, false);
    for (int i = 0; i < 2; i++)
        tiny_add_latent(t, r, i, types, 3);
    t->layer[1].window = 20;
    t->layer[1].o_bias = tiny_floats(t, r, 52, 0, 0.2f);
}

/* No latents, but another width of V, with biases and grouped heads. */
static inline void model_value_dim(struct tiny_model *t, struct rng *r)
{
    static const enum dtype types[] = {DTYPE_F32, DTYPE_F16};
    t->params = scalars(52, 6, 2, 24, 40, 77);
    t->params.value_dim = 14;
    tiny_fill(t, r, types, 2, true);
}

#endif
