/* exchange.c - the state machine between a client and the agents that may serve it.
 *
 *   LOCATING ─► QUEUED ─► CLAIMING ─► CALLING ──head──► HOLDING ──first byte out──► STREAMING ─► DONE
 *      │ └────────►└─────────►└────────►▲ │                │ └───whole answer─────────────────► DONE
 *      │    └──────────another agent────┴─┴────────────────┘                          │ ▲
 *      │ 4xx, 503      429, 503           502, 503, 504                          lost ▼ │ head
 *      └────────────┴────────────┴───────────────┴──────────────► FAILED ◄────── RESUMING
 *   any ──client left──► DONE
 *
 * Rules:
 *  1. Until STREAMING nothing has gone to the client, and the request may be tried elsewhere.
 *     An answer that fits EXCHANGE_HOLD_BYTES is therefore held until it is whole; a stream's head
 *     waits for its first event.
 *  2. An agent that failed this request isn't asked again by it, unless all have and --retries allows
 *     one more.
 *  3. One ledger entry at a time, released in exchange_end_attempt() only.
 *  4. Bytes pass unchanged, but for the marks of our own hop. When the agent of a marked stream is
 *     lost, another one goes on; where that can't be, the stream gets one error event, if it stands
 *     between two events (an incomplete event is void at the end of a stream), and never a [DONE].
 *  5. Above the server's high-water mark reading from the agent stops until the client has
 *     caught up (relay.c).
 *  6. This struct lives in the arena of its http_exchange and dies with it: where that is
 *     answered, and in on_gone().
 *  7. A stale connection is forgiven once: from then on only new ones are used, whose loss counts.
 *     A request that kills whom it reaches would else look like stale connections everywhere.
 *  8. A hard session's request goes to its owner and nobody else, until the pin says otherwise. */
#define LOG_MODULE "exchange"
#include "proxy/exchange.h"

#include "proxy/access_log.h"
#include "proxy/exchange_state.h"
#include "proxy/forward.h"
#include "proxy/proxy.h"
#include "proxy/proxy_metrics.h"
#include "proxy/retry.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/net/api_error.h"

#include <stdlib.h>

#define SILENCE_MS 5000 // a stream from an agent that is gone: it may be slow, not lost

static const char *const state_names[] = {
    "locating",  "queued",   "claiming", "calling", "holding",
    "streaming", "resuming", "done",     "failed",
};

#define BIT(state) (1u << EXCHANGE_##state)

/* Bit per state that may follow. */
static const unsigned transitions[] = {
    [EXCHANGE_LOCATING] =
        BIT(LOCATING) | BIT(QUEUED) | BIT(CLAIMING) | BIT(CALLING) | BIT(DONE) | BIT(FAILED),
    [EXCHANGE_QUEUED] =
        BIT(LOCATING) | BIT(QUEUED) | BIT(CLAIMING) | BIT(CALLING) | BIT(DONE) | BIT(FAILED),
    [EXCHANGE_CLAIMING] =
        BIT(LOCATING) | BIT(QUEUED) | BIT(CLAIMING) | BIT(CALLING) | BIT(DONE) | BIT(FAILED),
    [EXCHANGE_CALLING] = BIT(LOCATING) | BIT(QUEUED) | BIT(CLAIMING) | BIT(CALLING) | BIT(HOLDING) |
                         BIT(DONE) | BIT(FAILED),
    [EXCHANGE_HOLDING] = BIT(LOCATING) | BIT(QUEUED) | BIT(CLAIMING) | BIT(CALLING) |
                         BIT(STREAMING) | BIT(DONE) | BIT(FAILED),
    [EXCHANGE_STREAMING] = BIT(RESUMING) | BIT(DONE) | BIT(FAILED),
    [EXCHANGE_RESUMING] = BIT(STREAMING) | BIT(DONE) | BIT(FAILED),
};

void exchange_set_state(struct exchange *e, enum exchange_state state)
{
    CHECK(e->state < EXCHANGE_DONE && transitions[e->state] >> state & 1);
    log_trace("state", "from=%s to=%s agent=%s", state_names[e->state], state_names[state],
              e->at.agent ? e->at.agent->id : "");
    e->state = state;
}

/* ---- the end ---- */

void exchange_end_attempt(struct exchange *e, enum ledger_outcome outcome)
{
    bool was_there = e->at.agent != NULL;
    ledger_release(&e->worker->ledger, &e->at.entry, outcome, clock_ns());
    fleet_agent_unref(e->at.agent);
    if (e->at.call) http_call_cancel(e->at.call);
    e->at = (struct exchange_attempt){.status = e->at.status};
    e->relay.upstream = NULL;
    buf_deinit(&e->held);
    if (was_there) worker_note_slot_free(e->worker);
}

