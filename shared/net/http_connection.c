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
 *  2. Writing tries the socket first and copies only what it doesn't take into `out`, which goes
 *     when the socket takes more. Its memory is the server's spare one while anything is in it.
 *  3. A lost connection is only recorded where a user may be on the stack (c->error, then defer).
 *  4. After our last byte comes FIN, then input is dropped for a while: closing with unread
 *     input would send RST, which makes the client's kernel drop our answer. */
#define LOG_MODULE "http"
#include "shared/net/http_connection.h"

#include "shared/base/check.h"
#include "shared/base/log.h"

#include <arpa/inet.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#define PIPELINE_BYTES   ((size_t)16 << 10)
#define SPARE_BYTES_MAX  ((size_t)16 << 10)
#define JOINED_BYTES_MAX ((size_t)4 << 10) // cheaper to copy than to send in pieces
#define LINGER_MS        2000
#define LINGER_BYTES_MAX (64 << 20)

static void process_pipeline(struct http_connection *c);

static uint64_t in_ms(const struct http_connection *c, int ms)
{
    return uv_now(c->server->loop) + (uint64_t)ms;
}

static bool reads_requests(const struct http_connection *c)
{
    return c->state <= HTTP_CONNECTION_BODY;
}

static struct http_connection *of(struct net_socket *socket)
{
    return list_entry(socket, struct http_connection, socket);
}

/* ---- parsers: whoever reads a request has one ---- */

static int on_head(void *arg);
static int on_body(void *arg, const char *data, size_t len);

static void take_parser(struct http_connection *c)
{
    static const struct http_parser_callbacks callbacks = {on_head, on_body};
    struct http_server *s = c->server;
    c->parser = s->parser ? s->parser : xmalloc(sizeof *c->parser);
    s->parser = NULL;
    http_parser_init(c->parser, HTTP_PARSER_REQUESTS, &s->options.limits, &callbacks, c);
    c->parser->spare = &s->parser_spare;
}

static void give_parser(struct http_connection *c)
{
    struct http_server *s = c->server;
    if (!c->parser) return;
    http_parser_deinit(c->parser);
    if (s->parser) {
        free(c->parser);
    } else {
        s->parser = c->parser;
    }
    c->parser = NULL;
}

/* ---- the end ---- */

/* Everything in `out` has gone. */
static void release_out(struct http_connection *c)
{
    struct buf *spare = &c->server->spare;
    c->out_sent = 0;
    if (c->out.cap > 0 && c->out.cap <= SPARE_BYTES_MAX && spare->cap == 0) {
        *spare = c->out;
        buf_clear(spare);
        buf_init(&c->out, c->out.max);
    } else {
        buf_deinit(&c->out);
    }
}

static void on_closed(struct net_socket *socket)
{
    struct http_connection *c = of(socket);
    http_server_forget(c->server, c);
    give_parser(c);
    buf_deinit(&c->out);
    buf_deinit(&c->pipeline);
    free(c);
}

