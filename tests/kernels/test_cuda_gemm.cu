/* test_cuda_gemm.cu - the choice among products, and what a library needs: 4- and 8-bit weights become bfloat16
 * behind which cuBLASLt multiplies, some weight rows at a time, in memory that was counted before. */
#include "kernels/cuda/cuda_gemm.h"

#include "tests/kernels/cuda_product_scene.cuh"

#ifdef LM_CUDA_EMULATED
#define LAUNCHES(kernel) emu::launch_count(kernel)
#else
#define LAUNCHES(kernel) 0 // a GPU doesn't count: results only
#endif
#define EXPECT_LAUNCHES(got, want) EXPECT_INT(got, LAUNCHES(NULL) ? (want) : 0)

#define MANY                       33 // rows of activations from which weights in blocks go through the library

static struct cuda_gemm gemm;

static void open_gemm(bool deterministic, const struct cuda_product *p, int rows_max)
{
    struct error err;

    NEED(cuda_gemm_open(&gemm, deterministic, &err) == 0);
    for (int i = 0; i < p->parts; i++)
        cuda_gemm_expect(&gemm, &p->part[i].w, rows_max);
}

/* Memory as the backend gives it, and the product. */
static void run_gemm(const struct product_case *c, struct product_scene *a)
{
    NEED(cudaMalloc(&gemm.workspace, cuda_gemm_workspace_bytes(&gemm) + 1) == cudaSuccess);
    NEED(cuda_gemm_run(&gemm, &a->p, NULL) == cudaSuccess);
    NEED(cudaStreamSynchronize(NULL) == cudaSuccess);
    for (int i = 0; i < c->parts; i++)
        NEED(cudaMemcpy(a->out[i], a->p.part[i].out,
                        (size_t)c->inputs * (size_t)a->p.part[i].out_stride * sizeof(float),
                        cudaMemcpyDeviceToHost) == cudaSuccess);
    cudaFree(gemm.workspace);
    cuda_gemm_close(&gemm);
}

/* ---- weights in blocks ---- */

/* `slice`: bytes of bfloat16 at a time, 0: what cuda_gemm_expect says. `slices`: launches of dequantise_kernel
 * for the two parts. */
static void check_blocks(struct product_case c, bool deterministic, size_t slice, int slices)
{
    struct product_scene a = {};
    struct rng r;

    rng_init(&r, 7);
    set_inputs(&c, &a, &r);
    set_parts(&c, &a, &r);
    open_gemm(deterministic, &a.p, c.inputs);
    if (slice > 0) gemm.dequantised_bytes = slice;
    long before = LAUNCHES("dequantise_kernel<T>");
    run_gemm(&c, &a);
    EXPECT_LAUNCHES(LAUNCHES("dequantise_kernel<T>") - before, slices);
    c.mma = true; // the same roundings, but of E4M3, which has none there
    double most = slices > 0 && c.type == DTYPE_F8_E4M3 ? (c.in_is_half ? 0.003 / 8 : 0.003)
                                                        : allowed(&c, &a);
    for (int i = 0; i < c.parts; i++) {
        double error = error_of(&c, &a, i);
        if (!(error <= most))
            printf("  %s, %d rows, part %d: error %g\n", dtype_name(c.type), c.inputs, i, error);
        EXPECT(error <= most);
    }
    scene_free(&c, &a);
}

