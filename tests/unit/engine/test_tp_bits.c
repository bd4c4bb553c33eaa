/* A model on several ranks of the CPU backend gives the bits that it gives on one: tiny models with
 * every switch and odd sizes, cut by engine/tp_shard.c. */
#include "tests/kernels/tiny_runner.h"
#include "tests/rank_runner.h"

/* ---- models ---- */

static void model_odd(struct tiny_model *t, struct rng *r)
{
    static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    t->params = scalars(52, 6, 3, 14, 39, 77);
    t->params.logit_scale = 0.7f;
    t->params.logit_softcap = 20;
    t->params.embedding_scale = 3;
    tiny_fill(t, r, types, 3, true);
    for (int i = 0; i < 2; i++) {
        t->layer[i].gate_bias = tiny_floats(t, r, 39, 0, 0.2f);
        t->layer[i].up_bias = tiny_floats(t, r, 39, 0, 0.2f);
        t->layer[i].down_bias = tiny_floats(t, r, 52, 0, 0.2f);
        t->layer[i].sinks = tiny_floats(t, r, 6, 0, 0.5f);
    }
}

/* One KV head for all queries: it is on every rank. */
static void model_replicated(struct tiny_model *t, struct rng *r)
{
    static const enum dtype types[] = {DTYPE_Q8_0, DTYPE_Q4_1, DTYPE_Q4_0};
    t->params = scalars(64, 6, 1, 32, 96, 130);
    tiny_fill(t, r, types, 3, false);
}

/* One norm over all heads, K's over heads that several ranks have. */
static void model_spanned(struct tiny_model *t, struct rng *r)
{
    static const enum dtype types[] = {DTYPE_F32, DTYPE_Q8_0};
    t->params = scalars(64, 8, 2, 16, 64, 96);
    t->params.qk_norm_spans_heads = true;
    tiny_fill(t, r, types, 2, false);
    for (int i = 0; i < 2; i++) {
        t->layer[i].q_norm = tiny_floats(t, r, 8 * 16, 1, 0.3f);
        t->layer[i].k_norm = tiny_floats(t, r, 2 * 16, 1, 0.3f);
        t->layer[i].attn_norm = t->layer[i].ffn_norm = NULL;
        t->layer[i].attn_post_norm = tiny_floats(t, r, 64, 1, 0.3f);
        t->layer[i].ffn_post_norm = tiny_floats(t, r, 64, 1, 0.3f);
    }
}

static void model_experts(struct tiny_model *t, struct rng *r)
{
    static const enum dtype types[] = {DTYPE_Q4_0, DTYPE_F32, DTYPE_Q8_0};
    t->params = scalars(64, 6, 3, 32, 96, 77);
    t->params.expert_shape = (struct expert_shape){.experts = 7,
                                                   .used = 3,
                                                   .ffn = 32,
                                                   .shared_ffn = 64,
                                                   .scoring = EXPERTS_SOFTMAX,
                                                   .normalise = true,
                                                   .scale = 1};
    tiny_fill(t, r, types, 3, true);
    struct expert_params *x = tiny_add_experts(t, r, 1, types, 3);
    x->router_bias = tiny_floats(t, r, 7, 0, 0.2f);
    x->gate_bias = tiny_floats(t, r, 7 * 32, 0, 0.2f);
    x->up_bias = tiny_floats(t, r, 7 * 32, 0, 0.2f);
    x->down_bias = tiny_floats(t, r, 7 * 64, 0, 0.2f);
    x->shared_scale = tiny_floats(t, r, 64, 0, 0.2f);
}

static void model_latent(struct tiny_model *t, struct rng *r)
{
    static const enum dtype types[] = {DTYPE_Q8_0, DTYPE_Q4_0, DTYPE_F32};
    t->params = scalars(64, 5, 5, 24, 96, 77);
    t->params.value_dim = 32;
    t->params.rope_dims = 8;
    t->params.q_rank = 32;
    t->params.kv_rank = 64;
    tiny_fill(t, r, types, 3, false);
    for (int i = 0; i < 2; i++)
        tiny_add_latent(t, r, i, types, 3);
}

/* ---- ranks ---- */

#define FIRST \
    70 // tokens of two sequences, in steps of 1, 40 and 29 tokens, and 30, 0 and 3 beside them
