#include "shared/net/http_router.h"

#include "tests/unit/net/server_test.h"

static char id_seen[200];

static void on_route(struct http_exchange *x, struct str param, void *arg)
{
    struct str id = http_router_request_id(x);
    snprintf(id_seen, sizeof id_seen, "%.*s", (int)id.len, id.data);
    struct buf out;
    buf_init(&out, BUF_MAX_INTERNAL);
    buf_printf(&out, "%s(%.*s)", (const char *)arg, STR_ARG(param));
    if (!param.data) buf_append_char(&out, '!');
    http_respond(x, 200, "text/plain", buf_str(&out));
    buf_deinit(&out);
}

static void on_stream(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    (void)arg;
    http_respond_begin(x, 200, "text/event-stream", false);
    http_respond_end(x, "data: x\n\n", 9);
}

static const struct http_route routes[] = {
    {"GET", "/v1/models", on_route},         {"GET", "/v1/models/{id}", on_route},
    {"GET", "/v1/models/special", on_route}, // exact wins, wherever it stands
    {"DELETE", "/v1/models/{id}", on_route}, {"POST", "/v1/chat", on_route},
    {"GET", "/stream", on_stream},
};

static struct http_router router;

static void start_router(struct http_cors cors)
{
    router = (struct http_router){
        .routes = routes, .count = ARRAY_LEN(routes), .cors = cors, .arg = (void *)"arg"};
    start_server((struct http_server_options){.on_request = http_router_dispatch, .arg = &router});
}

/* One request on a connection of its own; the answer's text, until the next one. */
static const char *fetch(const char *request, const char *headers)
{
    static struct raw_client c;
    static bool used;
    if (used) raw_close(&c);
    used = true;
    raw_open(&c, http_server_port(server));
    raw_puts(&c, request);
    raw_puts(&c, " HTTP/1.1\r\nHost: h\r\nConnection: close\r\n");
    raw_puts(&c, headers);
    raw_puts(&c, "\r\n");
    EXPECT(SPIN_UNTIL(raw_ended(&c), 3000));
    return raw_text(&c);
}

static void stop_router(void)
{
    fetch("GET /", ""); // leaves nothing of the last answer behind but its own
    stop_server();
}

static bool has(const char *text, const char *part)
{
    bool found = strstr(text, part) != NULL;
    if (!found) printf("no \"%s\" in: %s\n", part, text);
    return found;
}

static void test_routes(void)
{
    start_router(http_cors_default);
    EXPECT(has(fetch("GET /v1/models", ""), "arg()!"));
    EXPECT(has(fetch("GET /v1/models?x=1", ""), "arg()!"));
    EXPECT(has(fetch("GET /v1/models/smol", ""), "arg(smol)"));
    EXPECT(has(fetch("GET /v1/models/org%2Fname%20x", ""), "arg(org/name x)"));
    EXPECT(has(fetch("GET /v1/models/org/name", ""), "arg(org/name)")); // the rest of the path
    EXPECT(has(fetch("GET /v1/models/special", ""), "arg()!"));
    EXPECT(has(fetch("DELETE /v1/models/smol", ""), "arg(smol)"));
    EXPECT(has(fetch("GET http://other/v1/models", ""), "arg()!"));
    EXPECT_INT(first_status(fetch("GET /v1/models/%zz", "")), 400);
    EXPECT_INT(first_status(fetch("GET /v1/models/a%00", "")), 400);
    EXPECT_INT(first_status(fetch("GET /v1/models/", "")), 404); // an empty parameter is none
    EXPECT_INT(first_status(fetch("GET /v1/model", "")), 404);
    EXPECT_INT(first_status(fetch("GET /v1/modelsx", "")), 404);
    stop_router();
}

static void test_not_found(void)
{
    start_router(http_cors_default);
    const char *text = fetch("GET /nope", "");
    EXPECT_INT(first_status(text), 404);
    EXPECT(has(text, "content-type: application/json\r\n"));
    EXPECT(has(text,
               "{\"error\":{\"message\":\"Invalid URL (GET /nope)\",\"type\":\"invalid_request_"
               "error\",\"param\":null,\"code\":\"unknown_url\"}"));
    EXPECT(has(text, "\"object\":\"error\""));
    EXPECT(has(text, "\"code\":404}"));
    text = fetch("POST /v1/models", "Content-Length: 0\r\n");
    EXPECT_INT(first_status(text), 405);
    EXPECT(has(text, "allow: GET, HEAD, OPTIONS\r\n"));
    EXPECT(has(text, "\"code\":\"method_not_supported\""));
    text = fetch("PUT /v1/models/x", "Content-Length: 0\r\n");
    EXPECT_INT(first_status(text), 405);
    EXPECT(has(text, "allow: GET, HEAD, DELETE, OPTIONS\r\n"));
    text = fetch("OPTIONS /v1/chat", "");
    EXPECT_INT(first_status(text), 204);
    EXPECT(has(text, "allow: POST, OPTIONS\r\n"));
    EXPECT_INT(first_status(fetch("OPTIONS *", "")), 404);
    EXPECT_INT(first_status(fetch("HEAD /v1/chat", "")), 405); // HEAD stands in for GET only
    stop_router();
}

