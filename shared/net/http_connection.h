/* http_connection.h - the insides of http_server: one TCP connection and the exchange it carries.
 * Only http_server.c, http_connection.c, http_exchange.c and http_router.c include this. */
#ifndef LM_NET_HTTP_CONNECTION_H
#define LM_NET_HTTP_CONNECTION_H

#include "shared/base/arena.h"
#include "shared/base/buf.h"
#include "shared/base/list.h"
#include "shared/net/http_parser.h"
#include "shared/net/http_server.h"
#include "shared/net/net_socket.h"

#define HTTP_PENDING_HIGH ((size_t)256 << 10)
#define HTTP_PENDING_LOW  ((size_t)64 << 10)

enum http_connection_state {
    HTTP_CONNECTION_IDLE,     // between requests, or in TLS's handshake
    HTTP_CONNECTION_HEAD,     // a request's first bytes are in
    HTTP_CONNECTION_BODY,     // its head is in
    HTTP_CONNECTION_EXCHANGE, // the handler has it
    HTTP_CONNECTION_FLUSH,    // answered; bytes are pending
    HTTP_CONNECTION_LINGER,   // our side is shut; input is read and dropped so that no RST eats the
                              // answer
    HTTP_CONNECTION_CLOSING,
};

struct http_server {
    uv_loop_t *loop;
    struct http_server_options options;
    struct net_sockets *sockets; // NULL: never listened
    struct net_socket listener;
    uv_timer_t sweep; // all deadlines of all connections; runs while there are connections
    uv_idle_t turn;   // runs what must not run inside a user's call
    int handles_open; // of the three above
    struct list connections;
    struct list deferred; // connections whose turn is due
    int connection_count;
    int sweep_ms;
    uint64_t body_bytes; // memory that request bodies take now
    bool listening, draining, closing, accept_waits;
    uint64_t accept_logged_ms, protocol_logged_ms;
    void (*on_closed)(void *arg);
    void *on_closed_arg;
    struct buf spare; // memory for whoever writes next: nothing is pending on most connections
    struct http_parser *parser; // for the next request that begins; NULL: none at hand
    struct http_parser_memory *parser_spare;
};

struct http_exchange {
    struct http_connection *connection; // NULL: the client left and nobody watches
    struct http_request request;
    struct arena arena;
    struct buf body;
    struct buf extra;      // header lines for every response
    struct buf trailers;   // lines behind a chunked body
    struct str request_id; // set by http_router
    uv_loop_t *loop;
    uint64_t body_charged; // bytes counted in server->body_bytes
    void (*on_gone)(void *arg);
    void (*on_drain)(void *arg);
    void *watch_arg;
    bool begun, chunked, head_only, no_body;
    bool wants_drain; // a write reported more than the high-water mark
};

struct http_connection {
    struct http_server *server;
    struct list link;     // server->connections
    struct list deferred; // server->deferred
    struct net_socket socket;
    enum http_connection_state state;
    struct http_parser *parser;     // NULL: no request is being read
    struct http_exchange *exchange; // from its head on until it ends
    uint64_t deadline_ms;           // loop time; 0: none. By state.
    size_t held_from;               // out.len at begin_hold
    uint64_t bytes_queued;          // all that was ever given to send
    uint64_t bytes_sent_seen;       // of those, sent when the sweep last looked
    uint64_t stall_ms;              // loop time by which it must see more; 0: not counting
    struct buf out;                 // held, or waits for the socket; no memory while empty
    size_t out_sent;                // of `out`
    struct buf pipeline;            // bytes behind the current request
    size_t pipeline_pos;
    uint64_t linger_bytes;
    int error; // writing failed: the client is lost
    bool feeding, got_eof;
    bool close_after; // no further request on this connection
    bool reset_after; // end with RST: only that shows a 1.0 client that the answer is cut
    bool peer_is_loopback;
    char peer[INET6_ADDRSTRLEN];
};

/* http_connection.c */
/* The next one from the listener; false: none waits. */
bool http_connection_accept(struct http_server *s);
void http_connection_turn(struct http_connection *c); // deferred work; may call the user
void http_connection_drain(struct http_connection *c);
void http_connection_sweep(struct http_connection *c, uint64_t now_ms);
void http_connection_defer(struct http_connection *c);
void http_connection_close(struct http_connection *c); // idempotent; the exchange must be gone
/* Append to what is pending without sending yet: fill the buffer between these two. */
struct buf *http_connection_begin_hold(struct http_connection *c);
void http_connection_end_hold(struct http_connection *c);
/* Send what is pending and these bytes; `chunk` frames them as one chunk, `last` adds the closing
 * one. A failure is found in c->error and dealt with on the next turn. */
void http_connection_send(struct http_connection *c, const void *data, size_t len, bool chunk,
                          bool last);
size_t http_connection_pending(const struct http_connection *c);
void http_connection_answered(struct http_connection *c); // its exchange ended

/* http_server.c */
void http_server_forget(struct http_server *s, struct http_connection *c); // c is about to be freed
void http_server_note_accept(struct http_server *s, int status); // why there is no connection
void http_server_note_protocol(struct http_server *s, const char *peer); // one that isn't ours

/* http_exchange.c */
struct http_exchange *http_exchange_create(struct http_connection *c);
void http_exchange_destroy(struct http_exchange *x);
/* The client left: calls on_gone and frees, or detaches if nobody watches. */
void http_exchange_lose(struct http_exchange *x);
/* Whether a piece of the body fits; 0 or an HTTP status. */
int http_exchange_add_body(struct http_exchange *x, const char *data, size_t len);
/* An error answer from the server itself. */
void http_exchange_refuse(struct http_connection *c, int status, const char *text);

#endif
