#define LOG_MODULE "admin"
#include "proxy/admin.h"

#include "proxy/proxy.h"
#include "shared/base/clock.h"
#include "shared/base/json.h"
#include "shared/base/log.h"
#include "shared/net/api_error.h"
#include "shared/net/peer_trust.h"

#include <stdio.h>

#define BODY_MAX     ((size_t)64 << 10)
#define TERMINATE_MS 5000

/* ---- who may ---- */

static bool shows_admin_key(const struct proxy *p, const struct http_request *request)
{
    const char *key = p->config->admin_key;
    if (!key) return false;
    struct str given = http_headers_get(&request->headers, "x-lm-admin-key");
    if (!given.data) given = peer_bearer_token(request);
    return given.data && peer_secret_equals(str_trim(given), str_of(key));
}

/* A browser that was given a name for 127.0.0.1 (DNS rebinding) sends that name. Whoever means us
 * says an address, localhost or, in a container, a name without a domain. */
static bool names_a_local_host(struct str host)
{
    struct str name = host;
    if (!host.data || (host.len && host.data[0] == '[')) return true; // IPv6, with its colons
    (void)str_split(&host, ':', &name);
    if (!memchr(name.data, '.', name.len)) return true;
    for (size_t i = 0; i < name.len; i++)
        if (name.data[i] != '.' && (name.data[i] < '0' || name.data[i] > '9')) return false;
    return true;
}

/* A browser page, or a reverse proxy, speaks there for somebody else. */
static bool speaks_for_others(const struct http_request *request)
{
    static const char *const signs[] = {"origin", "sec-fetch-site", "forwarded", "x-forwarded-for"};
    for (size_t i = 0; i < sizeof signs / sizeof signs[0]; i++) {
        if (http_headers_get(&request->headers, signs[i]).data) return true;
    }
    return false;
}

bool admin_is_allowed(const struct proxy *p, const struct http_request *request)
{
    if (shows_admin_key(p, request)) return true;
    if (!names_a_local_host(http_headers_get(&request->headers, "host"))) return false;
    return request->peer_is_loopback && !speaks_for_others(request);
}

/* On --admin-port: who reaches it may, but no page in a browser that was led there. */
static bool is_allowed_there(const struct proxy *p, const struct http_request *request)
{
    if (admin_is_allowed(p, request)) return true;
    return str_equal(request->method, STR("POST")) && !speaks_for_others(request);
}

static bool shows_join_key(const struct proxy *p, const struct http_request *request)
{
    struct str given = http_headers_get(&request->headers, "x-lm-join-key");
    return given.data && peer_secret_equals(given, str_of(p->config->join_key));
}

/* Where clients need keys strangers reach the port, and a stranger's node would read prompts. */
bool admin_may_join(const struct proxy *p, const struct http_request *request)
{
    if (p->config->join_key) return shows_join_key(p, request);
    /* A key of ours must not reach a node that a stranger has added. */
    bool has_keys = p->keys.required || p->config->agent_key;
    return !has_keys || admin_is_allowed(p, request);
}

bool admin_port_may_join(const struct proxy *p, const struct http_request *request)
{
    if (p->config->join_key) return shows_join_key(p, request);
    return is_allowed_there(p, request);
}

/* ---- requests ---- */

static void respond_text(struct http_exchange *x, int status, const char *text)
{
    struct buf body;
    struct json_writer w;
    buf_init(&body, BUF_MAX_INTERNAL);
    json_writer_init(&w, &body);
    json_put_text(&w, text);
    http_respond(x, status, "application/json", buf_str(&body));
    buf_deinit(&body);
}

enum door { DOOR_MAIN, DOOR_ADMIN };

/* False: the request was refused and answered. */
static bool admit(const struct proxy *p, struct http_exchange *x, enum door door)
{
    const struct http_request *request = http_exchange_request(x);
    bool ok = door == DOOR_MAIN ? admin_is_allowed(p, request) : is_allowed_there(p, request);
    if (ok) return true;
    struct api_error error;
    api_error_set(&error, 403, "admin_only", NULL,
                  "This changes the fleet: show the admin key, or ask from the proxy's machine.");
    api_error_respond(x, &error);
    return false;
}

/* The node's URL, as LMDeploy's two generations send it: ?node_url=, or a body {"url"}. In the
 * arena; NULL: the request was refused and answered. */
static const char *read_url(struct http_exchange *x)
{
    const struct http_request *request = http_exchange_request(x);
    struct arena *arena = http_exchange_arena(x);
    struct str url = http_query_get(arena, request->query, "node_url");
    if (!url.data && request->body.len > 0 && request->body.len <= BODY_MAX) {
        struct json *root = json_parse(request->body.data, request->body.len, NULL);
        const struct json *v = json_get(root, "url");
        if (v && json_type(v) == JSON_STRING) {
            const char *text = json_string(v, &url.len);
            url.data = arena_strndup(arena, text, url.len);
        }
        json_destroy(root);
    }
    if (url.data && url.len > 0) {
        while (url.len > 1 && url.data[url.len - 1] == '/')
            url.len--;
        return arena_strndup(arena, url.data, url.len);
    }
    struct api_error error;
    api_error_set(&error, 400, NULL, "url",
                  "Name the node: a JSON body {\"url\": ...}, or ?node_url=...");
    api_error_respond(x, &error);
    return NULL;
}

