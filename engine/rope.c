#include "engine/rope.h"

#include <math.h>

void rope_inv_freq(const struct rope_source *source, float *inv_freq)
{
    for (int i = 0; i < source->dims / 2; i++) {
        double freq = pow(source->base, -2.0 * i / source->dims) / source->linear_factor;
        if (source->freq_factors) freq /= (double)source->freq_factors[i];
        inv_freq[i] = (float)freq;
    }
}
