/* http_exchange.c - one request and its response, as handlers see them.
 *
 * An exchange belongs to its connection until it is handed over, then to the handler, whose calls
 * end it. If the client leaves first and nobody watches, it lives on without a connection until the
 * handler ends it: what it writes then goes nowhere. */
#define LOG_MODULE "http"
#include "shared/base/check.h"
#include "shared/base/log.h"
#include "shared/net/api_error.h"
#include "shared/net/http_connection.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_BODY_RESERVE ((uint64_t)256 << 10)
#define EXTRA_HEADERS_MAX  ((size_t)64 << 10)
#define EXTRA_RESERVE      ((size_t)440) // a usual answer's; in one piece

/* ---- life ---- */

static struct str move_into(struct str s, const char *from, const char *to)
{
    return s.len ? (struct str){to + (s.data - from), s.len} : (struct str){"", 0};
}

/* Path and query of origin-form ("/a?b"), absolute-form ("http://h/a?b") or "*". */
static void split_target(struct http_request *r)
{
    struct str rest = r->target;
    if (rest.data[0] != '/') {
        const char *scheme = memmem(rest.data, rest.len, "://", 3);
        const char *end = rest.data + rest.len;
        const char *path = scheme ? scheme + 3 : rest.data;
        while (scheme && path < end && *path != '/' && *path != '?')
            path++;
        rest = (struct str){path, (size_t)(end - path)};
    }
    r->path = rest;
    r->query = (struct str){"", 0};
    const char *mark = rest.len ? memchr(rest.data, '?', rest.len) : NULL;
    if (mark) {
        r->path.len = (size_t)(mark - rest.data);
        r->query = (struct str){mark + 1, rest.len - r->path.len - 1};
    }
    if (r->path.len == 0) r->path = STR("/");
}

struct http_exchange *http_exchange_create(struct http_connection *c)
{
    const struct http_parser *p = c->parser;
    struct arena arena;
    arena_init(&arena);
    struct http_exchange *x = arena_alloc(&arena, sizeof *x); // dies with it
    x->arena = arena;
    x->connection = c;
    x->loop = c->server->loop;
    buf_init(&x->body, c->server->options.limits.body_bytes);
    buf_init(&x->extra, EXTRA_HEADERS_MAX);
    buf_init(&x->trailers, EXTRA_HEADERS_MAX);

    const char *from = p->text.data;
    const char *to = arena_strndup(&x->arena, from, p->text.len);
    struct http_request *r = &x->request;
    r->method = str_of(p->method);
    r->target = move_into(p->target, from, to);
    r->minor = p->minor;
    r->headers.count = p->headers.count;
    r->headers.items = arena_alloc(&x->arena, (size_t)p->headers.count * sizeof *r->headers.items);
    for (int i = 0; i < p->headers.count; i++) {
        r->headers.items[i].name = move_into(p->headers.items[i].name, from, to);
        r->headers.items[i].value = move_into(p->headers.items[i].value, from, to);
    }
    r->body = (struct str){"", 0};
    r->peer = arena_strndup(&x->arena, c->peer, strlen(c->peer));
    r->peer_is_loopback = c->peer_is_loopback;
    r->is_tls = c->socket.tls != NULL;
    split_target(r);
    x->head_only = str_equal(r->method, STR("HEAD"));
    return x;
}

static void discharge(struct http_exchange *x)
{
    if (x->connection) x->connection->server->body_bytes -= x->body_charged;
    x->body_charged = 0;
}

void http_exchange_destroy(struct http_exchange *x)
{
    discharge(x);
    buf_deinit(&x->body);
    buf_deinit(&x->extra);
    buf_deinit(&x->trailers);
    struct arena arena = x->arena; // x is in there
    arena_deinit(&arena);
}

void http_exchange_lose(struct http_exchange *x)
{
    discharge(x);
    x->connection = NULL;
    if (!x->on_gone) return;
    x->on_gone(x->watch_arg);
    http_exchange_destroy(x);
}

