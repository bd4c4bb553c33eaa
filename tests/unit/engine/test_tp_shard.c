/* Plans of how models are cut, and that a rank's matrices are those parts of the whole ones. */
#include "engine/tp_shard.h"

#include "kernels/quant.h"
#include "tests/kernels/tiny_runner.h"

#define WORLD      8
#define EXPERT_FFN 96

static struct rank_share share[WORLD];

/* ---- plans ---- */

/* Shapes only: matrices are absent, so nothing is in blocks. */
static struct model_params shape_of(int hidden, int heads, int kv_heads, int head_dim, int ffn)
{
    static const struct layer_params layers[2];
    struct model_params p = scalars(hidden, heads, kv_heads, head_dim, ffn, 100);
    p.layer = layers;
    return p;
}

static void plan(const struct model_params *p, enum tp_split split, int world)
{
    struct error err = {0};
    memset(share, 0x55, sizeof share);
    int rc = tp_shard_plan(p, split, world, share, &err);
    if (rc < 0) printf("%s\n", err.text);
    NEED(rc == 0);
}

static void expect_refusal(const struct model_params *p, enum tp_split split, int world,
                           const char *text)
{
    struct error err = {0};
    EXPECT_INT(tp_shard_plan(p, split, world, share, &err), E_UNSUPPORTED);
    if (!strstr(err.text, text)) printf("'%s'\n", err.text);
    EXPECT(strstr(err.text, text));
}

static void expect_heads(int rank, int first, int count, int kv_first, int kv_count)
{
    EXPECT_INT(share[rank].heads.first, first);
    EXPECT_INT(share[rank].heads.count, count);
    EXPECT_INT(share[rank].kv_heads.first, kv_first);
    EXPECT_INT(share[rank].kv_heads.count, kv_count);
}

static void expect_whole(size_t offset, int world)
{
    int at = 0;
    for (int rank = 0; rank < world; rank++) {
        struct rank_range r;
        memcpy(&r, (const char *)&share[rank] + offset, sizeof r);
        EXPECT(r.count > 0);
        EXPECT_INT(r.first, at);
        at += r.count;
        EXPECT(rank < world - 1 || at == r.whole);
    }
}

static void test_uneven_groups(void)
{
    struct model_params p = shape_of(576, 9, 3, 64, 1536);
    plan(&p, TP_SPLIT_OUTPUTS, 2);
    expect_heads(0, 0, 6, 0, 2);
    expect_heads(1, 6, 3, 2, 1);
    plan(&p, TP_SPLIT_INPUTS, 3);
    expect_heads(0, 0, 3, 0, 1);
    expect_heads(2, 6, 3, 2, 1);
    EXPECT_INT(share[1].hidden.count, 576);
    EXPECT_INT(share[1].ffn.first, 512);
}

static void test_replicated_kv_heads(void)
{
    struct model_params p = shape_of(576, 9, 3, 64, 1536);
    plan(&p, TP_SPLIT_OUTPUTS, 4);
    expect_heads(0, 0, 2, 0, 1);
    expect_heads(1, 2, 1, 0, 1);
    expect_heads(2, 3, 3, 1, 1);
    expect_heads(3, 6, 3, 2, 1);
    plan(&p, TP_SPLIT_OUTPUTS, 8);
    expect_heads(0, 0, 1, 0, 1);
    expect_heads(6, 6, 2, 2, 1);
    expect_heads(7, 8, 1, 2, 1);
    struct model_params one = shape_of(64, 8, 1, 8, 64);
    plan(&one, TP_SPLIT_INPUTS, 4);
    expect_heads(3, 6, 2, 0, 1);
}

/* Every dimension is covered, each row once, for odd sizes and any number of ranks. */
static void test_ranges_cover(void)
{
    struct model_params p = shape_of(61, 8, 8, 6, 39);
    p.vocab = 101;
    p.expert_shape = (struct expert_shape){.experts = 4, .used = 2, .ffn = 23, .shared_ffn = 17};
    for (int world = 2; world <= WORLD; world++) {
        plan(&p, TP_SPLIT_OUTPUTS, world);
        expect_whole(offsetof(struct rank_share, heads), world);
        expect_whole(offsetof(struct rank_share, kv_heads), world);
        expect_whole(offsetof(struct rank_share, ffn), world);
        expect_whole(offsetof(struct rank_share, expert_ffn), world);
        expect_whole(offsetof(struct rank_share, shared_ffn), world);
        expect_whole(offsetof(struct rank_share, vocab), world);
        expect_whole(offsetof(struct rank_share, hidden), world);
    }
}

