/* admission.h - requests that wait because every agent that could serve them is full: whose turn is
 * next, who waits too long, and when there is no room to wait. Bookkeeping only: time comes in, no
 * loop, no lock. The ticket is embedded in the request; entering, leaving (at any time) and taking the
 * next one cost the same whatever waits.
 *
 * A *lane* is what tickets wait for together: a model's name, or "model@agent" for requests that
 * only one agent can serve. Lanes come and go with their tickets.
 *
 * Order inside a lane: strict by class; within a class deficit round robin over tenants by
 * estimated uncached tokens (M. Shreedhar, G. Varghese, "Efficient fair queuing using deficit
 * round robin", 1996); within a tenant by arrival. A class whose oldest ticket is overdue (has
 * waited longer than ageing_ms) gets one token of ADMISSION_AGED_SHARE that classes above it get:
 * low classes never starve, and never take more than that from the others.
 *
 * Threads: one struct admission per loop thread, which alone calls it; struct admission_shared
 * holds the bounds and totals of all of them in atomics. So the bounds hold for the process, and
 * fairness among the requests of one thread; connections spread over threads evenly. A slot that
 * becomes free in one thread may be one that another thread's tickets wait for: while
 * admission_shared_count() is above 0, whoever frees one wakes the other loops to pump.
 *
 * Full: a newcomer may push out the newest ticket of a lower class, or of a tenant in its own class
 * that holds at least two more than its own tenant does: a greedy tenant can't fill the queue for
 * others. Whoever is pushed out hears it by on_evict, and answers as if it had been refused. */
#ifndef LM_PROXY_ADMISSION_H
#define LM_PROXY_ADMISSION_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "shared/base/hash_map.h"
#include "shared/base/list.h"
#include "shared/net/admission_class.h"
#include "shared/net/api_error.h"

#define ADMISSION_AGED_SHARE 8       // of so many tokens one goes to overdue classes
#define ADMISSION_QUANTUM    2048    // tokens a tenant gets per round
#define ADMISSION_TOKENS_MAX 1048576 // a ticket's estimate is cut to this
#define ADMISSION_IDLE_LANES 64      // empty ones that keep their pace for Retry-After

struct admission_limits {
    int64_t count;       // 0: nobody waits, whoever would is refused
    int64_t bytes;       // of request bodies that wait
    uint32_t timeout_ms; // longest wait
    uint32_t ageing_ms;  // 0: a sixth of timeout_ms
};

struct admission_shared {
    struct admission_limits limits;
    _Atomic int64_t count, bytes;
    _Atomic int64_t class_counts[ADMISSION_CLASSES];
};

void admission_shared_init(struct admission_shared *s, const struct admission_limits *limits);

static inline int64_t admission_shared_count(struct admission_shared *s)
{
    return atomic_load_explicit(&s->count, memory_order_relaxed);
}

struct admission_flow;
struct admission_lane;

struct admission_ticket {
    /* the caller's, before admission_enter */
    uint64_t tenant; // hash of the tenant's name; 0: nobody in particular
    enum admission_class class;
    int64_t tokens; // estimate of what must be computed
    int64_t bytes;  // held while it waits
    /* 0; or of one that was accepted and comes back, left as it was: it keeps its deadline and goes
     * before the others of its tenant. */
    uint64_t since_ms;
    /* the queue's */
    struct admission_flow *flow; // NULL: not waiting
    struct list link;            // flow->tickets
    struct list class_link;      // by age, of its lane and class
    struct list deadline_link;   // admission->by_deadline
    struct list tenant_link;     // all of its tenant, by arrival
};

static inline bool admission_is_waiting(const struct admission_ticket *t)
{
    return t->flow != NULL;
}

struct admission {
    struct admission_shared *shared;
    void (*on_evict)(void *arg, struct admission_ticket *t);
    void *arg;
    struct hash_map lanes, tenants, flows;
    struct list busy, idle;  // of struct admission_lane: with tickets; without, least recent first
    struct list by_deadline; // of struct admission_ticket
    int64_t count;           // tickets here
    int busy_count, idle_count;
    uint64_t lane_ids, departures;
    uint64_t evicted_total, expired_total;
};

/* on_evict: the ticket has left; it may not call back into the queue. */
void admission_init(struct admission *a, struct admission_shared *shared,
                    void (*on_evict)(void *arg, struct admission_ticket *t), void *arg);
void admission_deinit(struct admission *a); // CHECKs that nobody waits

/* 0, or E_LIMIT: there is no room (429, see admission_set_full). */
FALLIBLE int admission_enter(struct admission *a, struct str lane, struct admission_ticket *t,
                             uint64_t now_ms);
/* It waits no longer: the client left. Nothing if it doesn't wait. */
void admission_leave(struct admission *a, struct admission_ticket *t);

/* Whose turn it is; NULL: nobody waits there. The same until something changes or time passes. */
struct admission_ticket *admission_next(struct admission *a, struct str lane, uint64_t now_ms);
/* The one that admission_next gave runs now, and its tenant pays for it. */
void admission_accept(struct admission *a, struct admission_ticket *t, uint64_t now_ms);

enum admission_try {
    ADMISSION_STARTED, // it waits no longer: it runs, or has been answered
    ADMISSION_FULL,    // nobody of this lane can run now
    ADMISSION_SKIP,    // this one can't, others of the lane may
};
#define ADMISSION_SKIPS_MAX 16

/* Offer slots: walks the lanes with tickets, beginning with another one each time, and shows their
 * heads to `try`, which calls admission_accept (or _leave) before it does anything that may end the
 * request, and returns STARTED; or leaves the ticket alone. Once it has accepted it may enter and
 * leave others, but not pump. After ADMISSION_SKIPS_MAX that were
 * skipped a lane has had its turn. Returns how many started. Cheap when nobody waits. */
int admission_pump(struct admission *a, uint64_t now_ms,
                   enum admission_try (*try)(void *arg, struct admission_ticket *t), void *arg);

/* Each ticket whose time is over leaves and goes to on_expired (503, see admission_set_expired),
 * which may enter and leave tickets. Returns how many. */
int admission_expire(struct admission *a, uint64_t now_ms,
                     void (*on_expired)(void *arg, struct admission_ticket *t), void *arg);
uint64_t admission_deadline_ms(const struct admission *a); // of the next one; 0: nobody waits

/* Seconds until a newcomer of that class would probably be served: tickets before it x smoothed
 * time from one accept to the next while some wait; 1..60. */
int admission_retry_after_s(const struct admission *a, struct str lane, enum admission_class class,
                            uint64_t now_ms);
/* 429 rate_limit_exceeded and 503 queue_timeout, with Retry-After. */
void admission_set_full(struct api_error *error, int retry_after_s);
void admission_set_expired(struct api_error *error, int retry_after_s);

void admission_check(const struct admission *a); // CHECKs lists and counts. O(tickets)

#endif
