#include "proxy/retry_budget.h"

#define WHOLE     100
#define CENTS_MAX (RETRY_BUDGET_BURST * WHOLE)

void retry_budget_init(struct retry_budget *b)
{
    atomic_init(&b->cents, CENTS_MAX);
}

void retry_budget_note_request(struct retry_budget *b)
{
    int cents = atomic_load_explicit(&b->cents, memory_order_relaxed);
    while (cents < CENTS_MAX) {
        if (atomic_compare_exchange_weak(&b->cents, &cents, cents + RETRY_BUDGET_PERCENT)) return;
    }
}

bool retry_budget_take(struct retry_budget *b)
{
    int cents = atomic_load_explicit(&b->cents, memory_order_relaxed);
    while (cents >= WHOLE) {
        if (atomic_compare_exchange_weak(&b->cents, &cents, cents - WHOLE)) return true;
    }
    return false;
}
