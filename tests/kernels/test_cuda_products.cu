/* test_cuda_products.cu - cuda_gemv and cuda_mma against float64 over forms, odd sizes, numbers of rows, parts and
 * experts; a row of a result has the same bits alone and in company, and gated those of its parts. */
#include "kernels/cuda/cuda_experts.h"
#include "kernels/cuda/cuda_gemm.h"
#include "tests/kernels/cuda_product_scene.cuh"

static void run(const struct product_case *c, struct product_scene *a)
{
    if (c->mma)
        cuda_mma(&a->p, NULL);
    else
        cuda_gemv(&a->p, NULL);
    NEED(cudaStreamSynchronize(NULL) == cudaSuccess);
    for (int i = 0; i < c->parts; i++)
        NEED(cudaMemcpy(a->out[i], a->p.part[i].out,
                        (size_t)c->inputs * (size_t)a->p.part[i].out_stride * sizeof(float),
                        cudaMemcpyDeviceToHost) == cudaSuccess);
}

/* The last row of the input alone: where it stands and who else is there change no bit. */
static void check_alone(const struct product_case *c, struct product_scene *a)
{
    struct product_case one = *c;
    struct product_scene alone = *a;
    int last = c->inputs - 1;

    one.inputs = 1;
    alone.p.in =
        (const uint8_t *)a->p.in + (size_t)last * (size_t)a->p.in_stride * (c->in_is_float ? 4 : 2);
    alone.p.rows = 1;
    for (int i = 0; i < c->parts; i++)
        alone.out[i] = (float *)xcalloc((size_t)a->p.part[i].out_stride, sizeof(float));
    run(&one, &alone);
    for (int i = 0; i < c->parts; i++) {
        size_t stride = (size_t)a->p.part[i].out_stride;
        EXPECT(memcmp(alone.out[i], a->out[i] + (size_t)last * stride,
                      (size_t)a->p.part[i].w.rows * sizeof(float)) == 0);
        free(alone.out[i]);
    }
}

static void check_case(struct product_case c, struct rng *r)
{
    struct product_scene a = {};

    set_inputs(&c, &a, r);
    set_parts(&c, &a, r);
    if (c.experts) set_experts(&c, &a);
    run(&c, &a);
    for (int i = 0; i < c.parts; i++) {
        double error = error_of(&c, &a, i);
        if (!(error <= allowed(&c, &a)))
            printf("  %s %d x %d, %d rows, part %d, experts %d, mma %d: error %g\n",
                   dtype_name(c.type), c.rows, c.cols, c.inputs, i, c.experts, c.mma, error);
        EXPECT(error <= allowed(&c, &a));
    }
    if (!c.experts) check_alone(&c, &a);
    scene_free(&c, &a);
}

static const enum dtype types[] = {DTYPE_F32,  DTYPE_BF16, DTYPE_Q4_0,   DTYPE_Q4_1,
                                   DTYPE_Q8_0, DTYPE_Q4_K, DTYPE_F8_E4M3};

static void test_gemv(void)
{
    static const int inputs[] = {1, 2, 3, 8, 11};
    struct rng r;
    rng_init(&r, 3);
    for (size_t t = 0; t < ARRAY_LEN(types); t++)
        for (size_t i = 0; i < ARRAY_LEN(inputs); i++) {
            bool whole = is_wide(types[t]);
            struct product_case c = {types[t], 5, whole ? 256 : 77, inputs[i], 2, 0};
            c.in_is_float = types[t] == DTYPE_F32;
            check_case(c, &r);
            c.in_is_float = false;
            c.in_is_half = true;
            check_case(c, &r);
        }
    check_case({DTYPE_F16, 5, 77, 3, 2, 0, false, false, false, 0, true}, &r);
    check_case({DTYPE_F16, 9, 72, 13, 2, 3, false, false, false, 0, true}, &r);
    check_case({DTYPE_BF16, 9, 1032, 3, 1, 0, false, false}, &r);
    check_case({DTYPE_F32, 9, 130, 7, 2, 3, true, false}, &r);
}

