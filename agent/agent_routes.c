#include "agent/agent_routes.h"

#include "agent/abort_request.h"
#include "agent/agent.h"
#include "agent/agent_metrics.h"
#include "agent/interactive.h"
#include "agent/interactive_request.h"
#include "agent/text_exchange.h"
#include "shared/api/api_pages.h"
#include "shared/base/check.h"
#include "shared/base/json.h"
#include "shared/net/api_error.h"
#include "shared/net/model_card.h"
#include "shared/net/peer_trust.h"
#include "shared/web/web_pages.h"

#include <string.h>

#define JSON_TYPE    "application/json"
#define METRICS_TYPE "text/plain; version=0.0.4; charset=utf-8"

static void respond_json(struct http_exchange *x, int status, struct buf *body)
{
    http_respond(x, status, JSON_TYPE, buf_str(body));
    buf_deinit(body);
}

/* ---- models ---- */

static void put_model(struct json_writer *w, const struct agent *a)
{
    const struct engine *engine = engine_bridge_engine(a->bridge);
    model_card_print(w, str_of(a->config->model_name), a->created,
                     engine ? engine_info(engine)->context_len : 0);
}

static void get_models(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    struct buf body;
    struct json_writer w;
    buf_init(&body, BUF_MAX_INTERNAL);
    json_writer_init(&w, &body);
    json_object_begin(&w);
    json_field_text(&w, "object", "list");
    json_key(&w, "data");
    json_array_begin(&w);
    put_model(&w, arg);
    json_array_end(&w);
    json_object_end(&w);
    respond_json(x, 200, &body);
}

static void get_model(struct http_exchange *x, struct str param, void *arg)
{
    const struct agent *a = arg;
    if (!str_equal(param, str_of(a->config->model_name))) {
        struct api_error e = {0};
        int len = param.len < 200 ? (int)param.len : 200;
        api_error_set(&e, 404, "model_not_found", "model", "The model `%.*s` does not exist.", len,
                      param.data);
        api_error_respond(x, &e);
        return;
    }
    struct buf body;
    struct json_writer w;
    buf_init(&body, BUF_MAX_INTERNAL);
    json_writer_init(&w, &body);
    put_model(&w, a);
    respond_json(x, 200, &body);
}

/* ---- completions ---- */

static const struct {
    const char *path;
    const struct completion_route *route;
} completions[] = {
    {"/v1/chat/completions", &completion_chat},
    {"/v1/completions", &completion_text},
    {"/v1/responses", &completion_responses},
    {"/v1/messages", &completion_messages},
};

static const struct completion_route *find_completion(struct str path)
{
    for (size_t i = 0; i < ARRAY_LEN(completions); i++) {
        if (str_equal(path, str_of(completions[i].path))) return completions[i].route;
    }
    return NULL;
}

static void start_completion(void *arg, struct http_exchange *x)
{
    completion_start(arg, x, find_completion(http_exchange_request(x)->path));
}

static void post_completion(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    struct agent *a = arg;
    request_gate_enter(&a->gate, x, start_completion, &a->service);
}

static void start_embeddings(void *arg, struct http_exchange *x)
{
    embedding_start(arg, x);
}

static void post_embeddings(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    struct agent *a = arg;
    request_gate_enter(&a->gate, x, start_embeddings, &a->embeddings);
}

/* ---- text ---- */

static void post_text(struct http_exchange *x, void *arg, enum text_request_kind kind)
{
    struct agent *a = arg;
    text_exchange_start(&a->service, x, kind);
}

static void post_encode(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    post_text(x, arg, TEXT_ENCODE);
}

static void post_tokenize(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    post_text(x, arg, TEXT_TOKENIZE);
}

static void post_detokenize(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    post_text(x, arg, TEXT_DETOKENIZE);
}

static void post_apply_template(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    post_text(x, arg, TEXT_APPLY_TEMPLATE);
}

static void post_count_tokens(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    post_text(x, arg, TEXT_COUNT_TOKENS);
}

/* ---- conversations ---- */

static void start_interactive(void *arg, struct http_exchange *x)
{
    interactive_start(arg, x);
}

/* What stops a turn doesn't wait for it to end. */
static void post_interactive(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    struct agent *a = arg;
    if (a->gate.max > 0 && interactive_request_is_cancel(http_exchange_request(x)->body)) {
        interactive_start(&a->sessions, x);
    } else {
        request_gate_enter(&a->gate, x, start_interactive, &a->sessions);
    }
}

static void get_sessions(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    struct agent *a = arg;
    session_service_list(&a->sessions, x);
}

