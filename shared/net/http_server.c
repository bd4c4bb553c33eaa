/* http_server.c - listening, limits over all connections, the end.
 *
 * Rules:
 *  1. One handle per connection. Deadlines are plain numbers that one sweep timer looks at, so that
 *     thousands of streams re-arm them for free.
 *  2. Nothing calls the user back from inside a call of the user. What happens there is put on the
 *     deferred list, and the turn handle works it off before the loop polls again.
 *  3. Beyond connections_max a connection stays in the kernel's backlog: the listener isn't asked
 *     until one has gone. Half of the process's descriptors
 *     are never given to clients: whoever serves them needs some, too. */
#define LOG_MODULE "http"
#include "shared/net/http_server.h"

#include "shared/base/check.h"
#include "shared/base/log.h"
#include "shared/net/http_connection.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define BACKLOG            4096 // the kernel's own limit is the lower one, usually
#define KEEPALIVE_S        60
#define ACCEPTS_PER_TURN   64 // so that a storm of clients doesn't hold up those that are served
#define SWEEP_MS_MAX       500
#define SWEEP_MS_MIN       5
#define SWEEPS_PER_TIMEOUT 8 // how late a deadline may be noticed: an eighth of the shortest

static void set_default(int *value, int def)
{
    if (*value == 0) *value = def;
}

static void apply_defaults(struct http_server_options *o)
{
    set_default(&o->connections_max, 4096);
    set_default(&o->header_timeout_ms, 10 * 1000);
    set_default(&o->body_timeout_ms, 60 * 1000);
    set_default(&o->idle_timeout_ms, 75 * 1000);
    set_default(&o->write_stall_ms, 30 * 1000);
    if (o->body_bytes_total == 0) o->body_bytes_total = 1 << 30;
    if (o->limits.target_bytes == 0) o->limits.target_bytes = http_limits_default.target_bytes;
    if (o->limits.header_bytes == 0) o->limits.header_bytes = http_limits_default.header_bytes;
    if (o->limits.header_count == 0) o->limits.header_count = http_limits_default.header_count;
    if (o->limits.body_bytes == 0) o->limits.body_bytes = http_limits_default.body_bytes;
}

/* Rule 3. */
static void bound_connections(struct http_server_options *o)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return;
    rlim_t half = limit.rlim_cur / 2;
    if (half == 0 || (rlim_t)o->connections_max <= half) return;
    log_info("connections bounded", "max=%llu asked=%d: half of the open files allowed",
             (unsigned long long)half, o->connections_max);
    o->connections_max = (int)half;
}

static int sweep_period(const struct http_server_options *o)
{
    int shortest = o->header_timeout_ms;
    if (o->body_timeout_ms < shortest) shortest = o->body_timeout_ms;
    if (o->idle_timeout_ms < shortest) shortest = o->idle_timeout_ms;
    if (o->write_stall_ms < shortest) shortest = o->write_stall_ms;
    int period = shortest / SWEEPS_PER_TIMEOUT;
    if (period > SWEEP_MS_MAX) return SWEEP_MS_MAX;
    return period < SWEEP_MS_MIN ? SWEEP_MS_MIN : period;
}

static void on_turn(uv_idle_t *turn)
{
    struct http_server *s = turn->data;
    struct list due; // what is deferred from here on waits for the next turn
    list_init(&due);
    while (!list_is_empty(&s->deferred)) {
        struct list *item = s->deferred.next;
        list_remove(item);
        list_push_back(&due, item);
    }
    while (!list_is_empty(&due)) {
        struct http_connection *c = list_first(&due, struct http_connection, deferred);
        list_remove(&c->deferred);
        http_connection_turn(c);
    }
    if (list_is_empty(&s->deferred)) uv_idle_stop(turn);
}

void http_connection_defer(struct http_connection *c)
{
    list_remove(&c->deferred);
    list_push_back(&c->server->deferred, &c->deferred);
    uv_idle_start(&c->server->turn, on_turn);
}

static void on_sweep(uv_timer_t *timer);

static void start_sweep(struct http_server *s)
{
    if (uv_is_active((uv_handle_t *)&s->sweep)) return;
    uv_timer_start(&s->sweep, on_sweep, (uint64_t)s->sweep_ms, (uint64_t)s->sweep_ms);
}

/* One connection, if another one may be had. */
static bool accept_next(struct http_server *s)
{
    if (s->connection_count >= s->options.connections_max) {
        if (!s->accept_waits) net_listener_pause(&s->listener, true);
        s->accept_waits = true;
        return false;
    }
    if (s->accept_waits) net_listener_pause(&s->listener, false);
    s->accept_waits = false;
    if (!http_connection_accept(s)) return false;
    start_sweep(s);
    return true;
}

