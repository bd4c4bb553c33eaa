/* cpu_simd.h - sixteen float lanes, in every instruction set.
 *
 * Everything that computes in float (float GEMM, attention, norms, activations, quantisation) is
 * written once against `struct vf` and compiled per instruction set: AVX-512 has one register per
 * vf, AVX2 two, scalar an array. Each function is the same IEEE operation per lane in all three, so
 * equal bits follow from having one source. Rules:
 *  1. No operation whose result depends on the width: sums across lanes go through vf_sum only.
 *  2. A multiply-add is fused only where vf_fma says so (the tree is built with -ffp-contract=off).
 *  3. Maxima are taken over numbers only; NaN in gives NaN or a number out, never undefined
 *     behaviour. */
#ifndef LM_KERNELS_CPU_SIMD_H
#define LM_KERNELS_CPU_SIMD_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/quant.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

/* Vector code must be inlined and unrolled to live in registers; for scalar code both only make the
 * compiler slow. */
#if defined(__AVX2__)
#define SIMD        static inline __attribute__((always_inline, unused))
#define SIMD_UNROLL _Pragma("GCC unroll 8")
#else
#define SIMD static inline __attribute__((unused))
#define SIMD_UNROLL
#endif
#define VF_LANES 16

#if defined(__AVX512F__)

#define VF_REGISTERS 32 // how many vf fit in the register file

struct vf {
    __m512 v;
};

#define VF1(name, expression)           \
    SIMD struct vf name(struct vf a)    \
    {                                   \
        return (struct vf){expression}; \
    }
#define VF2(name, expression)                     \
    SIMD struct vf name(struct vf a, struct vf b) \
    {                                             \
        return (struct vf){expression};           \
    }

SIMD __m256 vf_low(struct vf a)
{
    return _mm512_castps512_ps256(a.v);
}

SIMD __m256 vf_high(struct vf a)
{
    return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a.v), 1));
}

VF2(vf_add, _mm512_add_ps(a.v, b.v))
VF2(vf_sub, _mm512_sub_ps(a.v, b.v))
VF2(vf_mul, _mm512_mul_ps(a.v, b.v))
VF2(vf_div, _mm512_div_ps(a.v, b.v))
VF2(vf_max, _mm512_max_ps(a.v, b.v))
VF1(vf_abs, _mm512_abs_ps(a.v))

SIMD struct vf vf_set1(float f)
{
    return (struct vf){_mm512_set1_ps(f)};
}

SIMD struct vf vf_load(const float *p)
{
    return (struct vf){_mm512_loadu_ps(p)};
}

SIMD void vf_store(float *p, struct vf a)
{
    _mm512_storeu_ps(p, a.v);
}

SIMD struct vf vf_load_f16(const uint16_t *p)
{
    return (struct vf){_mm512_cvtph_ps(_mm256_loadu_si256((const void *)p))};
}

SIMD struct vf vf_load_bf16(const uint16_t *p)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p));
    return (struct vf){_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}

SIMD struct vf vf_load_int8(const int8_t *p)
{
    return (struct vf){_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p)))};
}

SIMD struct vf vf_fma(struct vf a, struct vf b, struct vf c) // a * b + c
{
    return (struct vf){_mm512_fmadd_ps(a.v, b.v, c.v)};
}

/* value where x >= limit or x is NaN, 0 where x < limit */
SIMD struct vf vf_zero_below(struct vf x, float limit, struct vf value)
{
    __mmask16 keep = _mm512_cmp_ps_mask(x.v, _mm512_set1_ps(limit), _CMP_NLT_UQ);
    return (struct vf){_mm512_maskz_mov_ps(keep, value.v)};
}

/* a times two to the integer that stands in the low bits of `magic` (see vf_exp) */
SIMD struct vf vf_shift_exponent(struct vf a, struct vf magic)
{
    __m512i n = _mm512_slli_epi32(_mm512_castps_si512(magic.v), 23);
    return (struct vf){_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a.v), n))};
}

/* Round to nearest even and store 16 bytes; |a| <= 127. */
SIMD void vf_store_int8(int8_t *p, struct vf a)
{
    _mm_storeu_si128((void *)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a.v)));
}

#elif defined(__AVX2__)

#define VF_REGISTERS 8

struct vf {
    __m256 lo, hi;
};

