/* cuda_values.cuh - device helpers of several kernels: conversions, blocks of weights, sums over a
 * warp and over a block in an order that never changes. */
#ifndef LM_KERNELS_CUDA_VALUES_CUH
#define LM_KERNELS_CUDA_VALUES_CUH

#include "kernels/cuda/cuda_device.cuh"

typedef __nv_bfloat16 bf16;

/* ---- conversions ---- */

__device__ __forceinline__ void store_value(float *p, float v)
{
    *p = v;
}

__device__ __forceinline__ void store_value(bf16 *p, float v)
{
    *p = __float2bfloat16(v);
}

__device__ __forceinline__ float load_value(const float *p)
{
    return *p;
}

__device__ __forceinline__ float load_value(const bf16 *p)
{
    return __bfloat162float(*p);
}

/* A bfloat16 is the upper half of a float. */
__device__ __forceinline__ void unpack_bf16x2(uint32_t pair, float *out)
{
    out[0] = __uint_as_float(pair << 16);
    out[1] = __uint_as_float(pair & 0xffff0000u);
}

__device__ __forceinline__ void unpack_bf16x8(uint4 v, float *out)
{
    unpack_bf16x2(v.x, out);
    unpack_bf16x2(v.y, out + 2);
    unpack_bf16x2(v.z, out + 4);
    unpack_bf16x2(v.w, out + 6);
}

__device__ __forceinline__ uint32_t pack_bf16x2(float low, float high)
{
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}

__device__ __forceinline__ float half_bits_to_float(uint16_t bits)
{
    __half h;
    memcpy(&h, &bits, sizeof h);
    return __half2float(h);
}

__device__ __forceinline__ float2 half2_to_float2(uint32_t bits)
{
    return make_float2(half_bits_to_float((uint16_t)bits), half_bits_to_float((uint16_t)(bits >> 16)));
}

/* ---- blocks of weights, in the layouts of cuda_product.h ---- */

/* Eight elements of CUDA_Q4: scale.x q + scale.y. */
__device__ __forceinline__ void dequantize_q4x8(uint32_t word, float2 scale, float *out)
{
#pragma unroll
    for (int s = 0; s < 4; s++) {
        out[2 * s] = fmaf(scale.x, (float)(word >> (4 * s) & 15), scale.y);
        out[2 * s + 1] = fmaf(scale.x, (float)(word >> (16 + 4 * s) & 15), scale.y);
    }
}

__device__ __forceinline__ void dequantize_q8x4(uint32_t word, float d, float *out)
{
#pragma unroll
    for (int i = 0; i < 4; i++)
        out[i] = d * (float)(int8_t)(word >> (8 * i));
}

/* ---- sums and maxima ---- */

/* Every lane gets the same bits: the butterfly adds the same pairs on both sides. */
__device__ __forceinline__ float warp_sum(float v)
{
    for (int step = 16; step > 0; step >>= 1)
        v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}

__device__ __forceinline__ float warp_max(float v)
{
    for (int step = 16; step > 0; step >>= 1)
        v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, step));
    return v;
}

/* Of all threads of a block of whole warps; every thread gets it. */
__device__ __forceinline__ float block_sum(float v)
{
    __shared__ float of_warp[32];
    int lane = threadIdx.x & 31, warps = blockDim.x >> 5;

    v = warp_sum(v);
    __syncthreads(); // the last sum has been read
    if (lane == 0) of_warp[threadIdx.x >> 5] = v;
    __syncthreads();
    return warp_sum(lane < warps ? of_warp[lane] : 0.0f);
}

/* cap * tanh(x / cap) */
__device__ __forceinline__ float softcap(float x, float cap)
{
    return cap * tanhf(x / cap);
}

#endif
