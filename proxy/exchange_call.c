/* exchange_call.c - one attempt at one agent: what it is sent, and what follows from how it ends
 * while nothing has gone to the client. */
#define LOG_MODULE "exchange"
#include "proxy/exchange_state.h"

#include "proxy/forward.h"
#include "proxy/prefix_table.h"
#include "proxy/proxy.h"
#include "proxy/proxy_metrics.h"
#include "proxy/retry.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/net/prefix_chain.h"

#include <string.h>

#define KV_TOKENS_GUESS 65536 // of an agent that doesn't say how much it can cache

/* ---- what it is sent ---- */

static void put(struct exchange *e, const char *name, struct str value)
{
    struct http_headers *h = &e->pre->request;
    CHECK(h->count < e->pre->common + FORWARD_EXTRA);
    h->items[h->count++] = (struct http_header){str_of(name), value};
}

static void put_prefix(struct exchange *e)
{
    const struct peek *peek = &e->pre->peek;
    struct buf value;
    buf_init(&value, BUF_MAX_INTERNAL);
    if (prefix_chain_print(&value, peek->marks, peek->mark_count, peek->bytes)) {
        char *text = arena_strndup(&e->pre->arena, value.data, value.len);
        put(e, "x-lm-prefix", (struct str){text, value.len});
    }
    buf_deinit(&value);
}

/* <proxy>;<counter>;<request>;<attempt> */
static struct str dispatch_text(struct exchange *e)
{
    char *text = arena_alloc(&e->pre->arena, 96), *at = text;
    at = str_put(at, str_of(e->worker->proxy->id));
    *at++ = ';';
    at = str_put_uint(at, e->at.entry.counter);
    *at++ = ';';
    at = str_put_hex64(at, e->number);
    *at++ = ';';
    at = str_put_uint(at, (uint64_t)e->attempts);
    return (struct str){text, (size_t)(at - text)};
}

/* Of our own hop; agents believe it from whom they trust (shared/net/peer_trust.h). */
static void put_hop_headers(struct exchange *e)
{
    const struct proxy *p = e->worker->proxy;
    struct arena *arena = &e->pre->arena;
    char session[AFFINITY_HOP_BYTES];
    put(e, "x-lm-dispatch", dispatch_text(e));
    if (e->wants_stream && e->route != PEEK_OTHER) put(e, "x-lm-hop", STR("1"));
    /* Nobody's is said, too, where agents would take our key for the client's. */
    if (e->pre->tenant[0] || p->agent_authorization) {
        put(e, "x-lm-tenant", str_of(e->pre->tenant));
    }
    if (e->affinity && affinity_hop(e->affinity, session)) {
        size_t len = strlen(session);
        put(e, "x-lm-session", (struct str){arena_strndup(arena, session, len), len});
    }
    if (p->config->join_key) put(e, "x-lm-join-key", str_of(p->config->join_key));
    if (e->resume_body.len > 0) {
        size_t record_len = e->resume_body.len - e->body.len;
        put(e, "x-lm-resume", str_of(arena_printf(arena, "%zu", record_len)));
    }
    if (e->route != PEEK_INTERACTIVE) put_prefix(e); // whose history is there by itself
}

static void prepare_headers(struct exchange *e, const struct fleet_agent *agent)
{
    struct proxy *p = e->worker->proxy;
    struct exchange_prelude *pre = e->pre;
    if (!pre->request.items) {
        /* A key of ours is nobody else's business. */
        bool keeps_authorization = !p->agent_authorization && e->key_id[0] == 0;
        pre->request =
            forward_request(&pre->arena, e->request, keeps_authorization,
                            http_router_request_id(e->client), str_of(p->via), &e->trace);
        pre->common = pre->request.count;
    }
    pre->request.count = pre->common;
    if (p->agent_authorization) put(e, "authorization", str_of(p->agent_authorization));
    if (!agent->foreign) put_hop_headers(e);
}

