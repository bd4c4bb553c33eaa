/* cpu_pointwise_body.h - norms, activation functions, RoPE, quantisation of activations; included
 * by each cpu_isa_NAME.c (README rules A1-A4 and P1-P6). Plain loops are left to the compiler:
 * without contraction and reassociation they give the same bits at any width. */
#ifndef LM_KERNELS_CPU_POINTWISE_BODY_H
#define LM_KERNELS_CPU_POINTWISE_BODY_H

#include "kernels/cpu/cpu_isa.h"
#include "kernels/cpu/cpu_simd.h"

static void pointwise_rms_norm(float *y, const float *x, const float *weight, int n, float eps)
{
    struct vf squares = vf_zero();
    for (int i = 0; i < n; i += VF_LANES) {
        struct vf v = vf_load_n(x + i, n - i);
        squares = vf_fma(v, v, squares);
    }
    struct vf scale = vf_set1(1.0f / sqrtf(vf_sum(squares) / (float)n + eps));
    for (int i = 0; i < n; i += VF_LANES) {
        struct vf v = vf_mul(vf_load_n(x + i, n - i), scale);
        vf_store_n(y + i, vf_mul(v, vf_load_n(weight + i, n - i)), n - i);
    }
}

/* The scale for integers up to `limit`, and its inverse, of a block with that largest magnitude (as
 * bits). A block below 2^-100 counts as zero, and one with an infinity or NaN gets the scale NaN and
 * zeros, so that it is seen downstream; both have inverse 0. */
SIMD float scale_of(uint32_t largest, float limit, float *inverse)
{
    float top;

    memcpy(&top, &largest, sizeof top);
    *inverse = 0;
    if (largest >= 0x7f800000) return NAN;
    if (top < 0x1p-100f) return 0;
    *inverse = limit / top;
    return top / limit;
}

SIMD float block_scale(const float x[32], float limit, float *inverse)
{
    return scale_of(simd_max_magnitude(x), limit, inverse);
}

/* Sixteen elements ready to be rounded; zeros where the block has no inverse, whatever x holds. */
SIMD struct vf block_part(const float *x, float inverse)
{
    return inverse == 0 ? vf_zero() : vf_mul(vf_load(x), vf_set1(inverse));
}

static void pointwise_quantize_int8(struct act_int8 *out, const float *x, int n)
{
    for (int b = 0; b < n / 32; b++, out++, x += 32) {
        float inverse;
        out->scale = block_scale(x, 127.0f, &inverse);
        vf_store_int8(out->q, block_part(x, inverse));
        vf_store_int8(out->q + 16, block_part(x + 16, inverse));
        int sum[2] = {simd_sum_int8(out->q), simd_sum_int8(out->q + 16)};
        out->scaled_sum = out->scale * (float)(sum[0] + sum[1]);
        out->offset8 = -8 * (sum[0] + sum[1]);
        out->offset32[0] = -32 * sum[0];
        out->offset32[1] = -32 * sum[1];
    }
}

static void pointwise_quantize_int16(struct act_int16 *out, const float *x, int n)
{
    for (int b = 0; b < n / 32; b++, out++, x += 32) {
        float inverse;
        out->scale = block_scale(x, 32767.0f, &inverse);
        int16_t *q = (int16_t *)(void *)out->q; // all 32, not the innermost array's two
        int sum = simd_store_int16(q, block_part(x, inverse));
        sum += simd_store_int16(q + 16, block_part(x + 16, inverse));
        out->offset128 = -128 * sum;
    }
}

static void pointwise_remainder_int8(float *r, const struct act_int8 *q, const float *x, int n)
{
    for (int b = 0; b < n / 32; b++)
        for (int i = 0; i < 32; i++)
            r[32 * b + i] = fmaf(-q[b].scale, (float)q[b].q[i], x[32 * b + i]);
}

/* x / (1 + e^-z): silu for z = x, gelu-tanh for z = 2 sqrt(2 / pi) (x + 0.044715 x^3). */
SIMD struct vf gate_by(struct vf x, struct vf z)
{
    struct vf e = vf_exp(vf_sub(vf_zero(), z));
    return vf_div(x, vf_add(vf_set1(1.0f), e));
}

/* gpt-oss: both sides clamped, the gate from above only. The limit is the first operand of vf_max,
 * which gives the second where that is a NaN. */
SIMD struct vf swiglu_clamped(struct vf gate, struct vf up)
{
    struct vf bottom = vf_set1(-7.0f);
    struct vf g = vf_sub(vf_zero(), vf_max(bottom, vf_sub(vf_zero(), gate)));
    struct vf u = vf_sub(vf_zero(), vf_max(bottom, vf_sub(vf_zero(), vf_max(bottom, up))));
    return vf_mul(gate_by(g, vf_mul(g, vf_set1(1.702f))), vf_add(u, vf_set1(1.0f)));
}

static void pointwise_activate(enum ffn_activation kind, float *gate, const float *up, int n)
{
    if (kind == FFN_SWIGLU_CLAMPED) {
        for (int i = 0; i < n; i += VF_LANES) {
            struct vf x = swiglu_clamped(vf_load_n(gate + i, n - i), vf_load_n(up + i, n - i));
            vf_store_n(gate + i, x, n - i);
        }
        return;
    }
    for (int i = 0; i < n; i += VF_LANES) {
        struct vf x = vf_load_n(gate + i, n - i), z = x;
        if (kind == FFN_GELU_TANH) {
            struct vf cube = vf_mul(vf_mul(x, x), x);
            z = vf_mul(vf_fma(cube, vf_set1(0.044715f), x), vf_set1(1.5957691216057308f));
        }
        vf_store_n(gate + i, vf_mul(gate_by(x, z), vf_load_n(up + i, n - i)), n - i);
    }
}

