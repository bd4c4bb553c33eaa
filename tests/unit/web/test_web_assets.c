#include "shared/web/web_assets.h"

#include "shared/net/http_router.h"
#include "shared/web/web_pages.h"
#include "tests/unit/net/server_test.h"

extern const struct web_asset_list lm_web_files;

static bool is_open = true;

static void on_page(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    (void)arg;
    web_pages_respond(x, is_open);
}

static const struct http_route routes[] = {{"GET", "/web/{file}", on_page}};
static struct http_router router = {.routes = routes, .count = ARRAY_LEN(routes)};
static struct raw_client client;

/* One request on a connection of its own; the whole answer, until the next one. */
static struct str fetch(const char *request, const char *headers)
{
    if (client.fd > 0) raw_close(&client);
    raw_open(&client, http_server_port(server));
    raw_puts(&client, request);
    raw_puts(&client, " HTTP/1.1\r\nHost: h\r\nConnection: close\r\n");
    raw_puts(&client, headers);
    raw_puts(&client, "\r\n");
    EXPECT(SPIN_UNTIL(raw_ended(&client), 3000));
    return buf_str(&client.in);
}

static struct str body_of(struct str answer)
{
    const char *end = memmem(answer.data, answer.len, "\r\n\r\n", 4);
    if (!end) return STR("");
    size_t head = (size_t)(end + 4 - answer.data);
    return (struct str){end + 4, answer.len - head};
}

static bool has_line(struct str answer, const char *line)
{
    struct str head = {answer.data, answer.len - body_of(answer).len};
    char text[300];
    int len = snprintf(text, sizeof text, "\r\n%s\r\n", line);
    return memmem(head.data, head.len, text, (size_t)len) != NULL;
}

static bool has_status(struct str answer, const char *status)
{
    char text[40];
    snprintf(text, sizeof text, "HTTP/1.1 %s ", status);
    return str_starts_with(answer, str_of(text));
}

static void start(void)
{
    start_server((struct http_server_options){.on_request = http_router_dispatch, .arg = &router});
}

static void stop(void)
{
    raw_close(&client);
    client.fd = 0;
    stop_server();
}

/* gzip's own trailer says how long the file was; the header has no time and no name. */
static void test_table(void)
{
    for (int i = 0; i < lm_web_files.count; i++) {
        const struct web_asset *a = &lm_web_files.items[i];
        const unsigned char *gz = (const unsigned char *)a->gzip_bytes.data;
        size_t len = a->gzip_bytes.len;
        NEED(a->bytes.len > 0 && len > 18);
        EXPECT(gz[0] == 0x1f && gz[1] == 0x8b && gz[2] == 8 && gz[3] == 0);
        EXPECT(memcmp(gz + 4, "\0\0\0\0", 4) == 0);
        EXPECT_INT(gz[len - 4] | gz[len - 3] << 8 | gz[len - 2] << 16, a->bytes.len);
        EXPECT(web_assets_find(&lm_web_files, str_of(a->path)) == a);
        for (int j = 0; j < i; j++)
            EXPECT(strcmp(lm_web_files.items[j].etag, a->etag) != 0);
    }
    EXPECT(web_pages_have(STR("/web/base.css")));
    EXPECT(!web_pages_have(STR("/web/base.cs")) && !web_pages_have(STR("")));
}

static void test_encodings(void)
{
    const struct web_asset *a = web_assets_find(&lm_web_files, STR("/web/base.css"));
    NEED(a);
    start();
    struct str answer = fetch("GET /web/base.css", "");
    EXPECT(has_status(answer, "200") && has_line(answer, "content-type: text/css; charset=utf-8"));
    EXPECT(has_line(answer, "vary: accept-encoding"));
    EXPECT(!memmem(answer.data, answer.len, "content-encoding", 16));
    EXPECT(str_equal(body_of(answer), a->bytes));
    answer = fetch("GET /web/base.css", "Accept-Encoding: br, gzip\r\n");
    EXPECT(has_line(answer, "content-encoding: gzip"));
    EXPECT(str_equal(body_of(answer), a->gzip_bytes));
    answer = fetch("GET /web/base.css", "Accept-Encoding: gzip;q=0\r\n");
    EXPECT(str_equal(body_of(answer), a->bytes));
    answer = fetch("HEAD /web/base.css", "");
    char length[40];
    snprintf(length, sizeof length, "content-length: %zu", a->bytes.len);
    EXPECT(has_line(answer, length) && body_of(answer).len == 0);
    stop();
}

static void test_unchanged(void)
{
    const struct web_asset *a = web_assets_find(&lm_web_files, STR("/web/base.css"));
    NEED(a);
    NEED(a->etag[0] == 'W' && a->etag[1] == '/');
    char weak[100], strong[100], other[100];
    snprintf(weak, sizeof weak, "If-None-Match: \"x\", %s\r\n", a->etag);
    snprintf(strong, sizeof strong, "If-None-Match: %s\r\n", a->etag + 2);
    snprintf(other, sizeof other, "If-None-Match: W/\"x\", \"\"\r\n");
    start();
    EXPECT(has_status(fetch("GET /web/base.css", weak), "304"));
    EXPECT(has_status(fetch("GET /web/base.css", strong), "304"));
    struct str answer = fetch("GET /web/base.css", "If-None-Match: *\r\n");
    EXPECT(has_status(answer, "304") && body_of(answer).len == 0);
    snprintf(weak, sizeof weak, "etag: %s", a->etag);
    EXPECT(has_line(answer, weak));
    EXPECT(has_status(fetch("GET /web/base.css", other), "200"));
    stop();
}

static void test_headers(void)
{
    start();
    struct str answer = fetch("GET /web/theme.js", "");
    EXPECT(has_line(answer, "x-content-type-options: nosniff"));
    EXPECT(has_line(answer, "referrer-policy: no-referrer"));
    EXPECT(has_line(answer, "cache-control: no-cache"));
    static const char policy[] = "content-security-policy: default-src 'none'; script-src 'self'; ";
    EXPECT(memmem(answer.data, answer.len, policy, sizeof policy - 1));
    EXPECT(!memmem(answer.data, answer.len, "unsafe-", 7));
    answer = fetch("GET /web/none.js", "");
    EXPECT(has_status(answer, "404") && memmem(answer.data, answer.len, "unknown_url", 11));
    EXPECT(has_status(fetch("GET /web/", ""), "404"));
    is_open = false;
    EXPECT(has_status(fetch("GET /web/theme.js", ""), "404"));
    is_open = true;
    stop();
}

int main(void)
{
    RUN(test_table);
    RUN(test_encodings);
    RUN(test_unchanged);
    RUN(test_headers);
    return TEST_END();
}
