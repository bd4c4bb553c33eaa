#include "proxy/abort_routes.h"

#include "proxy/fleet_ask.h"
#include "proxy/proxy.h"
#include "proxy/tenant.h"
#include "shared/base/check.h"
#include "shared/net/api_error.h"

#include <stdlib.h>
#include <string.h>

#define BODY_MAX ((size_t)64 << 10)
#define ABORT_MS 5000

struct abortion {
    struct http_exchange *client;
    struct fleet_ask *ask;
};

static void on_gone(void *arg)
{
    struct abortion *k = arg;
    fleet_ask_cancel(k->ask);
    free(k);
}

/* The lower, the better: somebody did it; somebody says why not; nobody can; nobody answered. */
static int rank_of(const struct fleet_answer *answer)
{
    switch (answer->status) {
    case 200:
        return 0;
    case 0:
        return 3;
    case 501:
        return 2;
    default:
        return 1;
    }
}

static void on_done(void *arg, const struct fleet_answer *answers, int count)
{
    struct abortion *k = arg;
    struct http_exchange *client = k->client;
    const struct fleet_answer *best = NULL;
    free(k);
    for (int i = 0; i < count; i++) {
        if (!best || rank_of(&answers[i]) < rank_of(best)) best = &answers[i];
    }
    if (best && best->status == 200) {
        http_respond(client, 200, NULL, STR(""));
    } else if (best && best->status != 0) {
        bool is_json = best->body.len > 0 && best->body.data[0] == '{';
        http_respond(client, best->status,
                     is_json ? "application/json" : "text/plain; charset=utf-8", best->body);
    } else {
        struct api_error error;
        api_error_set(&error, 503, "service_unavailable", NULL,
                      "No agent has answered. Please retry shortly.");
        error.retry_after_s = 1;
        api_error_respond(client, &error);
    }
}

static int list_agents(struct worker *w, struct fleet_agent *agents[FLEET_ASK_MAX])
{
    const struct fleet *fleet = worker_fleet(w);
    int count = 0;
    for (int i = 0; i < fleet->count && count < FLEET_ASK_MAX; i++) {
        if (!fleet->agents[i]->foreign) agents[count++] = fleet->agents[i];
    }
    return count;
}

static int put_headers(const struct proxy *p, const char *tenant, struct http_header out[3])
{
    int count = 0;
    out[count++] = (struct http_header){STR("x-lm-tenant"), str_of(tenant)};
    if (p->config->join_key)
        out[count++] = (struct http_header){STR("x-lm-join-key"), str_of(p->config->join_key)};
    if (p->agent_authorization)
        out[count++] = (struct http_header){STR("authorization"), str_of(p->agent_authorization)};
    return count;
}

static void ask(struct worker *w, struct abortion *k, const char *tenant)
{
    struct fleet_agent *agents[FLEET_ASK_MAX];
    struct http_header headers[3];
    struct fleet_ask_options options = {
        .client = w->client,
        .agents = agents,
        .agent_count = list_agents(w, agents),
        .method = "POST",
        .target = STR("/abort_request"),
        .headers = headers,
        .header_count = put_headers(w->proxy, tenant, headers),
        .body = http_exchange_request(k->client)->body,
        .timeout_ms = ABORT_MS,
        .on_done = on_done,
        .arg = k,
    };
    k->ask = fleet_ask_start(w->loop, &options);
}

void abort_routes_handle(struct http_exchange *x, struct str param, void *worker)
{
    (void)param;
    struct worker *w = worker;
    const struct http_request *request = http_exchange_request(x);
    const struct api_key *key;
    struct api_error error;
    char tenant[SESSION_TENANT_BYTES] = ""; // without keys: whoever's
    if (api_key_ring_authorize(&w->proxy->keys, &w->keys, request, &key, &error) < 0) {
        api_key_refuse(x, &error);
        return;
    }
    if (request->body.len > BODY_MAX) {
        api_error_set(&error, 413, NULL, NULL, "The body has more than %zu KiB.", BODY_MAX >> 10);
        api_error_respond(x, &error);
        return;
    }
    if (key) tenant_name(request, key->id, tenant);
    struct abortion *k = xcalloc(1, sizeof *k);
    k->client = x;
    http_exchange_watch(x, on_gone, NULL, k);
    ask(w, k, tenant);
}