#define VF1(name, call)                             \
    SIMD struct vf name(struct vf a)                \
    {                                               \
        return (struct vf){call(a.lo), call(a.hi)}; \
    }
#define VF2(name, call)                                         \
    SIMD struct vf name(struct vf a, struct vf b)               \
    {                                                           \
        return (struct vf){call(a.lo, b.lo), call(a.hi, b.hi)}; \
    }

SIMD __m256 simd_abs256(__m256 a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}

SIMD __m256 vf_low(struct vf a)
{
    return a.lo;
}

SIMD __m256 vf_high(struct vf a)
{
    return a.hi;
}

VF2(vf_add, _mm256_add_ps)
VF2(vf_sub, _mm256_sub_ps)
VF2(vf_mul, _mm256_mul_ps)
VF2(vf_div, _mm256_div_ps)
VF2(vf_max, _mm256_max_ps)
VF1(vf_abs, simd_abs256)

SIMD struct vf vf_set1(float f)
{
    return (struct vf){_mm256_set1_ps(f), _mm256_set1_ps(f)};
}

SIMD struct vf vf_load(const float *p)
{
    return (struct vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}

SIMD void vf_store(float *p, struct vf a)
{
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}

SIMD struct vf vf_load_f16(const uint16_t *p)
{
    return (struct vf){_mm256_cvtph_ps(_mm_loadu_si128((const void *)p)),
                       _mm256_cvtph_ps(_mm_loadu_si128((const void *)(p + 8)))};
}

SIMD __m256 simd_bf16_256(const uint16_t *p)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

SIMD struct vf vf_load_bf16(const uint16_t *p)
{
    return (struct vf){simd_bf16_256(p), simd_bf16_256(p + 8)};
}

SIMD struct vf vf_load_int8(const int8_t *p)
{
    __m256i low = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p));
    __m256i high = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)(p + 8)));
    return (struct vf){_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)};
}

SIMD struct vf vf_fma(struct vf a, struct vf b, struct vf c)
{
    return (struct vf){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}

SIMD struct vf vf_zero_below(struct vf x, float limit, struct vf value)
{
    __m256 bound = _mm256_set1_ps(limit);
    return (struct vf){_mm256_and_ps(_mm256_cmp_ps(x.lo, bound, _CMP_NLT_UQ), value.lo),
                       _mm256_and_ps(_mm256_cmp_ps(x.hi, bound, _CMP_NLT_UQ), value.hi)};
}

SIMD __m256 simd_shift_exponent256(__m256 a, __m256 magic)
{
    __m256i n = _mm256_slli_epi32(_mm256_castps_si256(magic), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), n));
}

SIMD struct vf vf_shift_exponent(struct vf a, struct vf magic)
{
    return (struct vf){simd_shift_exponent256(a.lo, magic.lo),
                       simd_shift_exponent256(a.hi, magic.hi)};
}

SIMD void vf_store_int8(int8_t *p, struct vf a)
{
    __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi));
    words = _mm256_permute4x64_epi64(words, 0xd8); // packs works per half
    __m128i bytes =
        _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128((void *)p, bytes);
}

#else // scalar

#define VF_REGISTERS 8

struct vf {
    float v[VF_LANES];
};

#define VF_EACH  \
    struct vf r; \
    for (int i = 0; i < VF_LANES; i++)
#define VF2(name, expression)                     \
    SIMD struct vf name(struct vf a, struct vf b) \
    {                                             \
        VF_EACH r.v[i] = expression;              \
        return r;                                 \
    }

VF2(vf_add, a.v[i] + b.v[i])
VF2(vf_sub, a.v[i] - b.v[i])
VF2(vf_mul, a.v[i] * b.v[i])
VF2(vf_div, a.v[i] / b.v[i])
VF2(vf_max, a.v[i] > b.v[i] ? a.v[i] : b.v[i])

SIMD struct vf vf_abs(struct vf a)
{
    VF_EACH r.v[i] = fabsf(a.v[i]);
    return r;
}

SIMD struct vf vf_set1(float f)
{
    VF_EACH r.v[i] = f;
    return r;
}

SIMD struct vf vf_load(const float *p)
{
    struct vf r;
    memcpy(r.v, p, sizeof r.v);
    return r;
}

SIMD void vf_store(float *p, struct vf a)
{
    memcpy(p, a.v, sizeof a.v);
}

