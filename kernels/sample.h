/* sample.h - one token drawn from one row of logits, or a given one scored: what that depends on, and how the CPU
 * does it. Backends that draw (backend.h: sample) give the same tokens and reports.
 *
 *     bias         is added
 *     penalties    of tokens seen before (sample_penalise)
 *     mask         what it doesn't allow can't be drawn
 *     bans         can't be drawn, unless nothing else is left
 *     temperature  p = softmax(logit / temperature); below SAMPLE_GREEDY the highest logit, the lowest id on
 *                  a tie
 *     top_k        the k most probable stay
 *     top_p        of these, renormalised, the fewest most probable whose sum reaches top_p; at
 *                  least one
 *     min_p        of these, those with at least min_p times the probability of the most probable
 *
 * in this order, ties by the lower id. Then one draw by inversion in the order of ids. Probabilities
 * are whole numbers (kernels/sample_weight.h), so no sum depends on its order: neither on the batch nor on
 * the machine.
 *
 * Pure but for its scratch memory: one scratch per thread. O(vocabulary), nothing is sorted. */
#ifndef LM_KERNELS_SAMPLE_H
#define LM_KERNELS_SAMPLE_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SAMPLE_GREEDY       1e-5f     // temperatures below (vLLM's bound)
#define SAMPLE_VOCAB_MAX    (1 << 23) // sums of weights fit into 64 bits
#define SAMPLE_LOGPROBS_MAX 21        // of a token, and of the 20 likeliest
#define SAMPLE_LISTS_SHORT  2048      // elements of a row's bias, seen and banned together

struct logit_bias {
    int32_t token;
    float bias; // added to its logit before anything else
};

struct token_count {
    int32_t token;
    int answer; // times in the answer; 0: in the prompt only
};

enum sample_kind {
    SAMPLE_DRAW,
    SAMPLE_SCORE, // nothing is drawn: the row tells how likely `scored` was, which stands there already
    SAMPLE_NOTHING, // the row isn't looked at
};

/* Tokens from the vocabulary's end on have no logit and are passed over. Everything is borrowed. */
struct sample_row {
    enum sample_kind kind;
    int logprobs;   // 0: no report; n: one with the n - 1 likeliest
    int32_t scored; // of SAMPLE_SCORE; what follows is of SAMPLE_DRAW
    float temperature, top_p, min_p;
    int top_k;                             // 0: off
    float repetition, frequency, presence; // penalties; repetition is > 0
    uint64_t random;                       // uniform: which token it becomes
    const struct logit_bias *bias;         // [bias_count], each token once
    const struct token_count *seen;        // [seen_count], likewise
    const int32_t *banned;                 // [banned_count]
    int bias_count, seen_count, banned_count;
    const uint32_t *mask; // token t may be drawn if bit t % 32 of word t / 32 is set; NULL: all
    int mask_words;       // what lies behind them can't be drawn
};

static inline bool sample_is_adjusted(const struct sample_row *r)
{
    return r->bias_count > 0 || r->seen_count > 0 || r->banned_count > 0 || r->mask;
}

struct sample_candidate {
    float value; // a weight or a logit: only the order counts
    int32_t id;
};

struct sample_scratch {
    float *weight;                      // owned, like the others; [cap]
    float *adjusted;                    // logits with bias, penalties, mask and bans
    struct sample_candidate *candidate; // [cap]
    uint64_t *mass;                     // of chunks of weights
    int cap;
    /* Of the last draw: what it was drawn from, and the highest of that. */
    const float *logits;
    float max;
};

void sample_scratch_deinit(struct sample_scratch *s); // zeroed before first use

/* What log-probabilities of a row are made of. Logits are those that a token was drawn from, before the
 * temperature, or with SAMPLE_SCORE the row as it is:
 *
 *     ln p(t) = (logit(t) - max) - ln(sum / 2^40)
 *
 * All of it is compared or counted in whole numbers: the same bits whoever makes it, in whatever order. `sum`
 * errs by the parts of sample_exp (3e-7), of logit - max as a float (2^-24 of it, ln(vocab) on average at
 * most) and of rounding down (2^-40 a token): ln p by less than 1.2e-6 + 2^-23 |ln p| with 151,665 tokens. */
struct sample_report {
    float max;    // the highest logit
    float own;    // of the token; -INFINITY: it has none
    uint64_t sum; // of all weights at temperature 1 (kernels/sample_weight.h)
    struct sample_candidate likeliest[SAMPLE_LOGPROBS_MAX - 1]; // logits, in order; id -1: no more
};

/* The token, or E_DEVICE when a logit is not finite, or the penalties overflow. */
FALLIBLE int sample_draw(const struct sample_row *row, const float *logits, int vocab,
                         struct sample_scratch *s);

/* Looks at a row without drawing: scratch->logits and max. E_DEVICE as above. */
FALLIBLE int sample_look(const float *logits, int vocab, struct sample_scratch *s);
/* Of the row drawn from, or looked at, last, which gave a token. 1 <= logprobs <= SAMPLE_LOGPROBS_MAX. */
void sample_report(struct sample_scratch *s, int vocab, int32_t token, int logprobs,
                   struct sample_report *out);
/* Of a token with that logit. */
float sample_logprob(const struct sample_report *r, float logit);

#ifdef __cplusplus
}
#endif

#endif
