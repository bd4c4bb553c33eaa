/* retry_budget.h - retries in proportion to traffic, so that a fleet in trouble isn't asked twice
 * as much: every request puts a tenth of a token into a bucket, a retry takes a whole one. Requests
 * whose agent was lost don't ask. Any thread. */
#ifndef LM_PROXY_RETRY_BUDGET_H
#define LM_PROXY_RETRY_BUDGET_H

#include <stdatomic.h>
#include <stdbool.h>

#define RETRY_BUDGET_PERCENT 10
#define RETRY_BUDGET_BURST   32 // tokens at start, and the most that are saved up

struct retry_budget {
    atomic_int cents; // hundredths of a token
};

void retry_budget_init(struct retry_budget *b);
void retry_budget_note_request(struct retry_budget *b);
bool retry_budget_take(struct retry_budget *b); // false: no retry now

#endif