static void test_blocks_through_library(void)
{
    static const enum dtype types[] = {DTYPE_Q4_0, DTYPE_Q4_1, DTYPE_Q8_0, DTYPE_Q4_K,
                                       DTYPE_F8_E4M3};
    const size_t row = 256 * sizeof(bf16);

    for (size_t i = 0; i < ARRAY_LEN(types); i++)
        check_blocks({types[i], 18, 256, MANY, 2}, false, 0, 2);
    for (size_t i = 1; i < ARRAY_LEN(types); i++)
        if (types[i] != DTYPE_Q4_K)
            check_blocks({types[i], 18, 256, MANY, 1, 0, false, false, false, 0, true}, false, 0,
                         1);
    check_blocks({DTYPE_Q4_1, 18, 256, MANY, 2}, false, 7 * row, 6);    // 18 and 21 rows by seven
    check_blocks({DTYPE_Q8_0, 140, 256, MANY, 2}, false, 130 * row, 4); // by 128
    check_blocks({DTYPE_Q4_1, 18, 256, MANY, 2}, false, row - 1, 0);    // no room
    check_blocks({DTYPE_Q4_1, 18, 256, MANY - 1, 2}, false, 0, 0);
    check_blocks({DTYPE_Q4_1, 18, 256, MANY, 2}, true, 0, 0);
    check_blocks({DTYPE_BF16, 18, 256, MANY, 2}, false, 0, 0);
    check_blocks({DTYPE_F8_E4M3, 18, 256, MANY, 2}, false, 7 * row, 6);
    check_blocks({DTYPE_F8_E4M3, 18, 72, MANY, 2}, false, 0, 0); // bfloat16
}

/* ---- neighbours ---- */

/* Two matrices behind each other into columns of one array are one product; into arrays of their own, two. The
 * result is the same. */
static void check_neighbours(enum cuda_real real, int gap, int products)
{
    const int rows[] = {16, 24}, cols = 64, all = rows[0] + rows[1];
    size_t count = (size_t)MANY * (size_t)(all + gap), weights = (size_t)all * (size_t)cols;
    uint16_t *w = (uint16_t *)xcalloc(weights, sizeof *w);
    uint16_t *in = (uint16_t *)xcalloc(MANY * cols, sizeof *in);
    float *got = (float *)xcalloc(count, sizeof *got);
    float *bias = (float *)xcalloc((size_t)all, sizeof *bias);
    struct cuda_product p = {};
    p.in_real = real;

    for (size_t i = 0; i < weights; i++)
        w[i] = to_16(real, (float)(i % 7) - 3);
    for (int i = 0; i < MANY * cols; i++)
        in[i] = to_16(real, (float)(i % 5) - 2);
    for (int i = 0; i < all; i++)
        bias[i] = (float)i;
    uint16_t *w_device = (uint16_t *)to_device(w, weights * sizeof *w);
    float *out = (float *)to_device(got, count * sizeof *got);
    const float *bias_device = (const float *)to_device(bias, (size_t)all * sizeof *bias);
    p.in = to_device(in, (size_t)(MANY * cols) * sizeof *in);
    p.in_stride = cols, p.rows = MANY, p.parts = 2;
    for (int i = 0; i < 2; i++) {
        int first = i * rows[0];
        p.part[i].w = {cuda_form_of_real(real), rows[i], cols, cols,
                       w_device + first * cols, NULL,    0};
        p.part[i].out = out + first + i * gap;
        p.part[i].out_stride = all + gap;
        p.part[i].bias = bias_device + first;
    }
    open_gemm(false, &p, MANY);
    NEED(cudaMalloc(&gemm.workspace, cuda_gemm_workspace_bytes(&gemm)) == cudaSuccess);
    NEED(cuda_gemm_run(&gemm, &p, NULL) == cudaSuccess);
    NEED(cudaMemcpy(got, out, count * sizeof *got, cudaMemcpyDeviceToHost) == cudaSuccess);
    EXPECT_INT(gemm.choices, products);
    for (int r = 0; r < MANY; r++)
        for (int i = 0; i < all; i++) {
            float want = bias[i]; // whole numbers: exact
            for (int k = 0; k < cols; k++)
                want += from_16(real, in[r * cols + k]) * from_16(real, w[i * cols + k]);
            EXPECT(got[r * (all + gap) + i + (i < rows[0] ? 0 : gap)] == want);
        }
    for (const void *at : {(const void *)gemm.workspace, p.in, (const void *)w_device,
                           (const void *)out, (const void *)bias_device})
        cudaFree((void *)at);
    cuda_gemm_close(&gemm);
    free(w), free(in), free(got), free(bias);
}

