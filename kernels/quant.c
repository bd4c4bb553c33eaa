/* quant.c - floats and the formats in blocks of 32, one loop each. Written for reading: the fast
 * kernels have their own layouts (kernels/cpu/cpu_pack.c) and are tested against these.
 *
 * Products such as d * scale * q are exact in float32 (11 bits times at most 13), so the only
 * rounding is the final addition of a minimum, where a format has one. */
#include "kernels/quant.h"

#include "kernels/quant_bytes.h"
#include "kernels/quant_codes.h"
#include "kernels/quant_k.h"

#include "shared/base/check.h"

#include <math.h>

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

float quant_half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t exponent = h >> 10 & 31;
    uint32_t mantissa = h & 0x3ff;

    if (exponent == 31) {
        uint32_t quiet = mantissa ? 0x400000 : 0;
        return float_of(sign | 0x7f800000 | quiet | mantissa << 13);
    }
    if (exponent == 0) return float_of(sign | bits_of((float)mantissa * 0x1p-24f));
    return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
}

uint16_t quant_float_to_half(float f)
{
    uint32_t u = bits_of(f);
    uint16_t sign = (uint16_t)(u >> 16 & 0x8000);
    uint32_t magnitude = u & 0x7fffffff;

    if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
    if (magnitude >= 0x477ff000) return sign | 0x7c00; // rounds to 65536 or more
    if (magnitude < 0x38800000) {
        /* Subnormal: adding 0.5 leaves the value in units of 2^-24 in the low bits, rounded by the
         * addition itself. */
        float shifted = float_of(magnitude) + 0.5f;
        return (uint16_t)(sign | (bits_of(shifted) - bits_of(0.5f)));
    }
    uint32_t odd = magnitude >> 13 & 1;
    return (uint16_t)(sign | (magnitude - (112u << 23) + 0xfff + odd) >> 13);
}

float quant_bf16_to_float(uint16_t h)
{
    return float_of((uint32_t)h << 16);
}

uint16_t quant_float_to_bf16(float f)
{
    uint32_t u = bits_of(f);
    if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static void dequantize_f16(const uint8_t *src, float *dst, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        dst[i] = quant_load_half(src + 2 * i);
}

static void dequantize_bf16(const uint8_t *src, float *dst, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        dst[i] = quant_bf16_to_float(quant_load16(src + 2 * i));
}

/* 34 bytes: half d, 32 signed bytes. w = d * q */
static void dequantize_q8_0(const uint8_t *src, float *dst, int64_t n)
{
    for (int64_t block = 0; block < n / 32; block++, src += 34, dst += 32) {
        float d = quant_load_half(src);
        for (int i = 0; i < 32; i++)
            dst[i] = d * (float)(int8_t)src[2 + i];
    }
}

/* 18 bytes: half d, 16 bytes; byte i holds element i (low nibble) and i + 16 (high). w = d * (q -
 * 8) */
static void dequantize_q4_0(const uint8_t *src, float *dst, int64_t n)
{
    for (int64_t block = 0; block < n / 32; block++, src += 18, dst += 32) {
        float d = quant_load_half(src);
        for (int i = 0; i < 16; i++) {
            dst[i] = d * (float)((src[2 + i] & 15) - 8);
            dst[i + 16] = d * (float)((src[2 + i] >> 4) - 8);
        }
    }
}

/* 20 bytes: half d, half m, nibbles as in Q4_0. w = d * q + m */
static void dequantize_q4_1(const uint8_t *src, float *dst, int64_t n)
{
    for (int64_t block = 0; block < n / 32; block++, src += 20, dst += 32) {
        float d = quant_load_half(src), m = quant_load_half(src + 2);
        for (int i = 0; i < 16; i++) {
            dst[i] = d * (float)(src[4 + i] & 15) + m;
            dst[i + 16] = d * (float)(src[4 + i] >> 4) + m;
        }
    }
}

/* 22 bytes: half d, 4 bytes of fifth bits (bit k belongs to element k), nibbles as in Q4_0. w = d * (q
 * - 16) */
static void dequantize_q5_0(const uint8_t *src, float *dst, int64_t n)
{
    for (int64_t block = 0; block < n / 32; block++, src += 22, dst += 32) {
        float d = quant_load_half(src);
        uint32_t top = quant_load32(src + 2);
        for (int i = 0; i < 32; i++)
            dst[i] = d * (float)((quant_nibble(src + 6, i) | (int)(top >> i & 1) << 4) - 16);
    }
}

/* 24 bytes: half d, half m, then as Q5_0. w = d * q + m */
static void dequantize_q5_1(const uint8_t *src, float *dst, int64_t n)
{
    for (int64_t block = 0; block < n / 32; block++, src += 24, dst += 32) {
        float d = quant_load_half(src), m = quant_load_half(src + 2);
        uint32_t top = quant_load32(src + 4);
        for (int i = 0; i < 32; i++)
            dst[i] = d * (float)(quant_nibble(src + 8, i) | (int)(top >> i & 1) << 4) + m;
    }
}

/* A byte: sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinities, all ones is NaN. The same bits
 * in a half are 2^-8 of the value. Source: OCP 8-bit floating point, E4M3. */
static void dequantize_f8_e4m3(const uint8_t *src, float *dst, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        uint16_t half = (uint16_t)((src[i] & 0x80) << 8 | (src[i] & 0x7f) << 7);
        dst[i] = (src[i] & 0x7f) == 0x7f ? NAN : quant_half_to_float(half) * 256.0f;
    }
}

static void dequantize_f32(const uint8_t *src, float *dst, int64_t n)
{
    memcpy(dst, src, (size_t)n * sizeof *dst);
}

typedef void row_fn(const uint8_t *src, float *dst, int64_t n);

/* NULL: one of the types of quant_codes.h. */
static row_fn *const rows[DTYPE_COUNT] = {
    [DTYPE_F32] = dequantize_f32,         [DTYPE_F16] = dequantize_f16,
    [DTYPE_BF16] = dequantize_bf16,       [DTYPE_Q4_0] = dequantize_q4_0,
    [DTYPE_Q4_1] = dequantize_q4_1,       [DTYPE_Q5_0] = dequantize_q5_0,
    [DTYPE_Q5_1] = dequantize_q5_1,       [DTYPE_Q8_0] = dequantize_q8_0,
    [DTYPE_Q2_K] = quant_k_dequantize_2,  [DTYPE_Q4_K] = quant_k_dequantize_4,
    [DTYPE_Q5_K] = quant_k_dequantize_5,  [DTYPE_Q6_K] = quant_k_dequantize_6,
    [DTYPE_F8_E4M3] = dequantize_f8_e4m3,
};

void quant_dequantize_row(enum dtype type, const void *src, float *dst, int64_t n)
{
    CHECK(n >= 0 && n % dtype_block_elements(type) == 0);
    if (rows[type])
        rows[type](src, dst, n);
    else
        quant_codes_dequantize(type, src, dst, n);
}

void quant_dequantize_matrix_row(const struct matrix *m, int64_t row, float *dst)
{
    const uint8_t *src = (const uint8_t *)m->data + (size_t)row * matrix_stride(m);

    quant_dequantize_row(m->type, src, dst, m->cols);
    for (int64_t first = 0, end; m->grid && first < m->cols; first = end) {
        float scale = matrix_scale(m, row, first);
        end = first + m->grid->block_cols - (m->grid_col + first) % m->grid->block_cols;
        if (end > m->cols) end = m->cols;
        for (int64_t i = first; i < end; i++)
            dst[i] *= scale;
    }
}
