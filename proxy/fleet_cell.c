#include "proxy/fleet_cell.h"

#include "shared/base/check.h"
#include "shared/net/agent_record.h"

#include <stdlib.h>
#include <string.h>

#define TOKENS_MAX           1e9     // of one request: an estimate may be anything
#define FAILURE_WEIGHT       0.2     // of the newest outcome
#define FAILURE_FADE_MS      30000.0 // until a failure is forgotten that nothing followed

#define LOAD(member)         atomic_load_explicit(&(member), memory_order_relaxed)
#define STORE(member, value) atomic_store_explicit(&(member), value, memory_order_relaxed)

struct fleet_cell *fleet_cell_create(void)
{
    struct fleet_cell *c = xaligned(sizeof *c);
    atomic_init(&c->refs, 1);
    c->column = -1;
    breaker_init(&c->breaker);
    CHECK(pthread_mutex_init(&c->lock, NULL) == 0);
    list_init(&c->unseen);
    return c;
}

struct fleet_cell *fleet_cell_ref(struct fleet_cell *c)
{
    atomic_fetch_add(&c->refs, 1);
    return c;
}

void fleet_cell_unref(struct fleet_cell *c)
{
    if (!c || atomic_fetch_sub(&c->refs, 1) != 1) return;
    CHECK(atomic_load(&c->in_flight) == 0); // an entry of the ledger holds a reference
    breaker_deinit(&c->breaker);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

/* ---- what is reported ---- */

static bool is_gap(const struct fleet_own_report *own, uint64_t counter)
{
    for (int i = 0; i < own->gap_count; i++) {
        if (own->gaps[i] == counter) return true;
    }
    return false;
}

static void mark_seen(struct fleet_cell *c, struct fleet_dispatch *d)
{
    if (!d->is_unseen) return;
    d->is_unseen = false;
    list_remove(&d->link);
    STORE(c->unseen_tokens, LOAD(c->unseen_tokens) - d->tokens);
}

void fleet_cell_report(struct fleet_cell *c, const struct agent_load *load,
                       const struct fleet_own_report *own, uint64_t now_ms)
{
    atomic_store(&c->has_prefixes, load->prefix_version != 0);
    int there = load->running + load->waiting;
    pthread_mutex_lock(&c->lock);
    list_each_safe (d, &c->unseen, struct fleet_dispatch, link) {
        if (own && d->counter > own->high) break; // ascending: nor are those behind it
        if (!own || !is_gap(own, d->counter)) mark_seen(c, d);
    }
    int active = own ? own->active : LOAD(c->in_flight);
    STORE(c->others_in_flight, there > active ? there - active : 0);
    STORE(c->waiting_tokens, (long long)load->prefill_tokens_waiting);
    STORE(c->kv_share, load->kv_used_share);
    if (load->prefill_tokens_per_s > 0) STORE(c->prefill_per_s, load->prefill_tokens_per_s);
    STORE(c->slope_s, load->inter_token_slope_s);
    STORE(c->reported_ms, now_ms ? now_ms : 1);
    pthread_mutex_unlock(&c->lock);
}

void fleet_cell_forget_report(struct fleet_cell *c)
{
    pthread_mutex_lock(&c->lock);
    STORE(c->others_in_flight, 0);
    STORE(c->waiting_tokens, 0);
    STORE(c->kv_share, 0.0);
    STORE(c->reported_ms, 0);
    pthread_mutex_unlock(&c->lock);
}

int fleet_cell_load(const struct fleet_cell *c)
{
    return LOAD(c->in_flight) + LOAD(c->others_in_flight);
}

double fleet_cell_failure_rate(const struct fleet_cell *c, uint64_t now_ms)
{
    double rate = LOAD(c->failure_rate);
    if (rate <= 0) return 0;
    uint64_t then_ms = LOAD(c->failure_ms);
    double age_ms = now_ms > then_ms ? (double)(now_ms - then_ms) : 0;
    return age_ms < FAILURE_FADE_MS ? rate * (1 - age_ms / FAILURE_FADE_MS) : 0;
}

int fleet_cell_latencies(struct fleet_cell *c, double out[FLEET_LATENCY_MAX])
{
    pthread_mutex_lock(&c->lock);
    unsigned end = c->latency_count;
    unsigned count = end < FLEET_LATENCY_MAX ? end : FLEET_LATENCY_MAX;
    for (unsigned i = 0; i < count; i++)
        out[i] = c->latency_s[(end - count + i) % FLEET_LATENCY_MAX];
    pthread_mutex_unlock(&c->lock);
    return (int)count;
}

/* ---- requests ---- */

void fleet_cell_take(struct fleet_cell *c, struct fleet_dispatch *d, double tokens)
{
    if (!(tokens >= 0)) tokens = 0;
    d->tokens = (int64_t)(tokens < TOKENS_MAX ? tokens + 0.5 : TOKENS_MAX);
    d->is_unseen = d->is_unstarted = true;
    atomic_fetch_add_explicit(&c->in_flight, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->dispatched_total, 1, memory_order_relaxed);
    pthread_mutex_lock(&c->lock);
    d->counter = ++c->counter;
    list_push_back(&c->unseen, &d->link);
    STORE(c->unseen_tokens, LOAD(c->unseen_tokens) + d->tokens);
    STORE(c->unstarted_tokens, LOAD(c->unstarted_tokens) + d->tokens);
    pthread_mutex_unlock(&c->lock);
}

static void mark_started(struct fleet_cell *c, struct fleet_dispatch *d)
{
    if (!d->is_unstarted) return;
    d->is_unstarted = false;
    STORE(c->unstarted_tokens, LOAD(c->unstarted_tokens) - d->tokens);
}

/* Whoever has begun to answer has computed the prompt: what no report contains yet needn't be added
 * to one any more. */
void fleet_cell_note_started(struct fleet_cell *c, struct fleet_dispatch *d)
{
    pthread_mutex_lock(&c->lock);
    mark_started(c, d);
    mark_seen(c, d);
    pthread_mutex_unlock(&c->lock);
}

void fleet_cell_release(struct fleet_cell *c, struct fleet_dispatch *d)
{
    pthread_mutex_lock(&c->lock);
    mark_started(c, d);
    mark_seen(c, d);
    pthread_mutex_unlock(&c->lock);
    CHECK(atomic_fetch_sub(&c->in_flight, 1) > 0);
}

void fleet_cell_note_outcome(struct fleet_cell *c, bool failed, uint64_t now_ms)
{
    if (failed) {
        atomic_fetch_add_explicit(&c->failed_total, 1, memory_order_relaxed);
    } else if (LOAD(c->failure_rate) <= 0) {
        return; // as nearly always
    }
    pthread_mutex_lock(&c->lock);
    double rate = fleet_cell_failure_rate(c, now_ms);
    rate += FAILURE_WEIGHT * ((failed ? 1 : 0) - rate);
    STORE(c->failure_rate, rate < 0.001 ? 0 : rate);
    STORE(c->failure_ms, now_ms);
    pthread_mutex_unlock(&c->lock);
}

void fleet_cell_add_latency(struct fleet_cell *c, double seconds, uint64_t now_ms)
{
    pthread_mutex_lock(&c->lock);
    c->latency_s[c->latency_count++ % FLEET_LATENCY_MAX] = seconds;
    unsigned count = c->latency_count < FLEET_LATENCY_MAX ? c->latency_count : FLEET_LATENCY_MAX;
    double sum = 0;
    for (unsigned i = 0; i < count; i++)
        sum += c->latency_s[i];
    STORE(c->latency_mean_s, sum / count);
    STORE(c->latency_ms, now_ms);
    pthread_mutex_unlock(&c->lock);
}

void fleet_cell_check(struct fleet_cell *c)
{
    pthread_mutex_lock(&c->lock);
    long long tokens = 0;
    uint64_t last = 0;
    list_each (d, &c->unseen, struct fleet_dispatch, link) {
        CHECK(d->is_unseen && d->counter > last && d->counter <= c->counter);
        last = d->counter;
        tokens += d->tokens;
    }
    CHECK(tokens == LOAD(c->unseen_tokens));
    CHECK(LOAD(c->unstarted_tokens) >= tokens); // who has started isn't unseen
    pthread_mutex_unlock(&c->lock);
    CHECK(atomic_load(&c->refs) > 0 && atomic_load(&c->in_flight) >= 0);
}
