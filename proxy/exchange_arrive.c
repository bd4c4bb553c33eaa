/* exchange_arrive.c - a request has come: who asks, what for, and may he. Whatever is refused here
 * is refused before anything is kept. */
#define LOG_MODULE "exchange"
#include "proxy/exchange_state.h"

#include "proxy/access_log.h"
#include "proxy/forward.h"
#include "proxy/proxy.h"
#include "proxy/proxy_metrics.h"
#include "proxy/tenant.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/rng.h"
#include "shared/net/api_error.h"
#include "shared/net/peer_trust.h"

#include <string.h>

/* e has not been started. */
static void refuse(struct exchange *e, const struct api_error *error)
{
    e->status = error->status;
    e->error = error->code;
    exchange_set_state(e, EXCHANGE_FAILED);
    access_log_write(e->worker->proxy->access_log, e);
    exchange_close_prelude(e);
    api_key_refuse(e->client, error);
}

/* 0, or -1 and *error: what the body asks for can't be routed. */
static int check_model(struct worker *w, struct str model, struct api_error *error)
{
    struct registry *registry = &w->proxy->registry;
    struct fleet *fleet = worker_fleet(w);
    if (fleet_find_model(fleet, model)) return 0;
    registry_lock(registry);
    bool missed = registry_misses_model(registry, model);
    registry_unlock(registry);
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

/* ---- reading it ---- */

static struct str keep(struct http_exchange *x, struct str s)
{
    return (struct str){arena_strndup(http_exchange_arena(x), s.data, s.len), s.len};
}

static int read_conversation(struct exchange *e, struct api_error *error)
{
    uint64_t random;
    random_bytes(&random, sizeof random);
    struct conversation_fields fields;
    conversation_fields_of(&e->pre->peek, e->request->body, &fields);
    return conversation_prepare(&e->pre->arena, &fields, worker_fleet(e->worker), random,
                                &e->pre->conversation, error);
}

/* A prompt of token ids is as long as it says; of text, what such texts took. */
static void estimate(struct exchange *e)
{
    const struct peek *peek = &e->pre->peek;
    struct model_estimate stats = model_stats_get(&e->worker->proxy->model_stats, e->model);
    e->prompt_bytes = peek->bytes;
    e->prompt_tokens = (double)peek->tokens_given +
                       model_estimate_prompt(&stats, (double)peek->bytes, peek->images);
    e->output_tokens =
        model_estimate_output(&stats, (double)peek->max_tokens) * (double)peek->choices;
}

int exchange_open_prelude(struct exchange *e, struct api_error *error)
{
    struct exchange_prelude *pre = exchange_spares_take_prelude(e->worker->spares);
    pre->owner = e;
    e->pre = pre;
    tenant_name(e->request, e->key_id, pre->tenant);
    struct peek_options options = {.route = e->route};
    int rc = peek_body(&pre->arena, e->request->body, &options, &pre->peek, error);
    if (rc == 0 && e->route == PEEK_INTERACTIVE) rc = read_conversation(e, error);
    if (rc < 0) return rc;
    if (e->model.data) return 0; // read for the second time
    bool is_interactive = e->route == PEEK_INTERACTIVE;
    e->model = keep(e->client, is_interactive ? pre->conversation.model : pre->peek.model);
    e->body = e->request->body;
    if (is_interactive && pre->conversation.is_allotted) {
        e->body = keep(e->client, pre->conversation.body);
    }
    e->wants_stream = pre->peek.stream;
    estimate(e);
    return 0;
}

void exchange_close_prelude(struct exchange *e)
{
    if (!e->pre) return;
    admission_leave(&e->worker->admission, &e->pre->ticket);
    exchange_spares_give_prelude(e->worker->spares, e->pre);
    e->pre = NULL;
}

/* ---- who asks ---- */

static void fill_ticket(struct exchange *e, const struct api_key *key)
{
    const struct peek *peek = &e->pre->peek;
    struct str asked =
        http_headers_get(&e->request->headers, e->worker->proxy->config->priority_header);
    e->pre->ticket.tenant = key ? key->tenant : peer_tenant(e->request, NULL);
    e->class = api_key_class(key, asked, peek->has_priority, peek->priority);
    e->pre->ticket.class = e->class;
    e->pre->ticket.tokens = (int64_t)e->prompt_tokens;
    e->pre->ticket.bytes = (int64_t)e->body.len;
}

static int admit(struct exchange *e, const struct api_key *key, struct api_error *error)
{
    struct proxy *p = e->worker->proxy;
    if (check_loop(p, e->request, error) < 0) return -1;
    if (key && api_key_check_model(key, e->model, error) < 0) return -1;
    if (check_model(e->worker, e->model, error) < 0) return -1;
    int rc = limits_admit(&p->limits, key, e->prompt_tokens + e->output_tokens, clock_ms(),
                          &e->grant, &e->pre->quota, error);
    if (rc < 0) limits_add_headers(e->client, &e->pre->quota);
    return rc;
}

static struct metric *counter_of(const struct api_error *error)
{
    return error->status == 503   ? &proxy_metrics.requests_no_agent_total
           : error->status == 429 ? &proxy_metrics.requests_refused_total
                                  : &proxy_metrics.requests_invalid_total;
}

static struct exchange *make(struct worker *w, struct http_exchange *x)
{
    struct proxy *p = w->proxy;
    struct arena *arena = http_exchange_arena(x);
    struct exchange *e = arena_alloc(arena, sizeof *e);
    e->worker = w;
    e->client = x;
    e->request = http_exchange_request(x);
    e->route = peek_route_of(e->request->path);
    e->started_ns = clock_ns();
    e->number = p->number_base + atomic_fetch_add(&p->requests_numbered, 1);
    e->trace = trace_of(arena, &e->request->headers, p->config->trace);
    e->key_id = "";
    buf_init(&e->held, EXCHANGE_HOLD_BYTES);
    buf_init(&e->resume_body, BUF_MAX_INTERNAL);
    return e;
}

void exchange_handle(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    struct worker *w = arg;
    struct proxy *p = w->proxy;
    const struct api_key *key;
    struct api_error error;
    metric_add(&proxy_metrics.requests_total, 1);
    retry_budget_note_request(&p->retry_budget);
    struct exchange *e = make(w, x);
    if (api_key_ring_authorize(&p->keys, &w->keys, e->request, &key, &error) < 0) {
        refuse(e, &error);
        return;
    }
    if (key) e->key_id = arena_strndup(http_exchange_arena(x), key->id, strlen(key->id));
    if (exchange_open_prelude(e, &error) < 0 || admit(e, key, &error) < 0) {
        metric_add(counter_of(&error), 1);
        refuse(e, &error);
        return;
    }
    fill_ticket(e, key);
    exchange_start(e);
}
