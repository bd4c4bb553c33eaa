/* http_router.c - see http_router.h. CORS answers as Starlette's middleware gives them, since
 * browser clients of LMDeploy were written against those. */
#include "shared/net/http_router.h"

#include "shared/base/arena.h"
#include "shared/base/rng.h"
#include "shared/net/api_error.h"
#include "shared/net/http_connection.h"

#include <stdio.h>
#include <string.h>

#define REQUEST_ID_MAX    128
#define REQUEST_ID_CHARS  24
#define PREFLIGHT_MAX_AGE "600"
#define ALL_METHODS       "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
#define SAFE_HEADERS      "Accept, Accept-Language, Content-Language, Content-Type" // always allowed
/* What scripts may read of an answer beside the few headers that they always may. */
#define EXPOSED_HEADERS                                                                        \
    "x-request-id, retry-after, x-should-retry, openai-processing-ms, x-lm-session-id, "       \
    "x-lm-session-new, x-lm-session-moved, x-lm-durable, x-ratelimit-limit-requests, "         \
    "x-ratelimit-limit-tokens, x-ratelimit-remaining-requests, x-ratelimit-remaining-tokens, " \
    "x-ratelimit-reset-requests, x-ratelimit-reset-tokens"

const struct http_cors http_cors_default = {
    .origins = "*",
    .methods = "*",
    .headers = "*",
    .credentials = true,
};

struct str http_router_request_id(const struct http_exchange *x)
{
    return x->request_id;
}

static bool is_printable(struct str s)
{
    for (size_t i = 0; i < s.len; i++) {
        if (s.data[i] <= 0x20 || s.data[i] >= 0x7f) return false;
    }
    return true;
}

static void assign_request_id(struct http_exchange *x)
{
    struct str id = http_headers_get(&x->request.headers, "x-request-id");
    if (id.len == 0 || id.len > REQUEST_ID_MAX || !is_printable(id)) {
        static const char prefix[] = "req_";
        size_t len = sizeof prefix - 1 + REQUEST_ID_CHARS;
        char *text = arena_alloc(&x->arena, len + 1);
        memcpy(text, prefix, sizeof prefix - 1);
        random_id(text + sizeof prefix - 1, REQUEST_ID_CHARS);
        id = (struct str){text, len};
    }
    x->request_id = id; // http_exchange.c writes it into every answer
}

/* ---- CORS ---- */

static bool list_has(const char *list, struct str wanted)
{
    struct str rest = str_of(list), item;
    while (str_split(&rest, ',', &item)) {
        if (str_equal(str_trim(item), wanted)) return true;
    }
    return false;
}

static bool is_any(const char *list)
{
    return !list || list_has(list, STR("*"));
}

static bool origin_allowed(const struct http_cors *cors, struct str origin)
{
    return is_any(cors->origins) || list_has(cors->origins, origin);
}

static void add_cors_headers(struct http_exchange *x, const struct http_cors *cors)
{
    struct str origin = http_headers_get(&x->request.headers, "origin");
    if (!cors->origins || !origin.data || !origin_allowed(cors, origin)) return;
    // With cookies the wildcard is not valid: the origin has to be named.
    bool cookies = http_headers_get(&x->request.headers, "cookie").data != NULL;
    bool wildcard = is_any(cors->origins) && !(cookies && cors->credentials);
    http_exchange_add_header(x, STR("access-control-allow-origin"), wildcard ? STR("*") : origin);
    if (!wildcard) http_exchange_add_header(x, STR("vary"), STR("Origin"));
    if (cors->credentials) {
        http_exchange_add_header(x, STR("access-control-allow-credentials"), STR("true"));
    }
    http_exchange_add_header(x, STR("access-control-expose-headers"), STR(EXPOSED_HEADERS));
}