static void test_rows_are_aligned_where_there_are_many(void)
{
    struct model_params p = shape_of(896, 14, 2, 64, 4864);
    plan(&p, TP_SPLIT_OUTPUTS, 4);
    for (int rank = 0; rank < 4; rank++) {
        EXPECT_INT(share[rank].ffn.first % 16, 0);
        EXPECT_INT(share[rank].hidden.first % 16, 0);
    }
    EXPECT_INT(share[0].ffn.count, 1216);
}

static void test_refusals(void)
{
    struct model_params p = shape_of(64, 4, 2, 16, 64);
    expect_refusal(&p, TP_SPLIT_OUTPUTS, 8, "4 heads that share 2 are too few for 8 ranks");
    p = shape_of(64, 8, 8, 8, 3);
    expect_refusal(&p, TP_SPLIT_OUTPUTS, 4, "ffn size of 3 is too small for 4 ranks");
    p = shape_of(2, 8, 8, 8, 64);
    expect_refusal(&p, TP_SPLIT_OUTPUTS, 4, "hidden size of 2");
    p = shape_of(64, 8, 8, 8, 64);
    p.vocab = 3;
    expect_refusal(&p, TP_SPLIT_OUTPUTS, 4, "vocabulary of 3");
    p.vocab = 100;
    p.expert_shape = (struct expert_shape){.experts = 4, .used = 2, .ffn = 2};
    expect_refusal(&p, TP_SPLIT_OUTPUTS, 4, "ffn size of experts of 2");
    p.expert_shape.ffn = 32;
    p.expert_shape.shared_ffn = 1;
    expect_refusal(&p, TP_SPLIT_OUTPUTS, 4, "shared expert of 1");
}

/* ---- blocks: columns end where blocks do ---- */

static void test_blocks(void)
{
    static const enum dtype q4_k[] = {DTYPE_Q4_K}, q8_0[] = {DTYPE_Q8_0};
    struct tiny_model t = {0};
    struct rng rng;
    rng_init(&rng, 1);
    t.params = scalars(256, 8, 4, 64, 768, 100); // groups of 128 columns, blocks of 256
    tiny_fill(&t, &rng, q4_k, 1, false);
    plan(&t.params, TP_SPLIT_INPUTS, 2);
    expect_heads(0, 0, 4, 0, 2);
    expect_heads(1, 4, 4, 2, 2);
    EXPECT_INT(share[0].ffn.count, 512);
    EXPECT_INT(share[1].ffn.first, 512);
    expect_refusal(&t.params, TP_SPLIT_INPUTS, 4,
                   "8 heads of 64 that share 4, in quantised blocks of 256");
    plan(&t.params, TP_SPLIT_OUTPUTS, 4); // rows don't care
    t.params.ffn = 256;
    expect_refusal(&t.params, TP_SPLIT_INPUTS, 2,
                   "ffn size of 256 in quantised blocks of 256 can't be cut for 2 ranks");
    tiny_free(&t);
    t = (struct tiny_model){0};
    t.params = scalars(64, 6, 1, 16, 96, 100); // two heads for a block
    tiny_fill(&t, &rng, q8_0, 1, false);
    plan(&t.params, TP_SPLIT_INPUTS, 3);
    expect_heads(2, 4, 2, 0, 1);
    expect_refusal(&t.params, TP_SPLIT_INPUTS, 6, "6 heads of 16 that share 1, in quantised");
    tiny_free(&t);
}

/* ---- parts ---- */

/* part = whole[row0 .. row0 + rows)[col0 .. col0 + cols). */
static void expect_part(const struct matrix *whole, const struct matrix *part, int64_t row0,
                        int64_t rows, int64_t col0, int64_t cols)
{
    float a[1024], b[1024];
    EXPECT_INT(part->rows, rows);
    EXPECT_INT(part->cols, cols);
    for (int64_t r = 0; r < rows; r++) {
        quant_dequantize_matrix_row(whole, row0 + r, a);
        quant_dequantize_matrix_row(part, r, b);
        EXPECT(same_bits(a + col0, b, (size_t)cols));
    }
}

