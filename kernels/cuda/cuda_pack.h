/* cuda_pack.h - a file's weight rows into the forms that the device holds (cuda_product.h). Host only. */
#ifndef LM_KERNELS_CUDA_PACK_H
#define LM_KERNELS_CUDA_PACK_H

#include "kernels/cuda/cuda_product.h"
#include "kernels/tensor.h"

/* How the device holds weights of a type: float32 for the reference path, else 4 or 8 bits where a form
 * takes the type's blocks, else bfloat16. */
enum cuda_form cuda_pack_form(enum dtype type, bool float32);

/* One row of m->cols elements at `src` to cuda_form_row_bytes of `data` and cuda_form_scale_bytes of `scales`,
 * padding with 0. `floats` holds m->cols floats of scratch. The form is one that cuda_pack_form may give
 * for the type, CUDA_BF16 or CUDA_F32. */
void cuda_pack_row(enum cuda_form form, int stride, const struct matrix *m, const void *src,
                   void *data, void *scales, float *floats);

#endif
