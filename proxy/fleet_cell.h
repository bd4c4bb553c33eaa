/* fleet_cell.h - the live part of an agent: what routing reads and every request changes. A cell
 * outlives pictures of the fleet and incarnations of the agent, so that requests in flight stay
 * counted when facts change.
 *
 * Any thread may read the numbers (atomics; a set of them may be torn between two reports, which
 * costs a guess, not a crash). Requests come and go through ledger.h only, on any thread; reports
 * are the registry's. What several threads write together stands behind `lock`, for some dozens of
 * nanoseconds. */
#ifndef LM_PROXY_FLEET_CELL_H
#define LM_PROXY_FLEET_CELL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "proxy/breaker.h"
#include "shared/base/list.h"

#define FLEET_LATENCY_MAX 15 // whole-request durations kept, as LMDeploy shows them

struct agent_load;

struct fleet_cell {
    /* What routing reads of every candidate stands together, in two cache lines. */
    atomic_int refs;
    atomic_int in_flight;        // requests of ours at this agent
    atomic_int others_in_flight; // of other proxies and clients, by the last report
    int column;                  // in the prefix table; given by the registry, -1: none
    atomic_llong unseen_tokens;  // ours that the last report can't contain, uncached prompt tokens
    atomic_llong unstarted_tokens; // ours whose answer has not begun
    atomic_llong waiting_tokens;   // by the last report: uncached prompt tokens not computed yet
    _Atomic double kv_share;       // of active sequences, 0..1
    _Atomic double prefill_per_s;  // tokens; 0: unknown. Survives incarnations
    _Atomic double slope_s;        // what one more sequence adds to a step
    _Atomic double failure_rate;   // EWMA over outcomes, at failure_ms
    atomic_uint_fast64_t failure_ms;
    atomic_uint_fast64_t reported_ms; // when the last report came; 0: none did
    atomic_uint_fast64_t birth_ms;    // when it came, or came back: slow start counts from here
    struct breaker breaker;

    _Atomic double latency_mean_s; // of the last FLEET_LATENCY_MAX answers; 0: none
    atomic_uint_fast64_t latency_ms;
    atomic_bool has_prefixes; // it reports what it holds of prompts
    atomic_int refused;       // connects refused in a row
    atomic_bool gone;         // answers no probe: requests that wait there needn't wait any longer
    atomic_uint_fast64_t dispatched_total, failed_total;

    pthread_mutex_t lock;
    uint64_t counter;   // of the last dispatch
    struct list unseen; // dispatches that no report contains yet, ascending
    double latency_s[FLEET_LATENCY_MAX];
    unsigned latency_count; // ever
};

struct fleet_cell *fleet_cell_create(void); // one reference, the caller's
struct fleet_cell *fleet_cell_ref(struct fleet_cell *c);
void fleet_cell_unref(struct fleet_cell *c); // NULL is fine

/* ---- what is reported ---- */

/* What a report says about this proxy: agent_record.h, `proxies`. */
struct fleet_own_report {
    uint64_t high;        // highest dispatch counter accepted
    const uint64_t *gaps; // counters below it that were not, ascending or not
    int gap_count;
    int active; // our requests in running + waiting
};

/* A load report came in. own: what it says about this proxy, zeroed if nothing though the agent
 * counts per proxy; NULL if it doesn't count: then everything sent is taken as contained in it. */
void fleet_cell_report(struct fleet_cell *c, const struct agent_load *load,
                       const struct fleet_own_report *own, uint64_t now_ms);
/* Another process answers there: what the old one reported is void. */
void fleet_cell_forget_report(struct fleet_cell *c);
static inline void fleet_cell_set_birth(struct fleet_cell *c, uint64_t now_ms)
{
    atomic_store_explicit(&c->birth_ms, now_ms, memory_order_relaxed);
}

int fleet_cell_load(const struct fleet_cell *c); // requests there, by all we know
double fleet_cell_failure_rate(const struct fleet_cell *c, uint64_t now_ms); // 0..1, fades in 30 s
/* The last durations, oldest first; returns how many. */
int fleet_cell_latencies(struct fleet_cell *c, double out[FLEET_LATENCY_MAX]);

/* ---- for ledger.c ---- */

/* One request of ours, as the cell sees it; lives in its ledger entry. */
struct fleet_dispatch {
    struct list link; // cell->unseen
    uint64_t counter; // of this proxy at this agent, from 1
    int64_t tokens;   // uncached prompt tokens, by estimate
    bool is_unseen, is_unstarted;
};

void fleet_cell_take(struct fleet_cell *c, struct fleet_dispatch *d, double tokens);
void fleet_cell_note_started(struct fleet_cell *c, struct fleet_dispatch *d);
void fleet_cell_release(struct fleet_cell *c, struct fleet_dispatch *d);
void fleet_cell_note_outcome(struct fleet_cell *c, bool failed, uint64_t now_ms);
void fleet_cell_add_latency(struct fleet_cell *c, double seconds, uint64_t now_ms);

/* CHECKs sums and order. Takes the lock. */
void fleet_cell_check(struct fleet_cell *c);

#endif
