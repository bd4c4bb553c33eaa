/* Matrix products: every format, in every instruction set, at every batch size, gives the same
 * bits, and they are the right ones: within rounding of a float64 product of the dequantised
 * weights with the activations as quantised. Through cpu_gemm_run: gating, biases and shares change
 * nothing either. */
#include "kernels/cpu/cpu_gemm.h"

#include "tests/kernels/kernel_test.h"

struct product {
    struct matrix m;
    struct cpu_packed w;
    uint8_t *panels;
    float *x; // [tokens][cols]
    int tokens;
};

static void product_init(struct product *p, struct rng *r, enum dtype type, int rows, int cols,
                         int tokens)
{
    p->m = random_matrix(r, type, rows, cols);
    p->panels = xaligned(cpu_pack_bytes(type, rows, cols));
    cpu_pack_init(&p->w, &p->m, type, p->panels);
    cpu_pack_panels(&p->w, &p->m, 0, p->w.panels);
    p->tokens = tokens;
    p->x = xmalloc((size_t)tokens * (size_t)cols * sizeof *p->x);
    random_floats(r, p->x, (size_t)tokens * (size_t)cols, 3.0f);
}

static void product_deinit(struct product *p)
{
    free((void *)(uintptr_t)p->m.data);
    free(p->panels);
    free(p->x);
}

static struct cpu_input input_of(const struct cpu_isa *isa, const struct cpu_packed *w,
                                 const float *x, int tokens, int terms)
{
    struct cpu_input in = {.cols = w->cols, .layouts = cpu_gemm_layouts(isa, w), .terms = terms};
    for (int i = 0; i < ACT_LAYOUTS; i++) {
        in.row_bytes[i] = cpu_act_bytes((enum act_layout)i, w->cols);
        if (i == ACT_INT8) in.row_bytes[i] *= (size_t)terms;
        in.data[i] = xaligned(in.row_bytes[i] * (size_t)tokens);
    }
    memcpy(in.data[ACT_F32], x, in.row_bytes[ACT_F32] * (size_t)tokens);
    for (int t = 0; t < tokens; t++)
        cpu_input_quantize(isa, &in, t, NULL);
    return in;
}

static void input_free(struct cpu_input *in)
{
    for (int i = 0; i < ACT_LAYOUTS; i++)
        free(in->data[i]);
}

/* out [tokens][16 * panels] by the kernel, `batch` tokens at a time */
static void run_kernel(const struct cpu_isa *isa, const struct product *p, int batch, float *out)
{
    enum act_layout layout = isa->gemm[p->w.form].layout;
    struct cpu_input in = input_of(isa, &p->w, p->x, p->tokens, 1);
    size_t stride = (size_t)p->w.panels * PANEL_ROWS;

    for (int t = 0; t < p->tokens; t += batch) {
        int count = p->tokens - t < batch ? p->tokens - t : batch;
        const char *x = (const char *)in.data[layout] + (size_t)t * in.row_bytes[layout];
        isa->gemm[p->w.form].kernel(&p->w, 0, p->w.panels, x, in.row_bytes[layout], count,
                                    out + (size_t)t * stride, stride);
    }
    input_free(&in);
}

/* Activations as a kernel sees them: exact for float formats, scale * q for the others. */
static void activations_seen(enum pack_form form, const float *x, int cols, double *seen)
{
    enum act_layout layout = cpu_isa_scalar.gemm[form].layout;
    void *blocks = xcalloc(1, cpu_act_bytes(layout, cols));
    const struct act_int8 *a8 = blocks;
    const struct act_int16 *a16 = blocks;

    if (layout == ACT_INT8) cpu_isa_scalar.pointwise->quantize_int8(blocks, x, cols);
    if (layout == ACT_INT16) cpu_isa_scalar.pointwise->quantize_int16(blocks, x, cols);
    for (int k = 0; k < cols; k++) {
        int b = k / 32, i = k % 32;
        seen[k] = (double)x[k];
        if (layout == ACT_INT8) seen[k] = (double)a8[b].scale * a8[b].q[i];
        if (layout == ACT_INT16) seen[k] = (double)a16[b].scale * a16[b].q[i / 4][i & 1][i % 4 / 2];
        EXPECT(fabs(seen[k] - (double)x[k]) <= (layout == ACT_INT8 ? 0.012 : 0.00005));
    }
    free(blocks);
}

