/* quant_codes.h - the formats whose weights are one of sixteen integers times a scale:
 *
 *     w[k] = d * scale[k / 16] * codes[index[k]]
 *
 * That is Q3_K, all IQ types, TQ1_0, TQ2_0 and MXFP4. What differs is the sixteen integers and how
 * a file packs index and scale; both are here once, for dequantising and for repacking. Factors of
 * a format that aren't integers (a half, an eighth) are powers of two and part of d, and every
 * product is exact in float32. */
#ifndef LM_KERNELS_QUANT_CODES_H
#define LM_KERNELS_QUANT_CODES_H

#include "kernels/tensor.h"

#define QUANT_CODES       16
#define QUANT_CODES_GROUP 16  // elements with one scale
#define QUANT_CODES_BLOCK 256 // elements of the largest block

struct quant_codes_block {
    float d;
    int8_t scale[QUANT_CODES_BLOCK / QUANT_CODES_GROUP];
    uint8_t index[QUANT_CODES_BLOCK]; // 0..15
};

/* The integers of a type, within -127..127; NULL: the type isn't one of these. */
const int8_t *quant_codes_of(enum dtype type);
/* True: scales change every 16 elements, not only every 32. */
bool quant_codes_fine_scales(enum dtype type);
/* Decode the block at src (of 32 or 256 elements). */
void quant_codes_decode(enum dtype type, const uint8_t *src, struct quant_codes_block *out);
/* One row of n elements. */
void quant_codes_dequantize(enum dtype type, const uint8_t *src, float *dst, int64_t n);

#endif