int http_exchange_add_body(struct http_exchange *x, const char *data, size_t len)
{
    struct http_connection *c = x->connection;
    struct http_server *s = c->server;
    if (len > s->options.limits.body_bytes - x->body.len) return 413;
    if (s->body_bytes + len > s->options.body_bytes_total) return 503;
    if (x->body.cap == 0 && c->parser->has_length) { // small bodies: one piece of the right size
        uint64_t length = c->parser->content_length;
        buf_reserve(&x->body, length < FIRST_BODY_RESERVE ? length : FIRST_BODY_RESERVE);
    }
    buf_append(&x->body, data, len);
    s->body_bytes += x->body.cap - x->body_charged;
    x->body_charged = x->body.cap;
    return 0;
}

/* ---- what handlers ask ---- */

const struct http_request *http_exchange_request(const struct http_exchange *x)
{
    return &x->request;
}

struct arena *http_exchange_arena(struct http_exchange *x)
{
    return &x->arena;
}

uv_loop_t *http_exchange_loop(struct http_exchange *x)
{
    return x->loop;
}

void http_exchange_watch(struct http_exchange *x, void (*on_gone)(void *arg),
                         void (*on_drain)(void *arg), void *arg)
{
    x->on_gone = on_gone;
    x->on_drain = on_drain;
    x->watch_arg = arg;
}

void http_exchange_add_header(struct http_exchange *x, struct str name, struct str value)
{
    // A line break here would let whoever chose the value write headers of their own.
    if (name.len == 0 || !http_is_line_text(name) || !http_is_line_text(value)) {
        log_warn("response header dropped", "name=%.*s",
                 http_is_line_text(name) ? (int)name.len : 0, name.data ? name.data : "");
        return;
    }
    if (name.len + value.len + 4 > EXTRA_HEADERS_MAX - x->extra.len) {
        log_warn("response header dropped", "name=%.*s reason=size", (int)name.len, name.data);
        return;
    }
    if (x->extra.cap == 0) (void)buf_reserve(&x->extra, EXTRA_RESERVE);
    http_put_header(&x->extra, name, value);
}

/* ---- the response ---- */

#define LENGTH_UNKNOWN (-1)

static void put_status(struct buf *out, int status)
{
    if (status == 200) {
        buf_append_str(out, "HTTP/1.1 200 OK\r\n");
    } else {
        buf_printf(out, "HTTP/1.1 %d %s\r\n", status, http_status_text(status));
    }
}

static void hold_head(struct http_exchange *x, int status, const char *content_type, int64_t length)
{
    struct http_connection *c = x->connection;
    x->begun = true;
    x->no_body = status < 200 || status == 204 || status == 304;
    bool framed = length != LENGTH_UNKNOWN || x->no_body;
    x->chunked = !framed && x->request.minor > 0;
    if ((!framed && !x->chunked) || c->server->draining) c->close_after = true;

    struct buf *out = http_connection_begin_hold(c);
    put_status(out, status);
    if (content_type) http_put_header(out, STR("content-type"), str_of(content_type));
    if (x->chunked) http_put_header(out, STR("transfer-encoding"), STR("chunked"));
    if (length != LENGTH_UNKNOWN && !x->no_body) http_put_length(out, (uint64_t)length);
    if (x->request_id.len) http_put_header(out, STR("x-request-id"), x->request_id);
    buf_append(out, x->extra.data, x->extra.len);
    buf_deinit(&x->extra);
    if (c->close_after) {
        buf_append_str(out, "connection: close\r\n");
    } else if (x->request.minor == 0) {
        buf_append_str(out, "connection: keep-alive\r\n");
    }
    buf_append(out, "\r\n", 2);
    http_connection_end_hold(c);
}

static void finish(struct http_exchange *x)
{
    struct http_connection *c = x->connection;
    http_exchange_destroy(x);
    if (c) http_connection_answered(c);
}