/* False: it is none, and that was answered. */
static bool read_session_id(struct http_exchange *x, struct str param, int64_t *id)
{
    if (str_to_int(param, id) == 0 && *id >= 0 && *id <= SESSION_ID_MAX) return true;
    struct api_error e = {0};
    api_error_set(&e, 400, "invalid_value", "session_id",
                  "A session id is an integer from 0 to 2^53 - 1.");
    api_error_respond(x, &e);
    return false;
}

static void get_session(struct http_exchange *x, struct str param, void *arg)
{
    struct agent *a = arg;
    int64_t id;
    if (read_session_id(x, param, &id)) session_service_get(&a->sessions, x, id);
}

static void delete_session(struct http_exchange *x, struct str param, void *arg)
{
    struct agent *a = arg;
    int64_t id;
    if (read_session_id(x, param, &id)) interactive_delete(&a->sessions, x, id);
}

/* ---- for proxies ---- */

static void get_prefixes(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    struct agent *a = arg;
    const struct http_request *r = http_exchange_request(x);
    struct api_error e = {0};
    if (!peer_is_fleet(r, a->config->join_key)) {
        api_error_set(&e, 403, "fleet_only", NULL,
                      "This is for the proxies of the fleet, which show its join key "
                      "(x-lm-join-key), or come from this machine where none is set.");
        api_error_respond(x, &e);
        return;
    }
    if (a->service.phase == SERVICE_LOADING) {
        completion_refuse(&a->service, x);
        return;
    }
    int64_t since = 0;
    struct str value = http_query_get(http_exchange_arena(x), r->query, "since");
    if (value.data && (str_to_int(value, &since) != 0 || since < 0)) {
        api_error_set(&e, 400, "invalid_value", "since", "'since' is a version: an integer.");
        api_error_respond(x, &e);
        return;
    }
    struct buf body;
    buf_init(&body, BUF_MAX_INTERNAL);
    agent_update_prefixes(a);
    prefix_index_print(&a->prefixes, (uint64_t)since, &body);
    http_respond(x, 200, "text/plain; charset=utf-8", buf_str(&body));
    buf_deinit(&body);
}

/* ---- probes ---- */

static void respond_status(struct http_exchange *x, int http_status, const char *status)
{
    struct buf body;
    struct json_writer w;
    buf_init(&body, BUF_MAX_INTERNAL);
    json_writer_init(&w, &body);
    json_object_begin(&w);
    json_field_text(&w, "status", status);
    json_object_end(&w);
    respond_json(x, http_status, &body);
}

/* Should this process be killed? Not while it loads or drains, but when its engine hangs. */
static void get_health(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    const struct agent *a = arg;
    if (a->service.phase == SERVICE_LOADING) {
        respond_status(x, 200, "loading");
    } else {
        bool is_healthy = agent_is_healthy(a);
        respond_status(x, is_healthy ? 200 : 503, is_healthy ? "healthy" : "unhealthy");
    }
}

/* Should requests be sent here? */
static void get_ready(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    const struct agent *a = arg;
    switch (a->service.phase) {
    case SERVICE_LOADING:
        respond_status(x, 503, "loading");
        return;
    case SERVICE_DRAINING:
        respond_status(x, 503, "draining");
        return;
    case SERVICE_OPEN:
        respond_status(x, agent_is_healthy(a) ? 200 : 503,
                       agent_is_healthy(a) ? "ready" : "unhealthy");
    }
}

static void get_metrics(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    struct agent *a = arg;
    const struct engine *engine = engine_bridge_engine(a->bridge);
    if (engine) {
        struct engine_stats stats;
        engine_stats(engine, &stats);
        agent_metrics_take(&stats);
    }
    metric_set(&agent_metrics.connections, http_server_connections(a->server));
    metric_set(&agent_metrics.ready, a->service.phase == SERVICE_OPEN && agent_is_healthy(a));
    struct buf body;
    buf_init(&body, BUF_MAX_INTERNAL);
    agent_metrics_print(&body);
    http_respond(x, 200, METRICS_TYPE, buf_str(&body));
    buf_deinit(&body);
}

/* ---- what the API is ---- */

/* Strangers to a server with keys don't hear the model's name. */
static void get_openapi(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    const struct agent *a = arg;
    struct api_error e;
    bool is_known = !a->guard.is_required || guard_check(&a->guard, http_exchange_request(x),
                                                         a->config->model_name, &e) == 0;
    struct api_openapi_options options = {
        .daemon = API_AGENT,
        .model = is_known ? str_of(a->config->model_name) : (struct str){0},
        .needs_key = a->guard.is_required,
    };
    api_pages_openapi(x, &options);
}

