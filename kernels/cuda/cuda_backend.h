/* cuda_backend.h - the table of the CUDA backend (kernels/backend.h). */
#ifndef LM_KERNELS_CUDA_BACKEND_H
#define LM_KERNELS_CUDA_BACKEND_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const struct backend_ops cuda_backend_ops;

#ifdef __cplusplus
}
#endif

#endif