/* cap * tanh(x / cap), tanh(z) = 1 - 2 / (e^2z + 1) */
SIMD struct vf softcap_lanes(struct vf x, float cap)
{
    struct vf z = vf_mul(vf_div(x, vf_set1(cap)), vf_set1(2.0f));
    struct vf denominator = vf_add(vf_exp(z), vf_set1(1.0f));
    struct vf tanh = vf_sub(vf_set1(1.0f), vf_div(vf_set1(2.0f), denominator));
    return vf_mul(tanh, vf_set1(cap));
}

static void pointwise_softcap(float *x, int n, float cap)
{
    for (int i = 0; i < n; i += VF_LANES)
        vf_store_n(x + i, softcap_lanes(vf_load_n(x + i, n - i), cap), n - i);
}

/* Of n > 0 numbers, in place. */
static void pointwise_softmax(float *x, int n)
{
    struct vf top = vf_set1(x[0]), total = vf_zero();

    for (int i = 0; i < n; i += VF_LANES)
        top = vf_max(top, vf_load_or(x + i, n - i, -INFINITY));
    struct vf max = vf_set1(vf_max_lane(top));
    for (int i = 0; i < n; i += VF_LANES) {
        struct vf e = vf_exp(vf_sub(vf_load_or(x + i, n - i, -INFINITY), max));
        vf_store_n(x + i, e, n - i);
        total = vf_add(total, e);
    }
    struct vf sum = vf_set1(vf_sum(total));
    for (int i = 0; i < n; i += VF_LANES)
        vf_store_n(x + i, vf_div(vf_load_n(x + i, n - i), sum), n - i);
}

static void pointwise_sigmoid(float *x, int n)
{
    for (int i = 0; i < n; i += VF_LANES)
        vf_store_n(x + i, gate_by(vf_set1(1.0f), vf_load_n(x + i, n - i)), n - i);
}

static void pointwise_add_scaled(float *x, const float *y, float scale, int n)
{
    struct vf s = vf_set1(scale);
    for (int i = 0; i < n; i += VF_LANES) {
        struct vf sum = vf_fma(vf_load_n(y + i, n - i), s, vf_load_n(x + i, n - i));
        vf_store_n(x + i, sum, n - i);
    }
}

static void pointwise_add(float *x, const float *y, int n)
{
    for (int i = 0; i < n; i++)
        x[i] = x[i] + y[i];
}

static void pointwise_scale(float *x, float factor, int n)
{
    for (int i = 0; i < n; i++)
        x[i] = x[i] * factor;
}

static void pointwise_rope(float *head, const float *cosine, const float *sine, int dims,
                           enum rope_style style)
{
    int half = dims / 2;
    if (style == ROPE_INTERLEAVED) {
        for (int i = 0; i < half; i++) {
            float a = head[2 * i], b = head[2 * i + 1];
            head[2 * i] = a * cosine[i] - b * sine[i];
            head[2 * i + 1] = b * cosine[i] + a * sine[i];
        }
        return;
    }
    for (int i = 0; i < half; i++) {
        float a = head[i], b = head[half + i];
        head[i] = a * cosine[i] - b * sine[i];
        head[half + i] = b * cosine[i] + a * sine[i];
    }
}

static float pointwise_quantize_head(int8_t *q, const float *x, int n)
{
    uint32_t largest = 0;
    float inverse;

    for (int i = 0; i < n; i += 32) {
        float padded[32] = {0};
        bool whole = n - i >= 32;
        if (!whole) memcpy(padded, x + i, (size_t)(n - i) * sizeof *x);
        uint32_t top = simd_max_magnitude(whole ? x + i : padded);
        largest = top > largest ? top : largest;
    }
    float scale = scale_of(largest, 127.0f, &inverse);
    for (int i = 0; i < n; i += VF_LANES) {
        int8_t lanes[VF_LANES];
        float padded[VF_LANES] = {0};
        bool whole = n - i >= VF_LANES;
        if (!whole) memcpy(padded, x + i, (size_t)(n - i) * sizeof *x);
        vf_store_int8(whole ? q + i : lanes, block_part(whole ? x + i : padded, inverse));
        if (!whole) memcpy(q + i, lanes, (size_t)(n - i));
    }
    return scale;
}

static void pointwise_to_half(uint16_t *dst, const float *src, int n)
{
    for (int i = 0; i < n; i++)
        dst[i] = simd_to_half(src[i]);
}

static void pointwise_to_bf16(uint16_t *dst, const float *src, int n)
{
    for (int i = 0; i < n; i++)
        dst[i] = quant_float_to_bf16(src[i]);
}

static const struct cpu_pointwise pointwise = {
    .rms_norm = pointwise_rms_norm,
    .quantize_int8 = pointwise_quantize_int8,
    .quantize_int16 = pointwise_quantize_int16,
    .remainder_int8 = pointwise_remainder_int8,
    .activate = pointwise_activate,
    .softcap = pointwise_softcap,
    .softmax = pointwise_softmax,
    .sigmoid = pointwise_sigmoid,
    .add_scaled = pointwise_add_scaled,
    .add = pointwise_add,
    .scale = pointwise_scale,
    .rope = pointwise_rope,
    .quantize_head = pointwise_quantize_head,
    .to_half = pointwise_to_half,
    .to_bf16 = pointwise_to_bf16,
};

#endif
