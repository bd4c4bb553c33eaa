/* Dense models through the CPU backend, moves of pages, and what it refuses. */
#include "tests/kernels/tiny_models.h"

/* ---- right, and equal ---- */

static void test_values(void)
{
    check_values(model_plain, "plain");
    check_values(model_extras, "extras");
    check_values(model_k_quants, "k-quants");
    check_values(model_small_weights, "small weights");
}

static void test_rounded(void)
{
    check_rounded(model_plain, "plain");
    check_rounded(model_k_quants, "k-quants");
}

static void test_bits(void)
{
    check_bits(model_plain, COMPUTE_AUTO, KV_F16);
    check_bits(model_plain, COMPUTE_F32, KV_F32);
    check_bits(model_extras, COMPUTE_AUTO, KV_BF16);
    check_bits(model_k_quants, COMPUTE_AUTO, KV_F16);
    check_bits(model_small_weights, COMPUTE_AUTO, KV_F16);
    check_bits(model_plain, COMPUTE_AUTO, KV_INT8);
    check_bits(model_extras, COMPUTE_AUTO, KV_INT8);
    check_bits(model_floats, COMPUTE_F16, KV_F16);
    check_bits(model_floats, COMPUTE_BF16, KV_BF16);
}

/* ---- orders of inputs ---- */

/* A random order that leaves every element in its block of 32: blocks are rounded as without it. */
static const int32_t *order_in_blocks(struct tiny_model *t, struct rng *r, int count)
{
    int32_t *order = xmalloc((size_t)count * sizeof *order);
    tiny_own(t, order);
    for (int i = 0; i < count; i++)
        order[i] = i;
    for (int i = 0; i < count; i++) {
        int other = i + (int)rng_below(r, (uint32_t)(i / 32 * 32 + 32 - i));
        int32_t kept = order[i];
        order[i] = order[other];
        order[other] = kept;
    }
    return order;
}

/* The Q8_0 matrix with its columns in that order. */
static void reorder(struct tiny_model *t, struct matrix *m, const int32_t *order)
{
    enum { BLOCK = 34 };
    const int8_t *from = m->data;
    int8_t *to = xmemdup(from, matrix_bytes(m));
    tiny_own(t, to);
    for (int64_t row = 0; row < m->rows; row++)
        for (int64_t c = 0; c < m->cols; c++) {
            int64_t at = (row * m->cols + c / 32 * 32) / 32 * BLOCK + 2;
            to[at + c % 32] = from[at + order[c] % 32];
        }
    m->data = to;
}

static void run_logits(struct tiny_model *t, const int32_t ids[SEQUENCES][TOKENS], float *logits)
{
    struct runner r;
    runner_open(&r, t, NULL, 1, COMPUTE_AUTO, KV_F16);
    run_step(&r, ids, (int[SEQUENCES]){40}, (float *[SEQUENCES]){logits});
    runner_close(&r);
}

static void test_orders(void)
{
    static const enum dtype types[] = {DTYPE_Q8_0};
    struct tiny_model t = {.params = scalars(96, 6, 2, 16, 320, 131)};
    int32_t ids[SEQUENCES][TOKENS];
    struct error err = {0};
    struct rng rng;

    rng_init(&rng, 11);
    tiny_fill(&t, &rng, types, 1, false);
    random_ids(&rng, t.params.vocab, ids);
    size_t count = 40 * (size_t)t.params.vocab;
    float *plain = xcalloc((size_t)TOKENS * (size_t)t.params.vocab, sizeof *plain);
    float *ordered = xcalloc((size_t)TOKENS * (size_t)t.params.vocab, sizeof *ordered);
    run_logits(&t, ids, plain);
    struct layer_params *l = &t.layer[1];
    l->qkv_order = order_in_blocks(&t, &rng, 96);
    l->o_order = order_in_blocks(&t, &rng, 96);
    l->gate_up_order = order_in_blocks(&t, &rng, 96);
    l->down_order = order_in_blocks(&t, &rng, 320);
    run_logits(&t, ids, ordered);
    EXPECT(!same_bits(plain, ordered, count)); // the matrices aren't in it yet
    reorder(&t, &l->q, l->qkv_order);
    reorder(&t, &l->k, l->qkv_order);
    reorder(&t, &l->v, l->qkv_order);
    reorder(&t, &l->o, l->o_order);
    reorder(&t, &l->gate, l->gate_up_order);
    reorder(&t, &l->up, l->gate_up_order);
    reorder(&t, &l->down, l->down_order);
    run_logits(&t, ids, ordered);
    EXPECT(same_bits(plain, ordered, count));
    static const int32_t twice[96];
    t.params.on_source_done = NULL;
    l->o_order = twice;
    EXPECT_INT(tiny_load_code(&t, &err), E_INVALID);
    EXPECT(strstr(err.text, "layer 1 has an order of inputs"));
    l->o.type = DTYPE_F8_E4M3;
    EXPECT_INT(tiny_load_code(&t, &err), E_UNSUPPORTED);
    EXPECT(strstr(err.text, "layer 1: matrix o is F8_E4M3, which the cpu backend doesn't take"));
    free(plain);
    free(ordered);
    tiny_free(&t);
}

