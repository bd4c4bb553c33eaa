/* test_cuda_wide.cu - cuda_wide has the bits of cuda_mma: over forms, both types of 16 bits, odd sizes, parts, gates,
 * and experts of any number of rows. What those bits are worth: test_cuda_products. */
#include "kernels/cuda/cuda_pointwise.h"
#include "tests/kernels/cuda_product_scene.cuh"

#define ROWS(...) {__VA_ARGS__}, sizeof((const int[]){__VA_ARGS__}) / sizeof(int)

/* A row of a table: `rows` of each expert, or of an input without experts. */
struct wide_case {
    enum dtype type;
    int weight_rows, cols, parts, grid_col;
    int rows[EXPERTS_MAX];
    int experts = 0; // 0: rows[0] without experts
};

static const struct wide_case cases[] = {
    /* every form; a tile and a bit of weight rows, columns that end within a run, rows in both halves of a tile */
    {DTYPE_BF16, 131, 77, 2, 0, {70}},
    {DTYPE_Q4_1, 131, 96, 1, 0, {70}},
    {DTYPE_Q4_K, 20, 256, 1, 0, {9}},
    {DTYPE_Q8_0, 20, 224, 2, 0, {70}},
    {DTYPE_F8_E4M3, 131, 128, 1, 0, {66}},
    {DTYPE_F8_E4M3, 20, 96, 1, 32, {9}},  // blocks of 32
    {DTYPE_F8_E4M3, 20, 560, 1, 16, {9}}, // of 16; columns end in the middle of a run
    /* more stages than there are places for them */
    {DTYPE_BF16, 9, 1032, 1, 0, {5}},
    {DTYPE_Q4_0, 9, 1056, 1, 0, {5}},
    {DTYPE_Q8_0, 9, 1056, 1, 0, {5}},
    {DTYPE_F8_E4M3, 9, 1056, 1, 32, {5}},
    {DTYPE_Q8_0, 9, 608, 2, 0, {30}},
    {DTYPE_Q4_1, 9, 608, 2, 0, {30}},
    /* several tiles of input rows */
    {DTYPE_BF16, 9, 40, 3, 0, {257}},
    /* experts: none, few, a tile's half and whole with one more or less */
    {DTYPE_BF16, 20, 72, 2, 0, ROWS(0, 1, 63, 0, 64, 65, 0)},
    {DTYPE_Q4_1, 9, 64, 1, 0, ROWS(127, 128, 0, 129)},
    {DTYPE_F8_E4M3, 140, 64, 1, 0, ROWS(3, 0, 67)},
    {DTYPE_Q8_0, 9, 64, 1, 0, ROWS(0, 0, 300)}, // all of them at one
    {DTYPE_Q4_1, 9, 160, 1, 0, ROWS(200, 140)}, // and several stages
    {DTYPE_F8_E4M3, 9, 208, 1, 16, ROWS(0, 200)},
    {DTYPE_BF16, 9, 16, 1, 0, ROWS(130, 0, 0)},
    /* more experts than a warp has lanes; of those on one lane the last has rows */
    {DTYPE_BF16, 5, 16, 1, 0,
     ROWS(0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
          0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
          0, 0, 0, 0, 0, 0, 0, 0, 0, 1)},
};

static int rows_of(const struct wide_case *c)
{
    int rows = 0;
    for (int e = 0; e < (c->experts ? c->experts : 1); e++)
        rows += c->rows[e];
    return rows;
}

static struct product_case scene_of(const struct wide_case *c, bool same_rows, bool is_half,
                                    struct product_scene *a, struct rng *r)
{
    struct product_case p = {c->type, c->weight_rows, c->cols, rows_of(c), c->parts, c->experts};

    *a = {};
    p.same_rows = same_rows;
    p.in_is_half = is_half;
    p.grid_col = c->grid_col;
    set_inputs(&p, a, r);
    set_parts(&p, a, r);
    if (c->experts) set_expert_rows(&p, a, c->rows);
    return p;
}

