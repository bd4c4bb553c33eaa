/* http_pool.c - connections of the HTTP client: opening, writing, reading, resting, closing.
 *
 * Rules:
 *  1. A connection has one call or none. Without one it rests in its origin's idle list, newest
 *     first, and is still read: any byte or EOF then ends it.
 *  2. Before reuse the socket is asked once more, since what arrived in this turn of the loop may
 *     not have been read yet.
 *  3. A failed write is not the end: a server that answers early and closes has sent its answer,
 *     and reading will find it, or the reset. */
#include "shared/base/check.h"
#include "shared/net/http_call.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define KEEPALIVE_S 60

/* ---- origins ---- */

struct http_origin *http_origin_ref(struct http_client *client, const char *host, int port)
{
    char *key = xasprintf(strchr(host, ':') ? "[%s]:%d" : "%s:%d", host, port);
    struct http_origin *o = hash_map_get(&client->origins, str_of(key));
    if (!o) {
        o = xcalloc(1, sizeof *o);
        o->client = client;
        o->key = key;
        list_init(&o->idle);
        hash_map_put(&client->origins, str_of(key), o);
    } else {
        free(key);
    }
    o->refs++;
    return o;
}

void http_origin_unref(struct http_origin *o)
{
    if (--o->refs > 0) return;
    hash_map_remove(&o->client->origins, str_of(o->key));
    free(o->key);
    free(o);
}

/* ---- closing ---- */

static void on_closed(uv_handle_t *handle)
{
    struct http_client_connection *c = handle->data;
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
    uv_close((uv_handle_t *)&c->tcp, on_closed);
}

/* ---- reading ---- */

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    (void)suggested;
    struct http_client_connection *c = handle->data;
    *buf = uv_buf_init(c->client->read_buffer, HTTP_CLIENT_READ_BYTES);
}

static void on_read(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buf)
{
    struct http_client_connection *c = stream->data;
    if (nread == 0 || c->closing) return;
    if (!c->call) { // rule 1
        http_client_connection_close(c);
    } else if (nread < 0) {
        http_call_on_lost(c->call, (int)nread);
    } else {
        http_call_on_bytes(c, buf->base, (size_t)nread);
    }
}

void http_client_connection_read(struct http_client_connection *c, bool on)
{
    if (c->closing || c->reading == on) return;
    c->reading = on;
    if (on) {
        uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read);
    } else {
        uv_read_stop((uv_stream_t *)&c->tcp);
    }
}

/* ---- writing ---- */

static void on_written(uv_write_t *request, int status)
{
    struct http_client_connection *c = request->data;
    c->writing = false;
    buf_deinit(&c->head);
    if (c->closing || !c->call || status < 0) return; // rule 3
    http_call_on_sent(c->call);
}

/* The call's head is in c->head. */
void http_client_connection_send(struct http_client_connection *c, struct str body)
{
    uv_buf_t pieces[2] = {uv_buf_init(c->head.data, (unsigned)c->head.len),
                          uv_buf_init((char *)body.data, (unsigned)body.len)};
    unsigned count = body.len > 0 ? 2 : 1;
    int taken = uv_try_write((uv_stream_t *)&c->tcp, pieces, count);
    size_t sent = taken > 0 ? (size_t)taken : 0;
    if (sent == c->head.len + body.len) {
        buf_deinit(&c->head);
        http_call_on_sent(c->call);
        return;
    }
    for (unsigned i = 0; i < 2; i++) {
        size_t skipped = sent < pieces[i].len ? sent : pieces[i].len;
        pieces[i].base += skipped;
        pieces[i].len -= skipped;
        sent -= skipped;
    }
    unsigned first = pieces[0].len > 0 ? 0 : 1;
    c->write.data = c;
    int rc = uv_write(&c->write, (uv_stream_t *)&c->tcp, pieces + first, count - first, on_written);
    c->writing = rc == 0;
    if (rc != 0) http_client_defer_failure(c->call, rc);
}

/* ---- connecting ---- */

static void learn_local_address(struct http_client_connection *c)
{
    struct sockaddr_storage address;
    int len = sizeof address;
    if (uv_tcp_getsockname(&c->tcp, (struct sockaddr *)&address, &len) != 0) return;
    uv_ip_name((struct sockaddr *)&address, c->local_address, sizeof c->local_address);
}

static void on_connect(uv_connect_t *request, int status)
{
    struct http_client_connection *c = request->data;
    if (c->closing || !c->call) return;
    struct http_call *call = c->call;
    if (status < 0) {
        http_client_connection_close(c);
        call->connection = NULL;
        http_call_on_connect_failed(call, status);
        return;
    }
    learn_local_address(c);
    http_client_connection_read(c, true);
    http_call_on_connected(call);
}

struct http_client_connection *http_client_connection_open(struct http_origin *o,
                                                           struct http_call *call,
                                                           const struct sockaddr *address,
                                                           int *status)
{
    struct http_client *client = o->client;
    struct http_client_connection *c = xcalloc(1, sizeof *c);
    CHECK(uv_tcp_init(client->loop, &c->tcp) == 0);
    c->tcp.data = c->connect.data = c;
    c->client = client;
    c->origin = o;
    o->refs++;
    list_init(&c->idle_link);
    list_push_back(&client->connections, &c->link);
    client->connection_count++;
    buf_init(&c->head, BUF_MAX_INTERNAL);
    http_call_init_parser(c);
    c->call = call;
    uv_tcp_nodelay(&c->tcp, 1);
    *status = uv_tcp_connect(&c->connect, &c->tcp, address, on_connect);
    if (*status == 0) return c;
    http_client_connection_close(c);
    return NULL;
}

/* ---- the pool ---- */

static bool is_quiet(struct http_client_connection *c)
{
    uv_os_fd_t fd;
    char byte;
    if (uv_fileno((uv_handle_t *)&c->tcp, &fd) != 0) return false;
    return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

struct http_client_connection *http_pool_take(struct http_origin *o)
{
    while (!list_is_empty(&o->idle)) {
        struct http_client_connection *c =
            list_first(&o->idle, struct http_client_connection, idle_link);
        leave_idle(c);
        if (is_quiet(c)) return c;
        http_client_connection_close(c);
    }
    return NULL;
}

void http_pool_give(struct http_client_connection *c)
{
    struct http_origin *o = c->origin;
    c->call = NULL;
    c->used = true;
    if (c->client->closing || c->writing) {
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
