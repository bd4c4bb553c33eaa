/* http_call.h - the insides of http_client: calls, the connections that carry them, the pool.
 * Only http_client.c, http_call.c and http_pool.c include this. */
#ifndef LM_NET_HTTP_CALL_H
#define LM_NET_HTTP_CALL_H

#include "shared/base/buf.h"
#include "shared/base/hash_map.h"
#include "shared/base/list.h"
#include "shared/net/http_client.h"
#include "shared/net/http_parser.h"
#include "shared/net/net_socket.h"

struct http_client {
    uv_loop_t *loop;
    struct http_client_options options;
    uv_timer_t sweep; // deadlines of calls, age of idle connections
    uv_idle_t turn;   // failures found inside http_call_start
    int handles_open; // these two
    struct list calls;
    struct list failed;                               // calls to fail on the next turn
    struct list connections;                          // all
    struct hash_map origins[HTTP_TLS_UNVERIFIED + 1]; // by scheme: "host:port" -> http_origin
    int connection_count;
    int lookups;
    uint64_t sweep_ms; // current period; 0: stopped
    uint64_t due_ms;   // no deadline of a call is before
    uint64_t pool_due_ms;
    bool closing;
    void (*on_closed)(void *arg);
    void *on_closed_arg;
    struct net_sockets *sockets;
    struct buf spare; // memory for the next head
    struct http_parser_memory *parser_spare;
    char local_address[INET6_ADDRSTRLEN]; // the last one asked for
};

struct http_origin {
    struct http_client *client;
    char *key; // "127.0.0.1:23333", "[::1]:80"
    char *host;
    enum http_scheme scheme;
    int port;
    int refs;         // calls and connections
    struct list idle; // newest first
    int idle_count;
};

struct http_client_connection {
    struct http_client *client;
    struct http_origin *origin;
    struct list link;      // client->connections
    struct list idle_link; // origin->idle
    struct net_socket socket;
    struct http_parser parser;
    struct http_call *call; // NULL: idle or closing
    struct buf head;        // of the request, until it has been sent
    struct str body;        // borrowed; both are valid while `writing`
    size_t sent;            // of head and body
    uint64_t idle_since_ms;
    bool writing, closing;
    bool failed; // a write did
    bool used;   // has carried a whole exchange
};

enum http_call_state {
    HTTP_CALL_RESOLVING,
    HTTP_CALL_CONNECTING,
    HTTP_CALL_SENDING, // until the last byte of the request is with the kernel
    HTTP_CALL_AWAITING_HEAD,
    HTTP_CALL_BODY,
};

/* A lookup can't be cancelled once it runs; it outlives its call. */
struct http_lookup {
    uv_getaddrinfo_t request;
    struct http_client *client;
    struct http_call *call; // NULL: gone
};

struct http_call {
    struct http_client *client;
    struct http_origin *origin;
    struct list link;        // client->calls
    struct list failed_link; // client->failed
    int connect_timeout_ms, head_timeout_ms, idle_timeout_ms;
    struct str body; // borrowed
    void (*on_head)(void *arg, int status, const struct http_headers *headers);
    void (*on_body)(void *arg, const char *data, size_t len);
    void (*on_end)(void *arg);
    void (*on_fail)(void *arg, const struct http_failure *failure);
    void *arg;
    enum http_call_state state;
    struct http_client_connection *connection;
    struct http_lookup *lookup;
    struct addrinfo *addresses;    // owned; of a name
    struct addrinfo *next_address; // to try if connecting fails
    struct buf head;               // moves to the connection
    bool is_head_request;
    uint64_t deadline_ms;
    uint64_t sent_from_ms; // loop time at which sending began; valid once connected
    bool connected, reused, head_received, paused, sent;
    int failure; // found inside http_call_start
};

/* http_call.c: what happens to a connection's call */
void http_call_on_connected(struct http_call *call);
/* why: for people; NULL: the status says it */
void http_call_on_connect_failed(struct http_call *call, int status, const char *why);
void http_call_on_sent(struct http_call *call);
void http_call_on_lost(struct http_call *call, int status); // EOF or error
void http_call_on_bytes(struct http_client_connection *c, const char *data, size_t len);
void http_call_fail(struct http_call *call, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void http_call_fail_deferred(struct http_call *call); // with call->failure
void http_call_sweep(struct http_call *call, uint64_t now_ms);
void http_call_init_parser(struct http_client_connection *c);

/* http_pool.c */
struct http_origin *http_origin_ref(struct http_client *client, enum http_scheme scheme,
                                    const char *host, int port);
void http_origin_unref(struct http_origin *o);
/* The newest idle connection that still lives, or NULL. */
struct http_client_connection *http_pool_take(struct http_origin *o);
/* Its call ended well and it may carry another. */
void http_pool_give(struct http_client_connection *c);
/* NULL and *status: connecting can't even begin. */
struct http_client_connection *http_client_connection_open(struct http_origin *o,
                                                           struct http_call *call,
                                                           const struct sockaddr *address,
                                                           int *status);
void http_client_connection_send(struct http_client_connection *c, struct str body);
void http_client_connection_read(struct http_client_connection *c, bool on);
void http_client_connection_close(struct http_client_connection *c); // idempotent
void http_pool_sweep(struct http_client *client, uint64_t now_ms);

/* http_client.c */
void http_client_defer_failure(struct http_call *call, int failure);
void http_client_adjust_sweep(struct http_client *client);
void http_client_free_when_closed(struct http_client *client);

#endif