static struct str target_of(struct exchange *e, const struct fleet_agent *agent)
{
    struct str target = e->request->target, query = e->request->query;
    if (target.data[0] != '/') { // absolute form
        target = e->request->path;
        bool follows = query.len > 0 && query.data == target.data + target.len + 1;
        if (follows) target.len += 1 + query.len;
    }
    if (!agent->path[0]) return target;
    return str_of(arena_printf(&e->pre->arena, "%s" STR_FMT, agent->path, STR_ARG(target)));
}

/* ---- sending ---- */

/* What the agent will hold, once it has this prompt. */
static void note_prefix(struct exchange *e, const struct fleet_agent *agent)
{
    const struct peek *peek = &e->pre->peek;
    struct proxy *p = e->worker->proxy;
    if (peek->mark_count == 0 || peek->bytes == 0 || e->route == PEEK_INTERACTIVE) return;
    double tokens_per_byte = e->prompt_tokens / (double)peek->bytes;
    int column = agent->cell->column;
    if (agent->foreign) {
        prefix_table_learn(p->prefix_table, peek->marks, peek->mark_count, tokens_per_byte, column,
                           KV_TOKENS_GUESS);
    } else if (atomic_load_explicit(&agent->cell->has_prefixes, memory_order_relaxed)) {
        prefix_table_predict(p->prefix_table, peek->marks, peek->mark_count, tokens_per_byte,
                             column, clock_ms());
    }
}

static void on_head(void *arg, int status, const struct http_headers *headers);
static void on_body(void *arg, const char *data, size_t len);
static void on_end(void *arg);

static void on_fail(void *arg, const struct http_failure *failure)
{
    exchange_on_failure(arg, failure);
}

static void take_entry(struct exchange *e, struct fleet_agent *agent, bool is_probe)
{
    e->at.agent = fleet_agent_ref(agent);
    e->dispatched_ns = clock_ns();
    double tokens = e->prompt_tokens - e->cached_tokens;
    ledger_take(&e->worker->ledger, &e->at.entry, agent->cell, tokens > 0 ? tokens : 0, is_probe,
                e->dispatched_ns);
    e->attempts++;
    metric_add(&proxy_metrics.dispatches_total, 1);
    if (e->cached_tokens > 0) metric_add(&proxy_metrics.prefix_routed_total, 1);
    if (e->attempts == 1) {
        uint64_t waited = e->queued_ns ? e->dispatched_ns - e->queued_ns : 0;
        metric_observe(&proxy_metrics.overhead_seconds,
                       (double)(e->dispatched_ns - e->started_ns - waited) / 1e9);
    }
}

/* The head of a resumed stream comes before its prompt is computed. */
static int head_timeout_ms(const struct exchange *e)
{
    if (e->state == EXCHANGE_RESUMING) return EXCHANGE_RESUME_HEAD_MS;
    return (int)e->worker->proxy->config->first_byte_timeout_s * 1000;
}

void exchange_call(struct exchange *e, struct fleet_agent *agent, bool is_probe)
{
    struct worker *w = e->worker;
    const struct proxy_config *config = w->proxy->config;
    if (e->state != EXCHANGE_RESUMING) exchange_set_state(e, EXCHANGE_CALLING);
    e->deadline_ms = 0;
    take_entry(e, agent, is_probe);
    prepare_headers(e, agent);
    note_prefix(e, agent);
    struct http_call_options options = {
        .scheme = agent->scheme,
        .host = agent->host,
        .port = agent->port,
        .method = "POST",
        .target = target_of(e, agent),
        .headers = e->pre->request.items,
        .header_count = e->pre->request.count,
        .body = e->resume_body.len > 0 ? buf_str(&e->resume_body) : e->body,
        .connect_timeout_ms = (int)config->connect_timeout_ms,
        .head_timeout_ms = head_timeout_ms(e),
        .idle_timeout_ms = INT32_MAX, // exchange_sweep() knows better what silence means
        .fresh = e->pre->fresh,
        .on_head = on_head,
        .on_body = on_body,
        .on_end = on_end,
        .on_fail = on_fail,
        .arg = e,
    };
    e->at.call = http_call_start(w->client, &options);
}

