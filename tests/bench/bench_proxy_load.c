/* bench_proxy_load.c - the clients of `lm-bench proxy`: one epoll loop over keep-alive connections,
 * each with one request at a time. Every answer is read to its end and checked: the right stream,
 * its chunks in order, all of them, [DONE], the end of the body. */
#include "tests/bench/bench_proxy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/ssl.h>

#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/str.h"
#include "tests/bench/bench_tls.h"

#define LINE_BYTES      ((size_t)2 << 10) // of a head, a whole answer, an event
#define READ_BYTES      ((size_t)64 << 10)
#define EVENTS          256
#define SAMPLE_MS       100
#define PATIENCE_MS     20000 // beyond what a wave should take
#define TIMES_MAX       ((size_t)4 << 20)
#define CHUNK_BYTES_MAX (1u << 20)

enum wave_state {
    WAVE_CONNECTING,
    WAVE_SHAKING, // TLS's handshake
    WAVE_HEAD,
    WAVE_LENGTH,     // a body of known length
    WAVE_CHUNK_SIZE, // the line before a chunk
    WAVE_CHUNK,
    WAVE_CHUNK_END, // CR LF behind it
    WAVE_LAST,      // CR LF behind the last chunk
    WAVE_IDLE,      // no request left for it
};

struct wave_connection {
    enum wave_state state;
    int fd;
    SSL *ssl; // NULL: plain
    uint64_t start_ns;
    int tag;
    int next;             // number of the next chunk
    bool done;            // [DONE] was seen
    size_t remaining;     // of the body or the chunk
    size_t len, size_len; // of the two below
    char size_line[20];   // torn
    char line[LINE_BYTES];
};

struct wave {
    const struct bench_wave *w;
    struct bench_wave_result *r;
    struct wave_connection *connections;
    int epoll, opened, issued, running;
    bool counting, over;
    char request[1024];
    size_t request_len, tag_at;
    uint64_t cpu_from_ns, count_from_ns, begin_ns, sample_ns;
    char read_buffer[READ_BYTES];
};

/* ---- times ---- */

static void times_add(struct bench_times *t, uint64_t ns)
{
    if (t->count == TIMES_MAX) return;
    if (t->count == t->cap) {
        t->cap = t->cap ? t->cap * 2 : 1024;
        t->us = xrealloc_array(t->us, t->cap, sizeof *t->us);
    }
    t->us[t->count++] = (float)ns * 1e-3f;
}

