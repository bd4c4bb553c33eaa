/* quant_k.h - the K-quants that have minimums or more than sixteen values; a block is 256 elements.
 * (Q3_K is in quant_codes.h.) */
#ifndef LM_KERNELS_QUANT_K_H
#define LM_KERNELS_QUANT_K_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One row of n elements each, for quant_dequantize_row. */
void quant_k_dequantize_2(const uint8_t *src, float *dst, int64_t n);
void quant_k_dequantize_4(const uint8_t *src, float *dst, int64_t n);
void quant_k_dequantize_5(const uint8_t *src, float *dst, int64_t n);
void quant_k_dequantize_6(const uint8_t *src, float *dst, int64_t n);

/* The eight 6-bit scales and mins of a Q4_K or Q5_K block, for repacking. */
void quant_k_scales(const uint8_t packed[12], uint8_t scale[8], uint8_t min[8]);

#ifdef __cplusplus
}
#endif

#endif
