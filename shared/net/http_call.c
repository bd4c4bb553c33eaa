/* http_call.c - one request of the HTTP client and its response.
 *
 *   (name)──► RESOLVING ─► CONNECTING ─► SENDING ─► AWAITING_HEAD ─► BODY ─► ended, freed
 *   (number)───────────────────┘            ▲            any ──► failed or cancelled, freed
 *   (pooled connection)─────────────────────┘
 *
 * Rules:
 *  1. A call is freed before its last callback runs, so that the callback may do anything.
 *  2. Callbacks that run inside the parser may cancel the call: afterwards c->call is asked, not
 *     the call that was there before.
 *  3. The body of the request is the caller's. Once the call has ended nothing reads it: closing a
 *     connection drops its writes. */
#include "shared/net/http_call.h"
#include "shared/base/check.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define HEAD_FRAME_BYTES ((size_t)80) // what stands around target, host, headers and length
#define STATUS_STOP      499          // makes the parser stop: the call is gone

static void note_due(struct http_call *call)
{
    if (call->deadline_ms < call->client->due_ms) call->client->due_ms = call->deadline_ms;
}

static void expect_within(struct http_call *call, int ms)
{
    call->deadline_ms = uv_now(call->client->loop) + (uint64_t)ms;
    note_due(call);
}

/* ---- the end ---- */

/* The connection, if it still has one, is the caller's to close or give back. */
static void destroy(struct http_call *call)
{
    struct http_client *client = call->client;
    if (call->lookup) {
        call->lookup->call = NULL;
        uv_cancel((uv_req_t *)&call->lookup->request);
    }
    if (call->addresses) uv_freeaddrinfo(call->addresses);
    list_remove(&call->link);
    list_remove(&call->failed_link);
    http_origin_unref(call->origin);
    buf_deinit(&call->head);
    free(call);
    http_client_adjust_sweep(client);
}

void http_call_fail(struct http_call *call, int code, const char *fmt, ...)
{
    char reason[256], text[640];
    va_list args;
    va_start(args, fmt);
    vsnprintf(reason, sizeof reason, fmt, args);
    va_end(args);
    snprintf(text, sizeof text, "%s%s: %s", call->connected ? "" : "connect to ", call->origin->key,
             reason);
    struct http_failure failure = {
        .code = code,
        .text = text,
        .connected = call->connected,
        .reused = call->reused,
        .head_received = call->head_received,
        .waited_ms = call->connected ? uv_now(call->client->loop) - call->sent_from_ms : 0,
    };
    void (*on_fail)(void *, const struct http_failure *) = call->on_fail;
    void *arg = call->arg;
    if (call->connection) http_client_connection_close(call->connection);
    destroy(call);
    if (on_fail) on_fail(arg, &failure);
}

bool http_failure_is_ours(const struct http_failure *failure)
{
    switch (failure->code) {
    case UV_EMFILE:
    case UV_ENFILE:
    case UV_ENOBUFS:
    case UV_ENOMEM:
    case UV_EADDRNOTAVAIL:
        return !failure->connected;
    default:
        return false;
    }
}

static const char *text_of(int code)
{
    return code > -4096 ? uv_strerror(code) : error_text(code);
}

void http_call_fail_deferred(struct http_call *call)
{
    int code = call->failure;
    if (code != E_TIMEOUT) {
        http_call_fail(call, code, "%s", text_of(code));
    } else if (!call->connected) {
        http_call_fail(call, code, "no answer within %d ms", call->connect_timeout_ms);
    } else if (!call->head_received) {
        http_call_fail(call, code, "no response within %d ms", call->head_timeout_ms);
    } else {
        http_call_fail(call, code, "no data for %d ms", call->idle_timeout_ms);
    }
}

void http_call_cancel(struct http_call *call)
{
    if (call->connection) http_client_connection_close(call->connection);
    struct http_client *client = call->client;
    destroy(call);
    http_client_free_when_closed(client);
}

static void end(struct http_call *call, bool reusable)
{
    struct http_client_connection *c = call->connection;
    void (*on_end)(void *) = call->on_end;
    void *arg = call->arg;
    if (reusable) {
        http_pool_give(c);
    } else {
        http_client_connection_close(c);
    }
    destroy(call);
    if (on_end) on_end(arg);
}

/* ---- the response ---- */

static int on_head(void *arg)
{
    struct http_client_connection *c = arg;
    struct http_call *call = c->call;
    if (c->parser.status < 200) return 0; // an interim answer
    call->head_received = true;
    call->state = HTTP_CALL_BODY;
    expect_within(call, call->idle_timeout_ms);
    if (call->on_head) {
        call->on_head(call->arg, c->parser.status, &c->parser.headers);
    }
    return c->call ? 0 : STATUS_STOP; // rule 2
}

static int on_body(void *arg, const char *data, size_t len)
{
    struct http_client_connection *c = arg;
    struct http_call *call = c->call;
    if (!call) return STATUS_STOP;
    if (call->on_body) call->on_body(call->arg, data, len);
    return c->call ? 0 : STATUS_STOP;
}

