/* http_connection.c - one connection of the server: reading requests, writing answers, ending well.
 *
 *          ┌───────────────── keep-alive ──────────────────┐
 *          ▼                                               │
 *   IDLE ─► HEAD ─► BODY ─► EXCHANGE ─(answered)─► FLUSH ──┴─(close_after)─► LINGER ─► CLOSING
 *     │ EOF  │ 400..431,408  │ EOF: on_gone          ▲ ▲                        ▲
 *     │      └──(refused)────┼───────────────────────┘ │   any ──(error, EOF)───┘
 *     └──────────────────────┘
 *
 * Rules:
 *  1. Requests of one connection are handled one after another. What arrives behind the current one
 *     is kept in `pipeline`, at most PIPELINE_BYTES and one read; beyond that reading stops until
 *     the exchange ends. Below it reading goes on, so that a client that leaves is noticed.
 *  2. Writing tries the socket first and copies only what it doesn't take. One uv_write at a time,
 *     of `flight`; what comes meanwhile collects in `out` and goes as one piece when that is done.
 *  3. A lost connection is only recorded where a user may be on the stack (c->error, then defer).
 *  4. After our last byte comes FIN, then input is dropped for a while: closing with unread
 *     input would send RST, which makes the client's kernel drop our answer. */
#define LOG_MODULE "http"
#include "shared/net/http_connection.h"

#include "shared/base/check.h"
#include "shared/base/log.h"

#include <linux/sockios.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define PIPELINE_BYTES   ((size_t)16 << 10)
#define READ_BYTES       ((size_t)64 << 10) // as server->read_buffer
#define KEPT_BUFFER_CAP  ((size_t)16 << 10)
#define LINGER_MS        2000
#define LINGER_BYTES_MAX (64 << 20)
#define KEEPALIVE_S      60

static void process_pipeline(struct http_connection *c);

static uint64_t in_ms(const struct http_connection *c, int ms)
{
    return uv_now(c->server->loop) + (uint64_t)ms;
}

static bool reads_requests(const struct http_connection *c)
{
    return c->state <= HTTP_CONNECTION_BODY;
}

/* ---- the end ---- */

static void on_closed(uv_handle_t *handle)
{
    struct http_connection *c = handle->data;
    http_server_forget(c->server, c);
    http_parser_deinit(&c->parser);
    buf_deinit(&c->out);
    buf_deinit(&c->flight);
    buf_deinit(&c->pipeline);
    free(c);
}

void http_connection_close(struct http_connection *c)
{
    if (c->state == HTTP_CONNECTION_CLOSING) return;
    CHECK(!c->exchange);
    c->state = HTTP_CONNECTION_CLOSING;
    c->deadline_ms = 0;
    if (c->reset_after && uv_tcp_close_reset(&c->tcp, on_closed) == 0) return;
    uv_close((uv_handle_t *)&c->tcp, on_closed);
}

/* The client is lost. Calls the user. */
static void lose(struct http_connection *c)
{
    struct http_exchange *x = c->exchange;
    bool handed_over = c->state == HTTP_CONNECTION_EXCHANGE;
    c->exchange = NULL;
    http_connection_close(c);
    if (!x) return;
    if (handed_over) {
        http_exchange_lose(x);
    } else {
        http_exchange_destroy(x);
    }
}

static void on_shutdown(uv_shutdown_t *request, int status)
{
    struct http_connection *c = request->data;
    if (status < 0) http_connection_close(c);
}

static void read_start(struct http_connection *c);

static void linger(struct http_connection *c)
{
    c->state = HTTP_CONNECTION_LINGER;
    c->deadline_ms = in_ms(c, LINGER_MS);
    buf_deinit(&c->pipeline);
    c->shutdown.data = c;
    if (c->got_eof || c->reset_after ||
        uv_shutdown(&c->shutdown, (uv_stream_t *)&c->tcp, on_shutdown) != 0) {
        http_connection_close(c);
        return;
    }
    read_start(c);
}

/* ---- writing ---- */

size_t http_connection_pending(const struct http_connection *c)
{
    if (c->error) return 0;
    return c->out.len + uv_stream_get_write_queue_size((const uv_stream_t *)&c->tcp);
}