/* ---- sets of rope tables ---- */

/* Two kinds of layer, three sets. */
static void model_sets(struct tiny_model *t, struct rng *r)
{
    static const enum dtype types[] = {DTYPE_Q8_0, DTYPE_Q4_1, DTYPE_BF16};
    t->params = scalars(96, 6, 2, 16, 160, 131);
    t->params.rope_table_count = 2;
    t->params.rope_sets = 3;
    tiny_fill(t, r, types, 3, false);
    t->layer[1].rope_table = 1;
}

/* The rows of all sequences, each in its own set, in one step or in a step for each. */
static void run_sets(struct tiny_model *t, const int32_t ids[SEQUENCES][TOKENS], bool together,
                     float *logits[SEQUENCES])
{
    struct runner r;
    runner_open(&r, t, NULL, 2, COMPUTE_F32, KV_F32);
    for (int s = 0; s < SEQUENCES; s++)
        r.rope_set[s] = s % t->params.rope_sets;
    for (int s = 0; s < SEQUENCES; s++) {
        int count[SEQUENCES] = {0};
        for (int i = 0; i < SEQUENCES; i++)
            if (together || i == s) count[i] = TOKENS;
        run_step(&r, ids, count, logits);
        if (together) break;
    }
    runner_close(&r);
}

/* Every set gives what a model with that set alone is to give, and sequences of several sets in one
 * step what each gives alone. */
static void test_rope_sets(void)
{
    struct tiny_model t = {0};
    int32_t ids[SEQUENCES][TOKENS];
    float *alone[SEQUENCES], *together[SEQUENCES];
    struct rng rng;

    rng_init(&rng, 6);
    model_sets(&t, &rng);
    random_ids(&rng, t.params.vocab, ids);
    size_t count = (size_t)TOKENS * (size_t)t.params.vocab;
    for (int s = 0; s < SEQUENCES; s++) {
        alone[s] = xcalloc(count, sizeof(float));
        together[s] = xcalloc(count, sizeof(float));
    }
    run_sets(&t, ids, false, alone);
    run_sets(&t, ids, true, together);
    for (int s = 0; s < SEQUENCES; s++) {
        double worst = 0, scale = 0;
        t.params.rope_tables = t.rope_tables + s % t.params.rope_sets * t.params.rope_table_count;
        double *want = ref_logits(&t, ids[s], TOKENS);
        for (size_t i = 0; i < count; i++) {
            worst = fmax(worst, fabs((double)alone[s][i] - want[i]));
            scale += want[i] * want[i] / (double)count;
        }
        EXPECT(worst <= 2e-4 * sqrt(scale));
        EXPECT(same_bits(alone[s], together[s], count));
        free(want);
        free(alone[s]);
        free(together[s]);
    }
    tiny_free(&t);
}

/* ---- pages ---- */

/* A copied page continues as the original does, and no longer follows it. */
static void copy_page(struct runner *r, int from, int to, int tokens)
{
    r->ops->kv_copy(r->b, from, to, tokens);
}

/* A page that was kept on the host comes back as it was when it was saved. */
static void page_through_host(struct runner *r, int from, int to, int tokens)
{
    size_t bytes = r->ops->kv_block_bytes(r->b, r->kv_type);
    uint8_t *host = xmalloc(bytes), *other = xmalloc(bytes);
    struct error err;

    r->ops->kv_save(r->b, from, tokens, host);
    r->ops->kv_save(r->b, (from + 1) % PAGES, tokens, other);
    NEED(r->ops->sync(r->b, &err) == 0);
    r->ops->kv_restore(r->b, to, tokens, other);
    r->ops->kv_restore(r->b, to, tokens, host);
    NEED(r->ops->sync(r->b, &err) == 0);
    memset(host, 0xff, bytes);
    free(host);
    free(other);
}

static void check_moved_page(enum kv_type kv_type,
                             void (*move)(struct runner *r, int from, int to, int tokens))
{
    struct tiny_model t = {0};
    int32_t ids[SEQUENCES][TOKENS];
    struct runner r;
    struct rng rng;

    rng_init(&rng, 8);
    model_plain(&t, &rng);
    random_ids(&rng, t.params.vocab, ids);
    memcpy(ids[1], ids[0], sizeof ids[0]);
    size_t count = (size_t)TOKENS * (size_t)t.params.vocab;
    float *a = xcalloc(count, sizeof *a), *b = xcalloc(count, sizeof *b);
    runner_open(&r, &t, NULL, 1, COMPUTE_AUTO, kv_type);
    run_step(&r, ids, (int[SEQUENCES]){90}, (float *[SEQUENCES]){NULL});
    r.blocks[1][0] = r.blocks[0][0];
    move(&r, r.blocks[0][1], r.blocks[1][1], 90 - 64);
    r.past[1] = 90;
    run_step(&r, ids, (int[SEQUENCES]){20}, (float *[SEQUENCES]){a});
    run_step(&r, ids, (int[SEQUENCES]){0, 20}, (float *[SEQUENCES]){NULL, b});
    size_t from = 90 * (size_t)t.params.vocab, size = 20 * (size_t)t.params.vocab;
    EXPECT(same_bits(a + from, b + from, size));
    runner_close(&r);
    free(a);
    free(b);
    tiny_free(&t);
}