static void count_end(struct exchange *e)
{
    double seconds = (double)(clock_ns() - e->started_ns) / 1e9;
    metric_observe(&proxy_metrics.request_seconds, seconds);
    metric_add(&proxy_metrics.sent_bytes_total, (int64_t)e->sent_bytes);
    metric_add(&proxy_metrics.requests_running, -1);
    atomic_fetch_sub(&e->worker->proxy->running[e->class], 1);
    log_debug("request",
              "id=" STR_FMT
              " state=%s agent=%s status=%d attempts=%d resumes=%d bytes=%llu ms=%.1f",
              STR_ARG(http_router_request_id(e->client)), state_names[e->state],
              e->at.agent ? e->at.agent->id : "", e->status, e->attempts, e->resumes,
              (unsigned long long)e->sent_bytes, seconds * 1e3);
}

const struct hop_usage *exchange_usage(const struct exchange *e)
{
    const struct hop_usage *usage = e->is_hop ? hop_stream_usage(&e->hop) : NULL;
    return !usage && e->at.has_usage ? &e->at.usage : usage;
}

void exchange_record_failure(struct exchange *e, const char *reason)
{
    if (!e->worker->proxy->access_log) return;
    struct arena *arena = http_exchange_arena(e->client);
    struct exchange_failure *f = arena_alloc(arena, sizeof *f);
    f->next = e->failures;
    f->agent = arena_printf(arena, "%s", e->at.agent->id);
    f->reason = arena_printf(arena, "%.100s", reason);
    e->failures = f;
}

/* What the answer taught: how long prompts and answers are, what the key owes. */
static void settle(struct exchange *e, enum ledger_outcome outcome)
{
    struct proxy *p = e->worker->proxy;
    const struct hop_usage *usage = exchange_usage(e);
    uint64_t now_ms = clock_ms();
    if (usage) {
        model_stats_note(&p->model_stats, e->model, (double)e->prompt_bytes, (double)usage->prompt,
                         (double)usage->completion);
        limits_settle(&p->limits, &e->grant, (double)(usage->prompt + usage->completion), now_ms);
        metric_add(&proxy_metrics.prompt_tokens_total, usage->prompt);
        metric_add(&proxy_metrics.completion_tokens_total, usage->completion);
        metric_add(&proxy_metrics.cached_tokens_total, usage->cached);
        metric_add(&proxy_metrics.cached_tokens_expected_total, (int64_t)e->cached_tokens);
    } else if (outcome != LEDGER_SERVED && e->first_byte_ns == 0) {
        limits_settle(&p->limits, &e->grant, 0, now_ms);
    }
    limits_end(&p->limits, &e->grant);
}

void exchange_release(struct exchange *e, enum ledger_outcome outcome)
{
    settle(e, outcome);
    count_end(e);
    access_log_write(e->worker->proxy->access_log, e);
    exchange_end_attempt(e, outcome);
    exchange_end_affinity(e, outcome == LEDGER_SERVED);
    if (e->is_hop) hop_stream_deinit(&e->hop);
    e->is_hop = false;
    exchange_uncharge_resume(e);
    buf_deinit(&e->resume_body);
    exchange_close_prelude(e);
    list_remove(&e->link);
    e->worker->exchange_count--;
}

void exchange_end_affinity(struct exchange *e, bool is_served)
{
    if (!e->affinity) return;
    affinity_end(e->affinity, is_served);
    exchange_spares_give_affinity(e->worker->spares, e->affinity);
    e->affinity = NULL;
}

/* Without a failure it has answered: what follows from that is our business. */
enum ledger_outcome exchange_outcome_of_failure(const struct exchange *e)
{
    const struct http_failure *failure = e->at.failure;
    if (!failure) return e->at.status >= 500 ? LEDGER_ERRORED : LEDGER_ABANDONED;
    return http_failure_is_ours(failure) ? LEDGER_ABANDONED : LEDGER_FAILED;
}

void exchange_fail(struct exchange *e, const struct api_error *error)
{
    struct api_error copy = *error; // which may belong to e
    exchange_set_state(e, EXCHANGE_FAILED);
    struct http_exchange *client = e->client;
    e->status = copy.status;
    e->error = copy.code;
    exchange_release(e, exchange_outcome_of_failure(e));
    api_error_respond(client, &copy);
}

void exchange_fail_without_agent(struct exchange *e)
{
    struct api_error error;
    if (e->pre->busy_status == 429) {
        api_error_set(&error, 429, "rate_limit_exceeded", NULL,
                      "All agents that serve this model are busy. Please retry shortly.");
    } else {
        api_error_set(&error, 503, "service_unavailable", NULL,
                      "No agent can take this request now. Please retry shortly.");
    }
    error.retry_after_s = RETRY_AFTER_S;
    metric_add(e->attempts ? &proxy_metrics.upstream_failures_total
                           : &proxy_metrics.requests_no_agent_total,
               1);
    exchange_fail(e, &error);
}