static void test_neighbours(void)
{
    for (enum cuda_real real : {CUDA_REAL_BF16, CUDA_REAL_F16}) {
        check_neighbours(real, 0, 1);
        check_neighbours(real, 3, 2);
    }
}

/* ---- gate and up ---- */

/* One launch where own kernels multiply; both products and an activation behind a library, or where the parts
 * have different forms. */
static void check_gated(enum dtype gate, enum dtype up, int inputs, int activations,
                        bool is_half = false)
{
    struct product_case c = {gate, 21, 256, inputs, 2};
    struct product_scene a = {}, other = {};
    const int stride = 24;
    size_t count = (size_t)inputs * (size_t)stride;
    uint16_t *g = (uint16_t *)xcalloc(count, sizeof *g);
    double worst = 0;
    struct rng r;

    rng_init(&r, 8);
    c.same_rows = true;
    c.in_is_half = is_half;
    set_inputs(&c, &a, &r);
    set_parts(&c, &a, &r);
    c.type = up;
    set_parts(&c, &other, &r);
    struct cuda_weight w = a.p.part[1].w;
    a.p.part[1].w = other.p.part[1].w;
    void *out = to_device(g, count * sizeof *g);
    a.p.gated = {out, inputs, stride, FFN_SILU};
    open_gemm(false, &a.p, inputs);
    long before = LAUNCHES("(activate_kernel<T, S, V>)");
    struct cuda_product apart = a.p;
    run_gemm(&c, &a);
    EXPECT_LAUNCHES(LAUNCHES("(activate_kernel<T, S, V>)") - before, activations);
    NEED(cudaMemcpy(g, out, count * sizeof *g, cudaMemcpyDeviceToHost) == cudaSuccess);
    apart.gated.out = NULL;
    a.p = apart;
    open_gemm(false, &a.p, inputs);
    run_gemm(&c, &a);
    for (int in = 0; in < inputs; in++)
        for (int i = 0; i < c.rows; i++) {
            double x = (double)a.out[0][in * (c.rows + 1) + i];
            double want = x / (1 + exp(-x)) * (double)a.out[1][in * (c.rows + 1) + i];
            double got = (double)from_16(real_of(&c), g[in * stride + i]);
            worst = fmax(worst, fabs(got - want) / (fabs(want) + (is_half ? 0x1p-14 : 1e-6)));
        }
    EXPECT(worst <= (is_half ? 0.001 : 0.005)); // of the output
    for (size_t i = 0; i < count; i++)
        EXPECT((int)(i % (size_t)stride) < c.rows || g[i] == 0);
    cudaFree(out);
    a.p.part[1].w = w;
    free(g);
    c.type = gate;
    scene_free(&c, &a);
    scene_free(&c, &other);
}

static void test_gated_where_possible(void)
{
    check_gated(DTYPE_Q4_1, DTYPE_Q4_1, 1, 0);
    check_gated(DTYPE_Q4_1, DTYPE_Q4_1, 32, 0);
    check_gated(DTYPE_Q4_1, DTYPE_Q4_1, MANY, 1);
    check_gated(DTYPE_BF16, DTYPE_BF16, 65, 1);
    check_gated(DTYPE_Q4_1, DTYPE_Q8_0, 1, 1);
    check_gated(DTYPE_F8_E4M3, DTYPE_F8_E4M3, 1, 0);
    check_gated(DTYPE_F8_E4M3, DTYPE_BF16, 65, 1);
    check_gated(DTYPE_Q4_1, DTYPE_BF16, 65, 1);
    check_gated(DTYPE_Q4_1, DTYPE_BF16, 65, 1, true);
}

static float bf16_of(float x)
{
    return from_16(CUDA_REAL_BF16, to_16(CUDA_REAL_BF16, x));
}