static void test_moved_pages(void)
{
    for (int type = 0; type < KV_TYPES; type++) {
        check_moved_page((enum kv_type)type, copy_page);
        check_moved_page((enum kv_type)type, page_through_host);
    }
}

static void test_page_bytes(void)
{
    struct tiny_model t = {0};
    struct runner r;
    struct rng rng;

    rng_init(&rng, 8);
    model_plain(&t, &rng);
    runner_open(&r, &t, NULL, 1, COMPUTE_AUTO, KV_F16);
    EXPECT_INT(r.ops->kv_block_bytes(r.b, KV_F16), 2 * 2 * (16 + 16) * 64 * 2);
    EXPECT_INT(r.ops->kv_block_bytes(r.b, KV_F32), 2 * 2 * (16 + 16) * 64 * 4);
    EXPECT_INT(r.ops->kv_block_bytes(r.b, KV_INT8), 2 * 2 * (16 + 16 + 8) * 64);
    runner_close(&r);
    tiny_free(&t);
}

/* ---- what it refuses ---- */

/* A matrix of floats that is to be kept in a narrower type than it can be. */
static void test_weight_beyond_float16(void)
{
    static float large[96 * 64];
    struct tiny_model t = {0};
    struct error err = {0};
    struct rng rng;

    rng_init(&rng, 10);
    model_floats(&t, &rng);
    large[5] = -7e4f;
    t.layer[1].up.data = large;
    struct backend_options options = {.threads = 1, .compute = COMPUTE_F16, .world = 1};
    struct step_limits limits = {8, 1, 8, 64};
    struct backend *b;
    const struct backend_ops *ops = backend_find("cpu");
    NEED(ops->open(&options, &b, &err) == 0);
    t.params.on_source_done = NULL;
    EXPECT_INT(ops->load(b, &t.params, &limits, &err), E_UNSUPPORTED);
    EXPECT(strstr(err.text, "layer 1: a weight of up is beyond float16"));
    ops->close(b);
    tiny_free(&t);
}

static void test_refusals(void)
{
    struct tiny_model t = {0};
    struct backend *b;
    struct error err;
    struct rng rng;

    rng_init(&rng, 9);
    model_plain(&t, &rng);
    EXPECT_INT(tiny_load_code(&t, &err), 0);
    t.layer[1].down.cols -= 32;
    EXPECT_INT(tiny_load_code(&t, &err), E_INVALID);
    EXPECT(strstr(err.text, "down") && strstr(err.text, "layer 1"));
    t.layer[1].down.cols += 32;
    t.layer[0].v.data = NULL;
    EXPECT_INT(tiny_load_code(&t, &err), E_INVALID);
    t.layer[0].v = t.layer[0].k;
    t.params.kv_heads = 4;
    EXPECT_INT(tiny_load_code(&t, &err), E_UNSUPPORTED);
    t.params.kv_heads = 2;
    t.layer[1].rope_table = 1;
    EXPECT_INT(tiny_load_code(&t, &err), E_UNSUPPORTED);
    t.layer[1].rope_table = 0;
    t.params.rope_sets = ROPE_SETS_MAX + 1;
    EXPECT_INT(tiny_load_code(&t, &err), E_UNSUPPORTED);
    t.params.rope_sets = 0;
    t.params.hidden = 0;
    EXPECT_INT(tiny_load_code(&t, &err), E_UNSUPPORTED);
    tiny_free(&t);

    const struct backend_ops *ops = backend_find("cpu");
    struct backend_options bad_isa = {.threads = 1, .isa = "sse9"};
    EXPECT_INT(ops->open(&bad_isa, &b, &err), E_INVALID);
    struct backend_options bad_list = {.threads = 1, .cpu_list = "x"};
    EXPECT_INT(ops->open(&bad_list, &b, &err), E_INVALID);
    struct backend_options ranks = {.world = 1000};
    struct comm_group *group;
    EXPECT_INT(ops->group_create(&ranks, &group, &err), E_LIMIT);
    ops->close(NULL);
}

int main(void)
{
    RUN(test_values);
    RUN(test_rounded);
    RUN(test_bits);
    RUN(test_rope_sets);
    RUN(test_orders);
    RUN(test_moved_pages);
    RUN(test_page_bytes);
    RUN(test_weight_beyond_float16);
    RUN(test_refusals);
    return TEST_END();
}