static void on_gone(void *arg)
{
    struct exchange *e = arg;
    metric_add(&proxy_metrics.clients_gone_total, 1);
    e->client_left = true;
    relay_drop(&e->relay);
    e->sent_bytes = e->relay.bytes;
    exchange_set_state(e, EXCHANGE_DONE);
    exchange_release(e, LEDGER_ABANDONED);
}

static void on_drain(void *arg)
{
    struct exchange *e = arg;
    if (relay_resume(&e->relay)) exchange_expect_life(e);
}

/* ---- deciding ---- */

void exchange_expect_life(struct exchange *e)
{
    e->deadline_ms =
        uv_now(e->worker->loop) + (uint64_t)e->worker->proxy->config->idle_timeout_s * 1000;
}

void exchange_advance(struct exchange *e)
{
    switch (e->state) {
    case EXCHANGE_LOCATING:
        exchange_place(e);
        return;
    case EXCHANGE_CLAIMING:
        exchange_on_claimed(e);
        return;
    case EXCHANGE_CALLING:
        if (e->at.failure) {
            exchange_retry_or_fail(e);
        } else {
            exchange_take_head(e);
        }
        return;
    case EXCHANGE_HOLDING:
        if (e->at.failure) {
            exchange_retry_or_fail(e);
        } else {
            exchange_finish_whole(e);
        }
        return;
    case EXCHANGE_STREAMING:
        exchange_end_stream(e);
        return;
    case EXCHANGE_RESUMING:
        if (e->at.failure) {
            exchange_resume_failed(e);
        } else {
            exchange_try_resume(e);
        }
        return;
    case EXCHANGE_QUEUED:
    case EXCHANGE_DONE:
    case EXCHANGE_FAILED:
        break;
    }
    UNREACHABLE();
}

void exchange_start(struct exchange *e)
{
    list_push_back(&e->worker->exchanges, &e->link);
    e->worker->exchange_count++;
    metric_add(&proxy_metrics.requests_running, 1);
    atomic_fetch_add(&e->worker->proxy->running[e->class], 1);
    http_exchange_watch(e->client, on_gone, on_drain, e);
    exchange_locate(e);
}

/* ---- from outside ---- */

/* As if the agent had failed. */
static void interrupt(struct exchange *e, int code, const char *text)
{
    struct http_failure failure = {
        .code = code,
        .text = text,
        .connected = true,
        .head_received = e->state > EXCHANGE_CALLING && e->state != EXCHANGE_RESUMING,
    };
    http_call_cancel(e->at.call);
    exchange_on_failure(e, &failure);
}

/* The registry has given the agent up, and nothing here says otherwise. */
static bool is_lost(const struct exchange *e, uint64_t now_ms)
{
    if (!atomic_load_explicit(&e->at.agent->cell->gone, memory_order_relaxed)) return false;
    uint64_t idle_ms = (uint64_t)e->worker->proxy->config->idle_timeout_s * 1000;
    return e->state != EXCHANGE_STREAMING || e->deadline_ms - idle_ms + SILENCE_MS < now_ms;
}

static void sweep(struct exchange *e, uint64_t now_ms)
{
    if (!e->at.call) {
        if (e->state == EXCHANGE_RESUMING) exchange_try_resume(e);
        return;
    }
    if (e->relay.paused) return; // it is the client's turn, and http_server watches that
    if (is_lost(e, now_ms)) {
        interrupt(e, E_CLOSED, "the agent answers no more");
    } else if (e->deadline_ms && now_ms >= e->deadline_ms) {
        interrupt(e, E_TIMEOUT, "the agent fell silent");
    }
}

static void cut(struct exchange *e, uint64_t now_ms)
{
    (void)now_ms;
    if (e->state == EXCHANGE_RESUMING) {
        exchange_cut_stream(e, "the proxy shuts down");
    } else if (e->at.call) {
        interrupt(e, E_CANCELLED, "the proxy shuts down");
    } else {
        exchange_fail_without_agent(e);
    }
}

/* A visit may end others, too: whom e pushes out of the queue. */
static void visit_all(struct worker *w, void (*visit)(struct exchange *e, uint64_t now_ms))
{
    uint64_t now_ms = uv_now(w->loop);
    /* Those visited go to the back. Where a visit has ended others, some are visited twice. */
    for (int left = w->exchange_count; left > 0 && !list_is_empty(&w->exchanges); left--) {
        struct exchange *e = list_first(&w->exchanges, struct exchange, link);
        list_remove(&e->link);
        list_push_back(&w->exchanges, &e->link);
        visit(e, now_ms);
    }
}

void exchange_sweep(struct worker *w)
{
    visit_all(w, sweep);
}

void exchange_cut_all(struct worker *w)
{
    CHECK(proxy_phase(w->proxy) == PROXY_CLOSING); // so that nothing is tried again
    visit_all(w, cut);
}
