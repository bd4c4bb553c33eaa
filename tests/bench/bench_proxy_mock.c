/* bench_proxy_mock.c - the upstreams of `lm-bench proxy`: one process, one epoll loop, two ports.
 *
 * A stream is a connection in a slot of the wheel (1 ms each), or in `eager` when it has no pace.
 * Every event is one HTTP chunk. A paced one goes out alone, as an engine that samples token by
 * token sends it; eager streams take turns, QUEUED events each: that many are in the proxy's socket
 * when it reads, whatever it shares its processor with. */
#include "tests/bench/bench_proxy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/list.h"
#include "shared/net/loop.h"

#define IN_BYTES    ((size_t)16 << 10)
#define EVENT_BYTES 512
#define OUT_BYTES   ((size_t)8 << 10)
#define WHEEL_SLOTS 4096 // ms; paces are below
#define EVENTS      256
#define QUEUED      8

struct mock_stream {
    char tag[BENCH_TAG_DIGITS + 1];
    int next, chunks, gap_ms; // next: 0..chunks-1 tokens, then the finish event, then [DONE]
    int text_bytes;
    bool hop;
    uint64_t due_ms;
};

struct mock_connection {
    struct list link; // in a slot of the wheel, in `eager`, or in none
    int fd;
    bool listens, streams, blocked;
    bool paced; // in the wheel
    size_t in_len;
    size_t out_len; // bytes of `out` that the socket didn't take
    struct mock_stream stream;
    char out[OUT_BYTES];
    char in[IN_BYTES];
};

struct mock {
    int epoll;
    struct list wheel[WHEEL_SLOTS];
    struct list eager;
    uint64_t now_ms;
    int paced; // streams in the wheel
};

static void mock_close(struct mock *m, struct mock_connection *c)
{
    if (c->paced) m->paced--;
    list_remove(&c->link);
    close(c->fd);
    free(c);
}

static void watch(struct mock *m, struct mock_connection *c, uint32_t events, int op)
{
    struct epoll_event e = {.events = events, .data.ptr = c};
    CHECK(epoll_ctl(m->epoll, op, c->fd, &e) == 0);
}

