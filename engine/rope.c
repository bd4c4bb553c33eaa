#include "engine/rope.h"

#include <math.h>

#include "shared/base/check.h"

static double frequency(const struct rope_source *s, double base, int i)
{
    return pow(base, -2.0 * i / s->dims);
}

static double dynamic_base(const struct rope_source *s, int positions)
{
    if (positions <= s->original_len || s->dims <= 2) return s->base;
    double stretch = s->factor * positions / s->original_len - (s->factor - 1);
    return s->base * pow(stretch, (double)s->dims / (s->dims - 2));
}

static double llama3_frequency(const struct rope_source *s, double f)
{
    double wavelength = 2 * M_PI / f;
    if (wavelength > s->original_len / s->low_freq_factor) return f / s->factor;
    if (wavelength < s->original_len / s->high_freq_factor) return f;
    double smooth = (s->original_len / wavelength - s->low_freq_factor) /
                    (s->high_freq_factor - s->low_freq_factor);
    return (1 - smooth) * f / s->factor + smooth * f;
}

/* The dimension whose pair turns `rotations` times within original_len positions. */
static double yarn_dimension(const struct rope_source *s, double rotations)
{
    return s->dims * log(s->original_len / (rotations * 2 * M_PI)) / (2 * log(s->base));
}

static double yarn_frequency(const struct rope_source *s, double f, int i)
{
    double low = yarn_dimension(s, s->beta_fast), high = yarn_dimension(s, s->beta_slow);
    if (s->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, s->dims - 1);
    if (low == high) high += 0.001;
    double ramp = fmin(fmax((i - low) / (high - low), 0), 1);
    return f / s->factor * ramp + f * (1 - ramp);
}

double rope_yarn_mscale(double factor, double mscale)
{
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static double attention_factor(const struct rope_source *s)
{
    if (s->attention_factor > 0) return s->attention_factor;
    if (s->scaling == ROPE_SCALING_YARN && s->mscale > 0 && s->mscale_all_dim > 0)
        return rope_yarn_mscale(s->factor, s->mscale) /
               rope_yarn_mscale(s->factor, s->mscale_all_dim);
    if (s->scaling == ROPE_SCALING_YARN) return rope_yarn_mscale(s->factor, 1);
    if (s->scaling == ROPE_SCALING_LONGROPE && s->factor > 1)
        return sqrt(1 + log(s->factor) / log(s->original_len));
    return 1;
}

static double scaled_frequency(const struct rope_source *s, int positions, int i)
{
    double f = frequency(s, s->base, i);
    switch (s->scaling) {
    case ROPE_SCALING_NONE:
        return f;
    case ROPE_SCALING_LINEAR:
        return f / s->factor;
    case ROPE_SCALING_DYNAMIC:
        return frequency(s, dynamic_base(s, positions), i);
    case ROPE_SCALING_LLAMA3:
        return llama3_frequency(s, f);
    case ROPE_SCALING_YARN:
        return yarn_frequency(s, f, i);
    case ROPE_SCALING_LONGROPE:
        return f / (double)(positions > s->original_len ? s->long_factor : s->short_factor)[i];
    }
    UNREACHABLE();
}

float rope_build(const struct rope_source *source, int positions, float *inv_freq)
{
    for (int i = 0; i < source->dims / 2; i++) {
        double f = scaled_frequency(source, positions, i);
        if (source->freq_factors) f /= (double)source->freq_factors[i];
        inv_freq[i] = (float)f;
    }
    return (float)attention_factor(source);
}
