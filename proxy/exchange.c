/* exchange.c - the state machine between a client and the agents that may serve it.
 *
 *   READING ─► CALLING ──head──► HOLDING ──first byte out──► STREAMING ─► DONE
 *      │         │ ▲  └──retry──┘   │ └────whole answer──────────────────► DONE
 *      │ 400/404 │ └──────retry─────┤                            │ lost
 *      │ 503     │ 502/503/504      │ 502/503/504                ▼
 *      └─────────┴──────────────────┴──────────────────────► FAILED
 *   any ──client left──► DONE
 *
 * (CALLING is connecting, sending and awaiting the head: http_client keeps their deadlines.)
 *
 * Rules:
 *  1. Until STREAMING nothing has gone to the client, and the request may be tried elsewhere.
 *     An answer that fits HOLD_BYTES is therefore held until it is whole; a stream's head waits
 *     for its first byte.
 *  2. An agent that failed this request isn't asked again by it.
 *  3. One ledger entry at a time, released in end_attempt() only.
 *  4. Bytes pass unchanged. After a loss a stream gets one error event, if it stands between two
 *     events (an incomplete event is void at the end of a stream), and never a [DONE].
 *  5. Above the server's high-water mark reading from the agent stops until the client has
 *     caught up (relay.c).
 *  6. This struct lives in the arena of its http_exchange and dies with it: where that is
 *     answered, and in on_gone().
 *  7. A stale connection is forgiven once: from then on only new ones are used, whose loss counts.
 *     A request that kills whom it reaches would else look like stale connections everywhere. */
#define LOG_MODULE "exchange"
#include "proxy/exchange.h"

#include "proxy/forward.h"
#include "proxy/peek.h"
#include "proxy/proxy.h"
#include "proxy/proxy_metrics.h"
#include "proxy/relay.h"
#include "proxy/retry.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/net/api_error.h"

#define HOLD_BYTES    ((size_t)256 << 10)
#define SILENCE_MS    5000 // a stream from an agent that is gone: it may be slow, not lost
#define RETRY_AFTER_S 1

enum exchange_state {
    EXCHANGE_READING,
    EXCHANGE_CALLING,
    EXCHANGE_HOLDING,
    EXCHANGE_STREAMING,
    EXCHANGE_DONE,
    EXCHANGE_FAILED,
};

struct exchange {
    struct list link; // proxy->exchanges
    struct proxy *proxy;
    struct http_exchange *client;
    const struct http_request *request;
    enum exchange_state state;
    struct peek peek;
    uint64_t started_ns;
    uint64_t deadline_ms; // loop time of the next sign of life; 0: none is due

    /* the attempt */
    struct fleet_agent *agent; // one reference
    struct http_call *call;
    struct ledger_entry entry;
    struct route_excluded excluded;
    int attempts, retries;
    bool fresh;                         // next attempts: on new connections (rule 7)
    int busy_status;                    // an agent said 429 or 503; 0: none did
    const struct http_failure *failure; // of the attempt, while x_advance() runs; else NULL
    bool ended;                         // the whole answer is in

    /* the answer */
    int status;
    bool not_started; // the agent says that it has done nothing for this request
    struct http_headers head, request_headers;
    bool is_stream; // text/event-stream
    bool hold;      // the whole answer fits
    struct buf held;
    struct relay relay; // from STREAMING on
    uint64_t sent_bytes;
};

static const char *const state_names[] = {"reading",   "calling", "holding",
                                          "streaming", "done",    "failed"};

/* Bit per state that may follow. */
static const unsigned transitions[] = {
    [EXCHANGE_READING] = 1u << EXCHANGE_CALLING | 1u << EXCHANGE_DONE | 1u << EXCHANGE_FAILED,
    [EXCHANGE_CALLING] = 1u << EXCHANGE_CALLING | 1u << EXCHANGE_HOLDING | 1u << EXCHANGE_DONE |
                         1u << EXCHANGE_FAILED,
    [EXCHANGE_HOLDING] = 1u << EXCHANGE_CALLING | 1u << EXCHANGE_STREAMING | 1u << EXCHANGE_DONE |
                         1u << EXCHANGE_FAILED,
    [EXCHANGE_STREAMING] = 1u << EXCHANGE_DONE | 1u << EXCHANGE_FAILED,
};

