/* Mixtures of experts through the CPU backend, and the other switches of their families: sinks,
 * layers without rotation, norms over all heads, layers without a norm in front. */
#include "tests/kernels/tiny_runner.h"

/* ---- models ---- */

/* Mixtral: the best two, then softmax; two kinds of quantised weights. */
static void model_selected(struct tiny_model *t, struct rng *r)
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
static void model_softmax(struct tiny_model *t, struct rng *r)
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
static void model_normalised(struct tiny_model *t, struct rng *r)
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
static void model_groups(struct tiny_model *t, struct rng *r)
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
static void model_softmax_groups(struct tiny_model *t, struct rng *r)
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
static void model_biases(struct tiny_model *t, struct rng *r)
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
static void model_spans(struct tiny_model *t, struct rng *r)
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

/* ---- right, and equal ---- */

static void test_values(void)
{
    check_values(model_selected, "selected");
    check_values(model_softmax, "softmax");
    check_values(model_normalised, "normalised");
    check_values(model_groups, "groups");
    check_values(model_softmax_groups, "softmax groups");
    check_values(model_biases, "biases");
    check_values(model_spans, "spans");
}

static void test_bits(void)
{
    check_bits(model_selected, COMPUTE_AUTO, KV_F16);
    check_bits(model_softmax, COMPUTE_AUTO, KV_F32);
    check_bits(model_normalised, COMPUTE_AUTO, KV_F16);
    check_bits(model_groups, COMPUTE_AUTO, KV_INT8);
    check_bits(model_groups, COMPUTE_F32, KV_BF16);
    check_bits(model_biases, COMPUTE_AUTO, KV_INT8);
    check_bits(model_spans, COMPUTE_AUTO, KV_BF16);
}

/* Rounding may flip a route; a row that went to the wrong expert or came from the wrong token at
 * every step would leave nothing of the logits. */
static void test_rounded(void)
{
    check_rounded(model_selected, "selected");
    check_rounded(model_normalised, "normalised");
    check_rounded(model_groups, "groups");
}

/* ---- what it refuses ---- */

struct refusal {
    int code;
    const char *text;
    void (*spoil)(struct tiny_model *t);
};

static void spoil_used(struct tiny_model *t)
{
    t->params.expert_shape.used = 17;
}

static void spoil_group_size(struct tiny_model *t)
{
    t->params.expert_shape.groups = 3;
}

static void spoil_groups_used(struct tiny_model *t)
{
    t->params.expert_shape.groups_used = 0;
}

static void spoil_group_room(struct tiny_model *t)
{
    t->params.expert_shape.groups_used = 1;
    t->params.expert_shape.used = 5;
}

static void spoil_group_scoring(struct tiny_model *t)
{
    t->params.expert_shape.scoring = EXPERTS_SOFTMAX_SELECTED;
}

static void spoil_scoring(struct tiny_model *t)
{
    t->params.expert_shape.scoring = (enum expert_scoring)7;
}

static void spoil_scale(struct tiny_model *t)
{
    t->params.expert_shape.scale = 0;
}

static void spoil_count(struct tiny_model *t)
{
    t->params.expert_shape = (struct expert_shape){0};
}

static void spoil_router(struct tiny_model *t)
{
    t->experts[1].router.rows--;
}

static void spoil_down(struct tiny_model *t)
{
    struct matrix *m = (struct matrix *)(uintptr_t)&t->experts[1].down[9];
    m->data = NULL;
}

static void spoil_shared(struct tiny_model *t)
{
    t->experts[0].shared_up.data = NULL;
}

static void spoil_shared_scale(struct tiny_model *t)
{
    struct expert_params *x = &t->experts[0];
    x->shared_gate.data = x->shared_up.data = x->shared_down.data = NULL;
    x->shared_scale = x->correction;
}

static void test_refusals(void)
{
    static const struct refusal refusals[] = {
        {E_UNSUPPORTED, "experts per token 17", spoil_used},
        {E_UNSUPPORTED, "16 experts don't divide into 3 groups", spoil_group_size},
        {E_UNSUPPORTED, "used expert groups 0", spoil_groups_used},
        {E_UNSUPPORTED, "5 experts per token, but 1 groups have only 4", spoil_group_room},
        {E_UNSUPPORTED, "groups need scores of all", spoil_group_scoring},
        {E_UNSUPPORTED, "expert scoring 7", spoil_scoring},
        {E_INVALID, "scale of experts is 0", spoil_scale},
        {E_INVALID, "layer 0 has experts, but the model has none", spoil_count},
        {E_INVALID, "layer 1: matrix router is 15 x 64", spoil_router},
        {E_INVALID, "layer 1 has no down of expert 9", spoil_down},
        {E_INVALID, "layer 0 has no shared up", spoil_shared},
        {E_INVALID, "layer 0 has a scale for a shared expert", spoil_shared_scale},
    };

    for (size_t i = 0; i < ARRAY_LEN(refusals); i++) {
        struct tiny_model t = {0};
        struct error err = {0};
        struct rng rng;
        rng_init(&rng, 9);
        model_groups(&t, &rng);
        if (i == 0) EXPECT_INT(tiny_load_code(&t, &err), 0);
        refusals[i].spoil(&t);
        EXPECT_INT(tiny_load_code(&t, &err), refusals[i].code);
        if (!strstr(err.text, refusals[i].text)) printf("'%s'\n", err.text);
        EXPECT(strstr(err.text, refusals[i].text));
        tiny_free(&t);
    }
}

int main(void)
{
    RUN(test_values);
    RUN(test_bits);
    RUN(test_rounded);
    RUN(test_refusals);
    return TEST_END();
}
