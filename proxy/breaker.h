/* breaker.h - stops asking an agent that fails, and finds out whether it is back with one request.
 *
 *   CLOSED ──3 transport failures in a row, or > 50 % of >= 10 outcomes in 30 s──► OPEN
 *     ▲                                                          1 s, doubling to 30 s │ time
 *     └──success──── PROBING ◄──breaker_admit(): exactly one caller──── HALF_OPEN ◄────┘
 *                       └──failure──► OPEN, longer
 *
 * Pure: time and jitter come in. Any thread; the state is read without the lock. Outcomes of
 * requests that were sent before it opened say nothing about now and change nothing while open. */
#ifndef LM_PROXY_BREAKER_H
#define LM_PROXY_BREAKER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define BREAKER_STREAK      3  // transport failures in a row that open it
#define BREAKER_OUTCOMES    10 // fewer in the window aren't judged by their share
#define BREAKER_BUCKETS     10
#define BREAKER_BUCKET_MS   3000 // the window is BREAKER_BUCKETS of these: 30 s
#define BREAKER_OPEN_MS     1000
#define BREAKER_OPEN_MS_MAX 30000
#define BREAKER_CALM_MS     30000 // closed for so long: the next opening is a first one again
#define BREAKER_PROBE_MS    60000 // a probe that nobody resolved is taken for lost

enum breaker_state { BREAKER_CLOSED, BREAKER_OPEN, BREAKER_HALF_OPEN, BREAKER_PROBING };

struct breaker {
    atomic_uint_fast64_t until_ms;       // open until then, half-open afterwards; 0: closed
    atomic_uint_fast64_t probe_until_ms; // the probe is out; 0: it is not

    pthread_mutex_t lock;
    int streak;         // transport failures in a row
    int openings;       // without calm in between
    uint64_t closed_ms; // when it closed the last time
    struct {
        uint64_t number; // of this bucket since the clock's zero
        int good, bad;
    } window[BREAKER_BUCKETS];
};

void breaker_init(struct breaker *b);
void breaker_deinit(struct breaker *b);
enum breaker_state breaker_state(const struct breaker *b, uint64_t now_ms);
const char *breaker_state_name(enum breaker_state state);

/* True: the caller has the one probe of a half-open breaker, and owes one call with is_probe. */
bool breaker_admit(struct breaker *b, uint64_t now_ms);
/* True: it has closed just now, slow start begins. */
bool breaker_success(struct breaker *b, bool is_probe, uint64_t now_ms);
/* is_transport: connect, reset, timeout; else a status that counts (5xx but 501, and 503 with
 * Retry-After). jitter: 0..1. True: it has opened just now. */
bool breaker_failure(struct breaker *b, bool is_probe, bool is_transport, double jitter,
                     uint64_t now_ms);
/* An outcome that says nothing (4xx, 429, the client left): gives the probe back. */
void breaker_neutral(struct breaker *b, bool is_probe);

#endif