static void check_values(const struct product *p, const float *out)
{
    int cols = p->w.cols;
    double *seen = xmalloc((size_t)cols * sizeof *seen);
    float *row = xmalloc((size_t)cols * sizeof *row);
    size_t row_bytes = matrix_row_bytes(p->m.type, cols);
    int wrong = 0;

    for (int t = 0; t<p->tokens; t += p->tokens> 4 ? p->tokens / 4 : 1) {
        activations_seen(p->w.form, p->x + (size_t)t * (size_t)cols, cols, seen);
        for (int r = 0; r < p->w.rows; r++) {
            const uint8_t *src = (const uint8_t *)p->m.data + (size_t)r * row_bytes;
            double sum = 0, magnitude = 0;
            quant_dequantize_row(p->m.type, src, row, cols);
            for (int k = 0; k < cols; k++) {
                sum += (double)row[k] * seen[k];
                magnitude += fabs((double)row[k] * seen[k]);
            }
            double got = (double)out[(size_t)t * (size_t)p->w.panels * PANEL_ROWS + (size_t)r];
            if (!(fabs(got - sum) <= 2e-6 * magnitude + 1e-30)) wrong++;
        }
    }
    EXPECT_INT(wrong, 0);
    free(seen);
    free(row);
}

static void check_padding(const struct product *p, const float *out)
{
    int stride = p->w.panels * PANEL_ROWS;
    for (int r = p->w.rows; r < stride; r++)
        EXPECT(out[r] == 0.0f);
}

static void check_product(struct rng *r, enum dtype type, int rows, int cols, int tokens)
{
    struct product p;
    product_init(&p, r, type, rows, cols, tokens);
    size_t count = (size_t)p.w.panels * PANEL_ROWS * (size_t)tokens;
    float *want = xcalloc(count, sizeof *want), *got = xcalloc(count, sizeof *got);
    const int batches[] = {1, 3, 7, 16, tokens};
    const struct cpu_isa *isa;

    run_kernel(&cpu_isa_scalar, &p, tokens, want);
    check_values(&p, want);
    check_padding(&p, want);
    for (int i = 0; (isa = test_isa(i)) != NULL; i++) {
        for (size_t b = 0; b < ARRAY_LEN(batches); b++) {
            memset(got, 0xff, count * sizeof *got);
            run_kernel(isa, &p, batches[b], got);
            if (!same_bits(got, want, count)) {
                printf("%s %s %dx%d, %d tokens by %d: bits differ\n", isa->name, dtype_name(type),
                       rows, cols, tokens, batches[b]);
            }
            EXPECT(same_bits(got, want, count));
        }
    }
    free(want);
    free(got);
    product_deinit(&p);
}

static enum pack_form form_of(enum dtype type)
{
    struct matrix m = {.type = type, .rows = 1, .cols = dtype_block_elements(type)};
    struct cpu_packed w;
    cpu_pack_init(&w, &m, type, NULL);
    return w.form;
}

/* Every type; and the first of a form, since the others go through the same kernels, in many sizes. */
static void test_bits(void)
{
    static const int rows[] = {1, 16, 40, 192};
    static const int blocks[] = {1, 2, 5};
    static const int tokens[] = {1, 5, 31};
    bool seen[PACK_FORMS] = {false};
    struct rng r;

    rng_init(&r, 1);
    for (int type = 0; type < DTYPE_COUNT; type++) {
        if (type == DTYPE_F8_E4M3) continue; // not the CPU backend's
        int unit = dtype_block_elements((enum dtype)type);
        enum pack_form form = form_of((enum dtype)type);
        check_product(&r, (enum dtype)type, 40, unit == 1 ? 83 : 3 * unit, 19);
        if (seen[form]) continue;
        seen[form] = true;
        for (size_t i = 0; i < ARRAY_LEN(rows); i++)
            for (size_t j = 0; j < ARRAY_LEN(blocks); j++)
                for (size_t k = 0; k < ARRAY_LEN(tokens); k++)
                    check_product(&r, (enum dtype)type, rows[i], blocks[j] * unit, tokens[k]);
        check_product(&r, (enum dtype)type, 96, unit == 1 ? 576 : 3 * unit, 100);
    }
}