static void fail(struct http_connection *c, int error)
{
    if (c->error) return;
    c->error = error;
    http_connection_defer(c);
}

static void trim(struct buf *b)
{
    if (b->cap > KEPT_BUFFER_CAP) {
        buf_deinit(b);
    } else {
        buf_clear(b);
    }
}

static void on_written(uv_write_t *request, int status);

static void start_write(struct http_connection *c)
{
    struct buf empty = c->flight;
    c->flight = c->out;
    c->out = empty;
    uv_buf_t piece = uv_buf_init(c->flight.data, (unsigned)c->flight.len);
    c->write.data = c;
    int rc = uv_write(&c->write, (uv_stream_t *)&c->tcp, &piece, 1, on_written);
    if (rc != 0) {
        fail(c, rc);
        return;
    }
    c->writing = true;
    c->stall_ms = 0;
}

/* Answered and nothing pending: on to the next request, or to the end. Doesn't call the user. */
static void settle(struct http_connection *c)
{
    if (c->close_after || c->server->draining) {
        linger(c);
        return;
    }
    trim(&c->out);
    trim(&c->flight);
    c->state = HTTP_CONNECTION_IDLE;
    c->deadline_ms = in_ms(c, c->server->options.idle_timeout_ms);
    http_parser_start(&c->parser);
}

static bool is_flushed(const struct http_connection *c)
{
    return c->state == HTTP_CONNECTION_FLUSH && !c->error && http_connection_pending(c) == 0;
}

static void tell_drained(struct http_connection *c)
{
    struct http_exchange *x = c->exchange;
    if (!x || !x->wants_drain || http_connection_pending(c) >= HTTP_PENDING_LOW) return;
    x->wants_drain = false;
    if (x->on_drain) x->on_drain(x->watch_arg);
}

static void on_written(uv_write_t *request, int status)
{
    struct http_connection *c = request->data;
    c->writing = false;
    c->stall_ms = 0;
    trim(&c->flight);
    if (c->state == HTTP_CONNECTION_CLOSING) return;
    if (status < 0) {
        fail(c, status);
        return;
    }
    if (c->out.len > 0) start_write(c);
    tell_drained(c);
    if (!is_flushed(c)) return;
    settle(c);
    process_pipeline(c);
}

struct buf *http_connection_begin_hold(struct http_connection *c)
{
    c->held_from = c->out.len;
    return &c->out;
}

void http_connection_end_hold(struct http_connection *c)
{
    c->bytes_queued += c->out.len - c->held_from;
    if (c->out.overflow) fail(c, UV_ENOBUFS);
}

/* Write [out][pieces] as far as the socket takes them; keep the rest in out. */
static void send_pieces(struct http_connection *c, const uv_buf_t *pieces, unsigned count)
{
    size_t taken = 0;
    if (!c->writing) {
        uv_buf_t all[8];
        unsigned n = 0;
        if (c->out.len > 0) all[n++] = uv_buf_init(c->out.data, (unsigned)c->out.len);
        for (unsigned i = 0; i < count; i++)
            all[n++] = pieces[i];
        if (n == 0) return;
        int rc = uv_try_write((uv_stream_t *)&c->tcp, all, n);
        if (rc < 0 && rc != UV_EAGAIN) {
            fail(c, rc);
            return;
        }
        taken = rc > 0 ? (size_t)rc : 0;
        size_t held = taken < c->out.len ? taken : c->out.len;
        buf_consume(&c->out, held);
        taken -= held;
    }
    for (unsigned i = 0; i < count; i++) {
        size_t skipped = taken < pieces[i].len ? taken : pieces[i].len;
        taken -= skipped;
        if (buf_append(&c->out, pieces[i].base + skipped, pieces[i].len - skipped) != 0) {
            fail(c, UV_ENOBUFS);
            return;
        }
    }
    if (!c->writing && c->out.len > 0) start_write(c);
}