/* Side by side, as a step has them, gate and up behind a library are bfloat16 between both launches; float32 where
 * inputs are float16, with biases, or if the library can't. */
static void check_between(enum dtype type, bool is_half, bool has_bias, bool is_narrow,
                          size_t slice = 0)
{
    struct product_case c = {type, 20, 256, MANY, 2};
    struct product_scene a = {};
    size_t count = (size_t)c.inputs * (size_t)c.rows;
    float *both = (float *)xcalloc(2 * count, sizeof *both);
    uint16_t *g = (uint16_t *)xcalloc(count, sizeof *g);
    double worst = 0;
    struct rng r;

    rng_init(&r, 9);
    c.same_rows = true;
    c.in_is_half = is_half;
    set_inputs(&c, &a, &r);
    set_parts(&c, &a, &r);
    struct cuda_product p = a.p;
    float *joint = (float *)to_device(both, 2 * count * sizeof *both);
    void *out = to_device(g, count * sizeof *g);
    for (int i = 0; i < 2; i++) {
        p.part[i].out = joint + i * c.rows;
        p.part[i].out_stride = 2 * c.rows;
        if (!has_bias) p.part[i].bias = NULL;
    }
    for (bool gated : {false, true}) {
        if (gated) p.gated = {out, c.inputs, c.rows, FFN_SILU};
        open_gemm(false, &p, c.inputs);
        if (slice > 0) gemm.dequantised_bytes = slice;
        NEED(cudaMalloc(&gemm.workspace, cuda_gemm_workspace_bytes(&gemm)) == cudaSuccess);
        NEED(cuda_gemm_run(&gemm, &p, NULL) == cudaSuccess);
        NEED(cudaStreamSynchronize(NULL) == cudaSuccess);
        if (!gated)
            NEED(cudaMemcpy(both, joint, 2 * count * sizeof *both, cudaMemcpyDeviceToHost) ==
                 cudaSuccess);
        cudaFree(gemm.workspace);
        cuda_gemm_close(&gemm);
    }
    NEED(cudaMemcpy(g, out, count * sizeof *g, cudaMemcpyDeviceToHost) == cudaSuccess);
    for (int in = 0; in < c.inputs; in++)
        for (int i = 0; i < c.rows; i++) {
            const float *row = both + 2 * in * c.rows;
            float gate = is_narrow ? bf16_of(row[i]) : row[i];
            float up = is_narrow ? bf16_of(row[c.rows + i]) : row[c.rows + i];
            double want = (double)gate / (1 + exp(-(double)gate)) * (double)up;
            double got = (double)from_16(real_of(&c), g[in * c.rows + i]);
            worst = fmax(worst, fabs(got - want) / (fabs(want) + 1e-4));
        }
    EXPECT(worst <= (is_half ? 0.0005 : 0.0040)); // half a unit of the output
    cudaFree(joint);
    cudaFree(out);
    free(both);
    free(g);
    scene_free(&c, &a);
}

static void test_between_gate_and_activation(void)
{
    check_between(DTYPE_BF16, false, false, true);
    check_between(DTYPE_Q4_1, false, false, true);
    check_between(DTYPE_Q4_1, false, false, true, 7 * 256 * sizeof(uint16_t)); // rows at a time
    check_between(DTYPE_BF16, false, true, false);
    check_between(DTYPE_F16, true, false, false);
    setenv("LM_CUDA_EMU_LT_WIDE", "1", 1); // 20 rows of 2 bytes aren't aligned to 16
    check_between(DTYPE_BF16, false, false, !LAUNCHES(NULL));
    unsetenv("LM_CUDA_EMU_LT_WIDE");
}

/* ---- many rows ---- */