void http_respond(struct http_exchange *x, int status, const char *content_type, struct str body)
{
    CHECK(!x->begun);
    if (x->connection) {
        hold_head(x, status, content_type, (int64_t)body.len);
        bool silent = x->head_only || x->no_body;
        http_connection_send(x->connection, body.data, silent ? 0 : body.len, false, false);
    }
    finish(x);
}

void http_respond_begin(struct http_exchange *x, int status, const char *content_type, bool flush)
{
    CHECK(!x->begun);
    x->begun = true;
    if (!x->connection) return;
    hold_head(x, status, content_type, LENGTH_UNKNOWN);
    if (flush) http_connection_send(x->connection, NULL, 0, false, false);
}

size_t http_respond_write(struct http_exchange *x, const void *data, size_t len)
{
    CHECK(x->begun);
    if (!x->connection) return 0;
    if (len > 0 && !x->head_only && !x->no_body) {
        http_connection_send(x->connection, data, len, x->chunked, false);
    }
    size_t pending = http_connection_pending(x->connection);
    if (pending > HTTP_PENDING_HIGH) x->wants_drain = true;
    return pending;
}

void http_respond_trailer(struct http_exchange *x, struct str name, struct str value)
{
    CHECK(x->begun && http_is_line_text(name) && http_is_line_text(value));
    http_put_header(&x->trailers, name, value);
}

/* The closing chunk with lines behind it. */
static void send_trailers(struct http_exchange *x, const void *data, size_t len)
{
    struct buf *out = http_connection_begin_hold(x->connection);
    if (len > 0) {
        buf_printf(out, "%zx\r\n", len);
        buf_append(out, data, len);
        buf_append_str(out, "\r\n");
    }
    buf_append_str(out, "0\r\n");
    buf_append(out, x->trailers.data, x->trailers.len);
    buf_append_str(out, "\r\n");
    http_connection_end_hold(x->connection);
    http_connection_send(x->connection, NULL, 0, false, false);
}

void http_respond_end(struct http_exchange *x, const void *data, size_t len)
{
    CHECK(x->begun);
    if (x->connection) {
        bool silent = x->head_only || x->no_body;
        if (x->chunked && !silent && x->trailers.len > 0) {
            send_trailers(x, data, len);
        } else {
            http_connection_send(x->connection, data, silent ? 0 : len, x->chunked && !silent,
                                 true);
        }
    }
    finish(x);
}

void http_respond_abort(struct http_exchange *x)
{
    struct http_connection *c = x->connection;
    if (c) c->close_after = true;
    if (!x->begun) {
        http_respond(x, 500, NULL, (struct str){"", 0});
        return;
    }
    if (c) {
        c->reset_after = !x->chunked; // else the missing last chunk tells
        http_connection_send(c, NULL, 0, false, false);
    }
    finish(x);
}

bool http_respond_has_begun(const struct http_exchange *x)
{
    return x->begun;
}

void http_exchange_refuse(struct http_connection *c, int status, const char *text)
{
    struct api_error error = {0};
    api_error_set(&error, status, NULL, NULL, "Cannot read the request: %s.", text);
    if (status == 413) {
        api_error_set(&error, status, NULL, NULL,
                      "The request body is too large: the limit is %llu bytes.",
                      (unsigned long long)c->server->options.limits.body_bytes);
    }
    if (status != 503) error.type = "invalid_request_error"; // 501 and 505, too
    struct buf body;
    buf_init(&body, BUF_MAX_INTERNAL);
    api_error_print(&body, &error);
    struct buf *out = http_connection_begin_hold(c);
    buf_printf(out, "HTTP/1.1 %d %s\r\n", status, http_status_text(status));
    buf_append_str(out, "content-type: application/json\r\n");
    buf_printf(out, "content-length: %zu\r\n", body.len);
    if (status == 503) buf_append_str(out, "retry-after: 1\r\n");
    buf_append_str(out, "connection: close\r\n\r\n");
    http_connection_end_hold(c);
    http_connection_send(c, body.data, body.len, false, false);
    buf_deinit(&body);
}