void http_connection_send(struct http_connection *c, const void *data, size_t len, bool chunk,
                          bool last)
{
    if (c->error || c->state == HTTP_CONNECTION_CLOSING) return;
    char frame[24];
    uv_buf_t pieces[4];
    unsigned n = 0;
    if (chunk && len > 0) {
        int frame_len = snprintf(frame, sizeof frame, "%zx\r\n", len);
        pieces[n++] = uv_buf_init(frame, (unsigned)frame_len);
    }
    if (len > 0) pieces[n++] = uv_buf_init((char *)data, (unsigned)len);
    if (chunk && len > 0) pieces[n++] = uv_buf_init((char *)"\r\n", 2);
    if (chunk && last) pieces[n++] = uv_buf_init((char *)"0\r\n\r\n", 5);
    for (unsigned i = 0; i < n; i++)
        c->bytes_queued += pieces[i].len;
    send_pieces(c, pieces, n);
}

void http_connection_answered(struct http_connection *c)
{
    c->exchange = NULL;
    c->state = HTTP_CONNECTION_FLUSH;
    c->deadline_ms = 0;
    if (!is_flushed(c)) return;
    if (c->pipeline.len > c->pipeline_pos) { // the next request must not run inside this call
        http_connection_defer(c);
        return;
    }
    settle(c);
    if (!c->feeding && c->state == HTTP_CONNECTION_IDLE) read_start(c);
}

/* ---- reading ---- */

static void refuse(struct http_connection *c, int status, const char *text)
{
    log_debug("request refused", "peer=%s status=%d reason=\"%s\"", c->peer, status, text);
    if (c->exchange) http_exchange_destroy(c->exchange);
    c->exchange = NULL;
    c->close_after = true;
    c->state = HTTP_CONNECTION_FLUSH;
    c->deadline_ms = 0;
    http_exchange_refuse(c, status, text);
    if (is_flushed(c)) settle(c);
}

static void dispatch(struct http_connection *c)
{
    struct http_exchange *x = c->exchange;
    if (!c->parser.keep_alive || c->server->draining) c->close_after = true;
    c->state = HTTP_CONNECTION_EXCHANGE;
    c->deadline_ms = 0;
    x->request.body = x->body.len ? buf_str(&x->body) : (struct str){"", 0};
    c->server->options.on_request(x, c->server->options.arg);
}

/* Returns how many bytes were used; stops where a request is handed over. */
static size_t feed(struct http_connection *c, const char *data, size_t len)
{
    size_t total = 0;
    c->feeding = true;
    while (total < len && reads_requests(c) && !c->error) {
        if (c->state == HTTP_CONNECTION_IDLE) {
            c->state = HTTP_CONNECTION_HEAD;
            c->deadline_ms = in_ms(c, c->server->options.header_timeout_ms);
        }
        size_t used;
        enum http_parse result = http_parser_feed(&c->parser, data + total, len - total, &used);
        total += used;
        if (result == HTTP_PARSE_DONE) dispatch(c);
        if (result == HTTP_PARSE_FAILED) refuse(c, c->parser.fail_status, c->parser.fail_text);
    }
    c->feeding = false;
    return total;
}

static void process_pipeline(struct http_connection *c)
{
    if (reads_requests(c) && c->pipeline.len > c->pipeline_pos) {
        // Taken out while it is read: what the handler does may end the connection.
        struct buf taken = c->pipeline;
        size_t pos = c->pipeline_pos;
        buf_init(&c->pipeline, taken.max);
        c->pipeline_pos = 0;
        pos += feed(c, taken.data + pos, taken.len - pos);
        if (pos < taken.len && c->state != HTTP_CONNECTION_LINGER) {
            c->pipeline = taken;
            c->pipeline_pos = pos;
        } else {
            buf_deinit(&taken);
        }
    }
    if (c->pipeline.len == c->pipeline_pos) {
        buf_deinit(&c->pipeline);
        c->pipeline_pos = 0;
    }
    size_t waiting = c->pipeline.len - c->pipeline_pos;
    if (c->state != HTTP_CONNECTION_CLOSING && waiting < PIPELINE_BYTES) read_start(c);
}

