/* cuda_emu_types.cuh - CUDA's vector types, bf16 and f16 for the emulator, so that emulated builds need
 * no toolkit. Same sizes, alignments and names as <vector_types.h>, <cuda_bf16.h>, <cuda_fp16.h>; of the
 * arithmetic only what kernels use. Conversions round to nearest even, as the hardware's _rn forms do.
 *
 * The real classes also convert implicitly and have operators; these don't, so kernels call the functions. */
#ifndef LM_CUDA_EMU_TYPES_CUH
#define LM_CUDA_EMU_TYPES_CUH

#include <math.h>
#include <stdint.h>
#include <string.h>

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};

/* Name, element, alignment of the 2- and 4-element form. */
#define CUDA_EMU_VECTORS(X)        \
    X(char, signed char, 2, 4)     \
    X(uchar, uint8_t, 2, 4)        \
    X(short, int16_t, 4, 8)        \
    X(ushort, uint16_t, 4, 8)      \
    X(int, int, 8, 16)             \
    X(uint, unsigned, 8, 16)       \
    X(float, float, 8, 16)         \
    X(longlong, long long, 16, 16) \
    X(double, double, 16, 16)

#define CUDA_EMU_VECTOR(name, element, align2, align4)                        \
    struct alignas(align2) name##2                                            \
    {                                                                         \
        element x, y;                                                         \
    };                                                                        \
    struct name##3                                                            \
    {                                                                         \
        element x, y, z;                                                      \
    };                                                                        \
    struct alignas(align4) name##4                                            \
    {                                                                         \
        element x, y, z, w;                                                   \
    };                                                                        \
    inline name##2 make_##name##2(element x, element y)                       \
    {                                                                         \
        return {x, y};                                                        \
    }                                                                         \
    inline name##3 make_##name##3(element x, element y, element z)            \
    {                                                                         \
        return {x, y, z};                                                     \
    }                                                                         \
    inline name##4 make_##name##4(element x, element y, element z, element w) \
    {                                                                         \
        return {x, y, z, w};                                                  \
    }
CUDA_EMU_VECTORS(CUDA_EMU_VECTOR)
#undef CUDA_EMU_VECTOR

template <class To, class From> inline To cuda_emu_bits(From from)
{
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

inline float __uint_as_float(unsigned u)
{
    return cuda_emu_bits<float>(u);
}
inline unsigned __float_as_uint(float f)
{
    return cuda_emu_bits<unsigned>(f);
}
inline float __int_as_float(int i)
{
    return cuda_emu_bits<float>(i);
}
inline int __float_as_int(float f)
{
    return cuda_emu_bits<int>(f);
}

/* ---- bf16 ---- */

struct __nv_bfloat16 {
    uint16_t bits;
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

inline float __bfloat162float(__nv_bfloat16 h)
{
    return __uint_as_float((unsigned)h.bits << 16);
}
inline __nv_bfloat16 __float2bfloat16(float f)
{
    unsigned u = __float_as_uint(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return {0x7fff}; // NaN, as cvt.rn.bf16.f32 makes it
    return {(uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16)};
}
inline __nv_bfloat16 __float2bfloat16_rn(float f)
{
    return __float2bfloat16(f);
}
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 h)
{
    return h.bits;
}
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short u)
{
    return {u};
}
inline __nv_bfloat162 __floats2bfloat162_rn(float low, float high)
{
    return {__float2bfloat16(low), __float2bfloat16(high)};
}
inline __nv_bfloat162 __float22bfloat162_rn(float2 f)
{
    return __floats2bfloat162_rn(f.x, f.y);
}
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 low, __nv_bfloat16 high)
{
    return {low, high};
}
inline float2 __bfloat1622float2(__nv_bfloat162 h)
{
    return {__bfloat162float(h.x), __bfloat162float(h.y)};
}

/* ---- f16 ---- */

struct __half {
    uint16_t bits;
};
struct alignas(4) __half2 {
    __half x, y;
};

inline float __half2float(__half h)
{
    return (float)cuda_emu_bits<_Float16>(h.bits);
}
inline __half __float2half(float f)
{
    return {cuda_emu_bits<uint16_t>((_Float16)f)};
}
inline __half __float2half_rn(float f)
{
    return __float2half(f);
}
inline unsigned short __half_as_ushort(__half h)
{
    return h.bits;
}
inline __half __ushort_as_half(unsigned short u)
{
    return {u};
}
inline __half2 __floats2half2_rn(float low, float high)
{
    return {__float2half(low), __float2half(high)};
}
inline __half2 __float22half2_rn(float2 f)
{
    return __floats2half2_rn(f.x, f.y);
}
inline __half2 __halves2half2(__half low, __half high)
{
    return {low, high};
}
inline float2 __half22float2(__half2 h)
{
    return {__half2float(h.x), __half2float(h.y)};
}

/* Arithmetic in the 16-bit types: computed in float32 and rounded once, which is exact rounding for
 * +, -, * (float32 has more than twice the bits) and for fma through float64. */
#define CUDA_EMU_ARITHMETIC(type, pair, to_float, from_float)                        \
    inline type __hadd(type a, type b)                                               \
    {                                                                                \
        return from_float(to_float(a) + to_float(b));                                \
    }                                                                                \
    inline type __hsub(type a, type b)                                               \
    {                                                                                \
        return from_float(to_float(a) - to_float(b));                                \
    }                                                                                \
    inline type __hmul(type a, type b)                                               \
    {                                                                                \
        return from_float(to_float(a) * to_float(b));                                \
    }                                                                                \
    inline type __hfma(type a, type b, type c)                                       \
    {                                                                                \
        return from_float((float)((double)to_float(a) * to_float(b) + to_float(c))); \
    }                                                                                \
    inline pair __hadd2(pair a, pair b)                                              \
    {                                                                                \
        return {__hadd(a.x, b.x), __hadd(a.y, b.y)};                                 \
    }                                                                                \
    inline pair __hsub2(pair a, pair b)                                              \
    {                                                                                \
        return {__hsub(a.x, b.x), __hsub(a.y, b.y)};                                 \
    }                                                                                \
    inline pair __hmul2(pair a, pair b)                                              \
    {                                                                                \
        return {__hmul(a.x, b.x), __hmul(a.y, b.y)};                                 \
    }                                                                                \
    inline pair __hfma2(pair a, pair b, pair c)                                      \
    {                                                                                \
        return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};                       \
    }                                                                                \
    inline float __low2float(pair a)                                                 \
    {                                                                                \
        return to_float(a.x);                                                        \
    }                                                                                \
    inline float __high2float(pair a)                                                \
    {                                                                                \
        return to_float(a.y);                                                        \
    }
CUDA_EMU_ARITHMETIC(__nv_bfloat16, __nv_bfloat162, __bfloat162float, __float2bfloat16)
CUDA_EMU_ARITHMETIC(__half, __half2, __half2float, __float2half)
#undef CUDA_EMU_ARITHMETIC

#endif