static void model_all(struct tiny_model *t, struct rng *r, const enum dtype types[3])
{
    t->params = scalars(64, 6, 3, 32, 96, 77);
    t->params.value_dim = 16;
    t->params.rope_dims = 8;
    t->params.q_rank = 32;
    t->params.kv_rank = 64;
    t->params.expert_shape = (struct expert_shape){.experts = 3,
                                                   .used = 2,
                                                   .ffn = EXPERT_FFN,
                                                   .shared_ffn = 128,
                                                   .scoring = EXPERTS_SOFTMAX,
                                                   .scale = 1};
    tiny_fill(t, r, types, 3, true);
    struct expert_params *x = tiny_add_experts(t, r, 1, types, 3);
    x->gate_bias = tiny_floats(t, r, 3 * EXPERT_FFN, 0, 1);
    x->down_bias = tiny_floats(t, r, 3 * 64, 0, 1);
    t->layer[0].sinks = tiny_floats(t, r, 6, 0, 1);
    t->layer[0].gate_bias = tiny_floats(t, r, 96, 0, 1);
    t->layer[0].down_bias = tiny_floats(t, r, 64, 0, 1);
}

static void check_attention(const struct model_params *whole, const struct model_params *p, int l,
                            const struct rank_share *s, enum tp_split split)
{
    const struct layer_params *a = &whole->layer[l], *b = &p->layer[l];
    int dim = whole->head_dim, value = tiny_value_dim(whole);
    int q = s->heads.first, kv = s->kv_heads.first;
    expect_part(&a->q, &b->q, (int64_t)q * dim, (int64_t)p->heads * dim, 0, whole->hidden);
    expect_part(&a->k, &b->k, (int64_t)kv * dim, (int64_t)p->kv_heads * dim, 0, whole->hidden);
    expect_part(&a->v, &b->v, (int64_t)kv * value, (int64_t)p->kv_heads * value, 0, whole->hidden);
    EXPECT(b->q_bias == a->q_bias + q * dim && b->k_bias == a->k_bias + kv * dim);
    EXPECT(b->v_bias == a->v_bias + kv * value);
    EXPECT(b->q_norm == a->q_norm && b->attn_norm == a->attn_norm);
    if (split == TP_SPLIT_INPUTS)
        expect_part(&a->o, &b->o, 0, whole->hidden, (int64_t)q * value, (int64_t)p->heads * value);
    else
        expect_part(&a->o, &b->o, s->hidden.first, s->hidden.count, 0, a->o.cols);
}

static void check_dense(const struct model_params *whole, const struct model_params *p,
                        const struct rank_share *s, int rank, enum tp_split split)
{
    const struct layer_params *a = &whole->layer[0], *b = &p->layer[0];
    expect_part(&a->gate, &b->gate, s->ffn.first, p->ffn, 0, whole->hidden);
    expect_part(&a->up, &b->up, s->ffn.first, p->ffn, 0, whole->hidden);
    EXPECT(b->gate_bias == a->gate_bias + s->ffn.first && !b->up_bias);
    EXPECT(b->sinks == a->sinks + s->heads.first);
    if (split == TP_SPLIT_INPUTS) { // what is added to a sum is added once
        expect_part(&a->down, &b->down, 0, whole->hidden, s->ffn.first, p->ffn);
        EXPECT(b->o_bias == (rank == 0 ? a->o_bias : NULL));
        EXPECT(b->down_bias == (rank == 0 ? a->down_bias : NULL));
    } else {
        expect_part(&a->down, &b->down, s->hidden.first, s->hidden.count, 0, whole->ffn);
        EXPECT(b->o_bias == a->o_bias + s->hidden.first);
        EXPECT(b->down_bias == a->down_bias + s->hidden.first);
    }
}

static void check_experts(const struct model_params *whole, const struct model_params *p,
                          const struct rank_share *s, int rank, enum tp_split split)
{
    const struct expert_params *a = whole->layer[1].experts, *b = p->layer[1].experts;
    bool inputs = split == TP_SPLIT_INPUTS;
    int first = s->expert_ffn.first, count = s->expert_ffn.count, y = s->hidden.count;
    EXPECT_INT(p->expert_shape.ffn, count);
    EXPECT_INT(p->expert_shape.shared_ffn, s->shared_ffn.count);
    EXPECT(b->router.data == a->router.data);
    EXPECT(inputs && rank > 0 ? !b->down_bias : b->down_bias != NULL);
    for (int e = 0; e < 3; e++) {
        expect_part(&a->gate[e], &b->gate[e], first, count, 0, whole->hidden);
        expect_part(&a->up[e], &b->up[e], first, count, 0, whole->hidden);
        EXPECT(same_bits(b->gate_bias + e * count, a->gate_bias + e * EXPERT_FFN + first,
                         (size_t)count));
        if (inputs)
            expect_part(&a->down[e], &b->down[e], 0, whole->hidden, first, count);
        else
            expect_part(&a->down[e], &b->down[e], s->hidden.first, y, 0, EXPERT_FFN);
        if (b->down_bias)
            EXPECT(same_bits(b->down_bias + e * y, a->down_bias + e * 64 + s->hidden.first,
                             (size_t)y));
    }
    expect_part(&a->shared_gate, &b->shared_gate, s->shared_ffn.first, s->shared_ffn.count, 0,
                whole->hidden);
    if (inputs)
        expect_part(&a->shared_down, &b->shared_down, 0, whole->hidden, s->shared_ffn.first,
                    s->shared_ffn.count);
    else
        expect_part(&a->shared_down, &b->shared_down, s->hidden.first, y, 0, 128);
}

