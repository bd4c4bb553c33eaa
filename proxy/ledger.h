/* ledger.h - which requests are at which agent: one entry per dispatch, one release, no other way
 * to change a count. So a counter can neither leak nor go negative, and the sum of the entries is
 * what is in flight (ledger_check). An entry lives inside its request and holds a reference of the
 * agent's cell. A ledger belongs to one loop thread; the cells are shared by all of them.
 *
 * A dispatch gets a counter of its (proxy, agent) pair, which goes with the request. Reports of the
 * agent say up to which counter they contain our requests, and which below are missing; what a
 * report can't contain is added to it (fleet_cell.h: unseen_tokens). Exact, without clocks. */
#ifndef LM_PROXY_LEDGER_H
#define LM_PROXY_LEDGER_H

#include "proxy/fleet_cell.h"
#include "shared/base/list.h"

struct ledger {
    struct list entries;
    int count;
};

struct ledger_entry {
    struct list link;
    struct fleet_cell *cell;        // NULL: not taken, or released
    uint64_t started_ns;            // monotonic
    uint64_t counter;               // for x-lm-dispatch
    bool is_probe;                  // of a half-open breaker, not resolved yet
    struct fleet_dispatch dispatch; // the cell's
};

enum ledger_outcome {
    LEDGER_SERVED,    // the agent answered to the end
    LEDGER_FAILED,    // lost, timed out, not connected
    LEDGER_ERRORED,   // it answered with a 5xx that counts against it
    LEDGER_ABANDONED, // the client left, 4xx, busy, withdrawn: says nothing about the agent
};

void ledger_init(struct ledger *l);
/* tokens: prompt tokens that the agent must compute, by estimate. is_probe: route_choice.is_probe. */
void ledger_take(struct ledger *l, struct ledger_entry *e, struct fleet_cell *cell, double tokens,
                 bool is_probe, uint64_t now_ns);
/* The first byte of its answer's body is here: the prompt is computed, and a probe has succeeded.
 * Idempotent. */
void ledger_note_started(struct ledger_entry *e, uint64_t now_ns);
/* Idempotent: the second call, and one on a zeroed entry, does nothing. Tells the breaker, the
 * failure rate and the latencies of the agent. */
void ledger_release(struct ledger *l, struct ledger_entry *e, enum ledger_outcome outcome,
                    uint64_t now_ns);
void ledger_check(const struct ledger *l);

#endif