static void test_mma(void)
{
    static const int inputs[] = {1, 7, 9, 33};
    struct rng r;
    rng_init(&r, 4);
    for (size_t t = 1; t < ARRAY_LEN(types); t++)
        for (size_t i = 0; i < ARRAY_LEN(inputs); i++) {
            bool whole = is_wide(types[t]);
            struct product_case c = {types[t], 18, whole ? 256 : 77, inputs[i], 2, 0, false, true};
            check_case(c, &r);
            c.in_is_half = true;
            if (i > 0) check_case(c, &r); // all tiles
        }
    check_case({DTYPE_F16, 18, 77, 9, 2, 0, false, true, false, 0, true}, &r);
    check_case({DTYPE_Q4_1, 20, 64, 40, 1, 3, false, true, false, 0, true}, &r);
    check_case({DTYPE_BF16, 131, 200, 40, 1, 0, false, true}, &r);
    check_case({DTYPE_F8_E4M3, 131, 96, 70, 1, 0, false, true}, &r); // more than its largest tiles
    check_case({DTYPE_BF16, 20, 72, 13, 2, 3, false, true}, &r);
    check_case({DTYPE_Q4_1, 20, 64, 40, 1, 3, false, true}, &r);
}

/* ---- scales of a grid ---- */

/* By where the columns begin and how many there are: the blocks of the device, and what has none. */
static void test_grids(void)
{
    static const struct {
        int grid_col, cols, shift; // 0: bfloat16
    } cases[] = {{0, 128, 6}, {32, 96, 5}, {64, 1056, 5}, {16, 560, 4},
                 {48, 16, 4}, {0, 72, 0},  {8, 64, 0}};
    struct rng r;
    rng_init(&r, 9);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct source s = random_source(&r, DTYPE_F8_E4M3, 2, cases[i].cols, cases[i].grid_col);
        struct cuda_weight w = cuda_pack_shape(&s.m, 1, CUDA_REAL_BF16);
        EXPECT_INT(w.form, cases[i].shift ? CUDA_F8 : CUDA_BF16);
        if (cases[i].shift) EXPECT_INT(w.scale_shift, cases[i].shift);
        struct product_case c = {DTYPE_F8_E4M3, 19, cases[i].cols, 3, 2};
        c.grid_col = cases[i].grid_col;
        check_case(c, &r);
        c.mma = true;
        check_case(c, &r);
        c.experts = 3;
        c.inputs = 13;
        check_case(c, &r);
        c.mma = false;
        check_case(c, &r);
        free(s.bytes);
        free(s.grid);
    }
}

/* Matrices of one stack share a form: of different blocks they are bfloat16. */
static void test_stacks_of_grids(void)
{
    struct rng r;
    rng_init(&r, 9);
    struct source a = random_source(&r, DTYPE_F8_E4M3, 2, 128, 0);
    struct source b = random_source(&r, DTYPE_F8_E4M3, 2, 128, 32);
    const struct matrix same[] = {b.m, b.m, b.m}, mixed[] = {a.m, a.m, b.m};
    EXPECT_INT(cuda_pack_shape(same, 3, CUDA_REAL_BF16).form, CUDA_F8);
    EXPECT_INT(cuda_pack_shape(mixed, 3, CUDA_REAL_BF16).form, CUDA_BF16);
    EXPECT_INT(cuda_pack_shape(mixed, 3, CUDA_REAL_F16).form, CUDA_F16);
    EXPECT_INT(cuda_pack_shape(same, 3, CUDA_REAL_F32).form, CUDA_F32);
    free(a.bytes), free(a.grid);
    free(b.bytes), free(b.grid);
}

/* A weight that is NaN makes its row's outputs NaN, and no others. */
static void check_nan(bool mma, struct rng *r)
{
    struct product_case c = {DTYPE_F8_E4M3, 5, 128, 3, 1, 0, false, mma};
    struct product_scene a = {};

    set_inputs(&c, &a, r);
    set_parts(&c, &a, r);
    cudaFree((void *)a.p.part[0].w.data);
    cudaFree((void *)a.p.part[0].w.scales);
    a.source[0].bytes[2 * 128 + 77] = 0xff;
    a.p.part[0].w = upload(&a.source[0], real_of(&c));
    run(&c, &a);
    for (int in = 0; in < c.inputs; in++)
        for (int row = 0; row < c.rows; row++)
            EXPECT(isnan(a.out[0][in * a.p.part[0].out_stride + row]) == (row == 2));
    scene_free(&c, &a);
}

