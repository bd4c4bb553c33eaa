/* cuda_pack.h - a file's weight rows into the forms that the device holds (cuda_product.h). Host only. */
#ifndef LM_KERNELS_CUDA_PACK_H
#define LM_KERNELS_CUDA_PACK_H

#include "kernels/cuda/cuda_product.h"
#include "kernels/tensor.h"

/* Form and shape, without memory, in which the device holds each of `count` matrices of one shape for inputs of this
 * type: float32 for the reference path, else 4 or 8 bits where one form takes the blocks of all, else `real`. */
struct cuda_weight cuda_pack_shape(const struct matrix *m, int count, enum cuda_real real);

/* Row `row` of m to cuda_row_bytes of `data` and cuda_row_scale_bytes of `scales`, padding with 0. `floats` holds
 * m->cols floats of scratch. w is a cuda_pack_shape that took m. False: a weight that isn't infinite is beyond
 * float16, which products with inputs of float16 make of blocks; not told of CUDA_F32 and CUDA_BF16. */
bool cuda_pack_row(const struct cuda_weight *w, const struct matrix *m, int64_t row, void *data,
                   void *scales, float *floats);

#endif