/* The sweep tries again. */
void http_server_note_accept(struct http_server *s, int status)
{
    if (status == UV_EAGAIN) return;
    s->accept_waits = true;
    net_listener_pause(&s->listener, true);
    start_sweep(s);
    // Out of descriptors, usually: once a second is enough to hear of it.
    uint64_t now = uv_now(s->loop);
    if (now - s->accept_logged_ms >= 1000) {
        log_warn("accept failed", "error=\"%s\"", uv_strerror(status));
        s->accept_logged_ms = now;
    }
}

/* TLS to a plain port, or the other way round: a wrong URL somewhere, and asked for again and again. */
void http_server_note_protocol(struct http_server *s, const char *peer)
{
    uint64_t now = uv_now(s->loop);
    if (s->protocol_logged_ms && now - s->protocol_logged_ms < 1000) return;
    s->protocol_logged_ms = now;
    log_warn(tls_serves(s->options.tls) ? "plain HTTP to a port that speaks HTTPS"
                                        : "TLS to a port that speaks plain HTTP",
             "peer=%s port=%d", peer, http_server_port(s));
}

static void on_acceptable(struct net_socket *listener)
{
    struct http_server *s = list_entry(listener, struct http_server, listener);
    for (int i = 0; i < ACCEPTS_PER_TURN && s->listening && accept_next(s); i++) {
    }
}

static void on_sweep(uv_timer_t *timer)
{
    struct http_server *s = timer->data;
    uint64_t now = uv_now(s->loop);
    list_each_safe (c, &s->connections, struct http_connection, link) {
        http_connection_sweep(c, now);
    }
    if (s->accept_waits && s->listening) accept_next(s);
}

static void on_released(void *arg)
{
    struct http_server *s = arg;
    void (*on_closed)(void *arg) = s->on_closed;
    void *on_closed_arg = s->on_closed_arg;
    free((char *)s->options.host);
    buf_deinit(&s->spare);
    free(s->parser);
    http_parser_memory_destroy(s->parser_spare);
    free(s);
    if (on_closed) on_closed(on_closed_arg);
}

static void free_when_closed(struct http_server *s)
{
    if (s->handles_open > 0 || s->connection_count > 0) return;
    if (s->sockets) {
        net_sockets_unref(s->sockets, on_released, s);
    } else {
        on_released(s);
    }
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct http_server *s = handle->data;
    s->handles_open--;
    free_when_closed(s);
}

static void on_listener_closed(struct net_socket *listener)
{
    struct http_server *s = list_entry(listener, struct http_server, listener);
    s->handles_open--;
    free_when_closed(s);
}

static void close_handle(uv_handle_t *handle)
{
    if (!uv_is_closing(handle)) uv_close(handle, on_handle_closed);
}

void http_server_forget(struct http_server *s, struct http_connection *c)
{
    list_remove(&c->link);
    list_remove(&c->deferred);
    s->connection_count--;
    if (s->accept_waits && s->listening) accept_next(s);
    if (s->connection_count == 0 && !s->accept_waits) uv_timer_stop(&s->sweep);
    if (!s->closing || s->connection_count > 0) return;
    // The handles outlive the connections, whose turns they run.
    close_handle((uv_handle_t *)&s->sweep);
    close_handle((uv_handle_t *)&s->turn);
}

/* Connections inherit what is set here. */
static int set_options(int fd, bool reuse_port)
{
    int one = 1, idle = KEEPALIVE_S, every = 1, count = 10;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0) return -errno;
    if (reuse_port && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one) != 0)
        return -errno;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof every);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
    return 0;
}

static void take_listener(struct http_server *s, int fd)
{
    static const struct net_socket_events events = {
        .on_acceptable = on_acceptable,
        .on_closed = on_listener_closed,
    };
    s->sockets = net_sockets_ref(s->loop);
    net_listener_open(&s->listener, s->sockets, fd, &events);
    s->handles_open++;
}

static int bind_listener(struct http_server *s, const struct sockaddr *address, bool reuse_port)
{
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    bool v6 = address->sa_family == AF_INET6;
    socklen_t len = v6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    int rc = set_options(fd, reuse_port);
    if (rc == 0 && (bind(fd, address, len) != 0 || listen(fd, BACKLOG) != 0)) rc = -errno;
    if (rc != 0) {
        close(fd);
        return rc;
    }
    take_listener(s, fd);
    return 0;
}

/* It listens already; another process may use it, too. */
static int adopt_listener(struct http_server *s, struct error *err)
{
    int fd = s->options.listen_fd, flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0 || listen(fd, BACKLOG) != 0) {
        int rc = -errno;
        return error_set(err, rc, "cannot listen on descriptor %d: %s", fd, uv_strerror(rc));
    }
    take_listener(s, fd);
    return 0;
}