/* The corners where an instruction could saturate or overflow: all weights and activations at their
 * ends, of either sign. */
static void check_extreme(struct rng *r, enum dtype type, int fill)
{
    struct product p;
    product_init(&p, r, type, 32, 512, 6);
    size_t block_bytes = (size_t)dtype_block_bytes(type);
    uint8_t *data = (uint8_t *)(uintptr_t)p.m.data;

    for (size_t b = 0; b < matrix_bytes(&p.m); b += block_bytes) {
        memset(data + b, fill, block_bytes);
        put_scales(type, data + b, 0.01f, 0.02f);
    }
    cpu_pack_panels(&p.w, &p.m, 0, p.w.panels);
    for (int k = 0; k < 6 * 512; k++)
        p.x[k] = k / 512 % 2 ? 5.0f : k / 512 % 3 ? -5.0f : (k & 1 ? 5.0f : -5.0f);
    size_t count = (size_t)p.w.panels * PANEL_ROWS * 6;
    float *want = xcalloc(count, sizeof *want), *got = xcalloc(count, sizeof *got);
    const struct cpu_isa *isa;
    run_kernel(&cpu_isa_scalar, &p, 6, want);
    check_values(&p, want);
    for (int n = 0; (isa = test_isa(n)) != NULL; n++) {
        run_kernel(isa, &p, 6, got);
        if (!same_bits(got, want, count))
            printf("%s %s filled with %02x: bits differ\n", isa->name, dtype_name(type),
                   (unsigned)fill);
        EXPECT(same_bits(got, want, count));
    }
    free(want);
    free(got);
    product_deinit(&p);
}

static void test_extremes(void)
{
    static const int fills[] = {0x00, 0xff, 0x80, 0x7f, 0x77, 0x88};
    struct rng r;

    rng_init(&r, 2);
    for (int type = 0; type < DTYPE_COUNT; type++)
        for (size_t i = 0; i < ARRAY_LEN(fills); i++)
            if (dtype_block_elements((enum dtype)type) > 1)
                check_extreme(&r, (enum dtype)type, fills[i]);
}

/* ---- through the pool ---- */

struct stage {
    struct product a, b;
    struct cpu_input in;
    float *bias, *out;
};

static void run_stage(const struct cpu_isa *isa, struct cpu_pool *pool, struct stage *s, bool gated,
                      int token, int tokens)
{
    struct cpu_input in = s->in;
    for (int i = 0; i < ACT_LAYOUTS; i++)
        in.data[i] = (char *)in.data[i] + (size_t)token * in.row_bytes[i];
    size_t rows = (size_t)s->a.w.rows, all = gated ? rows : 2 * rows;
    struct cpu_gemm_job job = {.isa = isa, .pool = pool, .in = &in, .tokens = tokens, .parts = 2};
    float *out = s->out + (size_t)token * all;
    job.part[0] = (struct cpu_gemm_part){&s->a.w, out, all, s->bias};
    job.part[1] = (struct cpu_gemm_part){&s->b.w, gated ? NULL : out + rows, all, NULL};
    job.gated = gated;
    job.activation = FFN_SILU;
    cpu_gemm_run(&job);
}