void http_call_init_parser(struct http_client_connection *c)
{
    static const struct http_parser_callbacks callbacks = {on_head, on_body};
    http_parser_init(&c->parser, HTTP_PARSER_RESPONSES, &c->client->options.limits, &callbacks, c);
    c->parser.spare = &c->client->parser_spare;
}

void http_call_on_bytes(struct http_client_connection *c, const char *data, size_t len)
{
    struct http_call *call = c->call;
    if (call->state == HTTP_CALL_BODY) expect_within(call, call->idle_timeout_ms);
    while (c->call) {
        size_t used;
        enum http_parse result = http_parser_feed(&c->parser, data, len, &used);
        if (!c->call) return; // cancelled by a callback; the connection closes
        data += used;
        len -= used;
        if (result == HTTP_PARSE_MORE) return;
        if (result == HTTP_PARSE_FAILED) {
            http_call_fail(call, E_PROTOCOL, "bad response: %s", c->parser.fail_text);
            return;
        }
        if (c->parser.status >= 200) {
            end(call, c->parser.keep_alive && call->sent && len == 0);
            return;
        }
        http_parser_start(&c->parser);
        c->parser.no_body = call->is_head_request;
    }
}

void http_call_on_lost(struct http_call *call, int status)
{
    struct http_client_connection *c = call->connection;
    if (status == UV_EOF && http_parser_finish(&c->parser) == HTTP_PARSE_DONE) {
        end(call, false);
        return;
    }
    const char *why = net_socket_why(&c->socket);
    if (status != UV_EOF) {
        http_call_fail(call, status, "%s", why ? why : text_of(status));
    } else if (call->head_received) {
        http_call_fail(call, E_CLOSED, "connection closed inside the response");
    } else {
        http_call_fail(call, E_CLOSED, "connection closed before the response");
    }
}

/* ---- the request ---- */

void http_call_on_sent(struct http_call *call)
{
    call->sent = true;
    if (call->state != HTTP_CALL_SENDING) return; // an early response
    call->state = HTTP_CALL_AWAITING_HEAD;
    expect_within(call, call->head_timeout_ms);
}

void http_call_on_connected(struct http_call *call)
{
    struct http_client_connection *c = call->connection;
    call->connected = true;
    call->state = HTTP_CALL_SENDING;
    call->sent_from_ms = uv_now(call->client->loop);
    expect_within(call, call->head_timeout_ms);
    c->parser.no_body = call->is_head_request;
    buf_deinit(&c->head);
    c->head = call->head;
    buf_init(&call->head, BUF_MAX_INTERNAL);
    http_client_connection_send(c, call->body);
}

static int connect_to(struct http_call *call, const struct sockaddr *address)
{
    int status;
    call->state = HTTP_CALL_CONNECTING;
    call->connection = http_client_connection_open(call->origin, call, address, &status);
    return status;
}

/* The addresses of a name one after another; the last one's failure counts. */
static int connect_next(struct http_call *call, int status)
{
    while (call->next_address) {
        const struct addrinfo *info = call->next_address;
        call->next_address = info->ai_next;
        status = connect_to(call, info->ai_addr);
        if (status == 0) return 0;
    }
    return status;
}

void http_call_on_connect_failed(struct http_call *call, int status, const char *why)
{
    bool was_last = call->next_address == NULL;
    status = connect_next(call, status);
    if (status != 0) http_call_fail(call, status, "%s", why && was_last ? why : text_of(status));
}

static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *info)
{
    struct http_lookup *lookup = request->data;
    struct http_client *client = lookup->client;
    struct http_call *call = lookup->call;
    client->lookups--;
    free(lookup);
    if (!call) {
        uv_freeaddrinfo(info);
        http_client_free_when_closed(client);
        return;
    }
    call->lookup = NULL;
    call->addresses = call->next_address = info;
    if (status == 0) status = connect_next(call, UV_EAI_NONAME);
    if (status != 0) http_call_fail(call, status, "%s", text_of(status));
}

static int resolve(struct http_call *call)
{
    char service[16];
    snprintf(service, sizeof service, "%d", call->origin->port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct http_lookup *lookup = xcalloc(1, sizeof *lookup);
    lookup->client = call->client;
    lookup->call = call;
    lookup->request.data = lookup;
    call->state = HTTP_CALL_RESOLVING;
    int rc = uv_getaddrinfo(call->client->loop, &lookup->request, on_resolved, call->origin->host,
                            service, &hints);
    if (rc != 0) {
        free(lookup);
        return rc;
    }
    call->lookup = lookup;
    call->client->lookups++;
    return 0;
}

static int connect_or_resolve(struct http_call *call)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } address;
    if (uv_ip4_addr(call->origin->host, call->origin->port, &address.v4) == 0 ||
        uv_ip6_addr(call->origin->host, call->origin->port, &address.v6) == 0) {
        return connect_to(call, &address.any);
    }
    return resolve(call);
}