/* False: the connection is lost. What the socket doesn't take waits in `out`. */
static bool mock_send(struct mock *m, struct mock_connection *c, const char *data, size_t len)
{
    ssize_t n = send(c->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN) return false;
    size_t sent = n > 0 ? (size_t)n : 0;
    if (sent == len) return true;
    CHECK(len - sent <= sizeof c->out);
    memcpy(c->out, data + sent, len - sent);
    c->out_len = len - sent;
    c->blocked = true;
    watch(m, c, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
    return true;
}

/* ---- streams ---- */

static int print_marks(const struct mock_stream *s, char *out, size_t size)
{
    if (s->next > s->chunks) return snprintf(out, size, ": lm t= b=%d p=4\n", s->text_bytes);
    if (s->next == s->chunks) {
        return snprintf(out, size, ": lm u=24,%d,0\n: lm t= b=%d p=2\n", s->chunks, s->text_bytes);
    }
    int len = 0;
    if (s->next == 0) {
        len = snprintf(out, size, ": lm seed=%d now=1764410000 id=chatcmpl-%s created=1764410000\n",
                       s->gap_ms, s->tag);
    }
    return len +
           snprintf(out + len, size - (size_t)len, ": lm t=%d b=%d p=1\n", s->next, s->text_bytes);
}

static int print_event(const struct mock_stream *s, char *out, size_t size)
{
    static const char head[] = "data: {\"id\":\"chatcmpl-%s\",\"object\":\"chat.completion.chunk\","
                               "\"created\":1764410000,\"model\":\"bench\",\"choices\":[{";
    if (s->next > s->chunks) return snprintf(out, size, "data: [DONE]\n\n");
    int len = snprintf(out, size, head, s->tag);
    if (s->next == s->chunks) {
        return len + snprintf(out + len, size - (size_t)len,
                              "\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n");
    }
    return len + snprintf(out + len, size - (size_t)len,
                          "\"index\":0,\"delta\":{\"content\":\"%s %06d %016llx \"},"
                          "\"finish_reason\":null}]}\n\n",
                          s->tag, s->next, (unsigned long long)clock_ns());
}

/* The next event as an HTTP chunk behind *len. True: there are more. */
static bool put_event(struct mock_stream *s, char *out, size_t *len)
{
    char event[EVENT_BYTES];
    s->text_bytes += s->next < s->chunks ? BENCH_TAG_DIGITS + 25 : 0;
    int size = s->hop ? print_marks(s, event, sizeof event) : 0;
    size += print_event(s, event + size, sizeof event - (size_t)size);
    bool last = s->next++ > s->chunks;
    *len += (size_t)snprintf(out + *len, OUT_BYTES - *len, "%x\r\n", (unsigned)size);
    memcpy(out + *len, event, (size_t)size);
    *len += (size_t)size;
    memcpy(out + *len, last ? "\r\n0\r\n\r\n" : "\r\n", last ? 7 : 2);
    *len += last ? 7 : 2;
    return !last;
}

static void arm(struct mock *m, struct mock_connection *c)
{
    struct mock_stream *s = &c->stream;
    if (s->gap_ms == 0) {
        list_push_back(&m->eager, &c->link);
        return;
    }
    // The finish event and [DONE] come at once behind the last token.
    if (s->next > 0 && s->next < s->chunks) s->due_ms += (uint64_t)s->gap_ms;
    if (s->due_ms <= m->now_ms) s->due_ms = m->now_ms + 1;
    list_push_back(&m->wheel[s->due_ms % WHEEL_SLOTS], &c->link);
    c->paced = true;
    m->paced++;
}

/* One token, with all that ends the stream behind the last one; without a pace QUEUED at once. */
static void advance(struct mock *m, struct mock_connection *c)
{
    struct mock_stream *s = &c->stream;
    char out[OUT_BYTES];
    size_t len = 0;
    bool more = true;
    list_remove(&c->link);
    for (int i = 0; i < QUEUED && more; i++) {
        more = put_event(s, out, &len);
        if (s->gap_ms > 0 && s->next < s->chunks) break;
    }
    c->streams = more;
    if (!mock_send(m, c, out, len)) {
        mock_close(m, c);
    } else if (more && !c->blocked) {
        arm(m, c);
    }
}

static void run_wheel(struct mock *m)
{
    uint64_t now = clock_ms();
    for (; m->now_ms < now; m->now_ms++) {
        struct list *slot = &m->wheel[(m->now_ms + 1) % WHEEL_SLOTS];
        while (!list_is_empty(slot)) {
            struct mock_connection *c = list_first(slot, struct mock_connection, link);
            c->paced = false;
            m->paced--;
            advance(m, c);
        }
    }
}

/* One turn for each that is there now. */
static void run_eager(struct mock *m)
{
    struct list due;
    list_init(&due);
    while (!list_is_empty(&m->eager)) {
        struct list *item = m->eager.next;
        list_remove(item);
        list_push_back(&due, item);
    }
    while (!list_is_empty(&due)) {
        advance(m, list_first(&due, struct mock_connection, link));
    }
}

/* ---- requests ---- */

static int number_behind(const char *text, size_t len, const char *name)
{
    const char *at = memmem(text, len, name, strlen(name));
    int value = 0;
    for (at = at ? at + strlen(name) : text + len; at < text + len && *at >= '0' && *at <= '9';
         at++)
        value = value * 10 + (*at - '0');
    return value;
}

static void answer_chat(struct mock *m, struct mock_connection *c, struct str head, struct str body,
                        bool *lost)
{
    struct mock_stream *s = &c->stream;
    const char *tag = memmem(body.data, body.len, "Question ", 9);
    *s = (struct mock_stream){.due_ms = m->now_ms};
    snprintf(s->tag, sizeof s->tag, "%.*s", BENCH_TAG_DIGITS, tag ? tag + 9 : "--------");
    s->chunks = number_behind(body.data, body.len, "\"max_tokens\":");
    s->gap_ms = number_behind(body.data, body.len, "\"seed\":") % WHEEL_SLOTS;
    s->hop = memmem(head.data, head.len, "x-lm-hop: 1", 11) != NULL;
    bool ours = memmem(head.data, head.len, "x-lm-dispatch: ", 15) != NULL;
    char out[OUT_BYTES], text[EVENT_BYTES];
    if (memmem(body.data, body.len, "\"stream\":true", 13)) {
        int len = snprintf(out, sizeof out,
                           "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n%s"
                           "transfer-encoding: chunked\r\n\r\n",
                           s->hop ? "x-lm-resumable: 1\r\n" : "");
        *lost = !mock_send(m, c, out, (size_t)len);
        c->streams = true;
        if (!*lost && !c->blocked) arm(m, c);
        return;
    }
    int size = snprintf(text, sizeof text,
                        "{\"id\":\"chatcmpl-%s\",\"object\":\"chat.completion\","
                        "\"created\":1764410000,\"model\":\"bench\",\"choices\":[{\"index\":0,"
                        "\"message\":{\"role\":\"assistant\",\"content\":\"%s It scatters blue "
                        "light more than red light.\"},\"finish_reason\":\"stop\"}],\"usage\":{"
                        "\"prompt_tokens\":24,\"completion_tokens\":9,\"total_tokens\":33}}",
                        s->tag, s->tag);
    int len = snprintf(out, sizeof out,
                       "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%s"
                       "content-length: %d\r\n\r\n%s",
                       ours ? "x-lm-usage: 24,9,0\r\n" : "", size, text);
    *lost = !mock_send(m, c, out, (size_t)len);
}

/* What probes and registries ask. */
static void answer_other(struct mock *m, struct mock_connection *c, struct str head, bool *lost)
{
    static const char models[] =
        "{\"object\":\"list\",\"data\":[{\"id\":\"bench\",\"object\":\"model\"}]}";
    bool lists = str_starts_with(head, STR("GET /v1/models "));
    bool lives = lists || str_starts_with(head, STR("GET /health "));
    char out[OUT_BYTES];
    int len = snprintf(out, sizeof out,
                       "HTTP/1.1 %s\r\ncontent-type: application/json\r\n"
                       "content-length: %zu\r\n\r\n%s",
                       lives ? "200 OK" : "404 Not Found", lists ? sizeof models - 1 : 0,
                       lists ? models : "");
    *lost = !mock_send(m, c, out, (size_t)len);
}

/* Answers a request if it is whole. */
static bool take_request(struct mock *m, struct mock_connection *c)
{
    c->in[c->in_len] = 0;
    const char *end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
    if (!end) return c->in_len < IN_BYTES - 1;
    struct str head = {c->in, (size_t)(end + 4 - c->in)};
    const char *length = strcasestr(c->in, "\r\ncontent-length: ");
    size_t body_len = 0;
    if (length && length < end) body_len = (size_t)number_behind(length, 32, ": ");
    if (c->in_len < head.len + body_len) return head.len + body_len < IN_BYTES - 1;
    struct str body = {c->in + head.len, body_len};
    bool lost = false;
    if (str_starts_with(head, STR("POST "))) {
        answer_chat(m, c, head, body, &lost);
    } else {
        answer_other(m, c, head, &lost);
    }
    c->in_len -= head.len + body_len;
    memmove(c->in, c->in + head.len + body_len, c->in_len);
    return !lost;
}

/* ---- the loop ---- */

static void add_connection(struct mock *m, int fd, bool listens)
{
    struct mock_connection *c = xcalloc(1, sizeof *c);
    list_init(&c->link);
    c->fd = fd;
    c->listens = listens;
    int one = 1;
    if (!listens) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    watch(m, c, EPOLLIN, EPOLL_CTL_ADD);
}

static void on_listener(struct mock *m, const struct mock_connection *c)
{
    int fd;
    while ((fd = accept4(c->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
        add_connection(m, fd, false);
}

static void on_writable(struct mock *m, struct mock_connection *c)
{
    char rest[OUT_BYTES];
    size_t len = c->out_len;
    memcpy(rest, c->out, len);
    c->out_len = 0;
    c->blocked = false;
    watch(m, c, EPOLLIN, EPOLL_CTL_MOD);
    bool lost = !mock_send(m, c, rest, len);
    if (lost) {
        mock_close(m, c);
    } else if (c->streams && !c->blocked) {
        arm(m, c);
    }
}

static void on_readable(struct mock *m, struct mock_connection *c)
{
    ssize_t n = recv(c->fd, c->in + c->in_len, IN_BYTES - 1 - c->in_len, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return;
    if (n > 0) c->in_len += (size_t)n;
    if (n <= 0 || c->streams || !take_request(m, c)) mock_close(m, c); // nobody pipelines here
}

_Noreturn static void serve(const int listeners[BENCH_MOCKS])
{
    static struct mock m;
    m.epoll = epoll_create1(EPOLL_CLOEXEC);
    list_init(&m.eager);
    for (int i = 0; i < WHEEL_SLOTS; i++)
        list_init(&m.wheel[i]);
    m.now_ms = clock_ms();
    for (int i = 0; i < BENCH_MOCKS; i++)
        add_connection(&m, listeners[i], true);
    for (;;) {
        struct epoll_event events[EVENTS];
        int wait = !list_is_empty(&m.eager) ? 0 : m.paced > 0 ? 1 : 1000;
        int n = epoll_wait(m.epoll, events, EVENTS, wait);
        run_wheel(&m);
        for (int i = 0; i < n; i++) {
            struct mock_connection *c = events[i].data.ptr;
            if (c->listens) {
                on_listener(&m, c);
            } else if (events[i].events & EPOLLOUT) {
                on_writable(&m, c);
            } else {
                on_readable(&m, c);
            }
        }
        run_eager(&m);
    }
}

static int open_listener(int *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) != 0 || listen(fd, 4096) != 0 ||
        getsockname(fd, (struct sockaddr *)&a, &len) != 0) {
        if (fd >= 0) close(fd);
        return -1;
    }
    *port = ntohs(a.sin_port);
    return fd;
}

int bench_mocks_start(struct bench_mocks *m, int cpu, struct error *err)
{
    int fds[BENCH_MOCKS];
    *m = (struct bench_mocks){0};
    for (int i = 0; i < BENCH_MOCKS; i++) {
        fds[i] = open_listener(&m->port[i]);
        if (fds[i] < 0)
            return error_set(err, -errno, "cannot open a mock upstream: %s", strerror(errno));
    }
    m->pid = fork();
    if (m->pid < 0) return error_set(err, -errno, "fork: %s", strerror(errno));
    if (m->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        prctl(PR_SET_TIMERSLACK, 1000);
        bench_pin(cpu);
        loop_raise_nofile();
        serve(fds);
    }
    for (int i = 0; i < BENCH_MOCKS; i++)
        close(fds[i]);
    return 0;
}

void bench_mocks_stop(struct bench_mocks *m)
{
    if (!m->pid) return;
    kill(m->pid, SIGKILL);
    waitpid(m->pid, NULL, 0);
    m->pid = 0;
}