/* ---- what comes back ---- */

static bool is_event_stream(const struct http_headers *headers)
{
    struct str type = http_headers_get(headers, "content-type");
    struct str wanted = STR("text/event-stream");
    return type.len >= wanted.len && str_equal_nocase((struct str){type.data, wanted.len}, wanted);
}

/* "<prompt>,<completion>,<cached>" */
static bool read_usage(struct str value, struct hop_usage *out)
{
    int64_t numbers[3];
    struct str part;
    for (int i = 0; i < 3; i++) {
        if (!str_split(&value, ',', &part) || str_to_int(str_trim(part), &numbers[i]) < 0 ||
            numbers[i] < 0 || numbers[i] > INT32_MAX) {
            return false;
        }
    }
    *out = (struct hop_usage){numbers[0], numbers[1], numbers[2]};
    return true;
}

static bool says_one(const struct http_headers *headers, const char *name)
{
    return str_equal(http_headers_get(headers, name), STR("1"));
}

static void on_head(void *arg, int status, const struct http_headers *headers)
{
    struct exchange *e = arg;
    bool is_ours = !e->at.agent->foreign;
    registry_note_reached(e->at.agent);
    e->at.status = status;
    e->at.not_started = says_one(headers, "x-lm-not-started");
    if (is_ours) {
        struct str usage = http_headers_get(headers, "x-lm-usage");
        e->at.has_usage = usage.data && read_usage(usage, &e->at.usage);
        if (e->affinity) {
            affinity_hear_turn(e->affinity, http_headers_get(headers, "x-lm-session-turn"));
        }
    }
    bool is_events = is_event_stream(headers);
    if (e->state == EXCHANGE_RESUMING) {
        e->at.not_started |= !is_events;
        exchange_take_resumed_head(e);
        return;
    }
    e->status = status;
    e->is_events = is_events;
    e->is_hop = is_ours && is_events && status == 200 && e->route != PEEK_OTHER;
    e->is_resumable = e->is_hop && says_one(headers, "x-lm-resumable");
    int64_t length = forward_content_length(headers);
    e->hold = !is_events && length >= 0 && length <= (int64_t)EXCHANGE_HOLD_BYTES;
    e->pre->head = forward_response(&e->pre->arena, headers, is_ours);
    exchange_advance(e);
}

static void on_body(void *arg, const char *data, size_t len)
{
    struct exchange *e = arg;
    exchange_on_body(e, data, len);
}

static void on_end(void *arg)
{
    struct exchange *e = arg;
    e->at.call = e->relay.upstream = NULL;
    exchange_advance(e);
}

void exchange_on_failure(struct exchange *e, const struct http_failure *failure)
{
    e->at.call = e->relay.upstream = NULL;
    e->at.failure = failure;
    exchange_advance(e);
}

void exchange_note_failure(struct exchange *e, const struct http_failure *failure)
{
    struct registry *registry = &e->worker->proxy->registry;
    if (failure->connected || http_failure_is_ours(failure)) return;
    uint64_t now_ms = clock_ms();
    registry_lock(registry);
    if (failure->code == UV_ECONNREFUSED) {
        registry_note_refused(registry, e->at.agent, now_ms);
    } else {
        registry_note_unreachable(registry, e->at.agent, now_ms);
    }
    registry_unlock(registry);
}

/* ---- another one ---- */

static void count_retry(enum retry_verdict verdict, bool connected)
{
    metric_add(verdict == RETRY_FRESH     ? &proxy_metrics.retries_stale_total
               : verdict == RETRY_COUNTED ? &proxy_metrics.retries_lost_total
               : connected                ? &proxy_metrics.retries_busy_total
                                          : &proxy_metrics.retries_connect_total,
               1);
}

static bool is_hard(const struct exchange *e)
{
    return e->affinity && e->affinity->kind == SESSION_HARD;
}

