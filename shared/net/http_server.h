/* http_server.h - HTTP/1.1 server on one libuv loop: strict parsing, bounded everything, streaming
 * responses with back-pressure, clients that leave are noticed.
 *
 * A struct http_exchange is one request and its response. The handler gets it with the whole body
 * and answers now or later, with http_respond() or begin/write/end. Exactly one of these ends its
 * life: http_respond, http_respond_end, http_respond_abort, or the on_gone callback (the client
 * left first: EOF or error on the connection, also while nothing is being written, or a write
 * stalled too long). After that the pointer is dead. Requests pipelined behind one exchange wait
 * until it ends.
 *
 * Answered here, without the handler: malformed requests (400), HTTP/0.9 and 2 (400/505), obs-fold
 * (400), target too long (414), headers too large (431), body too large (413), Expect other than
 * 100-continue (417), idle and slow-upload timeouts (408 or silent close). All carry the OpenAI
 * error object. Expect: 100-continue gets its 100. Loop thread only. */
#ifndef LM_NET_HTTP_SERVER_H
#define LM_NET_HTTP_SERVER_H

#include <uv.h>

#include "shared/base/error.h"
#include "shared/net/http_message.h"
#include "shared/net/tls.h"

struct http_server;
struct http_exchange;

struct http_server_options {
    const char *host;          // numeric address or name; "0.0.0.0", "::"
    int port;                  // 0: any free port
    bool reuse_port;           // SO_REUSEPORT
    int listen_fd;             // a bound socket, taken over; 0: none, host and port say which
    bool held;                 // accept nothing before http_server_accept()
    int connections_max;       // beyond it accept pauses; 0: 4096. At most half of RLIMIT_NOFILE
    uint64_t body_bytes_total; // of all requests being read or answered; beyond: 503. 0: 1 GiB
    int header_timeout_ms;     // from first byte to end of headers; 0: 10 s
    int body_timeout_ms;       // end of headers to end of body; 0: 60 s
    int idle_timeout_ms;       // keep-alive; 0: 75 s
    int write_stall_ms;        // pending bytes and no progress; 0: 30 s
    /* In a drain: how long an idle connection stays, so that a request that is on its way to it isn't
     * lost. It is served, and told Connection: close. 0: not at all. */
    int drain_idle_ms;
    struct http_limits limits; // zeroed: http_limits_default
    /* Serves HTTPS where tls_serves() it; a client that speaks plain HTTP to it is told with 400. The
     * handshake must be over within header_timeout_ms. NULL: HTTP. Outlives the server. */
    struct tls *tls;
    void (*on_request)(struct http_exchange *x, void *arg);
    void *arg;
};

/* -errno with "cannot listen on 0.0.0.0:8000: address already in use" and the like. */
FALLIBLE int http_server_open(uv_loop_t *loop, const struct http_server_options *options,
                              struct http_server **out, struct error *err);
/* Whether http_server_open could have the port for itself: for callers who share it between sockets
 * of their own (reuse_port), and would so with somebody else's, too. */
FALLIBLE int http_server_check_port(uv_loop_t *loop, const char *host, int port, struct error *err);
int http_server_port(const struct http_server *s);
int http_server_fd(const struct http_server *s); // of its listening socket; -1: closed
int http_server_connections(const struct http_server *s);
void http_server_accept(struct http_server *s); // ends `held`
/* Stop accepting; idle connections close, running exchanges finish and answer Connection: close. */
void http_server_drain(struct http_server *s);
/* Close everything now (on_gone is called for live exchanges). on_closed when all is freed. */
void http_server_close(struct http_server *s, void (*on_closed)(void *arg), void *arg);

/* ---- the request ---- */

struct http_request {
    struct str method; // "POST"
    struct str target; // as sent
    struct str path;   // without query, still percent-encoded
    struct str query;  // after '?', or empty
    struct http_headers headers;
    struct str body;  // whole; chunked bodies are joined; NUL-terminated behind its end
    const char *peer; // "127.0.0.1"
    bool peer_is_loopback;
    bool is_tls;
    int minor; // HTTP/1.<minor>
};

const struct http_request *http_exchange_request(const struct http_exchange *x);
struct arena *http_exchange_arena(struct http_exchange *x); // freed with the exchange
uv_loop_t *http_exchange_loop(struct http_exchange *x);

/* on_gone: the client left; x is dead when it returns. on_drain: pending bytes fell below the
 * low-water mark (64 KiB) after a write reported more than the high-water mark (256 KiB). Either
 * may be NULL; without on_gone an exchange outlives its client and what it answers goes nowhere. */
void http_exchange_watch(struct http_exchange *x, void (*on_gone)(void *arg),
                         void (*on_drain)(void *arg), void *arg);

/* Headers that every response of this exchange gets (CORS, x-request-id). Copied. */
void http_exchange_add_header(struct http_exchange *x, struct str name, struct str value);

/* ---- the response ---- */

/* Whole answer. content_type NULL: none (empty bodies). Headers and body are copied. */
void http_respond(struct http_exchange *x, int status, const char *content_type, struct str body);

/* Stream of unknown length: chunked on 1.1, until close on 1.0. The head goes out with the first
 * write, or at once when `flush`. */
void http_respond_begin(struct http_exchange *x, int status, const char *content_type, bool flush);
/* Queue bytes; returns bytes now pending on the connection (see on_drain). Never fails: a lost
 * client is reported by on_gone, later, never from inside this call. */
size_t http_respond_write(struct http_exchange *x, const void *data, size_t len);
/* A header line behind the body, for what isn't known before; name it in a `trailer` header, too.
 * Nothing on HTTP/1.0, which has none. Before http_respond_end. */
void http_respond_trailer(struct http_exchange *x, struct str name, struct str value);
/* Last bytes (may be empty) and the closing chunk in one write. */
void http_respond_end(struct http_exchange *x, const void *data, size_t len);
/* Cut the stream so that the client sees it is incomplete. Before begin: like a 500 with no body.
 */
void http_respond_abort(struct http_exchange *x);
bool http_respond_has_begun(const struct http_exchange *x);

#endif
