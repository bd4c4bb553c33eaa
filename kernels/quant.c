/* quant.c - block formats, one loop each. Written for reading: the fast kernels have their own
 * layouts (kernels/cpu/cpu_pack.c) and are tested against these.
 *
 * Products such as d * scale * q are exact in float32 (11 bits times at most 13), so the only
 * rounding is the final addition of a minimum, where a format has one. */
#include "kernels/quant.h"

#include <string.h>

#include "shared/base/check.h"

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

static uint16_t load16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static float load_half(const uint8_t *p)
{
    return quant_half_to_float(load16(p));
}

static void dequantize_f16(const uint8_t *src, float *dst, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        dst[i] = load_half(src + 2 * i);
}

static void dequantize_bf16(const uint8_t *src, float *dst, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        dst[i] = quant_bf16_to_float(load16(src + 2 * i));
}

/* 34 bytes: half d, 32 signed bytes. w = d * q */
static void dequantize_q8_0(const uint8_t *src, float *dst, int64_t n)
{
    for (int64_t block = 0; block < n / 32; block++, src += 34, dst += 32) {
        float d = load_half(src);
        for (int i = 0; i < 32; i++)
            dst[i] = d * (float)(int8_t)src[2 + i];
    }
}

/* 18 bytes: half d, 16 bytes; byte i holds element i (low nibble) and i + 16 (high). w = d * (q -
 * 8) */
static void dequantize_q4_0(const uint8_t *src, float *dst, int64_t n)
{
    for (int64_t block = 0; block < n / 32; block++, src += 18, dst += 32) {
        float d = load_half(src);
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
        float d = load_half(src), m = load_half(src + 2);
        for (int i = 0; i < 16; i++) {
            dst[i] = d * (float)(src[4 + i] & 15) + m;
            dst[i + 16] = d * (float)(src[4 + i] >> 4) + m;
        }
    }
}

void quant_q4_k_scales(const uint8_t packed[12], uint8_t scale[8], uint8_t min[8])
{
    for (int i = 0; i < 4; i++) {
        scale[i] = packed[i] & 63;
        min[i] = packed[i + 4] & 63;
        scale[i + 4] = (uint8_t)((packed[i + 8] & 15) | (packed[i] >> 6) << 4);
        min[i + 4] = (uint8_t)(packed[i + 8] >> 4 | (packed[i + 4] >> 6) << 4);
    }
}

/* 144 bytes: half d, half dmin, 12 bytes of 6-bit scales and mins, 128 bytes; 32 bytes cover 64
 * elements: low nibbles are sub-block 2i, high ones 2i + 1. w = d * scale * q - dmin * min */
static void dequantize_q4_k(const uint8_t *src, float *dst, int64_t n)
{
    for (int64_t block = 0; block < n / 256; block++, src += 144, dst += 256) {
        uint8_t scale[8], min[8];
        float d = load_half(src), dmin = load_half(src + 2);
        quant_q4_k_scales(src + 4, scale, min);
        for (int sub = 0; sub < 8; sub++) {
            const uint8_t *q = src + 16 + 32 * (sub / 2);
            float ds = d * (float)scale[sub], m = dmin * (float)min[sub];
            for (int i = 0; i < 32; i++)
                dst[32 * sub + i] = ds * (float)(q[i] >> 4 * (sub & 1) & 15) - m;
        }
    }
}

/* 210 bytes: 128 low nibbles, 64 bytes of 2-bit tops, 16 signed scales, half d. Element 32 s + i of
 * a half (128 elements, s = 0..3) has its low bits in L[32 (s & 1) + i], nibble s / 2, its top bits
 * in H[i], field s. w = d * scale * (q - 32) */
static void dequantize_q6_k(const uint8_t *src, float *dst, int64_t n)
{
    for (int64_t block = 0; block < n / 256; block++, src += 210, dst += 256) {
        float d = load_half(src + 208);
        for (int e = 0; e < 256; e++) {
            int half = e / 128, s = e / 32 % 4, i = e % 32;
            int low = src[64 * half + 32 * (s & 1) + i] >> 4 * (s / 2) & 15;
            int top = src[128 + 32 * half + i] >> 2 * s & 3;
            float scale = d * (float)(int8_t)src[192 + e / 16];
            dst[e] = scale * (float)((low | top << 4) - 32);
        }
    }
}

void quant_dequantize_row(enum dtype type, const void *src, float *dst, int64_t n)
{
    CHECK(n >= 0 && n % dtype_block_elements(type) == 0);
    switch (type) {
    case DTYPE_F32:
        memcpy(dst, src, (size_t)n * sizeof *dst);
        return;
    case DTYPE_F16:
        dequantize_f16(src, dst, n);
        return;
    case DTYPE_BF16:
        dequantize_bf16(src, dst, n);
        return;
    case DTYPE_Q8_0:
        dequantize_q8_0(src, dst, n);
        return;
    case DTYPE_Q4_0:
        dequantize_q4_0(src, dst, n);
        return;
    case DTYPE_Q4_1:
        dequantize_q4_1(src, dst, n);
        return;
    case DTYPE_Q4_K:
        dequantize_q4_k(src, dst, n);
        return;
    case DTYPE_Q6_K:
        dequantize_q6_k(src, dst, n);
        return;
    case DTYPE_COUNT:
        break;
    }
    UNREACHABLE();
}