static void test_nan(void)
{
    struct rng r;
    rng_init(&r, 10);
    check_nan(false, &r);
    check_nan(true, &r);
}

/* ---- the library's: more rows than cuda_mma takes ---- */

/* Into the middle of rows, where a rank's logits are: nothing there is aligned. */
static void check_library(struct rng *r, int offset, bool is_half)
{
    struct product_case c = {DTYPE_BF16, 20, 72, 70, 1, 0, false, true, false, 0, is_half};
    struct cuda_gemm g;
    struct product_scene a = {};
    struct error err;

    set_inputs(&c, &a, r);
    set_parts(&c, &a, r);
    run(&c, &a);
    int stride = a.p.part[0].out_stride + offset;
    size_t count = (size_t)(c.inputs * stride);
    float *got = (float *)xcalloc(count, sizeof *got), *out = (float *)to_device(got, count * 4);
    NEED(cuda_gemm_open(&g, false, &err) == 0);
    NEED(cudaMalloc(&g.workspace, cuda_gemm_workspace_bytes(&g)) == cudaSuccess);
    cudaFree(a.p.part[0].out);
    a.p.part[0].out = out + offset;
    a.p.part[0].out_stride = stride;
    EXPECT(cuda_gemm_run(&g, &a.p, NULL) == cudaSuccess);
    NEED(cudaMemcpy(got, out, count * 4, cudaMemcpyDeviceToHost) == cudaSuccess);
    double worst = 0;
    for (int in = 0; in < c.inputs; in++)
        for (int row = 0; row < c.rows; row++)
            worst = fmax(worst, fabs((double)got[in * stride + offset + row] -
                                     (double)a.out[0][in * (stride - offset) + row]));
    EXPECT(worst < 1e-4);
    cudaFree(g.workspace);
    cuda_gemm_close(&g);
    a.p.part[0].out = out;
    free(got);
    scene_free(&c, &a);
}

static void test_library(void)
{
    struct rng r;
    rng_init(&r, 5);
    check_library(&r, 0, false);
    check_library(&r, 5, false);
    check_library(&r, 0, true);
    setenv("LM_CUDA_EMU_LT_WIDE", "1", 1); // it has nothing for the second: own kernels multiply
    check_library(&r, 0, false);
    check_library(&r, 5, false);
    unsetenv("LM_CUDA_EMU_LT_WIDE");
}

/* ---- gated ---- */

/* Both products and cuda_activate behind them against one launch that has no place for the products. */
static void check_gated(struct product_case c, enum ffn_activation kind, struct rng *r)
{
    struct product_scene a = {};
    size_t element = cuda_real_bytes(real_of(&c));
    int stride = (c.rows + 7) / 8 * 8;
    size_t bytes = (size_t)c.inputs * (size_t)stride * element;
    uint8_t *want = (uint8_t *)xcalloc(bytes, 1), *got = (uint8_t *)xcalloc(bytes, 1);
    void *device = to_device(want, bytes);

    c.parts = 2;
    c.same_rows = true;
    set_inputs(&c, &a, r);
    set_parts(&c, &a, r);
    if (c.experts) set_experts(&c, &a);
    run(&c, &a);
    struct cuda_rows out = {device, c.rows, stride, real_of(&c)};
    cuda_activate(&out, kind, a.p.part[0].out, a.p.part[1].out, CUDA_REAL_F32,
                  a.p.part[0].out_stride, c.inputs, NULL);
    NEED(cudaMemcpy(want, device, bytes, cudaMemcpyDeviceToHost) == cudaSuccess);
    NEED(cudaMemset(device, 0, bytes) == cudaSuccess);
    struct cuda_product gated = a.p;
    gated.gated = {device, c.inputs, stride, kind};
    gated.part[0].out = gated.part[1].out = NULL;
    (c.mma ? cuda_mma : cuda_gemv)(&gated, NULL);
    NEED(cudaMemcpy(got, device, bytes, cudaMemcpyDeviceToHost) == cudaSuccess);
    if (memcmp(got, want, bytes) != 0)
        printf("  %s %d x %d, %d rows, experts %d, mma %d: gated bits differ\n", dtype_name(c.type),
               c.rows, c.cols, c.inputs, c.experts, c.mma);
    EXPECT(memcmp(got, want, bytes) == 0);
    cudaFree(device);
    free(want);
    free(got);
    scene_free(&c, &a);
}

