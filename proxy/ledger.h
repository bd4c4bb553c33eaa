/* ledger.h - which requests are at which agent: one entry per dispatch, one release, no other way
 * to change a count. So a counter can neither leak nor go negative, and the sum of the entries is
 * what is in flight (ledger_check). An entry lives inside its request and holds a reference of the
 * agent's cell. The ledger belongs to one loop thread; the cells' counters are shared. */
#ifndef LM_PROXY_LEDGER_H
#define LM_PROXY_LEDGER_H

#include "proxy/fleet.h"
#include "shared/base/list.h"

struct ledger {
    struct list entries;
    int count;
};

struct ledger_entry {
    struct list link;
    struct fleet_cell *cell; // NULL: not taken, or released
    uint64_t started_ns;     // monotonic
};

enum ledger_outcome {
    LEDGER_SERVED,    // the agent answered to the end
    LEDGER_FAILED,    // lost, timed out or refused
    LEDGER_ABANDONED, // the client left or the attempt was withdrawn: says nothing about the agent
};

void ledger_init(struct ledger *l);
void ledger_take(struct ledger *l, struct ledger_entry *e, struct fleet_cell *cell,
                 uint64_t now_ns);
/* Idempotent: the second call, and one on a zeroed entry, does nothing. */
void ledger_release(struct ledger *l, struct ledger_entry *e, enum ledger_outcome outcome,
                    uint64_t now_ns);
void ledger_check(const struct ledger *l);

#endif