static void test_head(void)
{
    start_router(http_cors_default);
    const char *text = fetch("HEAD /v1/models", "");
    EXPECT_INT(first_status(text), 200);
    EXPECT(has(text, "content-length: 6\r\n"));
    EXPECT(strstr(text, "arg(") == NULL);
    text = fetch("HEAD /nope", "");
    EXPECT_INT(first_status(text), 404);
    EXPECT(strstr(text, "error") == NULL);
    stop_router();
}

static void test_request_id(void)
{
    start_router(http_cors_default);
    EXPECT(has(fetch("GET /v1/models", "X-Request-Id: abc-123\r\n"), "x-request-id: abc-123\r\n"));
    EXPECT_STR(id_seen, "abc-123");
    const char *text = fetch("GET /v1/models", "");
    EXPECT(has(text, "x-request-id: req_"));
    EXPECT(strncmp(id_seen, "req_", 4) == 0 && strlen(id_seen) == 28);
    EXPECT(has(text, id_seen));
    EXPECT(has(fetch("GET /nope", ""), "x-request-id: req_"));
    EXPECT(has(fetch("GET /stream", ""), "x-request-id: req_"));
    EXPECT(
        has(fetch("GET /v1/models", "X-Request-Id: a b\r\n"), "x-request-id: req_")); // not plain
    EXPECT(has(fetch("GET /v1/models", "X-Request-Id: \xc3\xa9\r\n"), "x-request-id: req_"));
    char longer[200];
    snprintf(longer, sizeof longer, "X-Request-Id: %0129d\r\n", 1);
    EXPECT(has(fetch("GET /v1/models", longer), "x-request-id: req_"));
    stop_router();
}

#define ORIGIN    "Origin: http://web.example\r\n"
#define PREFLIGHT ORIGIN "Access-Control-Request-Method: POST\r\n"

static void test_cors_default(void)
{
    start_router(http_cors_default);
    EXPECT(strstr(fetch("GET /v1/models", ""), "access-control") == NULL);
    const char *text = fetch("GET /v1/models", ORIGIN);
    EXPECT(has(text, "access-control-allow-origin: *\r\n"));
    EXPECT(has(text, "access-control-allow-credentials: true\r\n"));
    EXPECT(has(text, "access-control-expose-headers: x-request-id, retry-after, "));
    text = fetch("GET /v1/models", ORIGIN "Cookie: a=b\r\n"); // with cookies by name
    EXPECT(has(text, "access-control-allow-origin: http://web.example\r\nvary: Origin\r\n"));
    EXPECT(
        has(fetch("GET /nope", ORIGIN), "access-control-allow-origin: *\r\n")); // errors, streams
    EXPECT(has(fetch("GET /stream", ORIGIN), "access-control-allow-origin: *\r\n"));

    text = fetch("OPTIONS /v1/chat",
                 PREFLIGHT "Access-Control-Request-Headers: authorization, x-stainless-lang\r\n");
    EXPECT_INT(first_status(text), 200);
    EXPECT(has(text, "access-control-allow-origin: http://web.example\r\n"));
    EXPECT(has(text,
               "access-control-allow-methods: DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT\r\n"));
    EXPECT(has(text, "access-control-allow-headers: authorization, x-stainless-lang\r\n"));
    EXPECT(has(text, "access-control-max-age: 600\r\n"));
    EXPECT(has(text, "access-control-allow-credentials: true\r\n"));
    EXPECT(has(text, "\r\n\r\nOK"));
    text = fetch("OPTIONS /v1/chat", ORIGIN "Access-Control-Request-Method: TRACE\r\n");
    EXPECT_INT(first_status(text), 400);
    stop_router();
}

static void test_cors_listed(void)
{
    start_router((struct http_cors){.origins = "http://a.example, http://web.example",
                                    .methods = "GET,POST",
                                    .headers = "authorization"});
    const char *text = fetch("GET /v1/models", ORIGIN);
    EXPECT(has(text, "access-control-allow-origin: http://web.example\r\n"));
    EXPECT(has(text, "vary: Origin\r\n"));
    EXPECT(strstr(text, "credentials") == NULL);
    text = fetch("GET /v1/models", "Origin: http://evil.example\r\n");
    EXPECT_INT(first_status(text), 200); // served; the browser keeps it from the page
    EXPECT(strstr(text, "access-control") == NULL);
    text = fetch("OPTIONS /v1/chat", PREFLIGHT "Access-Control-Request-Headers: Authorization\r\n");
    EXPECT_INT(first_status(text), 200);
    EXPECT(has(text, "access-control-allow-headers: Accept, Accept-Language, Content-Language, "
                     "Content-Type, authorization\r\n"));
    EXPECT(has(text, "access-control-allow-methods: GET,POST\r\n"));
    text = fetch("OPTIONS /v1/chat",
                 "Origin: http://evil.example\r\nAccess-Control-Request-Method: POST\r\n");
    EXPECT_INT(first_status(text), 400);
    EXPECT(has(text, "Disallowed CORS origin"));
    stop_router();

    start_router((struct http_cors){.origins = NULL}); // off
    EXPECT(strstr(fetch("GET /v1/models", ORIGIN), "access-control") == NULL);
    EXPECT_INT(first_status(fetch("OPTIONS /v1/chat", PREFLIGHT)), 204);
    stop_router();
}