static void test_gated(void)
{
    static const int inputs[] = {1, 2, 3, 9, 32};
    static const enum ffn_activation kinds[] = {FFN_SILU, FFN_GELU_TANH, FFN_SWIGLU_CLAMPED};
    struct rng r;
    rng_init(&r, 5);
    for (size_t t = 0; t < ARRAY_LEN(types); t++)
        for (size_t i = 0; i < ARRAY_LEN(inputs); i++) {
            enum ffn_activation kind = kinds[(t + i) % ARRAY_LEN(kinds)];
            bool whole = is_wide(types[t]), is_float = types[t] == DTYPE_F32;
            struct product_case c = {types[t], 21, whole ? 256 : 77, inputs[i], 2, 0, is_float};
            check_gated(c, kind, &r);
            if (is_float) continue;
            c.mma = true;
            check_gated(c, kind, &r);
            c.in_is_half = true;
            c.mma = i % 2 == 0;
            check_gated(c, kind, &r);
        }
    check_gated({DTYPE_F32, 9, 130, 7, 2, 3, true, false}, FFN_SILU, &r);
    check_gated({DTYPE_BF16, 20, 72, 13, 2, 3, false, false}, FFN_SILU, &r);
    check_gated({DTYPE_Q4_1, 20, 64, 30, 2, 3, false, true}, FFN_SWIGLU_CLAMPED, &r);
    check_gated({DTYPE_BF16, 67, 200, 31, 2, 0, false, true}, FFN_SILU, &r);
}

/* ---- the range of float16 ---- */

/* act(gate) * up beyond it is its end, in both products and behind them, and NaN stays NaN. */
static void check_saturated(bool mma, struct rng *r)
{
    struct product_case c = {DTYPE_F32, 3, 8, 2, 2, 0, false, mma, true, 0, true};
    static const float weight[3] = {300, -300, NAN}, want[3] = {65504, -65504, NAN};
    struct product_scene a = {};
    uint16_t got[16] = {};
    void *device = to_device(got, sizeof got);

    set_inputs(&c, &a, r);
    set_parts(&c, &a, r);
    for (int i = 0; i < 2; i++) { // gates of 2400, ups of that, its negative, NaN
        for (int at = 0; at < 24; at++) {
            float w = i == 0 ? 300 : weight[at / 8];
            memcpy(a.source[i].bytes + 4 * at, &w, sizeof w);
        }
        cudaFree((void *)a.p.part[i].w.data);
        a.p.part[i].w = upload(&a.source[i], CUDA_REAL_F16);
    }
    for (int i = 0; i < 16; i++)
        got[i] = quant_float_to_half(1);
    NEED(cudaMemcpy((void *)a.p.in, got, sizeof got, cudaMemcpyHostToDevice) == cudaSuccess);
    run(&c, &a);
    for (int gated = 0; gated < 2; gated++) {
        struct cuda_rows out = {device, 3, 8, CUDA_REAL_F16};
        struct cuda_product p = a.p;
        p.gated = {device, 2, 8, FFN_SILU};
        if (gated)
            (mma ? cuda_mma : cuda_gemv)(&p, NULL);
        else
            cuda_activate(&out, FFN_SILU, p.part[0].out, p.part[1].out, CUDA_REAL_F32,
                          p.part[0].out_stride, 2, NULL);
        NEED(cudaMemcpy(got, device, sizeof got, cudaMemcpyDeviceToHost) == cudaSuccess);
        for (int i = 0; i < 6; i++) {
            float v = quant_half_to_float(got[i / 3 * 8 + i % 3]);
            EXPECT(isnan(want[i % 3]) ? isnan(v) : v == want[i % 3]);
        }
    }
    cudaFree(device);
    scene_free(&c, &a);
}

