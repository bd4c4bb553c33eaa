/* net_socket.h - TCP sockets of one libuv loop, for http_server and http_client.
 *
 * A libuv stream takes 250 bytes, 200 more for a write, and a system call whenever reading stops or
 * a write has to wait. A net_socket takes 56 and registers once: all sockets of a loop are in one
 * edge-triggered epoll set, which libuv watches as if it were a single descriptor. Reading and
 * writing are one system call each, into a buffer that all sockets share.
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

struct net_socket_events {
    void (*on_connected)(struct net_socket *s, int status); // 0 or -errno
    void (*on_data)(struct net_socket *s, const char *data, size_t len);
    void (*on_lost)(struct net_socket *s, int status); // UV_EOF or -errno; reading has stopped
    void (*on_writable)(struct net_socket *s);         // a send had to wait and needn't any more
    void (*on_closed)(struct net_socket *s);           // may be freed
    void (*on_acceptable)(struct net_socket *s);       // listeners: see net_listener_accept
};

struct net_socket {
    const struct net_socket_events *events;
    struct net_sockets *set;
    struct list link; // due, or closed; else in none
    int fd;           // -1: closed
    bool reading;     // input is wanted
    bool readable;    // there may be some
    bool hung_up;     // the end of input has arrived, behind what is there
    bool blocked;     // on_writable is due
    bool connecting;
    bool is_outgoing; // we connected
    bool listens;
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
/* fd: listening, non-blocking, owned from here on. */
void net_listener_open(struct net_socket *s, struct net_sockets *set, int fd,
                       const struct net_socket_events *events);
/* The next connection's descriptor; UV_EAGAIN: none waits. */
int net_listener_accept(struct net_socket *s, struct sockaddr_storage *peer);
/* Stop asking for connections, or ask again. */
void net_listener_pause(struct net_socket *s, bool on);

void net_socket_read(struct net_socket *s, bool on); // costs nothing
/* Bytes that the kernel took; fewer than given: on_writable comes. -errno: the socket is lost. */
ssize_t net_socket_send(struct net_socket *s, const struct iovec *pieces, int count);
/* The end of our side, after what was sent. */
FALLIBLE int net_socket_shutdown(struct net_socket *s);
/* Idempotent. reset: the peer sees a connection that broke, not one that ended. */
void net_socket_close(struct net_socket *s, bool reset);
/* True while input is there, or an end, that on_data or on_lost hasn't seen. The kernel is asked only
 * when the loop hasn't polled for a while. */
bool net_socket_has_input(const struct net_socket *s);

#endif