void http_connection_close(struct http_connection *c)
{
    if (c->state == HTTP_CONNECTION_CLOSING) return;
    CHECK(!c->exchange);
    c->state = HTTP_CONNECTION_CLOSING;
    c->deadline_ms = 0;
    net_socket_close(&c->socket, c->reset_after);
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

static void read_start(struct http_connection *c)
{
    if (!c->got_eof) net_socket_read(&c->socket, true);
}

static void linger(struct http_connection *c)
{
    c->state = HTTP_CONNECTION_LINGER;
    c->deadline_ms = in_ms(c, LINGER_MS);
    buf_deinit(&c->pipeline);
    if (c->got_eof || c->reset_after || net_socket_shutdown(&c->socket) != 0) {
        http_connection_close(c);
        return;
    }
    read_start(c);
}

/* ---- writing ---- */

size_t http_connection_pending(const struct http_connection *c)
{
    return c->error ? 0 : c->out.len - c->out_sent;
}

static void fail(struct http_connection *c, int error)
{
    if (c->error) return;
    c->error = error;
    http_connection_defer(c);
}

/* Answered and nothing pending: on to the next request, or to the end. Doesn't call the user. */
static void settle(struct http_connection *c)
{
    const struct http_server *s = c->server;
    if (c->close_after || (s->draining && s->options.drain_idle_ms == 0)) {
        linger(c);
        return;
    }
    c->state = HTTP_CONNECTION_IDLE;
    c->deadline_ms = in_ms(c, s->draining ? s->options.drain_idle_ms : s->options.idle_timeout_ms);
}

static bool is_flushed(const struct http_connection *c)
{
    return c->state == HTTP_CONNECTION_FLUSH && !c->error && http_connection_pending(c) == 0 &&
           !c->socket.blocked; // TLS holds a piece itself
}

static void tell_drained(struct http_connection *c)
{
    struct http_exchange *x = c->exchange;
    if (!x || !x->wants_drain || http_connection_pending(c) >= HTTP_PENDING_LOW) return;
    x->wants_drain = false;
    if (x->on_drain) x->on_drain(x->watch_arg);
}

static void on_writable(struct net_socket *socket)
{
    struct http_connection *c = of(socket);
    struct iovec rest = {c->out.data + c->out_sent, c->out.len - c->out_sent};
    if (c->error) return;
    ssize_t taken = net_socket_send(&c->socket, &rest, 1);
    if (taken < 0) {
        fail(c, (int)taken);
        return;
    }
    c->out_sent += (size_t)taken;
    if (c->out_sent == c->out.len) release_out(c);
    tell_drained(c);
    if (!is_flushed(c)) return;
    settle(c);
    process_pipeline(c);
}

static struct buf *out_buffer(struct http_connection *c)
{
    struct buf *spare = &c->server->spare;
    if (c->out.cap == 0 && spare->cap > 0) {
        spare->max = c->out.max;
        c->out = *spare;
        buf_init(spare, spare->max);
    }
    return &c->out;
}

struct buf *http_connection_begin_hold(struct http_connection *c)
{
    c->held_from = c->out.len;
    return out_buffer(c);
}

void http_connection_end_hold(struct http_connection *c)
{
    c->bytes_queued += c->out.len - c->held_from;
    if (c->out.overflow) fail(c, UV_ENOBUFS);
}

/* Behind what waits already. The part that is sent makes room first if it is most of it. */
static void keep(struct http_connection *c, const struct iovec *piece, size_t from)
{
    if (from == piece->iov_len) return;
    struct buf *out = out_buffer(c);
    if (c->out_sent > 0 && c->out_sent >= out->len / 2) {
        buf_consume(out, c->out_sent);
        c->out_sent = 0;
    }
    if (buf_append(out, (const char *)piece->iov_base + from, piece->iov_len - from) != 0)
        fail(c, UV_ENOBUFS);
}

/* One system call: small pieces are joined, which costs the kernel less than a list of them. */
static ssize_t send_all(struct http_connection *c, const struct iovec *all, int count, size_t total)
{
    char joined[JOINED_BYTES_MAX];
    if (count == 1 || total > sizeof joined) return net_socket_send(&c->socket, all, count);
    size_t len = 0;
    for (int i = 0; i < count; i++) {
        memcpy(joined + len, all[i].iov_base, all[i].iov_len);
        len += all[i].iov_len;
    }
    struct iovec one = {joined, len};
    return net_socket_send(&c->socket, &one, 1);
}

/* Write [out][pieces] as far as the socket takes them; keep the rest in out. */
static void send_pieces(struct http_connection *c, const struct iovec *pieces, int count)
{
    size_t taken = 0, total = 0;
    if (!c->socket.blocked) {
        struct iovec all[8];
        int n = 0;
        if (c->out.len > c->out_sent)
            all[n++] = (struct iovec){c->out.data + c->out_sent, c->out.len - c->out_sent};
        for (int i = 0; i < count; i++)
            all[n++] = pieces[i];
        for (int i = 0; i < n; i++)
            total += all[i].iov_len;
        if (total == 0) return;
        ssize_t rc = send_all(c, all, n, total);
        if (rc < 0) {
            fail(c, (int)rc);
            return;
        }
        taken = (size_t)rc;
        size_t held = c->out.len - c->out_sent;
        if (held > taken) held = taken;
        c->out_sent += held;
        taken -= held;
        if (c->out.len == c->out_sent) release_out(c);
        if (c->socket.blocked) c->stall_ms = 0;
    }
    for (int i = 0; i < count && !c->error; i++) {
        size_t skipped = taken < pieces[i].iov_len ? taken : pieces[i].iov_len;
        taken -= skipped;
        keep(c, &pieces[i], skipped);
    }
}

/* "1f4\r\n" */
static size_t print_chunk_size(char frame[24], size_t len)
{
    char digits[16];
    size_t n = 0, at = 0;
    do {
        digits[n++] = "0123456789abcdef"[len & 15];
        len >>= 4;
    } while (len > 0);
    while (n > 0)
        frame[at++] = digits[--n];
    frame[at++] = '\r';
    frame[at++] = '\n';
    return at;
}

void http_connection_send(struct http_connection *c, const void *data, size_t len, bool chunk,
                          bool last)
{
    if (c->error || c->state == HTTP_CONNECTION_CLOSING) return;
    char frame[24];
    struct iovec pieces[4];
    int n = 0;
    if (chunk && len > 0) pieces[n++] = (struct iovec){frame, print_chunk_size(frame, len)};
    if (len > 0) pieces[n++] = (struct iovec){(void *)data, len};
    bool ends = chunk && last;
    if (chunk && len > 0) {
        pieces[n++] = (struct iovec){(char *)"\r\n0\r\n\r\n", ends ? 7 : 2};
    } else if (ends) {
        pieces[n++] = (struct iovec){(char *)"0\r\n\r\n", 5};
    }
    for (int i = 0; i < n; i++)
        c->bytes_queued += pieces[i].iov_len;
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
    give_parser(c);
    if (is_flushed(c)) settle(c);
}

static void dispatch(struct http_connection *c)
{
    struct http_exchange *x = c->exchange;
    if (!c->parser->keep_alive || c->server->draining) c->close_after = true;
    give_parser(c);
    c->state = HTTP_CONNECTION_EXCHANGE;
    c->deadline_ms = 0;
    x->request.body = x->body.len ? buf_str(&x->body) : (struct str){"", 0};
    c->server->options.on_request(x, c->server->options.arg);
}

#define TLS_HANDSHAKE 0x16 // the first byte of a client that speaks TLS; no method begins so

static void fail_request(struct http_connection *c, bool is_tls)
{
    if (is_tls) {
        http_server_note_protocol(c->server, c->peer);
        c->parser->fail_text = "this port speaks plain HTTP, not HTTPS";
    }
    refuse(c, c->parser->fail_status, c->parser->fail_text);
}

/* Returns how many bytes were used; stops where a request is handed over. */
static size_t feed(struct http_connection *c, const char *data, size_t len)
{
    size_t total = 0;
    c->feeding = true;
    while (total < len && reads_requests(c) && !c->error) {
        bool begins = c->state == HTTP_CONNECTION_IDLE;
        bool is_tls = begins && data[total] == TLS_HANDSHAKE;
        if (begins) {
            c->state = HTTP_CONNECTION_HEAD;
            take_parser(c);
            c->deadline_ms = in_ms(c, c->server->options.header_timeout_ms);
        }
        size_t used;
        enum http_parse result = http_parser_feed(c->parser, data + total, len - total, &used);
        total += used;
        if (result == HTTP_PARSE_DONE) dispatch(c);
        if (result == HTTP_PARSE_FAILED) fail_request(c, is_tls);
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
    if (c->pipeline.len >= PIPELINE_BYTES) net_socket_read(&c->socket, false);
}

static void on_lost(struct net_socket *socket, int status)
{
    struct http_connection *c = of(socket);
    c->got_eof = true;
    if (c->state == HTTP_CONNECTION_FLUSH && status == UV_EOF) {
        c->close_after = true; // the whole answer is under way; this client may still read it
        return;
    }
    lose(c);
}

static void on_data(struct net_socket *socket, const char *data, size_t len)
{
    struct http_connection *c = of(socket);
    if (c->state == HTTP_CONNECTION_LINGER) {
        c->linger_bytes += len;
        if (c->linger_bytes > LINGER_BYTES_MAX) http_connection_close(c);
        return;
    }
    size_t used = reads_requests(c) ? feed(c, data, len) : 0;
    bool keep = c->state == HTTP_CONNECTION_EXCHANGE || c->state == HTTP_CONNECTION_FLUSH;
    if (used < len && keep && !c->close_after) stash(c, data + used, len - used);
}

/* TLS is set up, or won't be. */
static void on_connected(struct net_socket *socket, int status)
{
    struct http_connection *c = of(socket);
    const struct http_server *s = c->server;
    if (status == 0) {
        c->deadline_ms =
            in_ms(c, s->draining ? s->options.drain_idle_ms : s->options.idle_timeout_ms);
    } else if (status == UV_EPROTONOSUPPORT) {
        http_server_note_protocol(c->server, c->peer);
        refuse(c, 400, "this port speaks HTTPS: begin the URL with https://");
    } else {
        const char *why = net_socket_why(socket);
        log_debug("no TLS", "peer=%s reason=\"%s\"", c->peer, why ? why : uv_strerror(status));
        lose(c);
    }
}

/* ---- the parser's callbacks ---- */

/* "http://host...": RFC 9110 4.2.1 wants the host. */
static bool is_absolute(struct str target, struct str scheme)
{
    if (!str_starts_with(target, scheme) || target.len == scheme.len) return false;
    return !memchr("/?#:", target.data[scheme.len], 4);
}

static int check_target(struct http_connection *c)
{
    const struct http_parser *p = c->parser;
    struct str t = p->target;
    bool star = str_equal(t, STR("*")) && strcmp(p->method, "OPTIONS") == 0;
    if (t.len > 0 && (t.data[0] == '/' || star)) return 0;
    if (is_absolute(t, STR("http://")) || is_absolute(t, STR("https://"))) return 0;
    c->parser->fail_text = "the request target must be a path";
    return 400;
}

/* 0, or the status to refuse with. */
static int check_expectation(struct http_connection *c)
{
    const struct http_parser *p = c->parser;
    struct str expect = http_headers_get(&p->headers, "expect");
    if (!expect.data || p->minor == 0) return 0; // RFC 9110 10.1.1: 1.0 clients can't mean it
    if (!str_equal_nocase(expect, STR("100-continue"))) {
        c->parser->fail_text = "the only expectation understood is '100-continue'";
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
    if (status == 0 && c->parser->content_length > s->options.limits.body_bytes) {
        c->parser->fail_text = "the body is too large";
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
    if (status == 413) c->parser->fail_text = "the body is too large";
    if (status == 503) c->parser->fail_text = "too many large requests at once; retry in a moment";
    return status;
}

/* ---- life ---- */

static void name_peer(struct http_connection *c, const struct sockaddr_storage *address)
{
    strncpy(c->peer, "unknown", sizeof c->peer - 1);
    if (uv_ip_name((const struct sockaddr *)address, c->peer, sizeof c->peer) != 0) return;
    static const char mapped[] = "::ffff:"; // an IPv4 client of a dual-stack listener
    if (strncmp(c->peer, mapped, sizeof mapped - 1) == 0 && strchr(c->peer, '.')) {
        memmove(c->peer, c->peer + sizeof mapped - 1, strlen(c->peer) - sizeof mapped + 2);
    }
    c->peer_is_loopback =
        strcmp(c->peer, "::1") == 0 || (strncmp(c->peer, "127.", 4) == 0 && !strchr(c->peer, ':'));
}

bool http_connection_accept(struct http_server *s)
{
    static const struct net_socket_events events = {
        .on_connected = on_connected,
        .on_data = on_data,
        .on_lost = on_lost,
        .on_writable = on_writable,
        .on_closed = on_closed,
    };
    struct sockaddr_storage peer = {0};
    int fd = net_listener_accept(&s->listener, &peer);
    if (fd < 0) {
        http_server_note_accept(s, fd);
        return false;
    }
    struct http_connection *c = xcalloc(1, sizeof *c);
    c->server = s;
    list_init(&c->deferred);
    list_push_back(&s->connections, &c->link);
    s->connection_count++;
    buf_init(&c->out, BUF_MAX_INTERNAL);
    buf_init(&c->pipeline, PIPELINE_BYTES + NET_READ_BYTES);
    net_socket_open(&c->socket, s->sockets, fd, &events);
    name_peer(c, &peer);
    c->deadline_ms = in_ms(c, s->options.idle_timeout_ms);
    if (tls_serves(s->options.tls)) {
        net_socket_secure(&c->socket, tls_accept(s->options.tls));
        c->deadline_ms = in_ms(c, s->options.header_timeout_ms);
    }
    read_start(c);
    return true;
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
    int bytes = 0;
    return ioctl(c->socket.fd, SIOCOUTQ, &bytes) == 0 && bytes > 0 ? (uint64_t)bytes : 0;
}

static bool is_stalled(struct http_connection *c, uint64_t now_ms)
{
    if (!c->socket.blocked) return false;
    uint64_t held = http_connection_pending(c) + unacknowledged(c);
    uint64_t sent = c->bytes_queued > held ? c->bytes_queued - held : 0;
    if (c->stall_ms == 0 || sent > c->bytes_sent_seen) {
        c->stall_ms = now_ms + (uint64_t)c->server->options.write_stall_ms;
        c->bytes_sent_seen = sent;
    }
    return now_ms >= c->stall_ms;
}

/* What has its head already may have been told that the connection stays. */
void http_connection_drain(struct http_connection *c)
{
    int grace_ms = c->server->options.drain_idle_ms;
    if (grace_ms == 0) c->close_after = true;
    if (c->state != HTTP_CONNECTION_IDLE) return;
    if (grace_ms == 0) {
        http_connection_close(c);
    } else {
        uint64_t until_ms = in_ms(c, grace_ms);
        if (until_ms < c->deadline_ms) c->deadline_ms = until_ms;
    }
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
        if (c->socket.securing) log_debug("no TLS in time", "peer=%s", c->peer);
        lose(c);
    }
}
