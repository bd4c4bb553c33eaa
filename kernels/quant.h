/* quant.h - the reference meaning of each block format (GGUF's layouts; little-endian).
 *
 * These loops are the definition that fast kernels are tested against, and what embedding look-ups
 * and loaders use. Layouts: docs of the GGUF format; a summary stands beside each function in quant.c,
 * quant_k.c and quant_codes.c. */
#ifndef LM_KERNELS_QUANT_H
#define LM_KERNELS_QUANT_H

#include "kernels/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One row (n elements, a multiple of the block) to float32. Equal to gguf-py's dequantize. F8_E4M3: without
 * its matrix's scales. */
void quant_dequantize_row(enum dtype type, const void *src, float *dst, int64_t n);
/* A row of a matrix of any type, multiplied by its scales where it has a grid. */
void quant_dequantize_matrix_row(const struct matrix *m, int64_t row, float *dst);

/* IEEE half and bfloat16, round to nearest even; NaN stays NaN. */
float quant_half_to_float(uint16_t h);
uint16_t quant_float_to_half(float f);
float quant_bf16_to_float(uint16_t h);
uint16_t quant_float_to_bf16(float f);

#ifdef __cplusplus
}
#endif

#endif
