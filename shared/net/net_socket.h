/* net_socket.h - TCP sockets of one libuv loop, for http_server and http_client.
 *
 * A libuv stream takes 250 bytes, 200 more for a write, and a system call whenever reading stops or
 * a write has to wait. A net_socket takes 48 and registers once: all sockets of a loop are in one
 * edge-triggered epoll set, which libuv watches as if it were a single descriptor. Reading and
 * writing are one system call each, into a buffer that all sockets share.
 *
 * With net_socket_secure() the bytes are TLS's, the same calls and callbacks hold, and
 * net_tls.c stands between; a plain socket pays a pointer's test for it.
 *
 * Callbacks come from the loop, never from inside a call. After net_socket_close() only on_closed
 * comes. Loop thread only. */
#ifndef LM_NET_NET_SOCKET_H
#define LM_NET_NET_SOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include <uv.h>

#include "shared/base/error.h"
#include "shared/base/list.h"

#define NET_READ_BYTES ((size_t)64 << 10) // at most this much per on_data

struct net_socket;
struct net_sockets; // of one loop
struct net_tls;
struct ssl_st; // OpenSSL's SSL

struct net_socket_events {
    /* Outgoing ones, and with TLS incoming ones, too: when the handshake is over. 0, -errno or
     * UV_EPROTO. UV_EPROTONOSUPPORT: a client speaks plain HTTP where TLS was expected; it can be
     * answered so, what it has sent is gone. */
    void (*on_connected)(struct net_socket *s, int status);
    void (*on_data)(struct net_socket *s, const char *data, size_t len);
    /* UV_EOF, -errno or, with TLS, UV_EPROTO or E_CLOSED (cut); reading has stopped. */
    void (*on_lost)(struct net_socket *s, int status);
    void (*on_writable)(struct net_socket *s);   // a send had to wait and needn't any more
    void (*on_closed)(struct net_socket *s);     // may be freed
    void (*on_acceptable)(struct net_socket *s); // listeners: see net_listener_accept
};

struct net_socket {
    const struct net_socket_events *events;
    struct net_sockets *set;
    struct list link;    // due, or closed; else in none
    struct net_tls *tls; // NULL: plain
    int fd;              // -1: closed
    /* Bits, since a proxy has a hundred thousand of these. */
    bool reading : 1;  // input is wanted
    bool readable : 1; // there may be some
    bool hung_up : 1;  // the end of input has arrived, behind what is there
    bool blocked : 1;  // on_writable is due
    bool connecting : 1;
    bool securing : 1;    // TLS's handshake isn't over
    bool is_outgoing : 1; // we connected
    bool listens : 1;
};

/* The set of this loop, made by whoever asks first, gone when nobody holds it any more. Any thread
 * may ask while the loop doesn't run. */
struct net_sockets *net_sockets_ref(uv_loop_t *loop);
/* Its sockets are closed. on_released when no handle of the set is open for this holder's sake: at
 * once if others hold it. */
void net_sockets_unref(struct net_sockets *set, void (*on_released)(void *arg), void *arg);

/* fd: connected, non-blocking, owned from here on. Not reading yet. */
void net_socket_open(struct net_socket *s, struct net_sockets *set, int fd,
                     const struct net_socket_events *events);
/* 0: on_connected will say. Else -errno, and there is nothing to close. */
FALLIBLE int net_socket_connect(struct net_socket *s, struct net_sockets *set,
                                const struct sockaddr *address,
                                const struct net_socket_events *events);
/* Speak TLS, as `session` is set up to (tls.h); it is owned from here on. Right behind one of the two
 * above, before the loop runs on. */
void net_socket_secure(struct net_socket *s, struct ssl_st *session);
/* Why it failed where that is TLS's to say, until the socket is closed; else NULL. */
const char *net_socket_why(const struct net_socket *s);
/* fd: listening, non-blocking, owned from here on. */
void net_listener_open(struct net_socket *s, struct net_sockets *set, int fd,
                       const struct net_socket_events *events);
/* The next connection's descriptor; UV_EAGAIN: none waits. */
int net_listener_accept(struct net_socket *s, struct sockaddr_storage *peer);
/* Stop asking for connections, or ask again. */
void net_listener_pause(struct net_socket *s, bool on);

void net_socket_read(struct net_socket *s, bool on); // costs nothing
/* Bytes that were taken; fewer than given: on_writable comes. With TLS it also comes where the last
 * ones taken wait here for the kernel (`blocked`). -errno: the socket is lost. */
ssize_t net_socket_send(struct net_socket *s, const struct iovec *pieces, int count);
/* The end of our side, after what was sent. */
FALLIBLE int net_socket_shutdown(struct net_socket *s);
/* Idempotent. reset: the peer sees a connection that broke, not one that ended. */
void net_socket_close(struct net_socket *s, bool reset);
/* True while input is there, or an end, that on_data or on_lost hasn't seen. The kernel is asked only
 * when the loop hasn't polled for a while. */
bool net_socket_has_input(const struct net_socket *s);

#endif