static void fail_lost(struct exchange *e)
{
    struct api_error error;
    api_error_set(&error, 502, "upstream_failed", NULL,
                  "The agent was lost before it answered. Please retry.");
    metric_add(&proxy_metrics.upstream_failures_total, 1);
    exchange_fail(e, &error);
}

static void fail_upstream(struct exchange *e)
{
    const struct http_failure *failure = e->at.failure;
    bool timed_out = failure->code == E_TIMEOUT || failure->code == UV_ETIMEDOUT;
    log_warn("request failed", "id=" STR_FMT " agent=%s attempts=%d reason=\"%s\"",
             STR_ARG(http_router_request_id(e->client)), e->at.agent->id, e->attempts,
             failure->text);
    if (!timed_out) {
        fail_lost(e);
        return;
    }
    struct api_error error;
    api_error_set(&error, 504, "upstream_timeout", NULL, "The agent didn't answer in time.");
    metric_add(&proxy_metrics.upstream_failures_total, 1);
    exchange_fail(e, &error);
}

static bool may_retry(const struct exchange *e, enum retry_verdict verdict)
{
    if (verdict == RETRY_NEVER || proxy_phase(e->worker->proxy) == PROXY_CLOSING) return false;
    int most = (int)e->worker->proxy->config->retries;
    if (verdict == RETRY_COUNTED && e->retries >= most) return false;
    return e->pre->excluded.count < ROUTE_EXCLUDED_MAX && e->attempts < EXCHANGE_ATTEMPTS;
}

/* The same agent on a new connection, or one that was only slow to connect (a backlog that overflowed
 * in a burst drops packets) and is the only one. */
static bool wants_same_agent(struct exchange *e, enum retry_verdict verdict)
{
    if (verdict == RETRY_FRESH) {
        e->pre->fresh = true;
        return true;
    }
    const struct http_failure *failure = e->at.failure;
    bool silent = !failure->connected && failure->code == E_TIMEOUT;
    if (!silent || is_hard(e) || e->retries >= e->worker->proxy->config->retries) return false;
    const struct fleet_model *model = fleet_find_model(worker_fleet(e->worker), e->model);
    if (!model || model->count > 1) return false;
    e->retries++;
    return true;
}

/* next NULL: a hard session, whose owner is to be found anew (rule 8 of exchange.c). */
static void retry(struct exchange *e, struct fleet_agent *next, bool is_probe,
                  enum retry_verdict verdict)
{
    const struct http_failure *failure = e->at.failure;
    log_debug("retry", "id=" STR_FMT " agent=%s next=%s reason=\"%s\"",
              STR_ARG(http_router_request_id(e->client)), e->at.agent->id, next ? next->id : "",
              failure->text);
    count_retry(verdict, failure->connected);
    exchange_record_failure(e, failure->text);
    bool was_connected = failure->connected;
    bool says_nothing = verdict == RETRY_FRESH || http_failure_is_ours(failure);
    if (e->is_hop) hop_stream_deinit(&e->hop); // a first event that came in part
    e->is_hop = false;
    if (next) fleet_agent_ref(next); // may be the one that failed
    exchange_end_attempt(e, says_nothing ? LEDGER_ABANDONED : LEDGER_FAILED);
    if (next) {
        exchange_call(e, next, is_probe);
    } else {
        exchange_locate_again(e, was_connected);
    }
    fleet_agent_unref(next);
}

static void exclude_only(struct exchange *e, const struct fleet_cell *cell)
{
    e->pre->excluded.count = 0;
    route_exclude(&e->pre->excluded, cell);
}

/* Somebody else; when all have failed this request, those who did earlier: they may have been started
 * anew meanwhile. What kills whom it reaches goes on no longer than --retries allows. */
