/* penalties.h - which tokens a request has seen; what that takes off their logits (sample_penalise):
 *
 *     repetition  of every token of prompt or answer: a positive logit is divided, another
 *                 multiplied (N. Keskar et al., "CTRL", 2019, section 4.1)
 *     frequency   times how often the answer has the token, is taken off
 *     presence    is taken off once for each token that the answer has
 *
 * in this order, as in vLLM. A history grows by one token a step and is never counted again; both it
 * and a step cost only the distinct tokens seen. Owned by a request; read by a rank thread while a
 * step samples for it, and changed only in between (batch.h: draws_late). */
#ifndef LM_ENGINE_PENALTIES_H
#define LM_ENGINE_PENALTIES_H

#include "engine/engine.h"
#include "kernels/sample.h"

struct token_history {
    struct token_count *item; // owned; distinct tokens in the order in which they came
    int count, cap;
    uint32_t *slot; // owned; open addressing: 0 or 1 + index of an item
    uint32_t slots; // power of two, or 0
};

bool penalties_are_on(const struct sampling_params *params);

void token_history_deinit(struct token_history *h); // zeroed before first use
void token_history_add_prompt(struct token_history *h, const int32_t *tokens, int count);
void token_history_add(struct token_history *h, int32_t token); // the answer got one more

#endif
