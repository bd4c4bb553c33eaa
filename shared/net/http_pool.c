/* http_pool.c - connections of the HTTP client: opening, writing, reading, resting, closing.
 *
 * Rules:
 *  1. A connection has one call or none. Without one it rests in its origin's idle list, newest
 *     first, and is still read: any byte or EOF then ends it.
 *  2. Before reuse it is looked whether anything has arrived in this turn of the loop that hasn't
 *     been read yet.
 *  3. A failed write is not the end: a server that answers early and closes has sent its answer,
 *     and reading will find it, or the reset. */
#define LOG_MODULE "http"
#include "shared/base/check.h"
#include "shared/base/log.h"
#include "shared/net/http_call.h"

#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#define SPARE_BYTES_MAX  ((size_t)16 << 10)
#define JOINED_BYTES_MAX ((size_t)4 << 10)
#define ORIGIN_HOST_MAX  ((size_t)1 << 10)
#define ORIGIN_KEY_BYTES (ORIGIN_HOST_MAX + 16)

/* ---- origins ---- */

/* "127.0.0.1:23333", "[::1]:80". Without printf: every call begins with it. */
static struct str print_key(char out[ORIGIN_KEY_BYTES], const char *host, int port)
{
    size_t len = strlen(host), at = 0, digits = 1;
    CHECK(len <= ORIGIN_HOST_MAX && port >= 0 && port <= 65535);
    bool v6 = memchr(host, ':', len) != NULL;
    if (v6) out[at++] = '[';
    memcpy(out + at, host, len);
    at += len;
    if (v6) out[at++] = ']';
    out[at++] = ':';
    for (int rest = port; rest >= 10; rest /= 10)
        digits++;
    for (size_t i = digits; i > 0; i--, port /= 10)
        out[at + i - 1] = (char)('0' + port % 10);
    out[at + digits] = 0;
    return (struct str){out, at + digits};
}

struct http_origin *http_origin_ref(struct http_client *client, enum http_scheme scheme,
                                    const char *host, int port)
{
    char text[ORIGIN_KEY_BYTES];
    struct str key = print_key(text, host, port);
    struct http_origin *o = hash_map_get(&client->origins[scheme], key);
    if (!o) {
        o = xcalloc(1, sizeof *o);
        o->client = client;
        o->key = xstrdup(text);
        o->host = xstrdup(host);
        o->scheme = scheme;
        o->port = port;
        list_init(&o->idle);
        hash_map_put(&client->origins[scheme], key, o);
    }
    o->refs++;
    return o;
}

void http_origin_unref(struct http_origin *o)
{
    if (--o->refs > 0) return;
    hash_map_remove(&o->client->origins[o->scheme], str_of(o->key));
    free(o->key);
    free(o->host);
    free(o);
}

/* ---- closing ---- */

static struct http_client_connection *of(struct net_socket *socket)
{
    return list_entry(socket, struct http_client_connection, socket);
}

static void on_closed(struct net_socket *socket)
{
    struct http_client_connection *c = of(socket);
    struct http_client *client = c->client;
    list_remove(&c->link);
    http_origin_unref(c->origin);
    http_parser_deinit(&c->parser);
    buf_deinit(&c->head);
    free(c);
    client->connection_count--;
    http_client_adjust_sweep(client);
    http_client_free_when_closed(client);
}

static void leave_idle(struct http_client_connection *c)
{
    if (c->idle_since_ms == 0) return;
    c->idle_since_ms = 0;
    list_remove(&c->idle_link);
    c->origin->idle_count--;
}

void http_client_connection_close(struct http_client_connection *c)
{
    if (c->closing) return;
    c->closing = true;
    leave_idle(c);
    c->call = NULL;
    c->writing = false;
    net_socket_close(&c->socket, false);
}

/* ---- reading ---- */

static void on_data(struct net_socket *socket, const char *data, size_t len)
{
    struct http_client_connection *c = of(socket);
    if (c->call) {
        http_call_on_bytes(c, data, len);
    } else { // rule 1
        http_client_connection_close(c);
    }
}

static void on_lost(struct net_socket *socket, int status)
{
    struct http_client_connection *c = of(socket);
    if (c->call) {
        http_call_on_lost(c->call, status);
    } else {
        http_client_connection_close(c);
    }
}

void http_client_connection_read(struct http_client_connection *c, bool on)
{
    if (!c->closing) net_socket_read(&c->socket, on);
}

/* ---- writing ---- */

static void release_head(struct http_client_connection *c)
{
    struct buf *spare = &c->client->spare;
    if (c->head.cap > 0 && c->head.cap <= SPARE_BYTES_MAX && spare->cap == 0) {
        *spare = c->head;
        buf_clear(spare);
        buf_init(&c->head, c->head.max);
    } else {
        buf_deinit(&c->head);
    }
}

/* One system call for head and body; a small body is copied, which costs the kernel less than a list
 * of two. */