static void stash(struct http_connection *c, const char *data, size_t len)
{
    if (c->pipeline_pos > 0) {
        buf_consume(&c->pipeline, c->pipeline_pos);
        c->pipeline_pos = 0;
    }
    if (buf_append(&c->pipeline, data, len) != 0) fail(c, UV_ENOBUFS);
    if (c->pipeline.len < PIPELINE_BYTES) return;
    c->reading = false;
    uv_read_stop((uv_stream_t *)&c->tcp);
}

static void on_eof(struct http_connection *c, int status)
{
    c->got_eof = true;
    c->reading = false;
    uv_read_stop((uv_stream_t *)&c->tcp);
    if (c->state == HTTP_CONNECTION_FLUSH && status == UV_EOF) {
        c->close_after = true; // the whole answer is under way; this client may still read it
        return;
    }
    lose(c);
}

static void on_read(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buf)
{
    struct http_connection *c = stream->data;
    if (nread == 0) return;
    if (nread < 0) {
        on_eof(c, (int)nread);
        return;
    }
    size_t len = (size_t)nread;
    if (c->state == HTTP_CONNECTION_LINGER) {
        c->linger_bytes += len;
        if (c->linger_bytes > LINGER_BYTES_MAX) http_connection_close(c);
        return;
    }
    size_t used = reads_requests(c) ? feed(c, buf->base, len) : 0;
    bool keep = c->state == HTTP_CONNECTION_EXCHANGE || c->state == HTTP_CONNECTION_FLUSH;
    if (used < len && keep && !c->close_after) stash(c, buf->base + used, len - used);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    (void)suggested;
    struct http_connection *c = handle->data;
    *buf = uv_buf_init(c->server->read_buffer, (unsigned)READ_BYTES);
}

static void read_start(struct http_connection *c)
{
    if (c->reading || c->got_eof) return;
    int rc = uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read);
    if (rc != 0) {
        fail(c, rc);
        return;
    }
    c->reading = true;
}

/* ---- the parser's callbacks ---- */

static int check_target(struct http_connection *c)
{
    const struct http_parser *p = &c->parser;
    struct str t = p->target;
    bool star = str_equal(t, STR("*")) && strcmp(p->method, "OPTIONS") == 0;
    if (t.len > 0 && (t.data[0] == '/' || star)) return 0;
    if (str_starts_with(t, STR("http://")) || str_starts_with(t, STR("https://"))) return 0;
    c->parser.fail_text = "the request target must be a path";
    return 400;
}

/* 0, or the status to refuse with. */
static int check_expectation(struct http_connection *c)
{
    const struct http_parser *p = &c->parser;
    struct str expect = http_headers_get(&p->headers, "expect");
    if (!expect.data || p->minor == 0) return 0; // RFC 9110 10.1.1: 1.0 clients can't mean it
    if (!str_equal_nocase(expect, STR("100-continue"))) {
        c->parser.fail_text = "the only expectation understood is '100-continue'";
        return 417;
    }
    if (p->chunked || p->content_length > 0) {
        static const char answer[] = "HTTP/1.1 100 Continue\r\n\r\n";
        http_connection_send(c, answer, sizeof answer - 1, false, false);
    }
    return 0;
}

static int on_head(void *arg)
{
    struct http_connection *c = arg;
    struct http_server *s = c->server;
    int status = check_target(c);
    if (status == 0 && c->parser.content_length > s->options.limits.body_bytes) {
        c->parser.fail_text = "the body is too large";
        status = 413;
    }
    if (status == 0) status = check_expectation(c);
    if (status != 0) return status;
    c->exchange = http_exchange_create(c);
    c->state = HTTP_CONNECTION_BODY;
    c->deadline_ms = in_ms(c, s->options.body_timeout_ms);
    return 0;
}

static int on_body(void *arg, const char *data, size_t len)
{
    struct http_connection *c = arg;
    int status = http_exchange_add_body(c->exchange, data, len);
    if (status == 413) c->parser.fail_text = "the body is too large";
    if (status == 503) c->parser.fail_text = "too many large requests at once; retry in a moment";
    return status;
}

/* ---- life ---- */