/* Answers of Starlette 0.41, LMDeploy's CORS middleware, to the same preflights. */
static const struct preflight {
    struct http_cors cors;
    const char *origin, *method, *headers;           // headers NULL: none
    const char *allow_origin, *allow_headers, *text; // NULL: no such header
    bool varies;
} preflights[] = {
    {{"*", "*", "*", false}, "http://a", "POST", "x-b", "*", "x-b", "OK", false},
    {{"*", "*", "*", false}, "null", "GET", NULL, "*", NULL, "OK", false},
    {{"*", "*", "*", true}, "http://a", "POST", "x-b", "http://a", "x-b", "OK", true},
    {{"http://b,*", "*", "*", false}, "http://a", "POST", NULL, "*", NULL, "OK", false},
    {{"http://a", "*", "*", false}, "http://a", "PUT", NULL, "http://a", NULL, "OK", true},
    {{"http://a", "*", "*", false},
     "http://A",
     "PUT",
     NULL,
     NULL,
     NULL,
     "Disallowed CORS origin",
     true},
    {{"http://a", "*", "*", true},
     "http://a.evil",
     "PUT",
     "x",
     NULL,
     "x",
     "Disallowed CORS origin",
     true},
    {{"*", "GET", "*", false},
     "http://a",
     "POST",
     NULL,
     "*",
     NULL,
     "Disallowed CORS method",
     false},
    {{"*", "*", "*", false}, "http://a", "TRACE", NULL, "*", NULL, "Disallowed CORS method", false},
    {{"*", "*", "x-c", false},
     "http://a",
     "GET",
     "X-C, content-type",
     "*",
     "Accept, Accept-Language, Content-Language, Content-Type, x-c",
     "OK",
     false},
    {{"*", "*", "x-c", false},
     "http://a",
     "GET",
     "x-c, x-d",
     "*",
     "Accept, Accept-Language, Content-Language, Content-Type, x-c",
     "Disallowed CORS headers",
     false},
    {{"http://b", "GET", "x-c", false},
     "http://a",
     "POST",
     "x-d",
     NULL,
     "Accept, Accept-Language, Content-Language, Content-Type, x-c",
     "Disallowed CORS origin, method, headers",
     true},
};

static void expect_header(const char *text, const char *name, const char *value)
{
    char line[300];
    snprintf(line, sizeof line, "%s: %s\r\n", name, value ? value : "");
    if (value) EXPECT(has(text, line));
    snprintf(line, sizeof line, "%s: ", name);
    if (!value) EXPECT(!strstr(text, line));
}

static void check_preflight(const struct preflight *p)
{
    char asked[300], ending[100];
    start_router(p->cors);
    snprintf(asked, sizeof asked, "Origin: %s\r\nAccess-Control-Request-Method: %s\r\n%s%s%s",
             p->origin, p->method, p->headers ? "Access-Control-Request-Headers: " : "",
             p->headers ? p->headers : "", p->headers ? "\r\n" : "");
    const char *text = fetch("OPTIONS /v1/chat", asked);
    EXPECT_INT(first_status(text), strcmp(p->text, "OK") == 0 ? 200 : 400);
    snprintf(ending, sizeof ending, "\r\n\r\n%s", p->text);
    EXPECT(has(text, ending));
    expect_header(text, "content-type", "text/plain; charset=utf-8");
    expect_header(text, "access-control-max-age", "600");
    expect_header(text, "vary", p->varies ? "Origin" : NULL);
    expect_header(text, "access-control-allow-credentials", p->cors.credentials ? "true" : NULL);
    expect_header(text, "access-control-allow-origin", p->allow_origin);
    expect_header(text, "access-control-allow-headers", p->allow_headers);
    stop_router();
}

static void test_preflights(void)
{
    for (size_t i = 0; i < ARRAY_LEN(preflights); i++)
        check_preflight(&preflights[i]);
}

int main(void)
{
    RUN(test_routes);
    RUN(test_not_found);
    RUN(test_head);
    RUN(test_request_id);
    RUN(test_cors_default);
    RUN(test_cors_listed);
    RUN(test_preflights);
    return TEST_END();
}
