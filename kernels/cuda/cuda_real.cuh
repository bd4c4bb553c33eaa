/* cuda_real.cuh - the types of what products read, and of the weights that files have as floats.
 *
 * A model has one of them, by its compute type (cuda_load.cu). Kernels that care are templates over the C++ type;
 * with_real is the one place where a value becomes that. Those that only move 16 bits don't care. */
#ifndef LM_KERNELS_CUDA_REAL_CUH
#define LM_KERNELS_CUDA_REAL_CUH

#include "kernels/cuda/cuda_device.cuh"
#include "shared/base/check.h"

enum cuda_real { CUDA_REAL_F32, CUDA_REAL_BF16, CUDA_REAL_F16 };

typedef __nv_bfloat16 bf16;
typedef __half f16;

static inline size_t cuda_real_bytes(enum cuda_real real)
{
    return real == CUDA_REAL_F32 ? sizeof(float) : sizeof(uint16_t);
}

/* run(zero of the C++ type); with_real16: where float32 has a path of its own. */
template <typename F> static inline void with_real16(enum cuda_real real, F run)
{
    CHECK(real != CUDA_REAL_F32);
    if (real == CUDA_REAL_F16)
        run(f16());
    else
        run(bf16());
}

template <typename F> static inline void with_real(enum cuda_real real, F run)
{
    if (real == CUDA_REAL_F32)
        run(float());
    else
        with_real16(real, run);
}

/* ---- on the device ---- */

/* Float16 ends at 65504: what is beyond it becomes that, and NaN stays NaN. */
__device__ __forceinline__ float within_f16(float x)
{
    return x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x;
}

/* Activations: rounded once, and finite if they were. */
template <typename T> __device__ __forceinline__ T to_real(float x)
{
    return from_float<T>(x);
}
template <> __device__ __forceinline__ f16 to_real<f16>(float x)
{
    return from_float<f16>(within_f16(x));
}

/* Two neighbours of them. */
template <typename T> __device__ __forceinline__ uint32_t pack2_real(float low, float high)
{
    return pack2<T>(low, high);
}
template <> __device__ __forceinline__ uint32_t pack2_real<f16>(float low, float high)
{
    return pack2<f16>(within_f16(low), within_f16(high));
}

template <typename T>
__device__ __forceinline__ void mma_real(float d[4], const uint32_t a[4], const uint32_t b[2]);
template <>
__device__ __forceinline__ void mma_real<bf16>(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    mma_bf16(d, a, b);
}
template <>
__device__ __forceinline__ void mma_real<f16>(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    mma_f16(d, a, b);
}

#endif
