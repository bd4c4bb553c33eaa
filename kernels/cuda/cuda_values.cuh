/* cuda_values.cuh - device helpers of several kernels: conversions and blocks of weights. */
#ifndef LM_KERNELS_CUDA_VALUES_CUH
#define LM_KERNELS_CUDA_VALUES_CUH

#include "kernels/cuda/cuda_product.h"

/* ---- conversions ---- */

template <typename T> __device__ __forceinline__ void unpack8(uint4 v, float *out)
{
    const uint32_t pair[4] = {v.x, v.y, v.z, v.w};
    LM_UNROLL
    for (int i = 0; i < 4; i++) {
        float2 two = unpack2<T>(pair[i]);
        out[2 * i] = two.x;
        out[2 * i + 1] = two.y;
    }
}

__device__ __forceinline__ float half_bits_to_float(uint16_t bits)
{
    return __half2float(__ushort_as_half(bits));
}

/* ---- blocks of weights, in the layouts of cuda_product.h ---- */

/* Eight elements of CUDA_Q4: scale.x q + scale.y. Four bits in the right byte of a float that is 128 make it
 * 128 + q, for half the instructions of a conversion: a product with one row is bound by these. What that is too
 * much goes into the addend, which is exact where that is 0 or not below 2^-6 of scale.x; else off by 2^-18 of it. */
__device__ __forceinline__ void dequantize_q4x8(uint32_t word, float2 scale, float *out)
{
    const uint32_t whole = 0x43000000u;
    uint32_t low = word & 0x0f0f0f0fu, high = word >> 4 & 0x0f0f0f0fu;
    const uint32_t bits[8] = {__byte_perm(low, whole, 0x7044),  __byte_perm(low, whole, 0x7244),
                              __byte_perm(high, whole, 0x7044), __byte_perm(high, whole, 0x7244),
                              __byte_perm(low, whole, 0x7144),  __byte_perm(low, whole, 0x7344),
                              __byte_perm(high, whole, 0x7144), __byte_perm(high, whole, 0x7344)};
    float addend = fmaf(-128.0f, scale.x, scale.y);

    LM_UNROLL
    for (int i = 0; i < 8; i++)
        out[i] = fmaf(scale.x, __uint_as_float(bits[i]), addend);
}

__device__ __forceinline__ void dequantize_q8x4(uint32_t word, float d, float *out)
{
    LM_UNROLL
    for (int i = 0; i < 4; i++)
        out[i] = d * (float)(int8_t)(word >> (8 * i));
}

/* Four elements of CUDA_F8. In the place of a half's exponent and mantissa E4M3 is 2^-8 of its value. */
__device__ __forceinline__ void dequantize_f8x4(uint32_t word, float d, float *out)
{
    float2 even = unpack2<__half>((word << 8 & 0x80008000u) | (word << 7 & 0x3f803f80u));
    float2 odd = unpack2<__half>((word & 0x80008000u) | (word >> 1 & 0x3f803f80u));
    float scale = d * 256.0f;

    out[0] = scale * even.x;
    out[1] = scale * odd.x;
    out[2] = scale * even.y;
    out[3] = scale * odd.y;
}

/* Weights: what was loaded is within every type (cuda_pack.h). */
template <typename T> __device__ __forceinline__ uint4 pack8(const float *v)
{
    return make_uint4(pack2<T>(v[0], v[1]), pack2<T>(v[2], v[3]), pack2<T>(v[4], v[5]),
                      pack2<T>(v[6], v[7]));
}

/* Eight elements of weights in blocks, from a multiple of 8 on, as they lie in memory. */
struct q4_raw8 {
    uint32_t word, scale;
};

struct q8_raw8 {
    uint2 words;
    uint16_t scale;
};

struct f8_raw8 {
    uint2 words;
};

__device__ __forceinline__ struct q4_raw8 q4_load8(const void *data, const void *scale)
{
    return {load_nc((const uint32_t *)data), *(const uint32_t *)scale};
}

__device__ __forceinline__ struct q8_raw8 q8_load8(const void *data, const void *scale)
{
    return {load_nc((const uint2 *)data), *(const uint16_t *)scale};
}

__device__ __forceinline__ struct f8_raw8 f8_load8(const void *data)
{
    return {load_nc((const uint2 *)data)};
}

/* The same as a type of 16 bits. */
template <typename T> __device__ __forceinline__ uint4 q4_to_real8(const struct q4_raw8 &raw)
{
    float v[8];

    dequantize_q4x8(raw.word, unpack2<__half>(raw.scale), v);
    return pack8<T>(v);
}

template <typename T> __device__ __forceinline__ uint4 q8_to_real8(const struct q8_raw8 &raw)
{
    float d = half_bits_to_float(raw.scale), v[8];

    dequantize_q8x4(raw.words.x, d, v);
    dequantize_q8x4(raw.words.y, d, v + 4);
    return pack8<T>(v);
}

/* Under the scale d: 1 loses nothing. */
template <typename T>
__device__ __forceinline__ uint4 f8_to_real8(const struct f8_raw8 &raw, float d)
{
    float v[8];

    dequantize_f8x4(raw.words.x, d, v);
    dequantize_f8x4(raw.words.y, d, v + 4);
    return pack8<T>(v);
}

__device__ __forceinline__ float f8_scale(const struct cuda_weight &w, size_t element)
{
    return ((const float *)w.scales)[element >> w.scale_shift];
}

/* ---- functions ---- */

__device__ __forceinline__ float inverse_rms(float squares, int n, float eps)
{
    return 1.0f / sqrtf(squares / (float)n + eps);
}

/* act(gate) * up */
__device__ __forceinline__ float activated(enum ffn_activation kind, float gate, float up)
{
    if (kind == FFN_SWIGLU_CLAMPED) {
        float g = fminf(gate, 7.0f), u = fminf(fmaxf(up, -7.0f), 7.0f);
        return g / (1.0f + expf(-1.702f * g)) * (u + 1.0f);
    }
    float z = gate;
    if (kind == FFN_GELU_TANH) z = 1.5957691216057308f * (gate + 0.044715f * gate * gate * gate);
    return gate / (1.0f + expf(-z)) * up;
}

/* cap * tanh(x / cap) */
__device__ __forceinline__ float softcap(float x, float cap)
{
    return cap * tanhf(x / cap);
}

#endif
