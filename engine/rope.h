/* rope.h - inverse-frequency tables of rotary embeddings, computed in double and rounded once, so
 * that every backend turns by the same angles.
 *
 * With f(i) = base^(-2i / dims), n = positions that the table is for, s = factor, L = original_len:
 *
 *   plain     f
 *   linear    f / s                                                 (position interpolation)
 *   dynamic   f with base * (s n / L - (s - 1))^(dims / (dims - 2)) where n > L   (dynamic NTK)
 *   llama3    w = 2 pi / f:  f / s where w > L / low;  f where w < L / high;  between them
 *             (1 - m) f / s + m f with m = (L / w - low) / (high - low)
 *   yarn      f (1 - r) + f / s r, r = ramp of i between the dimensions that turn beta_fast and
 *             beta_slow times in L positions; cos and sin times 0.1 ln(s) + 1
 *   longrope  f / short[i] where n <= L, else f / long[i]; cos and sin times
 *             sqrt(1 + ln(s) / ln(L))
 *
 * Source: transformers, modeling_rope_utils.py. The tables of `dynamic` and `longrope` depend on the
 * number of positions. The reference computes `dynamic` anew at every step, which gives one sequence
 * keys of several bases; here a sequence has one table (rope_set.h) for all its positions. */
#ifndef LM_ENGINE_ROPE_H
#define LM_ENGINE_ROPE_H

#include <stdbool.h>

enum rope_scaling {
    ROPE_SCALING_NONE,
    ROPE_SCALING_LINEAR,
    ROPE_SCALING_DYNAMIC,
    ROPE_SCALING_LLAMA3,
    ROPE_SCALING_YARN,
    ROPE_SCALING_LONGROPE,
};

struct rope_source {
    int dims;    // leading elements of a head that rotate, even
    double base; // theta
    enum rope_scaling scaling;
    double factor;       // s
    double original_len; // L: positions that the unscaled table was trained for
    double low_freq_factor, high_freq_factor; // llama3
    double beta_fast, beta_slow;              // yarn
    bool truncate;                            // yarn: the ramp begins and ends at whole dimensions
    double attention_factor;       // yarn, longrope: given by the model; 0: by the formula
    double mscale, mscale_all_dim; // yarn: both given, the quotient of two such formulas
    const float *freq_factors;     // [dims / 2] or NULL; llama3 as GGUF files carry it
    const float *short_factor, *long_factor; // [dims / 2] longrope
};

/* Fills inv_freq[dims / 2]; returns what cos and sin are multiplied by. */
float rope_build(const struct rope_source *source, int positions, float *inv_freq);

/* 0.1 mscale ln(factor) + 1, where the model was stretched: yarn's factor of cos and sin, which
 * DeepSeek's attention scale holds, too. */
double rope_yarn_mscale(double factor, double mscale);

#endif
