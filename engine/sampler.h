/* sampler.h - one token from one row of logits: what a request asks for (kernels/sample.h has the draw), and
 * log-probabilities.
 *
 * The number that decides is named by (seed, choice, position): no state, so the same request gives the
 * same tokens whatever the batch, and on any machine or device.
 *
 * Log-probabilities are of the row as it is before the temperature, so they sum to 1 and the greedy
 * token has the highest. */
#ifndef LM_ENGINE_SAMPLER_H
#define LM_ENGINE_SAMPLER_H

#include "engine/engine.h"
#include "engine/grammar.h"
#include "engine/penalties.h"
#include "kernels/sample.h"

struct sampler_mask {
    uint32_t *word; // owned; [words]
    int words;
};

/* One per thread. */
struct sampler_scratch {
    struct sample_scratch draw;
    struct sampler_mask mask;
};

void sampler_mask_deinit(struct sampler_mask *m);       // zeroed before first use
void sampler_scratch_deinit(struct sampler_scratch *s); // likewise

/* What a draw depends on beside its row. Everything is borrowed. */
struct sampler_input {
    const struct sampling_params *params;
    int64_t position;                    // of the token to be drawn, in its sequence
    const struct token_history *history; // NULL: without penalties
    const int32_t *banned;               // ids that can't be drawn
    int banned_count;
    struct grammar_matcher *grammar; // what the sequence has to become; NULL: anything
};

/* The row to be drawn from. It borrows from the input and the mask. E_UNSUPPORTED when the grammar needs
 * bytes that the vocabulary can't spell. */
FALLIBLE int sampler_row(const struct sampler_input *in, struct sampler_mask *mask,
                         struct sample_row *out);

/* Returns the token, or E_DEVICE when a logit is not finite, or its penalties overflow; E_UNSUPPORTED
 * as above. logprobs: room for params->logprobs of them, in the order that struct engine_event
 * states, or NULL. */
FALLIBLE int sampler_draw(const struct sampler_input *in, const float *logits, int vocab,
                          struct sampler_scratch *scratch, struct token_logprob *logprobs);

/* What a row reports, as `count` log-probabilities: of `token`, whose logit report->own is, and of the count - 1
 * likeliest. Where there are fewer, token -1 with -INFINITY. */
void sampler_logprobs(const struct sample_report *report, int32_t token, struct token_logprob *out,
                      int count);

/* How likely a token was that stands there already: `count` log-probabilities of the bare row, the
 * token's first. A token from `vocab` on has none. 0 or E_DEVICE. */
FALLIBLE int sampler_score(int32_t token, const float *logits, int vocab,
                           struct sampler_scratch *scratch, struct token_logprob *logprobs,
                           int count);

/* 64 random bits, by Philox 4x32-10: J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random
 * numbers: as easy as 1, 2, 3", SC 2011. */
uint64_t sampler_random(uint64_t seed, uint32_t choice, uint64_t position);
void sampler_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

#endif
