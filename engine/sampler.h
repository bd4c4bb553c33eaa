/* sampler.h - one token from one row of logits.
 *
 *     logit_bias   is added
 *     penalties    engine/penalties.h
 *     grammar      what it doesn't allow can't be drawn
 *     bans         can't be drawn, unless nothing else is left
 *     temperature  p = softmax(logit / temperature); below 1e-5: greedy, the highest logit, the
 *                  lowest id on a tie
 *     top_k        the k most probable stay
 *     top_p        of these, renormalised, the fewest most probable whose sum reaches top_p; at
 *                  least one
 *     min_p        of these, those with at least min_p times the probability of the most probable
 *
 * in this order (vLLM's, Hugging Face's), ties by the lower id. Then one draw by inversion in the
 * order of ids, from the number that (seed, choice, position) names: no state, so the same request
 * gives the same tokens whatever the batch, and on any machine: exponentials are our own, not libm's.
 *
 * Log-probabilities are of the row as it is before the temperature, so they sum to 1 and the greedy
 * token has the highest.
 *
 * Pure but for its scratch memory: one scratch per thread. O(vocabulary), nothing is sorted; bias,
 * penalties, bans and log-probabilities cost only where they are used. */
#ifndef LM_ENGINE_SAMPLER_H
#define LM_ENGINE_SAMPLER_H

#include "engine/engine.h"
#include "engine/grammar.h"
#include "engine/penalties.h"

struct sampler_scratch {
    float *probability; // owned, like the others; [cap]
    float *adjusted;    // logits with bias, penalties and bans
    struct sampler_candidate *candidate;
    int cap;
    uint32_t *mask; // owned; [mask_words]
    int mask_words;
};

void sampler_scratch_deinit(struct sampler_scratch *s); // zeroed before first use

/* What a draw depends on beside its row. Everything is borrowed. */
struct sampler_input {
    const struct sampling_params *params;
    int64_t position;                    // of the token to be drawn, in its sequence
    const struct token_history *history; // NULL: without penalties
    const int32_t *banned;               // ids that can't be drawn
    int banned_count;
    struct grammar_matcher *grammar; // what the sequence has to become; NULL: anything
};

/* Returns the token, or E_DEVICE when a logit is not finite, or its penalties overflow; E_UNSUPPORTED
 * when the grammar needs bytes that the vocabulary can't spell. logprobs: room for params->logprobs
 * of them, in the order that struct engine_event states, or NULL. */
FALLIBLE int sampler_draw(const struct sampler_input *in, const float *logits, int vocab,
                          struct sampler_scratch *scratch, struct token_logprob *logprobs);

/* How likely a token was that stands there already: `count` log-probabilities of the bare row, the
 * token's first. A token from `vocab` on has none. 0 or E_DEVICE. */
FALLIBLE int sampler_score(int32_t token, const float *logits, int vocab,
                           struct sampler_scratch *scratch, struct token_logprob *logprobs,
                           int count);

/* Uniform in [0, 1), 53 bits, by Philox 4x32-10: J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel
 * random numbers: as easy as 1, 2, 3", SC 2011. */
double sampler_uniform(uint64_t seed, uint32_t choice, uint64_t position);
void sampler_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

#endif