static void x_set_state(struct exchange *e, enum exchange_state state)
{
    CHECK(e->state < EXCHANGE_DONE && transitions[e->state] >> state & 1);
    log_trace("state", "from=%s to=%s agent=%s", state_names[e->state], state_names[state],
              e->agent ? e->agent->id : "");
    e->state = state;
}

/* ---- the end ---- */

static void end_attempt(struct exchange *e, enum ledger_outcome outcome)
{
    ledger_release(&e->proxy->ledger, &e->entry, outcome, clock_ns());
    fleet_agent_unref(e->agent);
    e->agent = NULL;
    if (e->call) http_call_cancel(e->call);
    e->call = NULL;
    buf_deinit(&e->held);
}

/* Everything but the http_exchange. */
static void release(struct exchange *e, enum ledger_outcome outcome)
{
    double seconds = (double)(clock_ns() - e->started_ns) / 1e9;
    metric_observe(&proxy_metrics.request_seconds, seconds);
    metric_add(&proxy_metrics.sent_bytes_total, (int64_t)e->sent_bytes);
    metric_add(&proxy_metrics.requests_running, -1);
    log_debug("request",
              "id=" STR_FMT " state=%s agent=%s status=%d attempts=%d bytes=%llu ms=%.1f",
              STR_ARG(http_router_request_id(e->client)), state_names[e->state],
              e->agent ? e->agent->id : "", e->status, e->attempts,
              (unsigned long long)e->sent_bytes, seconds * 1e3);
    end_attempt(e, outcome);
    list_remove(&e->link);
    e->proxy->exchange_count--;
}

static void fail(struct exchange *e, const struct api_error *error)
{
    x_set_state(e, EXCHANGE_FAILED);
    struct http_exchange *client = e->client;
    e->status = error->status;
    release(e, LEDGER_FAILED);
    api_error_respond(client, error);
}

static void on_gone(void *arg)
{
    struct exchange *e = arg;
    metric_add(&proxy_metrics.clients_gone_total, 1);
    relay_drop(&e->relay);
    e->sent_bytes = e->relay.bytes;
    x_set_state(e, EXCHANGE_DONE);
    release(e, LEDGER_ABANDONED);
}

/* ---- attempts ---- */

static void on_head(void *arg, int status, const struct http_headers *headers);
static void on_body(void *arg, const char *data, size_t len);
static void on_end(void *arg);
static void on_fail(void *arg, const struct http_failure *failure);

static void call(struct exchange *e, struct fleet_agent *agent)
{
    struct proxy *p = e->proxy;
    const struct proxy_config *config = p->config;
    x_set_state(e, EXCHANGE_CALLING);
    e->agent = fleet_agent_ref(agent);
    e->failure = NULL;
    e->deadline_ms = 0;
    e->attempts++;
    struct str target = e->request->target;
    if (target.data[0] != '/') target = e->request->path; // absolute form
    if (agent->path[0]) {
        target = str_of(arena_printf(http_exchange_arena(e->client), "%s" STR_FMT, agent->path,
                                     STR_ARG(target)));
    }
    struct http_call_options options = {
        .host = agent->host,
        .port = agent->port,
        .method = "POST",
        .target = target,
        .headers = e->request_headers.items,
        .header_count = e->request_headers.count,
        .body = e->request->body,
        .connect_timeout_ms = (int)config->connect_timeout_ms,
        .head_timeout_ms = (int)config->first_byte_timeout_s * 1000,
        .idle_timeout_ms = INT32_MAX, // exchange_sweep() knows better what silence means
        .fresh = e->fresh,
        .on_head = on_head,
        .on_body = on_body,
        .on_end = on_end,
        .on_fail = on_fail,
        .arg = e,
    };
    uint64_t now_ns = clock_ns();
    ledger_take(&p->ledger, &e->entry, agent->cell, now_ns);
    if (e->attempts == 1) {
        metric_observe(&proxy_metrics.overhead_seconds, (double)(now_ns - e->started_ns) / 1e9);
    }
    metric_add(&proxy_metrics.dispatches_total, 1);
    e->call = http_call_start(p->client, &options);
}

