#include "proxy/proxy_routes.h"

#include "proxy/admin.h"
#include "proxy/exchange.h"
#include "proxy/model_list.h"
#include "proxy/proxy.h"
#include "proxy/proxy_metrics.h"
#include "proxy/registry_embedded.h"
#include "shared/base/check.h"
#include "shared/base/json.h"

static void respond_status(struct http_exchange *x, struct proxy *p, bool ok)
{
    static const char *const names[] = {
        [PROXY_STARTING] = "starting", [PROXY_READY] = "ready",      [PROXY_LEAVING] = "draining",
        [PROXY_DRAINING] = "draining", [PROXY_CLOSING] = "draining",
    };
    struct buf body;
    struct json_writer w;
    buf_init(&body, BUF_MAX_INTERNAL);
    json_writer_init(&w, &body);
    json_object_begin(&w);
    json_field_text(&w, "status", names[p->phase]);
    json_field_int(&w, "agents", registry_fleet(&p->registry)->count);
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
    struct proxy *p = arg;
    respond_status(x, p, p->phase == PROXY_READY);
}

static const struct http_route routes[] = {
    {"POST", "/v1/chat/completions", exchange_handle},
    {"POST", "/v1/completions", exchange_handle},
    {"POST", "/v1/embeddings", exchange_handle},
    {"GET", "/v1/models", model_list_handle},
    {"GET", "/v1/models/{id}", model_list_handle_one},
    {"GET", "/health", get_health},
    {"GET", "/ready", get_ready},
    {"GET", "/metrics", proxy_metrics_handle},
    {"GET", "/nodes/status", registry_embedded_status},
    {"POST", "/nodes/add", registry_embedded_add},
    {"POST", "/nodes/remove", admin_remove},
    {"POST", "/nodes/terminate", admin_terminate},
    {"POST", "/nodes/terminate_all", admin_terminate_all},
    {"GET", "/nodes/terminate_all", admin_terminate_all}, // LMDeploy's
};

void proxy_routes_init(struct http_router *router, struct proxy *p)
{
    router->routes = routes;
    router->count = ARRAY_LEN(routes);
    router->arg = p;
}