static void check_parts(const enum dtype types[3], enum tp_split split, int world)
{
    struct tiny_model t = {0};
    struct arena arena;
    struct rng rng;
    rng_init(&rng, 2);
    model_all(&t, &rng, types);
    plan(&t.params, split, world);
    arena_init(&arena);
    for (int rank = 0; rank < world; rank++) {
        const struct rank_share *s = &share[rank];
        struct model_params p;
        tp_shard_params(&t.params, split, rank, s, &arena, &p);
        EXPECT(p.share == s && p.vocab == t.params.vocab && p.hidden == t.params.hidden);
        EXPECT_INT(p.heads, s->heads.count);
        check_attention(&t.params, &p, 0, s, split);
        check_attention(&t.params, &p, 1, s, split);
        check_dense(&t.params, &p, s, rank, split);
        check_experts(&t.params, &p, s, rank, split);
        expect_part(&t.params.embedding, &p.embedding, s->vocab.first, s->vocab.count, 0, 64);
        expect_part(&t.params.head, &p.head, s->vocab.first, s->vocab.count, 0, 64);
    }
    arena_deinit(&arena);
    tiny_free(&t);
}

static void test_parts(void)
{
    static const enum dtype blocks[] = {DTYPE_Q8_0, DTYPE_Q4_1, DTYPE_F16};
    static const enum dtype grids[] = {DTYPE_F8_E4M3, DTYPE_F8_E4M3, DTYPE_F8_E4M3};
    check_parts(blocks, TP_SPLIT_OUTPUTS, 2);
    check_parts(blocks, TP_SPLIT_OUTPUTS, 3);
    check_parts(blocks, TP_SPLIT_OUTPUTS, 6);
    check_parts(blocks, TP_SPLIT_INPUTS, 2);
    check_parts(blocks, TP_SPLIT_INPUTS, 3);
    check_parts(grids, TP_SPLIT_OUTPUTS, 6); // scales go with the parts, also of cut blocks
    check_parts(grids, TP_SPLIT_INPUTS, 2);
    check_parts(grids, TP_SPLIT_INPUTS, 3);
}

/* Heads of latents: rows of q_b and kv_b; what is narrow is on every rank. */
static void test_latents(void)
{
    static const enum dtype types[] = {DTYPE_F32};
    struct tiny_model t = {0};
    struct arena arena;
    struct rng rng;
    rng_init(&rng, 2);
    t.params = scalars(64, 5, 5, 24, 96, 77);
    t.params.value_dim = 16;
    t.params.rope_dims = 8;
    t.params.q_rank = 32;
    t.params.kv_rank = 64;
    tiny_fill(&t, &rng, types, 1, false);
    tiny_add_latent(&t, &rng, 0, types, 1);
    plan(&t.params, TP_SPLIT_INPUTS, 2);
    arena_init(&arena);
    for (int rank = 0; rank < 2; rank++) {
        const struct rank_share *s = &share[rank];
        const struct latent_params *a = &t.latent[0], *b;
        struct model_params p;
        tp_shard_params(&t.params, TP_SPLIT_INPUTS, rank, s, &arena, &p);
        b = p.layer[0].latent;
        EXPECT(b->q_a.data == a->q_a.data && b->kv_a.data == a->kv_a.data);
        EXPECT(b->q_norm == a->q_norm && b->kv_norm == a->kv_norm);
        expect_part(&a->q_b, &b->q_b, s->heads.first * 24, s->heads.count * 24, 0, 32);
        expect_part(&a->kv_b, &b->kv_b, s->heads.first * 32, s->heads.count * 32, 0, 64);
    }
    arena_deinit(&arena);
    tiny_free(&t);
}

int main(void)
{
    RUN(test_uneven_groups);
    RUN(test_replicated_kv_heads);
    RUN(test_ranges_cover);
    RUN(test_rows_are_aligned_where_there_are_many);
    RUN(test_refusals);
    RUN(test_blocks);
    RUN(test_parts);
    RUN(test_latents);
    return TEST_END();
}