static int open_listener(struct http_server *s, struct error *err)
{
    if (s->options.listen_fd > 0) return adopt_listener(s, err);
    const struct http_server_options *o = &s->options;
    char service[16];
    snprintf(service, sizeof service, "%d", o->port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    uv_getaddrinfo_t lookup;
    int rc = uv_getaddrinfo(s->loop, &lookup, NULL, o->host, service, &hints);
    if (rc == 0) {
        rc = bind_listener(s, lookup.addrinfo->ai_addr, o->reuse_port);
        uv_freeaddrinfo(lookup.addrinfo);
    }
    if (rc == 0) return 0;
    bool v6 = strchr(o->host, ':') != NULL;
    return error_set(err, rc, "cannot listen on %s%s%s:%d: %s", v6 ? "[" : "", o->host,
                     v6 ? "]" : "", o->port, uv_strerror(rc));
}

/* A socket without SO_REUSEPORT can't be bound where anybody listens. */
int http_server_check_port(uv_loop_t *loop, const char *host, int port, struct error *err)
{
    char service[16];
    snprintf(service, sizeof service, "%d", port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    uv_getaddrinfo_t lookup;
    int rc = uv_getaddrinfo(loop, &lookup, NULL, host, service, &hints);
    if (rc == 0) {
        const struct addrinfo *info = lookup.addrinfo;
        int one = 1, fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        bool ok = fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0 &&
                  bind(fd, info->ai_addr, info->ai_addrlen) == 0 && listen(fd, 1) == 0;
        if (!ok) rc = uv_translate_sys_error(errno);
        if (fd >= 0) close(fd);
        uv_freeaddrinfo(lookup.addrinfo);
    }
    if (rc == 0) return 0;
    return error_set(err, rc, "cannot listen on %s:%d: %s", host, port, uv_strerror(rc));
}

int http_server_open(uv_loop_t *loop, const struct http_server_options *options,
                     struct http_server **out, struct error *err)
{
    struct http_server *s = xcalloc(1, sizeof *s);
    s->loop = loop;
    s->options = *options;
    s->options.host = xstrdup(options->host ? options->host : "0.0.0.0");
    apply_defaults(&s->options);
    s->sweep_ms = sweep_period(&s->options);
    buf_init(&s->spare, BUF_MAX_INTERNAL);
    list_init(&s->connections);
    list_init(&s->deferred);
    CHECK(uv_timer_init(loop, &s->sweep) == 0);
    CHECK(uv_idle_init(loop, &s->turn) == 0);
    s->sweep.data = s->turn.data = s;
    s->handles_open = 2;
    int rc = open_listener(s, err);
    if (rc != 0) {
        // Freed on the loop's next turn, or by loop_close_all().
        s->closing = true;
        close_handle((uv_handle_t *)&s->sweep);
        close_handle((uv_handle_t *)&s->turn);
        return rc;
    }
    bound_connections(&s->options); // says so, which a failure to listen must not be mixed with
    s->listening = true;
    if (options->held) net_listener_pause(&s->listener, true);
    *out = s;
    return 0;
}

int http_server_port(const struct http_server *s)
{
    struct sockaddr_storage address;
    socklen_t len = sizeof address;
    if (getsockname(s->listener.fd, (struct sockaddr *)&address, &len) != 0) return 0;
    in_port_t port = address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                                                   : ((struct sockaddr_in *)&address)->sin_port;
    return ntohs(port);
}

int http_server_fd(const struct http_server *s)
{
    return s->listening ? s->listener.fd : -1;
}

int http_server_connections(const struct http_server *s)
{
    return s->connection_count;
}

void http_server_accept(struct http_server *s)
{
    if (!s->options.held) return;
    s->options.held = false;
    if (s->listening && !s->accept_waits) net_listener_pause(&s->listener, false);
}

static void stop_listening(struct http_server *s)
{
    if (!s->listening) return;
    s->listening = false;
    net_socket_close(&s->listener, false);
}

void http_server_drain(struct http_server *s)
{
    s->draining = true;
    stop_listening(s);
    list_each_safe (c, &s->connections, struct http_connection, link)
        http_connection_drain(c);
}

void http_server_close(struct http_server *s, void (*on_closed)(void *arg), void *arg)
{
    CHECK(!s->closing);
    s->closing = true;
    s->on_closed = on_closed;
    s->on_closed_arg = arg;
    stop_listening(s);
    list_each (c, &s->connections, struct http_connection, link)
        http_connection_defer(c);
    if (s->connection_count > 0) return;
    close_handle((uv_handle_t *)&s->sweep);
    close_handle((uv_handle_t *)&s->turn);
}
