#include "kernels/quant_k.h"

#include "kernels/quant_bytes.h"

void quant_k_scales(const uint8_t packed[12], uint8_t scale[8], uint8_t min[8])
{
    for (int i = 0; i < 4; i++) {
        scale[i] = packed[i] & 63;
        min[i] = packed[i + 4] & 63;
        scale[i + 4] = (uint8_t)((packed[i + 8] & 15) | (packed[i] >> 6) << 4);
        min[i + 4] = (uint8_t)(packed[i + 8] >> 4 | (packed[i + 4] >> 6) << 4);
    }
}

/* 84 bytes: 16 bytes of 4-bit scales (low) and mins (high), one for 16 elements; 64 bytes of pairs;
 * half d, half dmin. Element 32 s + i of a half (128 elements, s = 0..3) is field s of Q[i] of that
 * half's 32 bytes. w = d * scale * q - dmin * min */
void quant_k_dequantize_2(const uint8_t *src, float *dst, int64_t n)
{
    for (int64_t block = 0; block < n / 256; block++, src += 84, dst += 256) {
        float d = quant_load_half(src + 80), dmin = quant_load_half(src + 82);
        for (int e = 0; e < 256; e++) {
            int q = src[16 + 32 * (e / 128) + e % 32] >> 2 * (e / 32 % 4) & 3;
            float scale = d * (float)(src[e / 16] & 15), m = dmin * (float)(src[e / 16] >> 4);
            dst[e] = scale * (float)q - m;
        }
    }
}

/* 144 bytes: half d, half dmin, 12 bytes of 6-bit scales and mins, 128 bytes; 32 bytes cover 64
 * elements: low nibbles are sub-block 2i, high ones 2i + 1. w = d * scale * q - dmin * min */
void quant_k_dequantize_4(const uint8_t *src, float *dst, int64_t n)
{
    for (int64_t block = 0; block < n / 256; block++, src += 144, dst += 256) {
        uint8_t scale[8], min[8];
        float d = quant_load_half(src), dmin = quant_load_half(src + 2);
        quant_k_scales(src + 4, scale, min);
        for (int sub = 0; sub < 8; sub++) {
            const uint8_t *q = src + 16 + 32 * (sub / 2);
            float ds = d * (float)scale[sub], m = dmin * (float)min[sub];
            for (int i = 0; i < 32; i++)
                dst[32 * sub + i] = ds * (float)(q[i] >> 4 * (sub & 1) & 15) - m;
        }
    }
}

/* 176 bytes: as Q4_K, with 32 bytes of fifth bits before the nibbles: bit b of T[i] belongs to
 * element 32 b + i. */
void quant_k_dequantize_5(const uint8_t *src, float *dst, int64_t n)
{
    for (int64_t block = 0; block < n / 256; block++, src += 176, dst += 256) {
        uint8_t scale[8], min[8];
        float d = quant_load_half(src), dmin = quant_load_half(src + 2);
        quant_k_scales(src + 4, scale, min);
        for (int sub = 0; sub < 8; sub++) {
            const uint8_t *top = src + 16, *q = src + 48 + 32 * (sub / 2);
            float ds = d * (float)scale[sub], m = dmin * (float)min[sub];
            for (int i = 0; i < 32; i++) {
                int low = q[i] >> 4 * (sub & 1) & 15;
                dst[32 * sub + i] = ds * (float)(low | (top[i] >> sub & 1) << 4) - m;
            }
        }
    }
}

/* 210 bytes: 128 low nibbles, 64 bytes of 2-bit tops, 16 signed scales, half d. Element 32 s + i of
 * a half (128 elements, s = 0..3) has its low bits in L[32 (s & 1) + i], nibble s / 2, its top bits
 * in H[i], field s. w = d * scale * (q - 32) */
void quant_k_dequantize_6(const uint8_t *src, float *dst, int64_t n)
{
    for (int64_t block = 0; block < n / 256; block++, src += 210, dst += 256) {
        float d = quant_load_half(src + 208);
        for (int e = 0; e < 256; e++) {
            int half = e / 128, s = e / 32 % 4, i = e % 32;
            int low = src[64 * half + 32 * (s & 1) + i] >> 4 * (s / 2) & 15;
            int top = src[128 + 32 * half + i] >> 2 * s & 3;
            float scale = d * (float)(int8_t)src[192 + e / 16];
            dst[e] = scale * (float)((low | top << 4) - 32);
        }
    }
}
