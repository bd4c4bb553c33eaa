/* rope.h - inverse-frequency tables of rotary embeddings, computed in double and rounded once, so
 * that every backend turns by the same angles. */
#ifndef LM_ENGINE_ROPE_H
#define LM_ENGINE_ROPE_H

struct rope_source {
    int dims;                  // leading elements of a head that rotate, even
    double base;               // theta
    double linear_factor;      // position interpolation: angles are divided by it; 1: none
    const float *freq_factors; // [dims / 2] or NULL; llama3 scaling as GGUF files carry it
};

/* inv_freq[i] = base^(-2i / dims) / linear_factor / freq_factors[i], for i < dims / 2. */
void rope_inv_freq(const struct rope_source *source, float *inv_freq);

#endif