static void get_reference(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    (void)arg;
    api_pages_reference(x, API_AGENT);
}

/* ---- operators ---- */

static void post_abort(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    abort_request_handle(arg, x);
}

/* Without keys any page that a browser of this network shows could ask for it. */
static bool is_from_page(const struct http_request *r)
{
    return http_headers_get(&r->headers, "origin").data ||
           http_headers_get(&r->headers, "sec-fetch-site").data;
}

static void terminate(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    struct agent *a = arg;
    struct api_error e = {0};
    if (!a->config->allow_terminate_by_client) { // LMDeploy's words
        api_error_set(&e, 400, NULL, NULL,
                      "The server can not be terminated. Please add --allow-terminate-by-client "
                      "when start the server.");
        api_error_respond(x, &e);
    } else if (!a->guard.is_required && is_from_page(http_exchange_request(x))) {
        api_error_set(&e, 403, "browser_refused", NULL,
                      "A page in a browser may end this server only if it has API keys.");
        api_error_respond(x, &e);
    } else if (a->service.phase == SERVICE_LOADING) {
        completion_refuse(&a->service, x);
    } else {
        http_respond(x, 200, NULL, STR(""));
        agent_terminate(a);
    }
}

/* ---- pages ---- */

static void get_page(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    const struct agent *a = arg;
    web_pages_respond(x, a->config->web_pages);
}

static const struct http_route routes[] = {
    {"GET", "/v1/models", get_models},
    {"GET", "/v1/models/{id}", get_model},
    {"POST", "/v1/chat/completions", post_completion},
    {"POST", "/v1/completions", post_completion},
    {"POST", "/v1/chat/interactive", post_interactive},
    {"POST", "/v1/responses", post_completion},
    {"POST", "/v1/messages", post_completion},
    {"POST", "/v1/messages/count_tokens", post_count_tokens},
    {"POST", "/v1/embeddings", post_embeddings},
    {"POST", "/v1/encode", post_encode},
    {"POST", "/tokenize", post_tokenize},
    {"POST", "/detokenize", post_detokenize},
    {"POST", "/apply-template", post_apply_template},
    {"GET", "/v1/sessions", get_sessions},
    {"GET", "/v1/sessions/{id}", get_session},
    {"DELETE", "/v1/sessions/{id}", delete_session},
    {"POST", "/abort_request", post_abort},
    {"GET", "/terminate", terminate}, // LMDeploy's
    {"POST", "/terminate", terminate},
    {"GET", "/lm/prefixes", get_prefixes},
    {"GET", "/health", get_health},
    {"GET", "/ready", get_ready},
    {"GET", "/metrics", get_metrics},
    {"GET", "/chat", get_page},
    {"GET", "/web/{file}", get_page},
    {"GET", "/", api_pages_explorer}, // from here on API_PAGES_ROUTES
    {"GET", "/explorer/{file}", api_pages_explorer},
    {"GET", "/redoc", get_reference},
    {"GET", "/openapi.json", get_openapi},
};

/* ---- who may ask ---- */

/* Probes and scrapers have no keys, nor has a browser that opens a page; what is for the fleet asks
 * for the join key. */
static bool is_open(struct str path)
{
    return str_equal(path, STR("/health")) || str_equal(path, STR("/ready")) ||
           str_equal(path, STR("/metrics")) || str_starts_with(path, STR("/lm/")) ||
           web_pages_have(path) || api_pages_have(path); // also where they are closed
}

/* Routes whose handler asks for a dispatch itself. */
static bool is_dispatched(const struct http_request *r)
{
    return str_equal(r->method, STR("POST")) &&
           (find_completion(r->path) || str_equal(r->path, STR("/v1/chat/interactive")) ||
            str_equal(r->path, STR("/v1/embeddings")));
}

static bool admit(struct http_exchange *x, void *arg)
{
    struct agent *a = arg;
    const struct http_request *r = http_exchange_request(x);
    struct api_error e;
    bool may = is_open(r->path) || guard_check(&a->guard, r, a->config->model_name, &e) == 0;
    if (!may || !is_dispatched(r)) completion_dispatch_refused(&a->service, x);
    if (may) return true;
    http_exchange_add_header(x, STR("x-lm-not-started"), STR("1"));
    api_key_refuse(x, &e);
    return false;
}

void agent_routes_init(struct http_router *router, struct agent *a)
{
    router->routes = routes;
    router->count = ARRAY_LEN(routes);
    if (a->config->disable_fastapi_docs) router->count -= API_PAGES_ROUTES;
    router->admit = admit;
    router->arg = a;
}
