#include "proxy/breaker.h"

#include "shared/base/check.h"

#include <string.h>

#define JITTER_SHARE         0.25 // so that many proxies don't knock at the same moment

#define LOAD(member)         atomic_load_explicit(&(member), memory_order_acquire)
#define STORE(member, value) atomic_store_explicit(&(member), value, memory_order_release)

void breaker_init(struct breaker *b)
{
    memset(b, 0, sizeof *b);
    CHECK(pthread_mutex_init(&b->lock, NULL) == 0);
}

void breaker_deinit(struct breaker *b)
{
    pthread_mutex_destroy(&b->lock);
}

enum breaker_state breaker_state(const struct breaker *b, uint64_t now_ms)
{
    uint64_t until_ms = LOAD(b->until_ms);
    if (until_ms == 0) return BREAKER_CLOSED;
    if (LOAD(b->probe_until_ms) > now_ms) return BREAKER_PROBING;
    return now_ms < until_ms ? BREAKER_OPEN : BREAKER_HALF_OPEN;
}

const char *breaker_state_name(enum breaker_state state)
{
    static const char *const names[] = {"closed", "open", "half_open", "probing"};
    return names[state];
}

bool breaker_admit(struct breaker *b, uint64_t now_ms)
{
    if (breaker_state(b, now_ms) != BREAKER_HALF_OPEN) return false;
    pthread_mutex_lock(&b->lock);
    bool first = breaker_state(b, now_ms) == BREAKER_HALF_OPEN;
    if (first) STORE(b->probe_until_ms, now_ms + BREAKER_PROBE_MS);
    pthread_mutex_unlock(&b->lock);
    return first;
}

/* ---- outcomes, under the lock ---- */

static void count_outcome(struct breaker *b, bool good, uint64_t now_ms)
{
    uint64_t number = now_ms / BREAKER_BUCKET_MS;
    size_t at = number % BREAKER_BUCKETS;
    if (b->window[at].number != number) {
        b->window[at].number = number;
        b->window[at].good = b->window[at].bad = 0;
    }
    if (good) {
        b->window[at].good++;
    } else {
        b->window[at].bad++;
    }
}

static bool is_mostly_bad(const struct breaker *b, uint64_t now_ms)
{
    uint64_t number = now_ms / BREAKER_BUCKET_MS;
    int good = 0, bad = 0;
    for (int i = 0; i < BREAKER_BUCKETS; i++) {
        if (b->window[i].number + BREAKER_BUCKETS <= number) continue;
        good += b->window[i].good;
        bad += b->window[i].bad;
    }
    return good + bad >= BREAKER_OUTCOMES && bad > good;
}

static void forget_outcomes(struct breaker *b)
{
    b->streak = 0;
    memset(b->window, 0, sizeof b->window);
}

static void open_for(struct breaker *b, double jitter, uint64_t now_ms)
{
    bool calm =
        b->openings > 0 && LOAD(b->until_ms) == 0 && now_ms - b->closed_ms >= BREAKER_CALM_MS;
    if (calm) b->openings = 0;
    double ms = BREAKER_OPEN_MS;
    for (int i = 0; i < b->openings && ms < BREAKER_OPEN_MS_MAX; i++)
        ms *= 2;
    if (ms > BREAKER_OPEN_MS_MAX) ms = BREAKER_OPEN_MS_MAX;
    b->openings++;
    forget_outcomes(b);
    STORE(b->until_ms, now_ms + (uint64_t)(ms * (1 + JITTER_SHARE * jitter)));
    STORE(b->probe_until_ms, 0);
}

bool breaker_success(struct breaker *b, bool is_probe, uint64_t now_ms)
{
    pthread_mutex_lock(&b->lock);
    bool is_open = LOAD(b->until_ms) != 0;
    bool closes = is_open && is_probe;
    if (closes) {
        b->closed_ms = now_ms;
        STORE(b->probe_until_ms, 0);
        STORE(b->until_ms, 0);
    } else if (!is_open) {
        b->streak = 0;
        count_outcome(b, true, now_ms);
    }
    pthread_mutex_unlock(&b->lock);
    return closes;
}

bool breaker_failure(struct breaker *b, bool is_probe, bool is_transport, double jitter,
                     uint64_t now_ms)
{
    pthread_mutex_lock(&b->lock);
    bool opens = false;
    if (LOAD(b->until_ms) != 0) {
        opens = is_probe;
    } else {
        count_outcome(b, false, now_ms);
        b->streak = is_transport ? b->streak + 1 : 0;
        opens = b->streak >= BREAKER_STREAK || is_mostly_bad(b, now_ms);
    }
    if (opens) open_for(b, jitter, now_ms);
    pthread_mutex_unlock(&b->lock);
    return opens;
}

void breaker_neutral(struct breaker *b, bool is_probe)
{
    if (!is_probe) return;
    pthread_mutex_lock(&b->lock);
    STORE(b->probe_until_ms, 0);
    pthread_mutex_unlock(&b->lock);
}