static void send_rest(struct http_client_connection *c)
{
    struct iovec pieces[2];
    int count = 0;
    if (c->body.len > 0 && c->body.len <= JOINED_BYTES_MAX && c->sent == 0) {
        buf_append(&c->head, c->body.data, c->body.len);
        c->body.len = 0;
    }
    if (c->sent < c->head.len)
        pieces[count++] = (struct iovec){c->head.data + c->sent, c->head.len - c->sent};
    size_t of_body = c->sent > c->head.len ? c->sent - c->head.len : 0;
    if (of_body < c->body.len)
        pieces[count++] = (struct iovec){(char *)c->body.data + of_body, c->body.len - of_body};
    ssize_t taken = net_socket_send(&c->socket, pieces, count);
    if (taken < 0) { // rule 3
        c->writing = false;
        c->failed = true;
        release_head(c);
        bool will_be_read = taken == UV_EPIPE || taken == UV_ECONNRESET;
        if (!will_be_read) http_client_defer_failure(c->call, (int)taken);
        return;
    }
    c->sent += (size_t)taken;
    if (c->sent < c->head.len + c->body.len) return;
    c->writing = false;
    release_head(c);
    http_call_on_sent(c->call);
}

static void on_writable(struct net_socket *socket)
{
    struct http_client_connection *c = of(socket);
    if (c->writing && c->call) send_rest(c);
}

/* The call's head is in c->head. */
void http_client_connection_send(struct http_client_connection *c, struct str body)
{
    c->body = body;
    c->sent = 0;
    c->writing = true;
    send_rest(c);
}

/* ---- connecting ---- */

static void on_connected(struct net_socket *socket, int status)
{
    struct http_client_connection *c = of(socket);
    struct http_call *call = c->call;
    if (!call) return;
    if (status < 0) {
        const char *said = net_socket_why(socket);
        char *why = said ? xstrdup(said) : NULL;
        http_client_connection_close(c);
        call->connection = NULL;
        http_call_on_connect_failed(call, status, why);
        free(why);
        return;
    }
    http_client_connection_read(c, true);
    http_call_on_connected(call);
}

/* NULL in *session: plain. */
static int begin_tls(const struct http_origin *o, struct ssl_st **session)
{
    struct tls *tls = o->client->options.tls;
    struct error err = {0};
    *session = NULL;
    if (o->scheme == HTTP_PLAIN) return 0;
    if (!tls) return E_UNSUPPORTED;
    int rc = tls_connect(tls, o->host, o->scheme == HTTP_TLS, session, &err);
    if (rc != 0) log_error("no TLS", "peer=%s reason=\"%s\"", o->key, err.text);
    return rc;
}

struct http_client_connection *http_client_connection_open(struct http_origin *o,
                                                           struct http_call *call,
                                                           const struct sockaddr *address,
                                                           int *status)
{
    static const struct net_socket_events events = {
        .on_connected = on_connected,
        .on_data = on_data,
        .on_lost = on_lost,
        .on_writable = on_writable,
        .on_closed = on_closed,
    };
    struct http_client *client = o->client;
    struct ssl_st *session;
    *status = begin_tls(o, &session);
    if (*status != 0) return NULL;
    struct http_client_connection *c = xcalloc(1, sizeof *c);
    *status = net_socket_connect(&c->socket, client->sockets, address, &events);
    if (*status != 0) {
        tls_discard(session);
        free(c);
        return NULL;
    }
    if (session) net_socket_secure(&c->socket, session);
    c->client = client;
    c->origin = o;
    o->refs++;
    list_init(&c->idle_link);
    list_push_back(&client->connections, &c->link);
    client->connection_count++;
    buf_init(&c->head, BUF_MAX_INTERNAL);
    http_call_init_parser(c);
    c->call = call;
    return c;
}

/* ---- the pool ---- */

struct http_client_connection *http_pool_take(struct http_origin *o)
{
    while (!list_is_empty(&o->idle)) {
        struct http_client_connection *c =
            list_first(&o->idle, struct http_client_connection, idle_link);
        leave_idle(c);
        if (!net_socket_has_input(&c->socket)) return c; // rule 2
        http_client_connection_close(c);
    }
    return NULL;
}

void http_pool_give(struct http_client_connection *c)
{
    struct http_origin *o = c->origin;
    c->call = NULL;
    c->used = true;
    if (c->client->closing || c->writing || c->failed) {
        http_client_connection_close(c);
        return;
    }
    http_client_connection_read(c, true);
    http_parser_start(&c->parser);
    c->idle_since_ms = uv_now(c->client->loop) + 1; // never 0, which means not idle
    list_push_front(&o->idle, &c->idle_link);
    if (++o->idle_count > c->client->options.idle_per_origin_max) {
        http_client_connection_close(list_last(&o->idle, struct http_client_connection, idle_link));
    }
}

void http_pool_sweep(struct http_client *client, uint64_t now_ms)
{
    uint64_t age = (uint64_t)client->options.idle_timeout_ms;
    list_each_safe (c, &client->connections, struct http_client_connection, link) {
        if (c->idle_since_ms > 0 && now_ms >= c->idle_since_ms + age)
            http_client_connection_close(c);
    }
}