#define SECOND 33

static const int first_steps[] = {1, 40, 29}, second_steps[] = {30, 0, 3};

/* Logits of all tokens, [FIRST + SECOND][vocab]; NULL: can't be cut. */
static float *run_world(const struct tiny_model *t, int world, enum compute_type compute,
                        enum kv_type kv_type)
{
    static const int32_t pages[2][2] = {{3, 0}, {1, 2}};
    struct rank_runner r = {.ops = backend_find("cpu"),
                            .whole = &t->params,
                            .limits = {FIRST, 2, FIRST, 2 * KV_BLOCK_TOKENS},
                            .compute = compute,
                            .kv_type = kv_type,
                            .world = world,
                            .pages = 4};
    struct error err;
    struct rng rng;
    int32_t ids[FIRST], rows[FIRST];
    size_t vocab = (size_t)t->params.vocab, at = 0;
    int past[2] = {0};
    if (!rank_runner_open(&r, &err)) {
        printf("  %d ranks: %s\n", world, err.text);
        return NULL;
    }
    float *logits = xcalloc((FIRST + SECOND) * vocab, sizeof *logits);
    rng_init(&rng, 3);
    for (size_t i = 0; i < ARRAY_LEN(first_steps); i++) {
        int a = first_steps[i], b = second_steps[i], tokens = a + b;
        struct step_sequence sequences[] = {
            {.first = 0, .count = a, .past = past[0], .blocks = pages[0]},
            {.first = a, .count = b, .past = past[1], .blocks = pages[1]},
        };
        struct step step = {.tokens = tokens,
                            .ids = ids,
                            .sequences = b > 0 ? 2 : 1,
                            .sequence = sequences,
                            .rows = tokens,
                            .row = rows};
        for (int k = 0; k < tokens; k++) {
            ids[k] = (int32_t)rng_below(&rng, (uint32_t)vocab);
            rows[k] = k;
        }
        memcpy(logits + at, rank_runner_step(&r, &step), (size_t)tokens * vocab * sizeof *logits);
        at += (size_t)tokens * vocab;
        past[0] += a;
        past[1] += b;
    }
    rank_runner_close(&r);
    return logits;
}

static void check_worlds(build_fn *build, const char *name, int worlds, enum compute_type compute,
                         enum kv_type kv_type)
{
    struct tiny_model t = {0};
    struct rng rng;
    rng_init(&rng, 4);
    build(&t, &rng);
    size_t count = (FIRST + SECOND) * (size_t)t.params.vocab;
    float *want = run_world(&t, 1, compute, kv_type);
    NEED(want);
    for (int world = 2; world <= worlds; world++) {
        float *got = run_world(&t, world, compute, kv_type);
        NEED(got);
        if (!same_bits(got, want, count)) printf("%s: other bits on %d ranks\n", name, world);
        EXPECT(same_bits(got, want, count));
        free(got);
    }
    free(want);
    tiny_free(&t);
}

static void test_equal_bits(void)
{
    check_worlds(model_odd, "odd", 6, COMPUTE_F32, KV_F32);
    check_worlds(model_odd, "odd", 3, COMPUTE_AUTO, KV_F16);
    check_worlds(model_replicated, "replicated", 6, COMPUTE_AUTO, KV_INT8);
    check_worlds(model_spanned, "spanned", 8, COMPUTE_F32, KV_F32);
    check_worlds(model_spanned, "spanned", 3, COMPUTE_AUTO, KV_BF16);
    check_worlds(model_experts, "experts", 6, COMPUTE_AUTO, KV_F16);
    check_worlds(model_latent, "latent", 5, COMPUTE_AUTO, KV_F16);
}

/* What is packed is told once, when the last rank has it. */
static void test_sources(void)
{
    struct tiny_model t = {0};
    struct runner seen = {0};
    struct rng rng;
    rng_init(&rng, 4);
    model_experts(&t, &rng);
    t.params.on_source_done = on_source_done;
    t.params.on_source_done_arg = &seen;
    free(run_world(&t, 3, COMPUTE_AUTO, KV_F16));
    EXPECT_INT(seen.sources_done, t.matrices);
    tiny_free(&t);
}

int main(void)
{
    RUN(test_equal_bits);
    RUN(test_sources);
    return TEST_END();
}