static struct fleet_agent *choose_another(struct exchange *e, enum retry_verdict verdict,
                                          bool *is_probe)
{
    const struct fleet_cell *failed = e->at.agent->cell;
    if (is_hard(e)) { // waits for who has its history, and so outlives what excluded the others
        exclude_only(e, failed);
        return NULL;
    }
    route_exclude(&e->pre->excluded, failed);
    struct fleet_agent *next = exchange_choose_now(e, is_probe);
    bool is_counted = verdict == RETRY_COUNTED;
    if (next || e->pre->excluded.count < 2) return next;
    if (!is_counted && e->retries >= (int)e->worker->proxy->config->retries) return NULL;
    exclude_only(e, failed);
    next = exchange_choose_now(e, is_probe);
    if (next && !is_counted) e->retries++;
    return next;
}

void exchange_retry_or_fail(struct exchange *e)
{
    const struct http_failure *failure = e->at.failure;
    enum retry_verdict verdict = retry_after_failure(failure);
    exchange_note_failure(e, failure);
    if (!may_retry(e, verdict)) {
        fail_upstream(e);
        return;
    }
    if (verdict == RETRY_COUNTED) e->retries++;
    struct fleet_agent *next = NULL;
    bool is_probe = false;
    if (wants_same_agent(e, verdict)) {
        next = e->at.agent;
    } else {
        next = choose_another(e, verdict, &is_probe);
    }
    if (next || is_hard(e)) {
        retry(e, next, is_probe, verdict);
    } else if (failure->connected) {
        fail_upstream(e);
    } else {
        exchange_fail_without_agent(e);
    }
}

/* A hard session's owner is loading, or leaves: where the session goes on is found out anew. */
static void ask_owner_again(struct exchange *e)
{
    exclude_only(e, e->at.agent->cell);
    count_retry(RETRY_FREE, true);
    exchange_record_failure(e, http_status_text(e->status));
    exchange_end_attempt(e, LEDGER_ABANDONED);
    exchange_locate_again(e, false);
}

/* The agent is there but takes nothing now. True: e is another's, or over. */
static bool ask_another(struct exchange *e)
{
    enum retry_verdict verdict = retry_after_status(e->status, e->at.not_started);
    if (!may_retry(e, verdict)) return false;
    if (is_hard(e)) {
        bool is_away = e->status == 503 && e->at.not_started;
        if (is_away) ask_owner_again(e);
        return is_away;
    }
    route_exclude(&e->pre->excluded, e->at.agent->cell);
    bool is_probe;
    struct fleet_agent *next = exchange_choose_now(e, &is_probe);
    if (!next) return false; // which costs nothing of the budget
    if (!retry_budget_take(&e->worker->proxy->retry_budget)) {
        route_give_back(&(struct route_choice){.agent = next, .is_probe = is_probe});
        metric_add(&proxy_metrics.retries_denied_total, 1);
        return false;
    }
    if (e->pre->busy_status != 429) e->pre->busy_status = e->status;
    count_retry(verdict, true);
    exchange_record_failure(e, http_status_text(e->status));
    exchange_end_attempt(e, LEDGER_ABANDONED);
    exchange_call(e, next, is_probe);
    return true;
}

/* The attempt that broke off runs at that agent still, and there is no other one. Not the client's
 * conflict. */
static bool is_repetition(const struct exchange *e)
{
    return e->status == 409 && e->at.not_started && e->attempts > 1 && !e->at.agent->foreign &&
           e->route != PEEK_INTERACTIVE; // whose sessions have conflicts of their own
}

/* An answer begins: hold it as long as another agent could still give it. */
void exchange_take_head(struct exchange *e)
{
    if (ask_another(e)) return;
    if (is_repetition(e)) {
        exchange_record_failure(e, "its first attempt runs there still");
        exchange_end_attempt(e, LEDGER_ABANDONED);
        fail_lost(e);
        return;
    }
    exchange_set_state(e, EXCHANGE_HOLDING);
    if (e->is_hop) {
        hop_stream_init(&e->hop, e->route == PEEK_INTERACTIVE ? HOP_NDJSON : HOP_SSE,
                        &e->worker->proxy->resume_budget);
    }
    /* A head may come long before the first token: the prompt waits its turn. */
    e->deadline_ms =
        uv_now(e->worker->loop) + (uint64_t)e->worker->proxy->config->first_byte_timeout_s * 1000;
}