/* A preflight asks on behalf of a request that a browser is about to send. */
static bool is_preflight(const struct http_request *r, const struct http_cors *cors)
{
    return cors->origins && str_equal(r->method, STR("OPTIONS")) &&
           http_headers_get(&r->headers, "origin").data &&
           http_headers_get(&r->headers, "access-control-request-method").data;
}

static bool list_has_nocase(const char *list, struct str wanted)
{
    struct str rest = str_of(list), item;
    while (str_split(&rest, ',', &item)) {
        if (str_equal_nocase(str_trim(item), wanted)) return true;
    }
    return false;
}

static bool headers_allowed(const struct http_cors *cors, struct str wanted)
{
    struct str name;
    while (!is_any(cors->headers) && str_split(&wanted, ',', &name)) {
        name = str_trim(name);
        if (!list_has_nocase(SAFE_HEADERS, name) && !list_has_nocase(cors->headers, name))
            return false;
    }
    return true;
}

/* What a preflight asks for and may not: "origin, headers"; "" if it may all. */
static void list_failures(const struct http_request *r, const struct http_cors *cors,
                          const char *methods, char out[64])
{
    struct str origin = http_headers_get(&r->headers, "origin");
    struct str method = http_headers_get(&r->headers, "access-control-request-method");
    struct str headers = http_headers_get(&r->headers, "access-control-request-headers");
    const struct {
        bool is_allowed;
        const char *name;
    } checks[] = {
        {origin_allowed(cors, origin), "origin"},
        {list_has(methods, method), "method"},
        {headers_allowed(cors, headers), "headers"},
    };
    size_t len = 0;
    out[0] = 0;
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++) {
        if (checks[i].is_allowed) continue;
        len += (size_t)snprintf(out + len, 64 - len, "%s%s", len ? ", " : "", checks[i].name);
    }
}

static void add_allowed_headers(struct http_exchange *x, const struct http_cors *cors)
{
    struct str name = STR("access-control-allow-headers");
    struct str wanted = http_headers_get(&x->request.headers, "access-control-request-headers");
    if (!is_any(cors->headers)) {
        const char *both = arena_printf(&x->arena, "%s, %s", SAFE_HEADERS, cors->headers);
        http_exchange_add_header(x, name, str_of(both));
    } else if (wanted.data) {
        http_exchange_add_header(x, name, wanted);
    }
}

static void answer_preflight(struct http_exchange *x, const struct http_cors *cors)
{
    struct str origin = http_headers_get(&x->request.headers, "origin");
    const char *methods = is_any(cors->methods) ? ALL_METHODS : cors->methods;
    bool wildcard = is_any(cors->origins) && !cors->credentials;
    char failures[64], text[96];
    list_failures(&x->request, cors, methods, failures);
    if (origin_allowed(cors, origin))
        http_exchange_add_header(x, STR("access-control-allow-origin"),
                                 wildcard ? STR("*") : origin);
    if (!wildcard) http_exchange_add_header(x, STR("vary"), STR("Origin"));
    http_exchange_add_header(x, STR("access-control-allow-methods"), str_of(methods));
    http_exchange_add_header(x, STR("access-control-max-age"), STR(PREFLIGHT_MAX_AGE));
    add_allowed_headers(x, cors);
    if (cors->credentials)
        http_exchange_add_header(x, STR("access-control-allow-credentials"), STR("true"));
    snprintf(text, sizeof text, "Disallowed CORS %s", failures);
    http_respond(x, failures[0] ? 400 : 200, "text/plain; charset=utf-8",
                 failures[0] ? str_of(text) : STR("OK"));
}

/* ---- routes ---- */

/* True when the pattern matches; *param gets the raw rest for "{...}" patterns. */
static bool pattern_matches(const char *pattern, struct str path, struct str *param)
{
    *param = (struct str){NULL, 0};
    const char *brace = strchr(pattern, '{');
    if (!brace) return str_equal(str_of(pattern), path);
    size_t fixed = (size_t)(brace - pattern);
    if (path.len <= fixed || memcmp(path.data, pattern, fixed) != 0) return false;
    *param = (struct str){path.data + fixed, path.len - fixed};
    return true;
}