/* Launches of cuda_wide, in any form, and of cuda_mma for the rest. `rows`: of each expert, or without experts. */
static void expect_wide(bool deterministic, int experts, int rows, bool gated, int launches)
{
    struct product_case c = {DTYPE_BF16, 9, 16, experts ? experts * rows : rows, 2, experts};
    struct product_scene a = {};
    int rows_of_expert[EXPERTS_MAX];
    struct rng r;

    rng_init(&r, 8);
    c.same_rows = true;
    set_inputs(&c, &a, &r);
    set_parts(&c, &a, &r);
    for (int e = 0; e < experts; e++)
        rows_of_expert[e] = rows;
    if (experts) set_expert_rows(&c, &a, rows_of_expert);
    void *out = to_device(a.x, (size_t)c.inputs * 16 * sizeof(bf16));
    if (gated) a.p.gated = {out, c.inputs, 16, FFN_SILU};
    open_gemm(deterministic, &a.p, c.inputs);
    long wide = LAUNCHES("(wide_kernel<T, W>)"),
         activations = LAUNCHES("(activate_kernel<T, S, V>)");
    run_gemm(&c, &a);
    EXPECT_LAUNCHES(LAUNCHES("(wide_kernel<T, W>)") - wide, launches);
    EXPECT_LAUNCHES(LAUNCHES("(activate_kernel<T, S, V>)") - activations, gated && !launches);
    cudaFree(out);
    scene_free(&c, &a);
}

static void test_wide_for_many_rows(void)
{
    expect_wide(false, 3, 63, false, 0);
    expect_wide(false, 3, 64, false, 1);
    expect_wide(true, 3, 64, false, 1);
    expect_wide(false, 2, 64, true, 1); // with its gate
    expect_wide(false, 2, 63, true, 0);
    expect_wide(true, 0, 255, false, 0);
    expect_wide(true, 0, 256, true, 1);
    expect_wide(false, 0, 256, false, 0); // the library's
    setenv("LM_CUDA_WIDE_ROWS", "40", 1);
    expect_wide(true, 0, 40, false, 1);
    expect_wide(true, 0, 39, false, 0);
    unsetenv("LM_CUDA_WIDE_ROWS");
}

/* ---- memory ---- */

static void expect_bytes(bool deterministic, struct cuda_weight w, int rows_max, size_t want)
{
    struct cuda_product p = {};

    p.parts = 1;
    p.part[0].w = w;
    open_gemm(deterministic, &p, rows_max);
    size_t bytes = cuda_gemm_workspace_bytes(&gemm);
    cuda_gemm_expect(&gemm, &w, rows_max);
    EXPECT_INT(cuda_gemm_workspace_bytes(&gemm), bytes); // of the largest, not of all
    cuda_gemm_close(&gemm);
    struct cuda_product none = {};
    open_gemm(deterministic, &none, rows_max);
    EXPECT_INT(bytes - cuda_gemm_workspace_bytes(&gemm), want);
    cuda_gemm_close(&gemm);
}

static void test_memory(void)
{
    expect_bytes(false, {CUDA_Q4, 100, 64, 64, NULL, NULL, 0}, MANY, 100 * 64 * 2);
    expect_bytes(false, {CUDA_Q8, 100000, 4096, 4096, NULL, NULL, 0}, MANY, 32u << 20);
    expect_bytes(false, {CUDA_Q8, 100, 64, 64, NULL, NULL, 0}, MANY - 1, 0);
    expect_bytes(false, {CUDA_F8, 100, 64, 64, NULL, NULL, 6}, MANY, 100 * 64 * 2);
    expect_bytes(true, {CUDA_Q8, 100, 64, 64, NULL, NULL, 0}, MANY, 0);
    expect_bytes(false, {CUDA_BF16, 100, 64, 64, NULL, NULL, 0}, MANY, 0);
}

int main(void)
{
    RUN(test_blocks_through_library);
    RUN(test_neighbours);
    RUN(test_gated_where_possible);
    RUN(test_between_gate_and_activation);
    RUN(test_wide_for_many_rows);
    RUN(test_memory);
    return TEST_END();
}