/* A weight that float16 can't hold is told, whatever it lies in; bfloat16 and the last one that fits are not. */
static void check_beyond(enum dtype type, float largest, void (*set)(uint8_t *row, float largest))
{
    uint8_t row[256 * 4] = {}, data[256 * 4], scales[64];
    float floats[256], scale = largest / 448;
    struct scale_grid grid = {&scale, 1, 1, 256};
    struct matrix m = {};

    m.type = type, m.rows = 1, m.cols = 256, m.data = row;
    if (type == DTYPE_F8_E4M3) m.grid = &grid;
    set(row, largest);
    for (enum cuda_real real : {CUDA_REAL_F16, CUDA_REAL_BF16}) {
        struct cuda_weight w = cuda_pack_shape(&m, 1, real);
        bool fits = cuda_pack_row(&w, &m, 0, data, scales, floats);
        if (w.form != CUDA_BF16) EXPECT(fits == (largest < 65520));
        if (w.form == CUDA_BF16) EXPECT(fits);
    }
}

static void set_float(uint8_t *row, float largest)
{
    memcpy(row + 4 * 200, &largest, sizeof largest);
}

static void set_bf16(uint8_t *row, float largest)
{
    uint16_t v = quant_float_to_bf16(largest);
    memcpy(row + 2 * 200, &v, sizeof v);
}

static void set_q4_1(uint8_t *row, float largest) // d 4096, q 15; the minimum is the rest
{
    put_half(row + 20 * 7, 4096);
    put_half(row + 20 * 7 + 2, largest - 15 * 4096);
    row[20 * 7 + 4 + 3] = 0xf0;
}

static void set_q8_0(uint8_t *row, float largest) // the last byte's
{
    put_half(row + 34 * 7, largest / 127);
    row[34 * 7 + 33] = 127;
}

static void set_f8(uint8_t *row, float) // 448, times the grid's scale
{
    row[3] = 0x7e;
}

static void test_float16_range(void)
{
    struct rng r;
    rng_init(&r, 11);
    check_saturated(false, &r);
    check_saturated(true, &r);
    for (float largest : {65000.0f, 66000.0f}) {
        check_beyond(DTYPE_F32, largest, set_float);
        check_beyond(DTYPE_BF16, largest, set_bf16);
        check_beyond(DTYPE_Q4_1, largest, set_q4_1);
        check_beyond(DTYPE_Q8_0, largest, set_q8_0);
        check_beyond(DTYPE_F8_E4M3, largest, set_f8);
    }
}

/* ---- rows of experts ---- */

/* In the order of experts, and of tokens in one; as many routes as a warp's share doesn't divide. */
static void check_groups(int experts, int used, int tokens, struct rng *r)
{
    int routes = used * tokens, next = 0;
    struct expert_shape shape = {};
    struct cuda_routes d = {};
    int *expert = (int *)xcalloc((size_t)routes, 3 * sizeof *expert), *row = expert + routes;
    int *token = row + routes, *first = (int *)xcalloc((size_t)experts + 1, sizeof *first);

    for (int i = 0; i < routes; i++)
        expert[i] = (int)rng_below(r, (uint32_t)experts);
    d.expert = (int *)to_device(expert, (size_t)routes * sizeof *expert);
    d.row = (int *)to_device(row, (size_t)routes * sizeof *row);
    d.token = (int *)to_device(token, (size_t)routes * sizeof *token);
    d.first = (int *)to_device(first, ((size_t)experts + 1) * sizeof *first);
    shape.experts = experts;
    shape.used = used;
    cuda_experts_group(&d, &shape, tokens, NULL);
    NEED(cudaMemcpy(row, d.row, (size_t)routes * sizeof *row, cudaMemcpyDeviceToHost) ==
         cudaSuccess);
    NEED(cudaMemcpy(token, d.token, (size_t)routes * sizeof *token, cudaMemcpyDeviceToHost) ==
         cudaSuccess);
    NEED(cudaMemcpy(first, d.first, ((size_t)experts + 1) * sizeof *first,
                    cudaMemcpyDeviceToHost) == cudaSuccess);
    for (int e = 0; e < experts; e++) {
        EXPECT_INT(first[e], next);
        for (int i = 0; i < routes; i++) {
            if (expert[i] != e) continue;
            EXPECT_INT(row[i], next);
            EXPECT_INT(token[next++], i / used);
        }
    }
    EXPECT_INT(first[experts], routes);
    for (int *at : {d.expert, d.row, d.token, d.first})
        cudaFree(at);
    free(expert);
    free(first);
}