struct match {
    const struct http_route *route; // NULL: no route of that method
    struct str param;               // raw
    char allow[64];                 // methods of the path; "": no such path
};

static void allow_method(struct match *m, const char *method)
{
    size_t len = strlen(m->allow);
    if (list_has(m->allow, str_of(method))) return;
    snprintf(m->allow + len, sizeof m->allow - len, "%s%s", len ? ", " : "", method);
}

/* Nearly every request: a path without parameter and a method that it has. */
static const struct http_route *find_exact(const struct http_router *router, struct str method,
                                           struct str path)
{
    for (int i = 0; i < router->count; i++) {
        const struct http_route *route = &router->routes[i];
        if (strncmp(route->pattern, path.data, path.len) == 0 && route->pattern[path.len] == 0 &&
            str_equal(str_of(route->method), method) && !strchr(route->pattern, '{')) {
            return route;
        }
    }
    return NULL;
}

/* Exact patterns win over parameters: "/v1/models/status" isn't a model if it is a route. */
static struct match find_route(const struct http_router *router, struct str method, struct str path)
{
    struct match m = {.route = NULL};
    struct str wanted = str_equal(method, STR("HEAD")) ? STR("GET") : method;
    for (int with_param = 0; with_param < 2 && m.allow[0] == 0; with_param++) {
        for (int i = 0; i < router->count; i++) {
            const struct http_route *route = &router->routes[i];
            struct str param;
            bool has_param = strchr(route->pattern, '{') != NULL;
            if (has_param != (with_param == 1)) continue;
            if (!pattern_matches(route->pattern, path, &param)) continue;
            allow_method(&m, route->method);
            if (strcmp(route->method, "GET") == 0) allow_method(&m, "HEAD");
            if (m.route || !str_equal(str_of(route->method), wanted)) continue;
            m.route = route;
            m.param = param;
        }
    }
    if (m.allow[0]) allow_method(&m, "OPTIONS");
    return m;
}

static void answer_unroutable(struct http_exchange *x, const struct match *m)
{
    const struct http_request *r = &x->request;
    struct api_error error;
    if (m->allow[0] == 0) {
        api_error_set(&error, 404, "unknown_url", NULL, "Invalid URL (%.*s %.*s)",
                      STR_ARG(r->method), STR_ARG(r->path));
        api_error_respond(x, &error);
        return;
    }
    http_exchange_add_header(x, STR("allow"), str_of(m->allow));
    if (str_equal(r->method, STR("OPTIONS"))) {
        http_respond(x, 204, NULL, STR(""));
        return;
    }
    api_error_set(&error, 405, "method_not_supported", NULL,
                  "Not allowed to %.*s on %.*s. (Allowed: %s)", STR_ARG(r->method),
                  STR_ARG(r->path), m->allow);
    api_error_respond(x, &error);
}

void http_router_dispatch(struct http_exchange *x, void *arg)
{
    const struct http_router *router = arg;
    const struct http_request *r = &x->request;
    assign_request_id(x);
    if (is_preflight(r, &router->cors)) {
        answer_preflight(x, &router->cors);
        return;
    }
    add_cors_headers(x, &router->cors);
    if (router->admit && !router->admit(x, router->arg)) return;
    struct match m = {.route = find_exact(router, r->method, r->path)};
    if (!m.route) m = find_route(router, r->method, r->path);
    if (!m.route) {
        answer_unroutable(x, &m);
        return;
    }
    if (m.param.data) {
        m.param = http_percent_decode(&x->arena, m.param);
        if (!m.param.data) {
            struct api_error error;
            api_error_set(&error, 400, NULL, NULL, "The percent-encoding of the URL is malformed.");
            api_error_respond(x, &error);
            return;
        }
    }
    m.route->handle(x, m.param, router->arg);
}