static void check_stage(struct rng *r, enum dtype type, int rows, int cols, int tokens, int terms)
{
    float *want[2] = {NULL, NULL};
    struct stage s;
    const struct cpu_isa *isa;
    struct error err;

    product_init(&s.a, r, type, rows, cols, tokens);
    product_init(&s.b, r, type, rows, cols, 1);
    s.bias = xmalloc((size_t)rows * sizeof *s.bias);
    random_floats(r, s.bias, (size_t)rows, 1.0f);
    size_t count = 2 * (size_t)rows * (size_t)tokens;
    s.out = xmalloc(count * sizeof *s.out);
    for (int i = 0; (isa = test_isa(i)) != NULL; i++) {
        s.in = input_of(isa, &s.a.w, s.a.x, tokens, terms);
        for (int variant = 0; variant < 12; variant++) {
            int gated = variant & 1, threads = variant / 2 % 2 ? 3 : 1;
            const int steps[] = {tokens, 1, 17};
            struct cpu_pool *pool;
            NEED(cpu_pool_create(threads, NULL, &pool, &err) == 0);
            memset(s.out, 0, count * sizeof *s.out);
            for (int t = 0, step = steps[variant / 4]; t < tokens; t += step)
                run_stage(isa, pool, &s, gated, t, tokens - t < step ? tokens - t : step);
            cpu_pool_destroy(pool);
            if (!want[gated]) want[gated] = xmemdup(s.out, count * sizeof *s.out);
            EXPECT(same_bits(s.out, want[gated], count));
        }
        input_free(&s.in);
    }
    /* The gate is the product of the plain results. */
    for (int t = 0; t < tokens; t++) {
        for (int i = 0; i < rows; i++) {
            float *row = want[0] + 2 * (size_t)rows * (size_t)t;
            double g = (double)row[i], u = (double)row[rows + i];
            double gate = (double)want[1][(size_t)rows * (size_t)t + (size_t)i];
            double expected = g / (1 + exp(-g)) * u;
            EXPECT(fabs(gate - expected) <= 1e-5 * (1 + fabs(expected)));
        }
    }
    free(want[0]);
    free(want[1]);
    free(s.bias);
    free(s.out);
    product_deinit(&s.a);
    product_deinit(&s.b);
}

static void test_stage(void)
{
    struct rng r;
    rng_init(&r, 3);
    check_stage(&r, DTYPE_Q4_1, 83, 64, 70, 1);
    check_stage(&r, DTYPE_Q4_1, 83, 64, 70, 2);
    check_stage(&r, DTYPE_Q6_K, 300, 256, 40, 2);
    check_stage(&r, DTYPE_Q8_0, 1536, 96, 33, 1);
    check_stage(&r, DTYPE_F16, 100, 37, 65, 1);
    check_stage(&r, DTYPE_Q6_K, 17, 256, 20, 1);
    check_stage(&r, DTYPE_Q2_K, 33, 512, 21, 2);
    check_stage(&r, DTYPE_Q5_1, 50, 160, 18, 2);
    check_stage(&r, DTYPE_MXFP4, 90, 96, 35, 2);
    check_stage(&r, DTYPE_IQ2_S, 40, 256, 19, 1);
}

/* With two terms the products are those of the floats, but for a part in 2^15. */
static void test_terms(void)
{
    struct product p;
    struct cpu_pool *pool;
    struct error err;
    struct rng r;

    rng_init(&r, 4);
    product_init(&p, &r, DTYPE_Q4_1, 48, 320, 5);
    NEED(cpu_pool_create(1, NULL, &pool, &err) == 0);
    float *out = xcalloc(48 * 5, sizeof *out), row[320];
    struct cpu_input in = input_of(&cpu_isa_scalar, &p.w, p.x, 5, 2);
    struct cpu_gemm_job job = {
        .isa = &cpu_isa_scalar, .pool = pool, .in = &in, .tokens = 5, .parts = 1};
    job.part[0] = (struct cpu_gemm_part){&p.w, out, 48, NULL};
    cpu_gemm_run(&job);
    for (int t = 0; t < 5; t++) {
        for (int i = 0; i < 48; i++) {
            double sum = 0, magnitude = 0;
            cpu_pack_read_row(&p.w, i, row);
            for (int k = 0; k < 320; k++) {
                sum += (double)row[k] * (double)p.x[320 * t + k];
                magnitude += fabs((double)row[k]) * 3;
            }
            EXPECT(fabs((double)out[48 * t + i] - sum) <= magnitude * 2e-5);
        }
    }
    input_free(&in);
    free(out);
    cpu_pool_destroy(pool);
    product_deinit(&p);
}

int main(void)
{
    RUN(test_terms);
    RUN(test_bits);
    RUN(test_extremes);
    RUN(test_stage);
    return TEST_END();
}
