/* sample_weight.h - the arithmetic of a draw, in C and in CUDA: the same bits in both.
 *
 * A token's weight is e^((logit - max) / temperature) in units of 2^-40, rounded down to a whole number;
 * of the most probable one it is 2^40. A float holds it exactly, and sums of weights are integers. */
#ifndef LM_KERNELS_SAMPLE_WEIGHT_H
#define LM_KERNELS_SAMPLE_WEIGHT_H

#include <math.h>
#include <stdint.h>

#ifdef __CUDACC__
#define SAMPLE_INLINE static __host__ __device__ __forceinline__
#else
#define SAMPLE_INLINE static inline
#endif

#define SAMPLE_UNIT 0x1p40f // the weight of the most probable token

/* e^x for -87 <= x <= 0, relative error below 3e-7. Range reduction to |r| <= ln2 / 2 and the Taylor
 * polynomial of degree 6; the same bits on every machine, unlike libm's. */
SAMPLE_INLINE float sample_exp(float x)
{
    float t = x * 1.44269504f;
    int32_t n = (int32_t)(t - 0.5f);
    float r = x - (float)n * 0.693359375f; // ln 2 in two parts (Cody and Waite)
    r = r + (float)n * 2.12194440e-4f;
    float p = 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    union {
        int32_t bits;
        float value;
    } scale = {(n + 127) << 23};
    return p * scale.value;
}

/* How logits become weights. */
struct sample_scale {
    float max, inverse; // the highest logit; 1 / temperature
    float lowest;       // what lies farther below max weighs as much: nothing
};

SAMPLE_INLINE struct sample_scale sample_scale(float max, float temperature)
{
    float t =
        temperature < 0x1p100f ? temperature : 0x1p100f; // all is equal there; beyond, it overflows
    return (struct sample_scale){max, 1.0f / t, -64.0f * t};
}

/* A weight is high * 2^20 + low. Halves, because compilers make vectors of 32-bit numbers. */
struct sample_halves {
    int32_t high, low;
};

SAMPLE_INLINE struct sample_halves sample_split(float weight)
{
    int32_t high = (int32_t)(weight * 0x1p-20f);
    return (struct sample_halves){high, (int32_t)(weight - (float)high * 0x1p20f)};
}

SAMPLE_INLINE struct sample_halves sample_weigh(float logit, struct sample_scale s)
{
    float below = logit - s.max;
    below = below > s.lowest ? below : s.lowest;
    return sample_split(sample_exp(below * s.inverse) * SAMPLE_UNIT);
}

SAMPLE_INLINE float sample_whole(struct sample_halves h)
{
    return (float)h.high * 0x1p20f + (float)h.low;
}

/* answer: how often the answer has the token; 0: only the prompt does. */
SAMPLE_INLINE float sample_penalise(float logit, int answer, float repetition, float frequency,
                                    float presence)
{
    float x = logit > 0 ? logit / repetition : logit * repetition;
    return answer > 0 ? x - (frequency * (float)answer + presence) : x;
}

/* What the most probable tokens have to reach of the weight `total`. */
SAMPLE_INLINE uint64_t sample_needed(float top_p, uint64_t total)
{
    uint64_t need = (uint64_t)ceil((double)top_p * (double)total);
    if (need > total) need = total;
    return need > 0 ? need : 1;
}

/* The token drawn is the first whose weight, with all before it, is more than this. */
SAMPLE_INLINE uint64_t sample_target(uint64_t random, uint64_t mass)
{
    return (uint64_t)((unsigned __int128)random * mass >> 64);
}

#endif