static void test_groups(void)
{
    struct rng r;
    rng_init(&r, 13);
    check_groups(5, 3, 1, &r);
    check_groups(37, 2, 347, &r);
    check_groups(3, 1, 256, &r);
}

/* ---- begun early ---- */

typedef void product_fn(const struct cuda_product *p, cudaStream_t stream);

/* Kernels that read what the one before wrote, with nothing between: rows of experts, act(gate) * up of them, and a
 * product of that. Race hooks see what is read too early. */
static void check_chain(enum dtype type, product_fn *multiply, struct rng *r)
{
    struct product_case up = {type, 32, 64, 6, 2, 3, type == DTYPE_F32, false, true};
    struct product_case down = {type, 10, 32, 6, 1, 0, up.in_is_float};
    static const int expert[6] = {2, 0, 0, 2, 0, 2}, first[4] = {0, 3, 3, 6};
    const int none[6] = {};
    struct expert_shape shape = {};
    struct cuda_routes routes = {};
    struct product_scene a = {}, b = {};
    int got[4];

    set_inputs(&up, &a, r);
    set_parts(&up, &a, r);
    set_inputs(&down, &b, r);
    set_parts(&down, &b, r);
    shape.experts = 3;
    shape.used = 1;
    routes.expert = (int *)to_device(expert, sizeof expert);
    routes.row = (int *)to_device(none, sizeof none);
    routes.token = (int *)to_device(none, sizeof none);
    routes.first = (int *)to_device(none, sizeof first);
    a.p.experts = shape.experts;
    a.p.all_rows = up.inputs;
    a.p.first = routes.first;
    a.p.in_row = routes.token;
    a.p.gated = {(void *)b.p.in, up.inputs, b.p.in_stride, FFN_SILU};
    cuda_experts_group(&routes, &shape, up.inputs, NULL);
    multiply(&a.p, NULL);
    multiply(&b.p, NULL);
    NEED(cudaMemcpy(got, routes.first, sizeof got, cudaMemcpyDeviceToHost) == cudaSuccess);
    EXPECT(memcmp(got, first, sizeof got) == 0);
    cudaFree(routes.expert);
    cudaFree(routes.row);
    scene_free(&up, &a); // first and token, too
    scene_free(&down, &b);
}

static void test_chain(void)
{
    struct rng r;
    rng_init(&r, 6);
    check_chain(DTYPE_F32, cuda_gemv, &r);
    check_chain(DTYPE_Q4_1, cuda_gemv, &r);
    check_chain(DTYPE_BF16, cuda_mma, &r);
    check_chain(DTYPE_Q8_0, cuda_mma, &r);
    check_chain(DTYPE_F8_E4M3, cuda_gemv, &r);
    check_chain(DTYPE_BF16, cuda_wide, &r);
    check_chain(DTYPE_Q4_1, cuda_wide, &r);
}

int main(void)
{
    RUN(test_gemv);
    RUN(test_mma);
    RUN(test_grids);
    RUN(test_stacks_of_grids);
    RUN(test_nan);
    RUN(test_library);
    RUN(test_gated);
    RUN(test_float16_range);
    RUN(test_groups);
    RUN(test_chain);
    return TEST_END();
}