SIMD struct vf vf_load_f16(const uint16_t *p)
{
    VF_EACH r.v[i] = quant_half_to_float(p[i]);
    return r;
}

SIMD struct vf vf_load_bf16(const uint16_t *p)
{
    VF_EACH r.v[i] = quant_bf16_to_float(p[i]);
    return r;
}

SIMD struct vf vf_load_int8(const int8_t *p)
{
    VF_EACH r.v[i] = (float)p[i];
    return r;
}

SIMD struct vf vf_fma(struct vf a, struct vf b, struct vf c)
{
    VF_EACH r.v[i] = fmaf(a.v[i], b.v[i], c.v[i]);
    return r;
}

SIMD struct vf vf_zero_below(struct vf x, float limit, struct vf value)
{
    VF_EACH r.v[i] = x.v[i] < limit ? 0 : value.v[i];
    return r;
}

SIMD struct vf vf_shift_exponent(struct vf a, struct vf magic)
{
    struct vf r;
    for (int i = 0; i < VF_LANES; i++) {
        uint32_t bits, n;
        memcpy(&bits, &a.v[i], sizeof bits);
        memcpy(&n, &magic.v[i], sizeof n);
        bits += n << 23;
        memcpy(&r.v[i], &bits, sizeof bits);
    }
    return r;
}

SIMD void vf_store_int8(int8_t *p, struct vf a)
{
    for (int i = 0; i < VF_LANES; i++)
        p[i] = (int8_t)lrintf(a.v[i]);
}

#endif

/* ---- the same source for all ---- */

SIMD uint16_t simd_to_half(float f)
{
#if defined(__AVX2__)
    return (uint16_t)_cvtss_sh(f, 0); // 0: round to nearest even
#else
    return quant_float_to_half(f);
#endif
}

/* The largest magnitude of 32 floats, as its bits: in that order infinity and NaN come last, so
 * neither can hide. */
SIMD uint32_t simd_max_magnitude(const float x[32])
{
#if defined(__AVX2__)
    const __m256i mask = _mm256_set1_epi32(0x7fffffff);
    __m256i top = _mm256_setzero_si256();
    for (int i = 0; i < 32; i += 8) {
        __m256i bits = _mm256_loadu_si256((const void *)(x + i));
        top = _mm256_max_epi32(top, _mm256_and_si256(bits, mask));
    }
    __m128i t4 = _mm_max_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
    __m128i t2 = _mm_max_epi32(t4, _mm_shuffle_epi32(t4, 0x4e));
    return (uint32_t)_mm_cvtsi128_si32(_mm_max_epi32(t2, _mm_shuffle_epi32(t2, 0xb1)));
#else
    uint32_t bits[32], top = 0;
    memcpy(bits, x, sizeof bits);
    for (int i = 0; i < 32; i++) {
        uint32_t magnitude = bits[i] & 0x7fffffff;
        top = magnitude > top ? magnitude : top;
    }
    return top;
#endif
}

/* Round to nearest even and store 16 int16, |a| <= 32767, each four in the order 0 2 1 3; their
 * sum. */
SIMD int simd_store_int16(int16_t out[16], struct vf a)
{
#if defined(__AVX2__)
    __m256i low = _mm256_cvtps_epi32(vf_low(a)), high = _mm256_cvtps_epi32(vf_high(a));
    __m256i v =
        _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8); // packs works per half
    v = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(v, 0xd8), 0xd8);
    _mm256_storeu_si256((void *)out, v);
    __m256i s8 = _mm256_madd_epi16(v, _mm256_set1_epi16(1));
    __m128i s4 = _mm_add_epi32(_mm256_castsi256_si128(s8), _mm256_extracti128_si256(s8, 1));
    __m128i s2 = _mm_add_epi32(s4, _mm_shuffle_epi32(s4, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s2, _mm_shuffle_epi32(s2, 0xb1)));
#else
    int sum = 0;
    for (int i = 0; i < 16; i++) {
        int q = (int)lrintf(a.v[i]);
        out[(i & ~3) + (i & 1) * 2 + (i & 3) / 2] = (int16_t)q;
        sum += q;
    }
    return sum;
#endif
}