static struct fleet_agent *choose(struct exchange *e)
{
    struct proxy *p = e->proxy;
    struct fleet *fleet = registry_fleet(&p->registry);
    const struct fleet_model *model = fleet_find_model(fleet, e->peek.model);
    if (!model || e->excluded.count == ROUTE_EXCLUDED_MAX) return NULL;
    return route_choose(p->policy, &p->route, fleet, model, &e->excluded);
}

/* Nobody may be asked any more, or nobody is there. */
static void fail_without_agent(struct exchange *e)
{
    struct api_error error;
    if (e->busy_status == 429) {
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
    fail(e, &error);
}

static void fail_upstream(struct exchange *e)
{
    const struct http_failure *failure = e->failure;
    bool timed_out = failure->code == E_TIMEOUT || failure->code == UV_ETIMEDOUT;
    log_warn("request failed", "id=" STR_FMT " agent=%s attempts=%d reason=\"%s\"",
             STR_ARG(http_router_request_id(e->client)), e->agent->id, e->attempts, failure->text);
    struct api_error error;
    if (timed_out) {
        api_error_set(&error, 504, "upstream_timeout", NULL, "The agent didn't answer in time.");
    } else {
        api_error_set(&error, 502, "upstream_failed", NULL,
                      "The agent was lost before it answered. Please retry.");
    }
    metric_add(&proxy_metrics.upstream_failures_total, 1);
    fail(e, &error);
}

/* ---- passing on ---- */

static void expect_life(struct exchange *e)
{
    e->deadline_ms = uv_now(e->proxy->loop) + (uint64_t)e->proxy->config->idle_timeout_s * 1000;
}

static void pass(struct exchange *e, const char *data, size_t len)
{
    expect_life(e);
    relay_write(&e->relay, data, len);
}

static void on_drain(void *arg)
{
    struct exchange *e = arg;
    if (relay_resume(&e->relay)) expect_life(e);
}

static void add_head(struct exchange *e)
{
    for (int i = 0; i < e->head.count; i++)
        http_exchange_add_header(e->client, e->head.items[i].name, e->head.items[i].value);
    if (!e->agent->foreign) { // whose id is an address of the inside
        http_exchange_add_header(e->client, STR("x-lm-agent"), str_of(e->agent->id));
    }
    metric_observe(&proxy_metrics.first_byte_seconds, (double)(clock_ns() - e->started_ns) / 1e9);
}

static void begin_streaming(struct exchange *e)
{
    x_set_state(e, EXCHANGE_STREAMING);
    add_head(e);
    http_respond_begin(e->client, e->status, NULL, false);
    relay_begin(&e->relay, &e->proxy->gather, e->client, e->call);
    if (e->held.len) pass(e, e->held.data, e->held.len);
    buf_deinit(&e->held);
}

static void count_passed(const struct exchange *e)
{
    metric_add(&proxy_metrics.responses_passed_total, 1);
    if (e->status >= 500) metric_add(&proxy_metrics.responses_passed_5xx_total, 1);
}

static void finish_whole(struct exchange *e)
{
    struct http_exchange *client = e->client;
    add_head(e);
    count_passed(e);
    x_set_state(e, EXCHANGE_DONE);
    struct buf body = e->held; // survives release()
    buf_init(&e->held, HOLD_BYTES);
    e->sent_bytes = body.len;
    release(e, LEDGER_SERVED);
    http_respond(client, e->status, NULL, buf_str(&body));
    buf_deinit(&body);
}

/* The agent was lost after the first byte. Prints the last event, if there may be one. */
static void explain_cut(struct exchange *e, struct buf *event)
{
    log_warn("stream cut", "id=" STR_FMT " agent=%s bytes=%llu reason=\"%s\"",
             STR_ARG(http_router_request_id(e->client)), e->agent->id,
             (unsigned long long)e->relay.bytes, e->failure->text);
    metric_add(&proxy_metrics.upstream_lost_total, 1);
    if (!e->is_stream || !relay_is_between_events(&e->relay)) return; // rule 4
    struct api_error error;
    api_error_set(&error, 502, "upstream_lost", NULL,
                  "The agent was lost while it answered. What came so far is incomplete.");
    error.type = "upstream_error";
    api_error_print_event(event, &error);
}

static void end_stream(struct exchange *e)
{
    struct buf event;
    buf_init(&event, BUF_MAX_INTERNAL);
    bool lost = e->failure != NULL;
    if (lost) {
        explain_cut(e, &event);
    } else {
        count_passed(e);
    }
    e->sent_bytes = e->relay.bytes;
    x_set_state(e, lost ? EXCHANGE_FAILED : EXCHANGE_DONE);
    release(e, lost ? LEDGER_FAILED : LEDGER_SERVED);
    if (lost && event.len == 0) {
        relay_abort(&e->relay);
    } else {
        relay_end(&e->relay, event.data, event.len);
    }
    buf_deinit(&event);
}

/* ---- deciding ---- */

static void count_retry(enum retry_verdict verdict, bool connected)
{
    metric_add(verdict == RETRY_FRESH     ? &proxy_metrics.retries_stale_total
               : verdict == RETRY_COUNTED ? &proxy_metrics.retries_lost_total
               : connected                ? &proxy_metrics.retries_busy_total
                                          : &proxy_metrics.retries_connect_total,
               1);
}

static void note_failure(struct exchange *e, const struct http_failure *failure)
{
    struct registry *registry = &e->proxy->registry;
    if (failure->connected || http_failure_is_ours(failure)) return;
    uint64_t now_ms = clock_ms();
    if (failure->code == UV_ECONNREFUSED) {
        registry_note_refused(registry, e->agent, now_ms);
    } else {
        registry_note_unreachable(registry, e->agent, now_ms);
    }
}

/* Whom to ask after a failed attempt; may be the same agent again. NULL: nobody. */
static struct fleet_agent *next_agent(struct exchange *e, enum retry_verdict verdict)
{
    if (verdict == RETRY_FRESH) return e->agent;
    route_exclude(&e->excluded, e->agent->cell);
    struct fleet_agent *other = choose(e);
    if (other) return other;
    /* A connect that only timed out: a backlog that overflowed in a burst drops packets, and the
     * only agent is worth another try. */
    bool silent = !e->failure->connected && e->failure->code == E_TIMEOUT;
    if (!silent || e->retries >= e->proxy->config->retries) return NULL;
    e->retries++;
    return e->agent;
}

/* The attempt failed while nothing had gone to the client. */
static void retry_or_fail(struct exchange *e)
{
    const struct http_failure *failure = e->failure;
    enum retry_verdict verdict = retry_after_failure(failure);
    note_failure(e, failure);
    bool spent = verdict == RETRY_COUNTED && e->retries >= e->proxy->config->retries;
    if (verdict == RETRY_NEVER || spent || e->proxy->phase == PROXY_CLOSING) {
        fail_upstream(e);
        return;
    }
    if (verdict == RETRY_COUNTED) e->retries++;
    struct fleet_agent *next = next_agent(e, verdict);
    if (!next) {
        if (failure->connected) {
            fail_upstream(e);
        } else {
            fail_without_agent(e);
        }
        return;
    }
    log_debug("retry", "id=" STR_FMT " agent=%s next=%s reason=\"%s\"",
              STR_ARG(http_router_request_id(e->client)), e->agent->id, next->id, failure->text);
    count_retry(verdict, failure->connected);
    bool stale = verdict == RETRY_FRESH;
    if (stale) e->fresh = true; // rule 7
    fleet_agent_ref(next);      // may be the one that end_attempt() lets go
    end_attempt(e, stale ? LEDGER_ABANDONED : LEDGER_FAILED);
    call(e, next);
    fleet_agent_unref(next);
}

/* The agent is there but takes nothing now. True: another one was asked. */
static bool ask_another(struct exchange *e)
{
    enum retry_verdict verdict = retry_after_status(e->status, e->not_started);
    if (verdict != RETRY_FREE || e->excluded.count == ROUTE_EXCLUDED_MAX) return false;
    route_exclude(&e->excluded, e->agent->cell);
    struct fleet_agent *next = choose(e);
    if (!next) return false;
    if (e->busy_status != 429) e->busy_status = e->status;
    count_retry(verdict, true);
    end_attempt(e, LEDGER_ABANDONED);
    call(e, next);
    return true;
}

/* An answer begins: hold it as long as another agent could still give it. */
static void take_head(struct exchange *e)
{
    if (ask_another(e)) return;
    x_set_state(e, EXCHANGE_HOLDING);
    buf_init(&e->held, HOLD_BYTES);
    /* A head may come long before the first token: the prompt waits its turn. */
    e->deadline_ms =
        uv_now(e->proxy->loop) + (uint64_t)e->proxy->config->first_byte_timeout_s * 1000;
}

/* What happens next, from the state and what the callbacks recorded. May end `e`. */
static void x_advance(struct exchange *e)
{
    struct fleet_agent *agent;
    switch (e->state) {
    case EXCHANGE_READING:
        agent = choose(e);
        if (agent) {
            call(e, agent);
        } else {
            fail_without_agent(e);
        }
        return;
    case EXCHANGE_CALLING:
        if (e->failure) {
            retry_or_fail(e);
        } else {
            take_head(e);
        }
        return;
    case EXCHANGE_HOLDING:
        if (e->failure) {
            retry_or_fail(e);
        } else if (e->ended) {
            finish_whole(e);
        } else {
            begin_streaming(e);
        }
        return;
    case EXCHANGE_STREAMING:
        end_stream(e);
        return;
    case EXCHANGE_DONE:
    case EXCHANGE_FAILED:
        break;
    }
    UNREACHABLE();
}

/* ---- what http_client tells ---- */

static bool is_event_stream(const struct http_headers *headers)
{
    struct str type = http_headers_get(headers, "content-type");
    struct str wanted = STR("text/event-stream");
    return type.len >= wanted.len && str_equal_nocase((struct str){type.data, wanted.len}, wanted);
}

static void on_head(void *arg, int status, const struct http_headers *headers)
{
    struct exchange *e = arg;
    registry_note_reached(e->agent);
    e->status = status;
    e->not_started = str_equal(http_headers_get(headers, "x-lm-not-started"), STR("1"));
    e->head = forward_response(http_exchange_arena(e->client), headers);
    e->is_stream = is_event_stream(headers);
    int64_t length = forward_content_length(headers);
    e->hold = !e->is_stream && length >= 0 && length <= (int64_t)HOLD_BYTES;
    x_advance(e);
}

static void on_body(void *arg, const char *data, size_t len)
{
    struct exchange *e = arg;
    if (e->state == EXCHANGE_HOLDING) {
        if (e->hold && buf_append(&e->held, data, len) == 0) {
            expect_life(e);
            return;
        }
        x_advance(e);
    }
    pass(e, data, len);
}

static void on_end(void *arg)
{
    struct exchange *e = arg;
    e->call = e->relay.upstream = NULL;
    e->ended = true;
    x_advance(e);
}

static void on_fail(void *arg, const struct http_failure *failure)
{
    struct exchange *e = arg;
    e->call = e->relay.upstream = NULL;
    e->failure = failure;
    x_advance(e);
}

/* ---- from outside ---- */

static void refuse(struct http_exchange *x, const struct api_error *error, struct metric *counter)
{
    metric_add(counter, 1);
    api_error_respond(x, error);
}

/* 0, or -1 and *error: what the body asks for can't be routed. */
static int check_model(struct proxy *p, struct str model, struct api_error *error)
{
    struct fleet *fleet = registry_fleet(&p->registry);
    if (fleet_find_model(fleet, model)) return 0;
    bool missed = registry_misses_model(&p->registry, model);
    if (missed || fleet->model_count == 0) {
        api_error_set(error, 503, "service_unavailable", NULL, "%s",
                      missed ? "No agent can take this request now. Please retry shortly."
                             : "No agent is registered at this proxy yet. Please retry shortly.");
        error->retry_after_s = RETRY_AFTER_S;
        return -1;
    }
    int shown = model.len > 256 ? 256 : (int)model.len;
    return api_error_set(error, 404, "model_not_found", "model", "The model `%.*s` does not exist.",
                         shown, model.data);
}

/* A node may turn out to be this proxy, or another one that has it for a node. Whoever sent the
 * request here, we in the end, asks somebody else then. */
static int check_loop(const struct proxy *p, const struct http_request *request,
                      struct api_error *error)
{
    if (!http_headers_has_token(&request->headers, "via", p->via)) return 0;
    api_error_set(error, 503, "request_loop", NULL,
                  "This request has been here before: a node of this proxy leads back to it.");
    error->retry_after_s = RETRY_AFTER_S;
    return -1;
}

void exchange_handle(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    struct proxy *p = arg;
    uint64_t started_ns = clock_ns();
    const struct http_request *request = http_exchange_request(x);
    struct arena *arena = http_exchange_arena(x);
    metric_add(&proxy_metrics.requests_total, 1);
    struct peek peek;
    struct api_error error;
    if (peek_body(arena, request->body, &peek, &error) < 0) {
        refuse(x, &error, &proxy_metrics.requests_invalid_total);
        return;
    }
    if (check_loop(p, request, &error) < 0 || check_model(p, peek.model, &error) < 0) {
        refuse(x, &error,
               error.status == 503 ? &proxy_metrics.requests_no_agent_total
                                   : &proxy_metrics.requests_invalid_total);
        return;
    }
    struct exchange *e = arena_alloc(arena, sizeof *e);
    e->proxy = p;
    e->client = x;
    e->request = request;
    e->peek = peek;
    e->started_ns = started_ns;
    e->request_headers = forward_request(arena, request, http_router_request_id(x), str_of(p->via));
    buf_init(&e->held, HOLD_BYTES);
    list_push_back(&p->exchanges, &e->link);
    p->exchange_count++;
    metric_add(&proxy_metrics.requests_running, 1);
    http_exchange_watch(x, on_gone, on_drain, e);
    x_advance(e);
}

/* As if the agent had failed. */
static void interrupt(struct exchange *e, int code, const char *text)
{
    struct http_failure failure = {
        .code = code,
        .text = text,
        .connected = true,
        .head_received = e->state > EXCHANGE_CALLING,
    };
    http_call_cancel(e->call);
    on_fail(e, &failure);
}

/* The registry has given the agent up, and nothing here says otherwise. */
static bool is_lost(const struct exchange *e, uint64_t now_ms)
{
    if (!atomic_load_explicit(&e->agent->cell->gone, memory_order_relaxed)) return false;
    uint64_t idle_ms = (uint64_t)e->proxy->config->idle_timeout_s * 1000;
    return e->state < EXCHANGE_STREAMING || e->deadline_ms - idle_ms + SILENCE_MS < now_ms;
}

void exchange_sweep(struct proxy *p)
{
    uint64_t now_ms = uv_now(p->loop);
    list_each_safe (e, &p->exchanges, struct exchange, link) {
        if (e->relay.paused) continue; // it is the client's turn, and http_server watches that
        if (is_lost(e, now_ms)) {
            interrupt(e, E_CLOSED, "the agent answers no more");
        } else if (e->deadline_ms && now_ms >= e->deadline_ms) {
            interrupt(e, E_TIMEOUT, "the agent fell silent");
        }
    }
}

void exchange_cut_all(struct proxy *p)
{
    CHECK(p->phase == PROXY_CLOSING); // so that nothing is tried again
    list_each_safe (e, &p->exchanges, struct exchange, link) {
        interrupt(e, E_CANCELLED, "the proxy shuts down");
    }
}
