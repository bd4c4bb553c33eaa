/* sampler.h - one token from one row of logits.
 *
 *     temperature  p = softmax(logit / temperature); below 1e-5: greedy, the highest logit, the
 *                  lowest id on a tie
 *     top_k        the k most probable stay
 *     top_p        of these, renormalised, the fewest most probable whose sum reaches top_p; at
 *                  least one
 *     min_p        of these, those with at least min_p times the probability of the most probable
 *
 * in this order (Hugging Face's), ties by the lower id. Then one draw by inversion in the order of
 * ids, from the number that (seed, choice 0, position) names: no state, so the same request gives
 * the same tokens whatever the batch, and on any machine: exponentials are our own, not libm's.
 *
 * Pure but for its scratch memory: one scratch per thread. O(vocabulary), nothing is sorted. */
#ifndef LM_ENGINE_SAMPLER_H
#define LM_ENGINE_SAMPLER_H

#include "engine/engine.h"

struct sampler_scratch {
    float *probability; // owned, like the others; [cap]
    float *masked;      // logits without banned tokens
    struct sampler_candidate *candidate;
    int cap;
};

void sampler_scratch_deinit(struct sampler_scratch *s); // zeroed before first use

/* banned: ids that can't be drawn, ignored when nothing else would be left. Returns the token, or
 * E_DEVICE when a logit is not finite. */
FALLIBLE int sampler_draw(const struct sampling_params *params, int64_t position,
                          const float *logits, int vocab, const int32_t *banned, int banned_count,
                          struct sampler_scratch *scratch);

/* Uniform in [0, 1), 53 bits, by Philox 4x32-10: J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel
 * random numbers: as easy as 1, 2, 3", SC 2011. */
double sampler_uniform(uint64_t seed, uint32_t choice, uint64_t position);
void sampler_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

#endif
