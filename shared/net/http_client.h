/* http_client.h - HTTP/1.1 client on one libuv loop: pooled keep-alive connections, streaming
 * bodies, deadlines, back-pressure, cancel. Loop thread only.
 *
 * A struct http_call is one request. Callbacks: on_head once, on_body any number of times, then
 * exactly one of on_end or on_fail; after that, or after http_call_cancel(), the pointer is dead
 * and no callback comes. Callbacks never run inside http_call_start. */
#ifndef LM_NET_HTTP_CLIENT_H
#define LM_NET_HTTP_CLIENT_H

#include <uv.h>

#include "shared/base/error.h"
#include "shared/net/http_message.h"
#include "shared/net/tls.h"

struct http_client;
struct http_call;

struct http_client_options {
    int idle_per_origin_max;   // 0: 64; newest is reused first
    int idle_timeout_ms;       // 0: 50 s, below the agents' 75 s
    struct http_limits limits; // of responses' heads; body_bytes unused
    struct tls *tls;           // for https; NULL: such calls fail. Outlives the client
};

struct http_client *http_client_create(uv_loop_t *loop, const struct http_client_options *options);
/* Fails live calls with E_CANCELLED, closes all connections; on_closed when all is freed. */
void http_client_destroy(struct http_client *c, void (*on_closed)(void *arg), void *arg);

/* "http://host[:port][/path]", or https. host may be a name or [v6]. */
struct http_url {
    enum http_scheme scheme; // the first two
    char host[256];
    int port;
    char path[512]; // "" or "/..." without a trailing slash
};
/* "https://[::1]:443": all but the path. Returns what snprintf would. */
int http_url_print_origin(char *out, size_t size, enum http_scheme scheme, const char *host,
                          int port);
FALLIBLE int http_url_parse(const char *text, struct http_url *url, struct error *err);

struct http_failure {
    int code;           // -errno, E_TIMEOUT, E_PROTOCOL, ...
    const char *text;   // "connect to 127.0.0.1:23333: connection refused"
    bool connected;     // false: no byte of the request was sent
    bool reused;        // the connection had served a request before
    bool head_received; // on_head was called
    uint64_t waited_ms; // since the request began to be sent
};

/* It says something about this machine (out of descriptors, memory, ports), nothing about the peer. */
bool http_failure_is_ours(const struct http_failure *failure);

struct http_call_options {
    enum http_scheme scheme;
    const char *host; // copied
    int port;
    const char *method;
    struct str target;
    const struct http_header *headers; // copied; Host, Content-Length and Connection are added here
    int header_count;
    struct str body;        // borrowed until the call ends
    int connect_timeout_ms; // with the handshake; 0: 1 s
    int head_timeout_ms;    // request sent to response head; 0: 600 s
    int idle_timeout_ms;    // between body bytes; 0: 120 s
    bool fresh;             // don't reuse a pooled connection

    void (*on_head)(void *arg, int status,
                    const struct http_headers *headers); // borrowed for the call
    void (*on_body)(void *arg, const char *data, size_t len);
    void (*on_end)(void *arg);
    void (*on_fail)(void *arg, const struct http_failure *failure);
    void *arg;
};

struct http_call *http_call_start(struct http_client *c, const struct http_call_options *options);
/* Stop reading the body. What was read already still comes (at most 64 KiB, and on_end behind it).
 */
void http_call_pause(struct http_call *call);
void http_call_resume(struct http_call *call);
void http_call_cancel(struct http_call *call); // closes the connection; no callback follows
/* The local address of the call's connection ("10.0.0.5"), from on_head on: what to advertise.
 * Valid until the next call of this. */
const char *http_call_local_address(const struct http_call *call);

#endif