static void remove_node(struct worker *w, struct http_exchange *x, enum door door)
{
    struct registry *registry = &w->proxy->registry;
    if (!admit(w->proxy, x, door)) return;
    const char *url = read_url(x);
    if (!url) return;
    registry_lock(registry);
    bool found = registry_remove(registry, url);
    registry_unlock(registry);
    respond_text(x, found ? 200 : 404,
                 found ? "Deleted successfully" : "Failed to delete, please check the input url.");
}

/* ---- terminate ---- */

/* GET <node>/terminate to one or all nodes; answered when all have answered. Lives in the arena. */
struct termination {
    struct worker *worker;
    struct http_exchange *client;
    struct termination_call *calls;
    int count, open, failed;
    const char *only; // URL; NULL: all nodes
};

struct termination_call {
    struct termination *owner;
    struct http_call *call; // NULL: over
    char url[AGENT_URL_BYTES];
    char target[600];
    int status;
};

static void answer_termination(struct termination *t)
{
    char text[AGENT_URL_BYTES + 64];
    if (!t->only) {
        snprintf(text, sizeof text, "%s",
                 t->failed ? "Failed to terminate all nodes" : "All nodes terminated successfully");
    } else if (t->failed) {
        snprintf(text, sizeof text, "Failed to terminate node %s", t->only);
    } else {
        snprintf(text, sizeof text, "Terminated successfully");
    }
    respond_text(t->client, t->failed ? 502 : 200, text);
}

static void call_over(struct termination_call *c, bool ok)
{
    struct termination *t = c->owner;
    c->call = NULL;
    if (ok) {
        struct registry *registry = &t->worker->proxy->registry;
        registry_lock(registry);
        registry_remove(registry, c->url);
        registry_unlock(registry);
    } else {
        t->failed++;
    }
    log_info("terminate", "url=%s ok=%s", c->url, ok ? "yes" : "no");
    if (--t->open == 0) answer_termination(t);
}

static void on_head(void *arg, int status, const struct http_headers *headers)
{
    (void)headers;
    struct termination_call *c = arg;
    c->status = status;
}

static void on_body(void *arg, const char *data, size_t len)
{
    (void)arg;
    (void)data;
    (void)len;
}

static void on_end(void *arg)
{
    struct termination_call *c = arg;
    call_over(c, c->status == 200);
}

static void on_fail(void *arg, const struct http_failure *failure)
{
    struct termination_call *c = arg;
    log_debug("terminate failed", "url=%s reason=\"%s\"", c->url, failure->text);
    call_over(c, false);
}

static void on_gone(void *arg)
{
    struct termination *t = arg;
    for (int i = 0; i < t->count; i++) {
        if (t->calls[i].call) http_call_cancel(t->calls[i].call);
    }
}

static void start_call(struct termination *t, const char *url_text)
{
    struct http_url url;
    if (http_url_parse(url_text, &url, NULL) < 0) return; // what the registry holds was checked
    struct termination_call *c = &t->calls[t->count++];
    c->owner = t;
    snprintf(c->url, sizeof c->url, "%s", url_text);
    snprintf(c->target, sizeof c->target, "%s/terminate", url.path);
    const char *authorization = t->worker->proxy->agent_authorization;
    struct http_header key = {STR("authorization"), str_of(authorization)};
    struct http_call_options options = {
        .scheme = url.scheme,
        .host = url.host,
        .port = url.port,
        .method = "GET",
        .target = str_of(c->target),
        .headers = &key,
        .header_count = authorization ? 1 : 0,
        .head_timeout_ms = TERMINATE_MS,
        .idle_timeout_ms = TERMINATE_MS,
        .on_head = on_head,
        .on_body = on_body,
        .on_end = on_end,
        .on_fail = on_fail,
        .arg = c,
    };
    t->open++;
    c->call = http_call_start(t->worker->client, &options);
}

static void terminate(struct worker *w, struct http_exchange *x, const char *only)
{
    struct arena *arena = http_exchange_arena(x);
    struct termination *t = arena_alloc(arena, sizeof *t);
    struct registry *registry = &w->proxy->registry;
    t->worker = w;
    t->client = x;
    t->only = only;
    registry_lock(registry);
    t->calls = arena_alloc(arena, ((size_t)registry->count + 1) * sizeof *t->calls);
    list_each (m, &registry->members, struct registry_member, link) {
        if (m->presence != REGISTRY_PRESENT) continue;
        if (!only || strcmp(only, m->record.url) == 0) start_call(t, m->record.url);
    }
    registry_unlock(registry);
    if (t->open > 0) {
        http_exchange_watch(x, on_gone, NULL, t);
        return;
    }
    if (only) t->failed = 1; // no such node
    answer_termination(t);
}

static void terminate_one(struct worker *w, struct http_exchange *x, enum door door)
{
    if (!admit(w->proxy, x, door)) return;
    const char *url = read_url(x);
    if (url) terminate(w, x, url);
}

static void terminate_all(struct worker *w, struct http_exchange *x, enum door door)
{
    if (admit(w->proxy, x, door)) terminate(w, x, NULL);
}

/* ---- the doors ---- */

#define HANDLERS(name, what)                                                        \
    void admin_##name(struct http_exchange *x, struct str param, void *worker)      \
    {                                                                               \
        (void)param;                                                                \
        what(worker, x, DOOR_MAIN);                                                 \
    }                                                                               \
    void admin_port_##name(struct http_exchange *x, struct str param, void *worker) \
    {                                                                               \
        (void)param;                                                                \
        what(worker, x, DOOR_ADMIN);                                                \
    }

HANDLERS(remove, remove_node)
HANDLERS(terminate, terminate_one)
HANDLERS(terminate_all, terminate_all)
