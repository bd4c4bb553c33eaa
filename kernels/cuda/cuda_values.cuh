/* cuda_values.cuh - device helpers of several kernels: conversions and blocks of weights. */
#ifndef LM_KERNELS_CUDA_VALUES_CUH
#define LM_KERNELS_CUDA_VALUES_CUH

#include "kernels/cuda/cuda_product.h"

/* ---- conversions ---- */

__device__ __forceinline__ void unpack_bf16x8(uint4 v, float *out)
{
    const uint32_t pair[4] = {v.x, v.y, v.z, v.w};
    LM_UNROLL
    for (int i = 0; i < 4; i++) {
        float2 two = unpack2<bf16>(pair[i]);
        out[2 * i] = two.x;
        out[2 * i + 1] = two.y;
    }
}

__device__ __forceinline__ float half_bits_to_float(uint16_t bits)
{
    return __half2float(__ushort_as_half(bits));
}

/* ---- blocks of weights, in the layouts of cuda_product.h ---- */

/* Eight elements of CUDA_Q4: scale.x q + scale.y. */
__device__ __forceinline__ void dequantize_q4x8(uint32_t word, float2 scale, float *out)
{
    LM_UNROLL
    for (int s = 0; s < 4; s++) {
        out[2 * s] = fmaf(scale.x, (float)(word >> (4 * s) & 15), scale.y);
        out[2 * s + 1] = fmaf(scale.x, (float)(word >> (16 + 4 * s) & 15), scale.y);
    }
}

__device__ __forceinline__ void dequantize_q8x4(uint32_t word, float d, float *out)
{
    LM_UNROLL
    for (int i = 0; i < 4; i++)
        out[i] = d * (float)(int8_t)(word >> (8 * i));
}

/* cap * tanh(x / cap) */
__device__ __forceinline__ float softcap(float x, float cap)
{
    return cap * tanhf(x / cap);
}

#endif