SIMD int simd_sum_int8(const int8_t q[16])
{
#if defined(__AVX2__)
    __m128i biased = _mm_xor_si128(_mm_loadu_si128((const void *)q), _mm_set1_epi8(-128));
    __m128i sums = _mm_sad_epu8(biased, _mm_setzero_si128()); // of q + 128, by 8
    return _mm_cvtsi128_si32(sums) + _mm_extract_epi16(sums, 4) - 16 * 128;
#else
    int sum = 0;
    for (int i = 0; i < 16; i++)
        sum += q[i];
    return sum;
#endif
}

SIMD struct vf vf_zero(void)
{
    return vf_set1(0);
}

/* The first n lanes; the others are 0. */
SIMD struct vf vf_load_n(const float *p, int n)
{
    float lanes[VF_LANES] = {0};
    if (n >= VF_LANES) return vf_load(p);
    memcpy(lanes, p, (size_t)n * sizeof *p);
    return vf_load(lanes);
}

/* The same with another filler. */
SIMD struct vf vf_load_or(const float *p, int n, float filler)
{
    float lanes[VF_LANES];
    if (n >= VF_LANES) return vf_load(p);
    vf_store(lanes, vf_set1(filler));
    memcpy(lanes, p, (size_t)n * sizeof *p);
    return vf_load(lanes);
}

SIMD void vf_store_n(float *p, struct vf a, int n)
{
    float lanes[VF_LANES];
    if (n >= VF_LANES) {
        vf_store(p, a);
        return;
    }
    vf_store(lanes, a);
    memcpy(p, lanes, (size_t)n * sizeof *p);
}

/* The only sum across lanes: i + (i + 8), then + 4, + 2, + 1. The maximum goes the same way. */
#if defined(__AVX2__)

SIMD float vf_sum(struct vf a)
{
    __m256 s8 = _mm256_add_ps(vf_low(a), vf_high(a));
    __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_shuffle_ps(s2, s2, 1)));
}

SIMD float vf_max_lane(struct vf a)
{
    __m256 s8 = _mm256_max_ps(vf_low(a), vf_high(a));
    __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_max_ss(s2, _mm_shuffle_ps(s2, s2, 1)));
}

#else

SIMD float vf_sum(struct vf a)
{
    float lanes[VF_LANES];
    vf_store(lanes, a);
    for (int width = VF_LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            lanes[i] = lanes[i] + lanes[i + width];
    return lanes[0];
}

SIMD float vf_max_lane(struct vf a)
{
    float lanes[VF_LANES];
    vf_store(lanes, a);
    for (int width = VF_LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            lanes[i] = lanes[i] > lanes[i + width] ? lanes[i] : lanes[i + width];
    return lanes[0];
}

#endif

/* e^x, relative error below 2^-23; 0 below -87, e^88 above 88.
 *
 * x = n ln 2 + r with |r| <= ln 2 / 2; adding 1.5 * 2^23 rounds n to an integer that then stands in
 * the low bits. e^r = 1 + (r + r^2 p(r)), p fitted to the least relative error on that interval. */
SIMD struct vf vf_exp(struct vf x)
{
    struct vf top = vf_set1(88.0f), rounder = vf_set1(0x1.8p23f);
    /* min(x, top) as -max(-x, -top), so that one comparison is enough */
    struct vf clamped = vf_sub(vf_zero(), vf_max(vf_sub(vf_zero(), x), vf_sub(vf_zero(), top)));
    struct vf magic = vf_fma(clamped, vf_set1(0x1.715476p0f), rounder);
    struct vf n = vf_sub(magic, rounder);
    struct vf r = vf_fma(n, vf_set1(-0x1.62e4p-1f), clamped);
    r = vf_fma(n, vf_set1(-0x1.7f7d1cp-20f), r); // ln 2 in two parts
    struct vf p = vf_set1(0x1.6a244cp-10f);
    p = vf_fma(p, r, vf_set1(0x1.1239d4p-7f));
    p = vf_fma(p, r, vf_set1(0x1.5558f2p-5f));
    p = vf_fma(p, r, vf_set1(0x1.555492p-3f));
    p = vf_fma(p, r, vf_set1(0x1.fffffcp-2f));
    struct vf e = vf_add(vf_fma(p, vf_mul(r, r), r), vf_set1(1.0f));
    return vf_zero_below(x, -87.0f, vf_shift_exponent(e, magic));
}

SIMD float simd_exp1(float x)
{
    float lanes[VF_LANES];
    vf_store(lanes, vf_exp(vf_set1(x)));
    return lanes[0];
}

#endif