/* E_INVALID where a part would break out of its line. */
static int build_head(struct http_call *call, const struct http_call_options *o)
{
    struct buf *head = &call->head, *spare = &call->client->spare;
    if (o->target.len == 0 || !http_is_line_text(o->target) ||
        memchr(o->target.data, ' ', o->target.len)) {
        return E_INVALID;
    }
    *head = *spare; // most calls give it back before they return
    buf_init(spare, spare->max);
    size_t size = HEAD_FRAME_BYTES + strlen(o->method) + o->target.len + strlen(call->origin->key);
    for (int i = 0; i < o->header_count; i++)
        size += o->headers[i].name.len + o->headers[i].value.len + 4;
    // No more than it takes: the head waits with the call where there is no connection yet.
    (void)buf_reserve(head, size);
    buf_append_str(head, o->method);
    buf_append_char(head, ' ');
    buf_append(head, o->target.data, o->target.len);
    struct str host = str_of(call->origin->key);
    if (o->scheme == HTTP_PLAIN && o->port == 80) host.len -= 3; // ":80"
    if (o->scheme != HTTP_PLAIN && o->port == 443) host.len -= 4;
    buf_append_str(head, " HTTP/1.1\r\n");
    http_put_header(head, STR("host"), host);
    for (int i = 0; i < o->header_count; i++) {
        const struct http_header *h = &o->headers[i];
        if (h->name.len == 0 || !http_is_line_text(h->name) || !http_is_line_text(h->value))
            return E_INVALID;
        http_put_header(head, h->name, h->value);
    }
    bool takes_body = strcmp(o->method, "GET") != 0 && strcmp(o->method, "HEAD") != 0;
    if (o->body.len > 0 || takes_body) http_put_length(head, o->body.len);
    buf_append(head, "\r\n", 2);
    return 0;
}

static int or_default(int value, int def)
{
    return value ? value : def;
}

struct http_call *http_call_start(struct http_client *client,
                                  const struct http_call_options *options)
{
    struct http_call *call = xmalloc(sizeof *call); // ready at hand, where calloc would search
    *call = (struct http_call){.client = client, .deadline_ms = UINT64_MAX};
    call->body = options->body;
    call->connect_timeout_ms = or_default(options->connect_timeout_ms, 1000);
    call->head_timeout_ms = or_default(options->head_timeout_ms, 600 * 1000);
    call->idle_timeout_ms = or_default(options->idle_timeout_ms, 120 * 1000);
    call->on_head = options->on_head;
    call->on_body = options->on_body;
    call->on_end = options->on_end;
    call->on_fail = options->on_fail;
    call->arg = options->arg;
    call->is_head_request = strcmp(options->method, "HEAD") == 0;
    call->origin = http_origin_ref(client, options->scheme, options->host, options->port);
    buf_init(&call->head, BUF_MAX_INTERNAL);
    list_init(&call->failed_link);
    list_push_back(&client->calls, &call->link);
    http_client_adjust_sweep(client);

    int rc = client->closing ? E_CANCELLED : build_head(call, options);
    struct http_client_connection *pooled = NULL;
    if (rc == 0 && !options->fresh) pooled = http_pool_take(call->origin);
    if (rc == 0 && pooled) {
        call->connection = pooled;
        call->reused = true;
        pooled->call = call;
        http_call_on_connected(call);
    } else if (rc == 0) {
        expect_within(call, call->connect_timeout_ms);
        rc = connect_or_resolve(call);
    }
    if (rc != 0) http_client_defer_failure(call, rc);
    return call;
}

void http_call_pause(struct http_call *call)
{
    call->paused = true;
    if (call->connection && call->connected) http_client_connection_read(call->connection, false);
}

void http_call_resume(struct http_call *call)
{
    if (!call->paused) return;
    call->paused = false;
    if (call->state == HTTP_CALL_BODY) expect_within(call, call->idle_timeout_ms);
    if (call->connection && call->connected) http_client_connection_read(call->connection, true);
}

const char *http_call_local_address(const struct http_call *call)
{
    struct http_client *client = call->client;
    struct sockaddr_storage address;
    socklen_t len = sizeof address;
    client->local_address[0] = 0;
    if (call->connection &&
        getsockname(call->connection->socket.fd, (struct sockaddr *)&address, &len) == 0) {
        uv_ip_name((struct sockaddr *)&address, client->local_address,
                   sizeof client->local_address);
    }
    return client->local_address;
}

/* ---- deadlines ---- */

void http_call_sweep(struct http_call *call, uint64_t now_ms)
{
    bool waits_for_us = call->paused && call->state == HTTP_CALL_BODY;
    if (waits_for_us) return;
    if (now_ms >= call->deadline_ms) {
        http_client_defer_failure(call, E_TIMEOUT);
    } else {
        note_due(call);
    }
}