static void name_peer(struct http_connection *c)
{
    struct sockaddr_storage address;
    int len = sizeof address;
    const struct sockaddr *any = (const struct sockaddr *)&address;
    snprintf(c->peer, sizeof c->peer, "unknown");
    if (uv_tcp_getpeername(&c->tcp, (struct sockaddr *)&address, &len) != 0) return;
    if (uv_ip_name(any, c->peer, sizeof c->peer) != 0) return;
    static const char mapped[] = "::ffff:"; // an IPv4 client of a dual-stack listener
    if (strncmp(c->peer, mapped, sizeof mapped - 1) == 0 && strchr(c->peer, '.')) {
        memmove(c->peer, c->peer + sizeof mapped - 1, strlen(c->peer) - sizeof mapped + 2);
    }
    c->peer_is_loopback =
        strcmp(c->peer, "::1") == 0 || (strncmp(c->peer, "127.", 4) == 0 && !strchr(c->peer, ':'));
}

void http_connection_accept(struct http_server *s)
{
    static const struct http_parser_callbacks callbacks = {on_head, on_body};
    struct http_connection *c = xcalloc(1, sizeof *c);
    c->server = s;
    list_init(&c->deferred);
    list_push_back(&s->connections, &c->link);
    s->connection_count++;
    http_parser_init(&c->parser, HTTP_PARSER_REQUESTS, &s->options.limits, &callbacks, c);
    buf_init(&c->out, BUF_MAX_INTERNAL);
    buf_init(&c->flight, BUF_MAX_INTERNAL);
    buf_init(&c->pipeline, PIPELINE_BYTES + READ_BYTES);
    CHECK(uv_tcp_init(s->loop, &c->tcp) == 0);
    c->tcp.data = c;
    if (uv_accept((uv_stream_t *)&s->listener, (uv_stream_t *)&c->tcp) != 0) {
        http_connection_close(c);
        return;
    }
    uv_tcp_nodelay(&c->tcp, 1);
    uv_tcp_keepalive(&c->tcp, 1, KEEPALIVE_S);
    name_peer(c);
    c->deadline_ms = in_ms(c, s->options.idle_timeout_ms);
    read_start(c);
}

void http_connection_turn(struct http_connection *c)
{
    if (c->state == HTTP_CONNECTION_CLOSING) return;
    if (c->error || c->server->closing) {
        lose(c);
        return;
    }
    if (is_flushed(c)) settle(c);
    process_pipeline(c);
}

/* Bytes the kernel holds for the client and has no acknowledgement for. Without them a slow reader
 * looks stalled: the kernel takes more from us only when a third of its buffer is free. */
static uint64_t unacknowledged(const struct http_connection *c)
{
    uv_os_fd_t fd;
    int bytes = 0;
    if (uv_fileno((const uv_handle_t *)&c->tcp, &fd) != 0) return 0;
    return ioctl(fd, SIOCOUTQ, &bytes) == 0 && bytes > 0 ? (uint64_t)bytes : 0;
}

static bool is_stalled(struct http_connection *c, uint64_t now_ms)
{
    if (!c->writing) return false;
    uint64_t held = http_connection_pending(c) + unacknowledged(c);
    uint64_t sent = c->bytes_queued > held ? c->bytes_queued - held : 0;
    if (c->stall_ms == 0 || sent > c->bytes_sent_seen) {
        c->stall_ms = now_ms + (uint64_t)c->server->options.write_stall_ms;
        c->bytes_sent_seen = sent;
    }
    return now_ms >= c->stall_ms;
}

void http_connection_sweep(struct http_connection *c, uint64_t now_ms)
{
    if (c->state == HTTP_CONNECTION_CLOSING) return;
    if (is_stalled(c, now_ms)) {
        log_debug("client stopped reading", "peer=%s", c->peer);
        lose(c);
        return;
    }
    if (c->deadline_ms == 0 || now_ms < c->deadline_ms) return;
    c->deadline_ms = 0;
    if (c->state == HTTP_CONNECTION_HEAD || c->state == HTTP_CONNECTION_BODY) {
        refuse(c, 408, "it took too long to arrive");
    } else {
        lose(c);
    }
}
