#include "proxy/proxy_routes.h"

#include "proxy/abort_routes.h"
#include "proxy/admin.h"
#include "proxy/exchange.h"
#include "proxy/model_list.h"
#include "proxy/proxy.h"
#include "proxy/proxy_metrics.h"
#include "proxy/proxy_status.h"
#include "proxy/recent.h"
#include "proxy/registry_embedded.h"
#include "proxy/session_routes.h"
#include "shared/api/api_pages.h"
#include "shared/base/check.h"
#include "shared/base/json.h"
#include "shared/web/web_pages.h"

static void respond_status(struct http_exchange *x, struct worker *worker, bool ok)
{
    struct buf body;
    struct json_writer w;
    buf_init(&body, BUF_MAX_INTERNAL);
    json_writer_init(&w, &body);
    json_object_begin(&w);
    json_field_text(&w, "status", proxy_phase_name(proxy_phase(worker->proxy)));
    json_field_int(&w, "agents", worker_fleet(worker)->count);
    json_object_end(&w);
    http_respond(x, ok ? 200 : 503, "application/json", buf_str(&body));
    buf_deinit(&body);
}

/* Should this process be killed? It answers, so no. */
static void get_health(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    respond_status(x, arg, true);
}

/* Should requests be sent here? Independent of agents: without any the proxy's own 503 with
 * Retry-After says more than a service that has no endpoint left. */
static void get_ready(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    struct worker *w = arg;
    respond_status(x, w, proxy_phase(w->proxy) == PROXY_READY);
}

/* Examples name a model that can be asked; not to strangers where clients need keys. */
static void get_openapi(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    struct worker *w = arg;
    const struct fleet *fleet = worker_fleet(w);
    bool needs_key = w->proxy->keys.required;
    struct api_openapi_options options = {
        .daemon = API_PROXY,
        .model = !needs_key && fleet->model_count > 0 ? fleet->models[0].name : (struct str){0},
        .needs_key = needs_key,
    };
    api_pages_openapi(x, &options);
}

static void get_reference(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    (void)arg;
    api_pages_reference(x, API_PROXY);
}

static void get_page(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    const struct worker *w = arg;
    web_pages_respond(x, w->proxy->config->web_pages);
}

/* Whoever reaches the admin port may see the fleet, whatever others may. */
static void get_admin_page(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    (void)arg;
    web_pages_respond(x, true);
}

static const struct http_route routes[] = {
    {"POST", "/v1/chat/completions", exchange_handle},
    {"POST", "/v1/completions", exchange_handle},
    {"POST", "/v1/chat/interactive", exchange_handle},
    {"GET", "/v1/sessions", session_routes_list},
    {"GET", "/v1/sessions/{id}", session_routes_one},
    {"DELETE", "/v1/sessions/{id}", session_routes_one},
    {"POST", "/v1/embeddings", exchange_handle},
    {"POST", "/v1/responses", exchange_handle},
    {"POST", "/v1/messages", exchange_handle},
    {"POST", "/v1/messages/count_tokens", exchange_handle},
    {"POST", "/v1/encode", exchange_handle},
    {"POST", "/v1/rerank", exchange_handle},
    {"POST", "/v1/score", exchange_handle},
    {"POST", "/pooling", exchange_handle},
    {"POST", "/tokenize", exchange_handle},
    {"POST", "/detokenize", exchange_handle},
    {"POST", "/apply-template", exchange_handle},
    {"POST", "/abort_request", abort_routes_handle},
    {"GET", "/v1/models", model_list_handle},
    {"GET", "/v1/models/{id}", model_list_handle_one},
    {"GET", "/health", get_health},
    {"GET", "/ready", get_ready},
    {"GET", "/metrics", proxy_metrics_handle},
    {"GET", "/lm/status", proxy_status_handle},
    {"GET", "/lm/recent", recent_handle},
    {"GET", "/chat", get_page},
    {"GET", "/dashboard", get_page},
    {"GET", "/web/{file}", get_page},
    {"GET", "/nodes/status", registry_embedded_status},
    {"POST", "/nodes/add", registry_embedded_add},
    {"POST", "/nodes/remove", admin_remove},
    {"POST", "/nodes/terminate", admin_terminate},
    {"POST", "/nodes/terminate_all", admin_terminate_all},
    {"GET", "/nodes/terminate_all", admin_terminate_all}, // LMDeploy's
    {"GET", "/", api_pages_explorer},                     // from here on API_PAGES_ROUTES
    {"GET", "/explorer/{file}", api_pages_explorer},
    {"GET", "/redoc", get_reference},
    {"GET", "/openapi.json", get_openapi},
};

static const struct http_route admin_routes[] = {
    {"GET", "/health", get_health},
    {"GET", "/ready", get_ready},
    {"GET", "/metrics", proxy_metrics_handle},
    {"GET", "/lm/status", proxy_status_handle},
    {"GET", "/lm/recent", recent_handle},
    {"GET", "/dashboard", get_admin_page},
    {"GET", "/web/{file}", get_admin_page},
    {"GET", "/nodes/status", registry_embedded_status},
    {"POST", "/nodes/add", registry_embedded_add_admin},
    {"POST", "/nodes/remove", admin_port_remove},
    {"POST", "/nodes/terminate", admin_port_terminate},
    {"POST", "/nodes/terminate_all", admin_port_terminate_all},
    {"GET", "/nodes/terminate_all", admin_port_terminate_all},
};

void proxy_routes_init(struct http_router *router, struct worker *w)
{
    const struct proxy *p = w->proxy;
    router->routes = routes;
    router->count = ARRAY_LEN(routes);
    if (p->config->disable_fastapi_docs) router->count -= API_PAGES_ROUTES;
    router->arg = w;
    router->cors = (struct http_cors){
        .origins = p->cors_origins[0] ? p->cors_origins : NULL,
        .methods = p->cors_methods,
        .headers = p->cors_headers,
        .credentials = p->config->allow_credentials,
    };
}

void proxy_routes_init_admin(struct http_router *router, struct worker *w)
{
    router->routes = admin_routes;
    router->count = ARRAY_LEN(admin_routes);
    router->arg = w;
}
