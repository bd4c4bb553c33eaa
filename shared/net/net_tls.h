/* net_tls.h - the insides of net_socket: TLS between a socket's kernel buffers and its user.
 * Only net_socket.c and net_tls.c include this. */
#ifndef LM_NET_NET_TLS_H
#define LM_NET_NET_TLS_H

#include "shared/base/buf.h"
#include "shared/net/net_socket.h"

struct net_tls {
    struct ssl_st *ssl;
    struct buf out;     // ciphertext that the kernel didn't take; no memory while empty
    size_t out_sent;    // of it
    char *why;          // it failed, for people; NULL: it didn't
    int lost;           // what stands behind the data that was read last; 0: nothing
    int send_error;     // -errno of the kernel; sending is over
    size_t dataless;    // bytes that came since there was data
    size_t taken;       // bytes of ciphertext, by one call of net_tls_read
    bool is_open;       // the handshake is done
    bool has_failed;    // the session is worth nothing any more
    bool fin_due;       // our side ends behind `out`
    bool was_looked_at; // at the peer's first byte
    bool is_plain;      // which is not of TLS
};

struct net_tls *net_tls_create(struct net_socket *s, struct ssl_st *ssl);
/* reset: without a goodbye to the peer. */
void net_tls_destroy(struct net_socket *s, bool reset);

/* 0: done. UV_EAGAIN: waits for the peer. UV_EPROTONOSUPPORT: a client that speaks plain HTTP; the
 * socket may be used without TLS. Else it failed: UV_EPROTO, or -errno. */
int net_tls_handshake(struct net_socket *s);
/* Bytes of data, as much as is there and fits a turn; UV_EAGAIN: none. Else as on_lost: the data before it
 * has been read. s->readable is kept true while there may be more, here or in the kernel. */
ssize_t net_tls_read(struct net_socket *s, char *buffer, size_t size);
/* As net_socket_send. A record once begun is ours: it waits in `out`, with s->blocked. */
ssize_t net_tls_send(struct net_socket *s, const struct iovec *pieces, int count);
/* The kernel takes more. True: all that waited is gone, or will never go. */
bool net_tls_flush(struct net_socket *s);
int net_tls_shutdown(struct net_socket *s);

#endif
