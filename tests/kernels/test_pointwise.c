/* Norms, activation functions, RoPE and quantisation: the same bits in every instruction set,
 * within rounding of float64. */
#include "tests/kernels/kernel_test.h"

#define N_MAX 600

static const int sizes[] = {2, 15, 16, 17, 64, 576, 599};

static double silu(double x)
{
    return x / (1 + exp(-x));
}

static double gelu_tanh(double x)
{
    /* 0.5 x (1 + tanh(u)) without its cancellation */
    return x / (1 + exp(-2 * sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

static int close_to(float got, double want, double relative)
{
    return fabs((double)got - want) <= relative * fabs(want) + 1e-35;
}

static void test_rms_norm(void)
{
    float x[N_MAX], w[N_MAX], want[N_MAX], got[N_MAX];
    const struct cpu_isa *isa;
    struct rng r;

    rng_init(&r, 1);
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        int n = sizes[i];
        double squares = 0;
        random_floats(&r, x, N_MAX, 4.0f);
        random_floats(&r, w, N_MAX, 2.0f);
        cpu_isa_scalar.pointwise->rms_norm(want, x, w, n, 1e-5f);
        for (int k = 0; k < n; k++)
            squares += (double)x[k] * (double)x[k];
        double scale = 1 / sqrt(squares / n + (double)1e-5f);
        for (int k = 0; k < n; k++)
            EXPECT(close_to(want[k], (double)x[k] * scale * (double)w[k], 1e-6));
        for (int j = 0; (isa = test_isa(j)) != NULL; j++) {
            memcpy(got, x, sizeof got);
            isa->pointwise->rms_norm(got, got, w, n, 1e-5f);
            EXPECT(same_bits(got, want, (size_t)n));
            EXPECT(same_bits(got + n, x + n, (size_t)(N_MAX - n))); // nothing written beyond
        }
    }
}

static double activated(enum ffn_activation kind, double gate, double up)
{
    if (kind == FFN_SILU) return silu(gate) * up;
    if (kind == FFN_GELU_TANH) return gelu_tanh(gate) * up;
    double g = fmin(gate, 7), u = fmax(-7, fmin(up, 7));
    return g / (1 + exp(-1.702 * g)) * (u + 1);
}

static void test_activate(void)
{
    static const float corners[] = {0.0f,   -0.0f,  1e-30f, -1e-30f, 87.0f,  -87.0f, 88.5f, -88.5f,
                                    100.0f, -100.f, 1e30f,  -1e30f,  0.001f, -20.0f, 20.0f, -3.0f};
    float x[N_MAX], up[N_MAX], want[N_MAX], got[N_MAX];
    const struct cpu_isa *isa;
    struct rng r;

    rng_init(&r, 2);
    for (int kind = FFN_SILU; kind <= FFN_SWIGLU_CLAMPED; kind++) {
        random_floats(&r, x, N_MAX, 12.0f);
        random_floats(&r, up, N_MAX, kind == FFN_SWIGLU_CLAMPED ? 12.0f : 2.0f);
        memcpy(x, corners, sizeof corners);
        memcpy(want, x, sizeof want);
        cpu_isa_scalar.pointwise->activate((enum ffn_activation)kind, want, up, 597);
        for (int k = 0; k < 597; k++) {
            double z = (double)x[k], f = activated((enum ffn_activation)kind, z, (double)up[k]);
            /* The absolute part: e^88 is as far as the exponential goes. */
            double slack = 1e-36 + 2e-6 * fabs(f);
            EXPECT(fabs((double)want[k] - f) <= slack * (1 + fabs(z)));
        }
        for (int j = 0; (isa = test_isa(j)) != NULL; j++) {
            memcpy(got, x, sizeof got);
            isa->pointwise->activate((enum ffn_activation)kind, got, up, 597);
            EXPECT(same_bits(got, want, 597));
            EXPECT(same_bits(got + 597, x + 597, 3));
        }
    }
}

/* Clamping must not turn a NaN into a number. */
static void test_clamped_nan(void)
{
    const struct cpu_isa *isa;

    for (int j = 0; (isa = test_isa(j)) != NULL; j++) {
        float gate[3] = {NAN, 1, 1}, up[3] = {1, NAN, 1};
        isa->pointwise->activate(FFN_SWIGLU_CLAMPED, gate, up, 3);
        EXPECT(isnan(gate[0]) && isnan(gate[1]) && !isnan(gate[2]));
    }
}

/* What routes tokens to experts. */
static void test_softmax_and_sigmoid(void)
{
    static const int counts[] = {1, 2, 15, 16, 17, 60, 128};
    float x[N_MAX], want[N_MAX], got[N_MAX], sigmoid[N_MAX];
    const struct cpu_isa *isa;
    struct rng r;

    rng_init(&r, 9);
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        int n = counts[i];
        double total = 0;
        random_floats(&r, x, N_MAX, 30.0f);
        memcpy(want, x, sizeof want);
        memcpy(sigmoid, x, sizeof sigmoid);
        cpu_isa_scalar.pointwise->softmax(want, n);
        cpu_isa_scalar.pointwise->sigmoid(sigmoid, n);
        for (int k = 0; k < n; k++)
            total += exp((double)x[k]);
        for (int k = 0; k < n; k++) {
            EXPECT(close_to(want[k], exp((double)x[k]) / total, 4e-6));
            EXPECT(close_to(sigmoid[k], 1 / (1 + exp(-(double)x[k])), 1e-6));
        }
        for (int j = 0; (isa = test_isa(j)) != NULL; j++) {
            memcpy(got, x, sizeof got);
            isa->pointwise->softmax(got, n);
            EXPECT(same_bits(got, want, N_MAX)); // nothing written beyond
            memcpy(got, x, sizeof got);
            isa->pointwise->sigmoid(got, n);
            EXPECT(same_bits(got, sigmoid, N_MAX));
        }
    }
}

static void test_softcap(void)
{
    float x[N_MAX], want[N_MAX], got[N_MAX];
    const struct cpu_isa *isa;
    struct rng r;

    rng_init(&r, 3);
    random_floats(&r, x, N_MAX, 120.0f);
    x[0] = 1e30f;
    x[1] = -1e30f;
    x[2] = 0;
    memcpy(want, x, sizeof want);
    cpu_isa_scalar.pointwise->softcap(want, 590, 30.0f);
    for (int k = 0; k < 590; k++)
        EXPECT(fabs((double)want[k] - 30 * tanh((double)x[k] / 30)) <= 1e-5);
    for (int j = 0; (isa = test_isa(j)) != NULL; j++) {
        memcpy(got, x, sizeof got);
        isa->pointwise->softcap(got, 590, 30.0f);
        EXPECT(same_bits(got, want, N_MAX));
    }
}

static void test_sums(void)
{
    float x[N_MAX], y[N_MAX], want[N_MAX], got[N_MAX];
    const struct cpu_isa *isa;
    struct rng r;

    rng_init(&r, 4);
    random_floats(&r, x, N_MAX, 2.0f);
    random_floats(&r, y, N_MAX, 2.0f);
    for (int k = 0; k < N_MAX; k++)
        want[k] = k < 585 ? (fmaf(y[k], 0.3f, x[k]) + y[k]) * 1.7f : x[k];
    for (int j = 0; (isa = test_isa(j)) != NULL; j++) {
        memcpy(got, x, sizeof got);
        isa->pointwise->add_scaled(got, y, 0.3f, 585);
        isa->pointwise->add(got, y, 585);
        isa->pointwise->scale(got, 1.7f, 585);
        EXPECT(same_bits(got, want, N_MAX));
    }
}

static void test_rope(void)
{
    static const int dims[] = {2, 6, 32, 64, 80};
    float head[96], cosine[48], sine[48], want[96], got[96];
    const struct cpu_isa *isa;
    struct rng r;

    rng_init(&r, 5);
    for (int style = ROPE_HALF_SPLIT; style <= ROPE_INTERLEAVED; style++) {
        for (size_t i = 0; i < ARRAY_LEN(dims); i++) {
            int half = dims[i] / 2;
            random_floats(&r, head, 96, 1.0f);
            for (int k = 0; k < half; k++) {
                cosine[k] = (float)cos(0.37 * k * (double)dims[i]);
                sine[k] = (float)sin(0.37 * k * (double)dims[i]);
            }
            memcpy(want, head, sizeof want);
            for (int k = 0; k < half; k++) {
                int a = style == ROPE_INTERLEAVED ? 2 * k : k;
                int b = style == ROPE_INTERLEAVED ? 2 * k + 1 : k + half;
                want[a] = head[a] * cosine[k] - head[b] * sine[k];
                want[b] = head[b] * cosine[k] + head[a] * sine[k];
            }
            for (int j = 0; (isa = test_isa(j)) != NULL; j++) {
                memcpy(got, head, sizeof got);
                isa->pointwise->rope(got, cosine, sine, dims[i], (enum rope_style)style);
                EXPECT(same_bits(got, want, 96));
            }
        }
    }
}

static void test_narrow(void)
{
    float x[N_MAX];
    uint16_t got[N_MAX];
    const struct cpu_isa *isa;
    struct rng r;

    rng_init(&r, 6);
    random_floats(&r, x, N_MAX, 1.0f);
    for (int k = 0; k < N_MAX; k++) // over all exponents, with ties
        x[k] = ldexpf(k % 3 ? x[k] : 1.0f + 0x1p-11f * (float)(k % 7), k % 60 - 40);
    x[0] = INFINITY;
    x[1] = -INFINITY;
    x[2] = 1e38f;
    for (int j = 0; (isa = test_isa(j)) != NULL; j++) {
        isa->pointwise->to_half(got, x, N_MAX);
        for (int k = 0; k < N_MAX; k++)
            EXPECT_INT(got[k], quant_float_to_half(x[k]));
        isa->pointwise->to_bf16(got, x, N_MAX);
        for (int k = 0; k < N_MAX; k++)
            EXPECT_INT(got[k], quant_float_to_bf16(x[k]));
    }
}

/* Blocks with every kind of content; the last ones are hostile. */
static void fill_blocks(struct rng *r, float *x)
{
    random_floats(r, x, 32 * 12, 1.0f);
    for (int k = 0; k < 32; k++) {
        x[32 * 1 + k] = 0;
        x[32 * 2 + k] = k == 5 ? -1000.0f : 0.3f;
        x[32 * 3 + k] *= 1e-33f; // below what counts
        x[32 * 4 + k] *= 1e-28f;
        x[32 * 5 + k] *= 1e36f;
        x[32 * 6 + k] = k - 15.5f; // ties after scaling
        x[32 * 7 + k] = k & 1 ? 1.0f : -1.0f;
        x[32 * 8 + k] = k ? 127.0f * 0.5f + (float)k : 127.0f;
    }
    x[32 * 9 + 3] = NAN;
    x[32 * 10 + 31] = -INFINITY;
    x[32 * 11 + 7] = 1e-45f;
}

static void test_quantize(void)
{
    float x[32 * 12];
    struct act_int8 want[12], got[12];
    const struct cpu_isa *isa;
    struct rng r;

    rng_init(&r, 7);
    fill_blocks(&r, x);
    memset(want, 0, sizeof want);
    cpu_isa_scalar.pointwise->quantize_int8(want, x, 32 * 12);
    for (int b = 0; b < 12; b++) {
        int sum[2] = {0, 0};
        for (int k = 0; k < 32; k++) {
            sum[k / 16] += want[b].q[k];
            EXPECT(want[b].q[k] != -128);
            if (b == 9 || b == 10) continue;
            double error = fabs((double)x[32 * b + k] - (double)want[b].scale * want[b].q[k]);
            EXPECT(error <= 0.50001 * (double)want[b].scale + 0x1p-100);
        }
        EXPECT_INT(want[b].offset8, -8 * (sum[0] + sum[1]));
        EXPECT_INT(want[b].offset32[0], -32 * sum[0]);
        EXPECT_INT(want[b].offset32[1], -32 * sum[1]);
        if (b != 9 && b != 10)
            EXPECT(want[b].scaled_sum == want[b].scale * (float)(sum[0] + sum[1]));
    }
    EXPECT(want[1].scale == 0 && want[3].scale == 0 && want[4].scale > 0);
    EXPECT(isnan(want[9].scale) && isnan(want[10].scale));
    for (int j = 0; (isa = test_isa(j)) != NULL; j++) {
        float rest[32 * 12];
        memset(got, 0, sizeof got);
        isa->pointwise->quantize_int8(got, x, 32 * 12);
        EXPECT(memcmp(got, want, sizeof got) == 0);
        isa->pointwise->remainder_int8(rest, got, x, 32 * 9);
        for (int k = 0; k < 32 * 9; k++)
            EXPECT(rest[k] == fmaf(-got[k / 32].scale, (float)got[k / 32].q[k % 32], x[k]));
    }
}

static void test_quantize_wide(void)
{
    float x[32 * 12];
    struct act_int16 want[12], got[12];
    const struct cpu_isa *isa;
    struct rng r;

    rng_init(&r, 8);
    fill_blocks(&r, x);
    memset(want, 0, sizeof want);
    cpu_isa_scalar.pointwise->quantize_int16(want, x, 32 * 12);
    for (int b = 0; b < 12; b++) {
        int sum = 0;
        for (int k = 0; k < 32; k++) {
            int q = want[b].q[k / 4][k & 1][k % 4 / 2];
            sum += q;
            EXPECT(abs(q) <= 32767);
            if (b == 9 || b == 10) continue;
            double error = fabs((double)x[32 * b + k] - (double)want[b].scale * q);
            EXPECT(error <= 0.51 * (double)want[b].scale + 0x1p-100);
        }
        EXPECT_INT(want[b].offset128, -128 * sum);
    }
    EXPECT(isnan(want[9].scale) && isnan(want[10].scale) && want[1].scale == 0);
    for (int j = 0; (isa = test_isa(j)) != NULL; j++) {
        memset(got, 0, sizeof got);
        isa->pointwise->quantize_int16(got, x, 32 * 12);
        EXPECT(memcmp(got, want, sizeof got) == 0);
    }
}

/* Heads of any length: one scale, halves that are never past it, nothing written behind the end. */
static void check_head(const float *x, int n, bool number)
{
    int8_t want[96], got[96];
    const struct cpu_isa *isa;

    memset(want, 0x55, sizeof want);
    float scale = cpu_isa_scalar.pointwise->quantize_head(want, x, n);
    for (int k = 0; k < n; k++) {
        double error = fabs((double)x[k] - (double)scale * want[k]);
        if (number) EXPECT(error <= 0.50001 * (double)scale + 0x1p-100);
        if (!number) EXPECT(want[k] == 0);
        EXPECT(want[k] != -128);
    }
    for (int k = n; k < 96; k++)
        EXPECT(want[k] == 0x55);
    EXPECT(number ? scale >= 0 : isnan(scale));
    for (int j = 0; (isa = test_isa(j)) != NULL; j++) {
        memset(got, 0x55, sizeof got);
        float other = isa->pointwise->quantize_head(got, x, n);
        EXPECT(same_bits(&other, &scale, 1));
        EXPECT(memcmp(got, want, sizeof got) == 0);
    }
}

static void test_quantize_head(void)
{
    static const int lengths[] = {2, 16, 18, 22, 32, 40, 64, 80};
    float x[32 * 12];
    struct rng r;

    rng_init(&r, 9);
    fill_blocks(&r, x);
    for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
        for (int b = 0; b < 6; b++)
            check_head(x + 32 * b, lengths[i], true);
        check_head(x + 32 * 9 + 3, lengths[i], false); // begins with NaN
    }
    check_head(x + 32 * 9 - 80, 80, true); // ends before it
    check_head(x + 32 * 10, 31, true);
    check_head(x + 32 * 10, 32, false); // ends with an infinity
}

int main(void)
{
    RUN(test_rms_norm);
    RUN(test_activate);
    RUN(test_clamped_nan);
    RUN(test_softmax_and_sigmoid);
    RUN(test_softcap);
    RUN(test_sums);
    RUN(test_rope);
    RUN(test_narrow);
    RUN(test_quantize);
    RUN(test_quantize_wide);
    RUN(test_quantize_head);
    return TEST_END();
}