/* Everything that a launch writes, from memory that was set before: neither more nor less. */
static uint8_t *run(void (*multiply)(const struct cuda_product *, cudaStream_t),
                    const struct cuda_product *p, void *out, size_t bytes)
{
    uint8_t *got = (uint8_t *)xmalloc(bytes);

    NEED(cudaMemset(out, 0x5a, bytes) == cudaSuccess);
    multiply(p, NULL);
    NEED(cudaStreamSynchronize(NULL) == cudaSuccess);
    NEED(cudaMemcpy(got, out, bytes, cudaMemcpyDeviceToHost) == cudaSuccess);
    return got;
}

static void expect_same(const struct wide_case *c, const char *what, uint8_t *got, uint8_t *want,
                        size_t bytes)
{
    if (memcmp(got, want, bytes) != 0)
        printf("  %s %d x %d, %d rows, %d experts, %s: bits differ\n", dtype_name(c->type),
               c->weight_rows, c->cols, rows_of(c), c->experts, what);
    EXPECT(memcmp(got, want, bytes) == 0);
    free(got);
    free(want);
}

static void test_bits(void)
{
    struct product_scene a;
    struct rng r;

    rng_init(&r, 11);
    for (size_t n = 0; n < 2 * ARRAY_LEN(cases); n++) {
        size_t i = n / 2;
        struct product_case p = scene_of(&cases[i], false, n % 2, &a, &r);
        for (int part = 0; part < p.parts; part++) {
            const struct cuda_part *w = &a.p.part[part];
            size_t bytes = (size_t)p.inputs * (size_t)w->out_stride * sizeof(float);
            expect_same(&cases[i], "plain", run(cuda_wide, &a.p, w->out, bytes),
                        run(cuda_mma, &a.p, w->out, bytes), bytes);
        }
        scene_free(&p, &a);
    }
}

/* ---- gated ---- */

static const struct wide_case gated_cases[] = {
    {DTYPE_BF16, 67, 72, 2, 0, {130}},         {DTYPE_Q4_1, 21, 64, 2, 0, {33}},
    {DTYPE_F8_E4M3, 21, 64, 2, 0, {33}},       {DTYPE_BF16, 67, 40, 2, 0, ROWS(0, 33, 2)},
    {DTYPE_Q8_0, 9, 64, 2, 0, ROWS(40, 0, 1)},
};

/* cuda_mma doesn't gate that many rows: its two products and what comes behind them. */
static struct cuda_product apart;
static struct cuda_rows gated_out;

static void mma_and_activate(const struct cuda_product *p, cudaStream_t stream)
{
    cuda_mma(&apart, stream);
    cuda_activate(&gated_out, p->gated.kind, apart.part[0].out, apart.part[1].out, CUDA_REAL_F32,
                  apart.part[0].out_stride, p->gated.rows, stream);
}

static void test_gated_bits(void)
{
    static const enum ffn_activation kinds[] = {FFN_SILU, FFN_GELU_TANH, FFN_SWIGLU_CLAMPED};
    struct product_scene a;
    struct rng r;

    rng_init(&r, 12);
    for (size_t n = 0; n < 2 * ARRAY_LEN(gated_cases); n++) {
        size_t i = n / 2;
        struct product_case p = scene_of(&gated_cases[i], true, n % 2, &a, &r);
        int stride = (p.rows + 7) / 8 * 8;
        size_t bytes = (size_t)p.inputs * (size_t)stride * sizeof(uint16_t);
        void *out = NULL;
        NEED(cudaMalloc(&out, bytes) == cudaSuccess);
        apart = a.p;
        gated_out = {out, p.rows, stride, real_of(&p)};
        a.p.gated = {out, p.inputs, stride, kinds[i % ARRAY_LEN(kinds)]};
        expect_same(&gated_cases[i], "gated", run(cuda_wide, &a.p, out, bytes),
                    run(mma_and_activate, &a.p, out, bytes), bytes);
        cudaFree(out);
        scene_free(&p, &a);
    }
}

int main(void)
{
    RUN(test_bits);
    RUN(test_gated_bits);
    return TEST_END();
}