static int compare(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

double bench_times_at(struct bench_times *t, double quantile)
{
    if (t->count == 0) return 0;
    qsort(t->us, t->count, sizeof *t->us, compare);
    return (double)t->us[(size_t)(quantile * (double)(t->count - 1))];
}

void bench_times_deinit(struct bench_times *t)
{
    free(t->us);
    *t = (struct bench_times){0};
}

void bench_wave_result_deinit(struct bench_wave_result *r)
{
    bench_times_deinit(&r->latency);
    bench_times_deinit(&r->first);
    bench_times_deinit(&r->transit);
}

/* ---- requests ---- */

static void build_request(struct wave *v)
{
    const struct bench_wave *w = v->w;
    char body[512];
    int body_len =
        snprintf(body, sizeof body,
                 "{\"model\":\"bench\",\"messages\":[{\"role\":\"system\",\"content\":"
                 "\"You are a helpful assistant. Answer briefly.\"},{\"role\":\"user\","
                 "\"content\":\"Question %0*d: why is the sky blue?\"}],"
                 "\"temperature\":0.7,\"max_tokens\":%d,\"seed\":%d,\"stream\":%s}",
                 BENCH_TAG_DIGITS, 0, w->chunks, w->gap_ms, w->stream ? "true" : "false");
    int len = snprintf(v->request, sizeof v->request,
                       "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                       "User-Agent: lm-bench\r\nAccept: */*\r\nAuthorization: Bearer sk-bench\r\n"
                       "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
                       body_len, body);
    v->request_len = (size_t)len;
    v->tag_at = (size_t)(strstr(v->request, "Question ") + 9 - v->request);
}

static void lose(struct wave *v, struct wave_connection *c, const char *why)
{
    v->r->failed++;
    if (!v->r->why[0]) snprintf(v->r->why, sizeof v->r->why, "%s", why);
    bench_tls_close(c->ssl);
    c->ssl = NULL;
    close(c->fd);
    c->fd = -1;
    c->state = WAVE_IDLE;
    v->running--;
}

static bool send_request(const struct wave *v, const struct wave_connection *c)
{
    int len = (int)v->request_len;
    if (c->ssl) return SSL_write(c->ssl, v->request, len) == len;
    return send(c->fd, v->request, v->request_len, MSG_NOSIGNAL) == len;
}

static void next_request(struct wave *v, struct wave_connection *c)
{
    if (v->over || (v->w->requests > 0 && v->issued == v->w->requests)) {
        c->state = WAVE_IDLE;
        v->running--;
        return;
    }
    char tag[16];
    c->tag = ++v->issued;
    snprintf(tag, sizeof tag, "%0*d", BENCH_TAG_DIGITS, c->tag);
    memcpy(v->request + v->tag_at, tag, BENCH_TAG_DIGITS);
    c->state = WAVE_HEAD;
    c->len = 0;
    c->next = 0;
    c->done = false;
    c->start_ns = clock_ns();
    if (!send_request(v, c)) lose(v, c, "the proxy took no request");
}

static void request_done(struct wave *v, struct wave_connection *c)
{
    if (v->counting) {
        v->r->requests++;
        times_add(&v->r->latency, clock_ns() - c->start_ns);
    }
    next_request(v, c);
}

/* ---- answers ---- */

static bool read_event(struct wave *v, struct wave_connection *c, uint64_t now)
{
    struct str line = {c->line, c->len};
    if (line.len == 0 || str_equal(line, STR(": keep-alive"))) return true;
    if (str_equal(line, STR("data: [DONE]"))) {
        c->done = true;
        return true;
    }
    const char *content = memmem(line.data, line.len, "\"content\":\"", 11);
    if (!content) return memmem(line.data, line.len, "\"finish_reason\":\"stop\"", 22) != NULL;
    int tag = 0, number = 0;
    unsigned long long sent = 0;
    c->line[c->len] = 0;
    const char *p = content + 11;
    for (; *p >= '0' && *p <= '9'; p++)
        tag = tag * 10 + (*p - '0');
    for (p++; *p >= '0' && *p <= '9'; p++)
        number = number * 10 + (*p - '0');
    for (p++; *p && *p != ' '; p++)
        sent = sent << 4 | (unsigned)(*p <= '9' ? *p - '0' : *p - 'a' + 10);
    if (tag != c->tag || number != c->next || c->done) return false;
    if (c->next++ == 0) times_add(&v->r->first, now - c->start_ns);
    v->r->chunks++;
    times_add(&v->r->transit, now > sent ? now - sent : 0);
    return true;
}

/* Lines of a stream's body. */
static bool take_text(struct wave *v, struct wave_connection *c, const char *p, size_t n,
                      uint64_t now)
{
    while (n > 0) {
        const char *end = memchr(p, '\n', n);
        size_t part = end ? (size_t)(end - p) : n;
        if (c->len + part >= LINE_BYTES) return false;
        memcpy(c->line + c->len, p, part);
        c->len += part;
        if (!end) return true;
        if (!read_event(v, c, now)) return false;
        c->len = 0;
        p += part + 1;
        n -= part + 1;
    }
    return true;
}

/* The head is in `line`. */
static bool take_head(struct wave *v, struct wave_connection *c)
{
    c->line[c->len] = 0;
    if (strncmp(c->line, "HTTP/1.1 200", 12) != 0) {
        if (!v->r->why[0]) snprintf(v->r->why, sizeof v->r->why, "%.60s", c->line);
        return false;
    }
    const char *length = strcasestr(c->line, "\r\ncontent-length: ");
    c->len = c->size_len = c->remaining = 0;
    if (!length) {
        c->state = WAVE_CHUNK_SIZE;
        return true;
    }
    c->state = WAVE_LENGTH;
    for (const char *p = length + 18; *p >= '0' && *p <= '9'; p++)
        c->remaining = c->remaining * 10 + (size_t)(*p - '0');
    return c->remaining > 0 && c->remaining < LINE_BYTES;
}

static bool whole_is_right(struct wave_connection *c)
{
    char tag[BENCH_TAG_DIGITS + 16];
    int len = snprintf(tag, sizeof tag, "\"%0*d It", BENCH_TAG_DIGITS, c->tag);
    return memmem(c->line, c->len, tag, (size_t)len) != NULL;
}

/* SIZE_MAX: not a size. */
static size_t chunk_size(struct str line)
{
    size_t size = 0;
    for (size_t i = 0; i < line.len && line.data[i] != '\r'; i++) {
        char d = line.data[i];
        bool digit = d >= '0' && d <= '9', hex = (d | 32) >= 'a' && (d | 32) <= 'f';
        if (!digit && !hex) return SIZE_MAX;
        size = size << 4 | (size_t)(digit ? d - '0' : (d | 32) - 'a' + 10);
        if (size > CHUNK_BYTES_MAX) return SIZE_MAX;
    }
    return line.len > 1 ? size : SIZE_MAX;
}

static bool take_size_line(struct wave_connection *c, const char **p, size_t *n)
{
    while (*n > 0 && c->size_len < sizeof c->size_line) {
        char b = **p;
        (*p)++;
        (*n)--;
        if (b != '\n') {
            c->size_line[c->size_len++] = b;
            continue;
        }
        c->remaining = chunk_size((struct str){c->size_line, c->size_len});
        c->size_len = 0;
        c->state = c->remaining == 0 ? WAVE_LAST : WAVE_CHUNK;
        return c->remaining != SIZE_MAX;
    }
    return c->size_len < sizeof c->size_line;
}

/* CR LF behind a chunk or behind the last one; `remaining` counts up. */
static bool take_line_end(struct wave *v, struct wave_connection *c, const char **p, size_t *n)
{
    if (**p != (c->remaining == 0 ? '\r' : '\n')) return false;
    (*p)++;
    (*n)--;
    if (++c->remaining < 2) return true;
    c->remaining = 0;
    if (c->state == WAVE_CHUNK_END) {
        c->state = WAVE_CHUNK_SIZE;
        return true;
    }
    if (!c->done || c->next != v->w->chunks || *n > 0) return false;
    request_done(v, c);
    return true;
}

/* Some of the body in its framing. */
static bool take_chunked(struct wave *v, struct wave_connection *c, const char **p, size_t *n,
                         uint64_t now)
{
    if (c->state == WAVE_CHUNK_SIZE) return take_size_line(c, p, n);
    if (c->state != WAVE_CHUNK) return take_line_end(v, c, p, n);
    size_t part = *n < c->remaining ? *n : c->remaining;
    if (!take_text(v, c, *p, part, now)) return false;
    *p += part;
    *n -= part;
    c->remaining -= part;
    if (c->remaining == 0) c->state = WAVE_CHUNK_END;
    return true;
}

/* Up to the empty line. */
static bool take_head_bytes(struct wave *v, struct wave_connection *c, const char **p, size_t *n)
{
    while (*n > 0 && c->len < LINE_BYTES - 1) {
        char b = **p;
        (*p)++;
        (*n)--;
        c->line[c->len++] = b;
        bool ends = b == '\n' && c->len >= 4 && memcmp(c->line + c->len - 4, "\r\n\r\n", 4) == 0;
        if (ends) return take_head(v, c);
    }
    return c->len < LINE_BYTES - 1;
}

static bool take_whole(struct wave *v, struct wave_connection *c, const char **p, size_t *n)
{
    size_t part = *n < c->remaining ? *n : c->remaining;
    memcpy(c->line + c->len, *p, part);
    c->len += part;
    c->remaining -= part;
    *p += part;
    *n -= part;
    if (c->remaining > 0) return true;
    if (*n > 0 || !whole_is_right(c)) return false;
    request_done(v, c);
    return true;
}

static bool take_bytes(struct wave *v, struct wave_connection *c, const char *p, size_t n)
{
    uint64_t now = clock_ns();
    bool ok = true;
    while (n > 0 && ok) {
        switch (c->state) {
        case WAVE_CONNECTING:
        case WAVE_SHAKING:
        case WAVE_IDLE: // nothing is asked for
            return false;
        case WAVE_HEAD:
            ok = take_head_bytes(v, c, &p, &n);
            break;
        case WAVE_LENGTH:
            ok = take_whole(v, c, &p, &n);
            break;
        default:
            ok = take_chunked(v, c, &p, &n, now);
            break;
        }
    }
    return ok;
}

/* ---- connections ---- */

static void open_connection(struct wave *v)
{
    struct wave_connection *c = &v->connections[v->opened];
    struct sockaddr_in a = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
        .sin_port = htons((uint16_t)v->w->port[v->opened % v->w->port_count]),
    };
    int one = 1;
    v->opened++;
    v->running++;
    c->state = WAVE_CONNECTING;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0 ||
        (connect(c->fd, (struct sockaddr *)&a, sizeof a) != 0 && errno != EINPROGRESS)) {
        lose(v, c, strerror(errno));
        return;
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event e = {.events = EPOLLOUT, .data.ptr = c};
    CHECK(epoll_ctl(v->epoll, EPOLL_CTL_ADD, c->fd, &e) == 0);
}

static void shake_hands(struct wave *v, struct wave_connection *c)
{
    int rc = SSL_do_handshake(c->ssl);
    if (rc == 1) {
        next_request(v, c);
    } else if (SSL_get_error(c->ssl, rc) != SSL_ERROR_WANT_READ) {
        lose(v, c, "TLS's handshake failed");
    }
}

static void take_or_lose(struct wave *v, struct wave_connection *c, size_t n)
{
    if (!take_bytes(v, c, v->read_buffer, n) && c->state != WAVE_IDLE) {
        lose(v, c, "an answer was wrong: order, count, framing or another stream's chunk");
    }
}

/* All that has come: epoll doesn't see what OpenSSL holds. */
static void read_tls(struct wave *v, struct wave_connection *c)
{
    int n;
    while (c->ssl && (n = SSL_read(c->ssl, v->read_buffer, READ_BYTES)) > 0)
        take_or_lose(v, c, (size_t)n);
    if (!c->ssl || SSL_get_error(c->ssl, n) == SSL_ERROR_WANT_READ) return;
    if (c->state != WAVE_IDLE) lose(v, c, "closed inside an answer");
}

static void on_event(struct wave *v, struct wave_connection *c)
{
    if (c->state == WAVE_CONNECTING) {
        int status = 0;
        socklen_t len = sizeof status;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &status, &len);
        if (status != 0) {
            lose(v, c, strerror(status));
            return;
        }
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        CHECK(epoll_ctl(v->epoll, EPOLL_CTL_MOD, c->fd, &e) == 0);
        if (v->w->tls) {
            c->ssl = bench_tls_open(c->fd);
            c->state = WAVE_SHAKING;
            shake_hands(v, c);
        } else {
            next_request(v, c);
        }
        return;
    }
    if (c->state == WAVE_SHAKING) {
        shake_hands(v, c);
        return;
    }
    if (c->ssl) {
        read_tls(v, c);
        return;
    }
    ssize_t n = recv(c->fd, v->read_buffer, READ_BYTES, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        if (c->state != WAVE_IDLE) lose(v, c, n == 0 ? "closed inside an answer" : strerror(errno));
        return;
    }
    take_or_lose(v, c, (size_t)n);
}

/* ---- the wave ---- */

static void begin_counting(struct wave *v, uint64_t now)
{
    v->counting = true;
    v->count_from_ns = now;
    v->cpu_from_ns = v->w->pid ? bench_process_cpu_ns(v->w->pid) : 0;
}

static void end_counting(struct wave *v, uint64_t now)
{
    if (v->over) return;
    v->over = true;
    v->counting = false;
    v->r->seconds = (double)(now - v->count_from_ns) * 1e-9;
    if (v->w->pid) v->r->cpu_ns = bench_process_cpu_ns(v->w->pid) - v->cpu_from_ns;
}

static void look_around(struct wave *v, uint64_t now)
{
    const struct bench_wave *w = v->w;
    uint64_t ms = (now - v->begin_ns) / 1000000;
    int due = w->connections;
    if (w->spread_ms > 0 && ms < (uint64_t)w->spread_ms)
        due = (int)((uint64_t)w->connections * ms / (uint64_t)w->spread_ms) + 1;
    while (v->opened < due && v->opened < w->connections)
        open_connection(v);
    if (v->running > v->r->open_max) v->r->open_max = v->running;
    if (w->requests == 0 && !v->counting && !v->over && ms >= (uint64_t)w->warm_ms)
        begin_counting(v, now);
    if (w->requests == 0 && ms >= (uint64_t)(w->warm_ms + w->run_ms)) end_counting(v, now);
    if (!w->pid || now - v->sample_ns < SAMPLE_MS * 1000000ull) return;
    v->sample_ns = now;
    double kb = bench_process_rss_kb(w->pid);
    if (kb > v->r->rss_peak_kb) v->r->rss_peak_kb = kb;
}

static int64_t wave_limit_ms(const struct bench_wave *w)
{
    if (w->requests == 0) return w->warm_ms + w->run_ms + PATIENCE_MS;
    int64_t turns = (w->requests + w->connections - 1) / w->connections;
    return w->spread_ms + turns * w->chunks * w->gap_ms + PATIENCE_MS;
}

int bench_wave_run(const struct bench_wave *w, struct bench_wave_result *r, struct error *err)
{
    struct wave *v = xcalloc(1, sizeof *v);
    *r = (struct bench_wave_result){0};
    v->w = w;
    v->r = r;
    v->epoll = epoll_create1(EPOLL_CLOEXEC);
    v->connections = xcalloc((size_t)w->connections, sizeof *v->connections);
    for (int i = 0; i < w->connections; i++)
        v->connections[i].fd = -1;
    build_request(v);
    if (w->pid) r->rss_idle_kb = bench_process_rss_kb(w->pid);
    v->begin_ns = clock_ns();
    if (w->requests > 0) begin_counting(v, v->begin_ns);
    uint64_t now = v->begin_ns, limit_ns = (uint64_t)wave_limit_ms(w) * 1000000;
    do {
        look_around(v, now);
        struct epoll_event events[EVENTS];
        int n = epoll_wait(v->epoll, events, EVENTS, v->opened < w->connections ? 1 : 5);
        for (int i = 0; i < n; i++)
            on_event(v, events[i].data.ptr);
        now = clock_ns();
    } while ((v->running > 0 || v->opened < w->connections) && now - v->begin_ns < limit_ns);
    if (w->requests > 0) end_counting(v, now);
    bool ended = v->running == 0;
    for (int i = 0; i < w->connections; i++) {
        bench_tls_close(v->connections[i].ssl);
        if (v->connections[i].fd >= 0) close(v->connections[i].fd);
    }
    close(v->epoll);
    free(v->connections);
    free(v);
    return ended ? 0 : error_set(err, E_UPSTREAM, "answers were missing at the end of the time");
}
