/* net_tls.c - see net_tls.h.
 *
 *      user ◄── net_tls_read ◄─ SSL ◄─ read_cipher ◄── recv
 *      user ──► net_tls_send ─► SSL ─► write_cipher ─► send, and what it doesn't take ─► out
 *
 * Rules:
 *  1. OpenSSL never sees a socket that is full: what the kernel doesn't take waits in `out`, at most
 *     a record and a handshake message or two, and nothing new is encrypted while it isn't empty.
 *  2. It sees an empty one when the edge that said "readable" is used up (net_socket.c rule 1):
 *     reading to the end costs no system call that finds nothing.
 *  3. Nobody is called back from here: a socket can't go away under a call of OpenSSL.
 *  4. The queue of OpenSSL's errors is the thread's: it is emptied before each call and after.
 *  5. OpenSSL reads until there is data, and what isn't data may be dear (a key update): a peer that
 *     sends nothing else is cut off, as the loop would be in that call for as long as it does. And one
 *     read takes so much ciphertext, whatever it holds: a record of one byte costs as much as one of
 *     a thousand. */
#include "shared/net/net_tls.h"

#include "shared/base/check.h"
#include "shared/base/str.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

#define RECORD_BYTES    ((size_t)16 << 10)  // the most that one may hold
#define OUT_BYTES_MAX   ((size_t)128 << 10) // a record, and what a handshake sends at once
#define DATALESS_MAX    ((size_t)64 << 10)  // a record needs 17 KiB; session tickets are small
#define FIRST_HANDSHAKE 0x16                // the type of the first record of a session
#define FIRST_ALERT     0x15

/* ---- ciphertext: what OpenSSL takes for a network ---- */

/* A client that speaks HTTP, or a server that doesn't speak TLS, shows it with its first byte. */
static bool is_foreign(const struct net_socket *s, unsigned char first)
{
    if (SSL_is_server(s->tls->ssl)) return first >= 'A' && first <= 'Z';
    return first != FIRST_HANDSHAKE && first != FIRST_ALERT;
}

static int read_cipher(BIO *bio, char *buffer, int size)
{
    struct net_socket *s = BIO_get_data(bio);
    struct net_tls *t = s->tls;
    BIO_clear_retry_flags(bio);
    ssize_t n = -1;
    if (t->is_open && t->dataless > DATALESS_MAX) { // rule 5
        if (!t->why) t->why = xstrdup("TLS: much that is no data");
        return -1;
    }
    errno = EAGAIN;
    bool is_enough = t->is_open && t->taken >= NET_READ_BYTES; // s->readable stays: it will go on
    if (s->readable && !is_enough) {
        do {
            n = recv(s->fd, buffer, (size_t)size, 0);
        } while (n < 0 && errno == EINTR);
        if (n < size && (n <= 0 || !s->hung_up)) s->readable = false;
    }
    if (n < 0 && errno == EAGAIN) {
        BIO_set_retry_read(bio);
        return -1;
    }
    if (n <= 0) {
        t->lost = n == 0 ? UV_EOF : -errno;
        return (int)n;
    }
    if (!t->was_looked_at) t->is_plain = is_foreign(s, (unsigned char)buffer[0]);
    t->was_looked_at = true;
    if (t->is_open) {
        t->dataless += (size_t)n;
        t->taken += (size_t)n;
    }
    return t->is_plain ? -1 : (int)n;
}

static void keep(struct net_tls *t, const char *data, size_t len)
{
    if (buf_append(&t->out, data, len) != 0) t->send_error = UV_ENOBUFS;
}

/* Takes all, or will never take any: OpenSSL need not know, and goes on reading. */
static int write_cipher(BIO *bio, const char *data, int size)
{
    struct net_socket *s = BIO_get_data(bio);
    struct net_tls *t = s->tls;
    BIO_clear_retry_flags(bio);
    if (t->send_error || t->is_plain) return size;
    if (s->blocked) {
        keep(t, data, (size_t)size);
        return size;
    }
    ssize_t n;
    do {
        n = send(s->fd, data, (size_t)size, MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    if (n == size) return size;
    if (n < 0 && errno != EAGAIN) {
        t->send_error = -errno;
        return size;
    }
    size_t sent = n > 0 ? (size_t)n : 0;
    s->blocked = true;
    keep(t, data + sent, (size_t)size - sent);
    return size;
}

static long control(BIO *bio, int command, long number, void *pointer)
{
    const struct net_socket *s = BIO_get_data(bio);
    (void)number, (void)pointer;
    if (command == BIO_CTRL_EOF) return s->tls->lost == UV_EOF;
    return command == BIO_CTRL_FLUSH;
}

static BIO_METHOD *network;
static pthread_once_t network_once = PTHREAD_ONCE_INIT;

static void make_network(void)
{
    network = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "net_socket");
    CHECK(network && BIO_meth_set_read(network, read_cipher) == 1 &&
          BIO_meth_set_write(network, write_cipher) == 1 &&
          BIO_meth_set_ctrl(network, control) == 1);
}

/* ---- life ---- */

struct net_tls *net_tls_create(struct net_socket *s, SSL *ssl)
{
    pthread_once(&network_once, make_network);
    struct net_tls *t = xcalloc(1, sizeof *t);
    buf_init(&t->out, OUT_BYTES_MAX);
    t->ssl = ssl;
    BIO *bio = BIO_new(network);
    CHECK(bio); // memory
    BIO_set_data(bio, s);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl, bio, bio);
    return t;
}

static void say_goodbye(struct net_tls *t)
{
    if (!t->is_open || t->has_failed || SSL_get_shutdown(t->ssl) & SSL_SENT_SHUTDOWN) return;
    SSL_shutdown(t->ssl);
    ERR_clear_error();
}

void net_tls_destroy(struct net_socket *s, bool reset)
{
    struct net_tls *t = s->tls;
    if (!reset && s->fd >= 0) say_goodbye(t);
    SSL_free(t->ssl);
    buf_deinit(&t->out);
    free(t->why);
    free(t);
    s->tls = NULL;
}

/* ---- failures ---- */

static char *describe(const struct net_tls *t)
{
    unsigned long code = ERR_peek_error();
    long verdict = SSL_get_verify_result(t->ssl);
    const char *reason = ERR_reason_error_string(code);
    if (t->is_plain) {
        return xstrdup("it doesn't speak TLS: does its URL begin with http:// and not https://?");
    }
    if (t->lost == UV_EOF) return xstrdup("TLS: closed in the handshake");
    if (ERR_GET_REASON(code) == SSL_R_CERTIFICATE_VERIFY_FAILED && verdict != X509_V_OK) {
        bool is_others =
            verdict == X509_V_ERR_HOSTNAME_MISMATCH || verdict == X509_V_ERR_IP_ADDRESS_MISMATCH;
        return xasprintf("its certificate is %s: %s", is_others ? "another host's" : "not trusted",
                         X509_verify_cert_error_string(verdict));
    }
    return xasprintf("TLS: %s", reason ? reason : "unknown error");
}

static int fail(struct net_socket *s)
{
    struct net_tls *t = s->tls;
    bool by_kernel = t->lost < 0 && t->lost != UV_EOF;
    t->has_failed = true;
    if (!by_kernel && !t->why) t->why = describe(t);
    ERR_clear_error();
    if (by_kernel) return t->lost;
    return t->is_plain && SSL_is_server(t->ssl) ? UV_EPROTONOSUPPORT : UV_EPROTO;
}

/* ---- the session ---- */

int net_tls_handshake(struct net_socket *s)
{
    struct net_tls *t = s->tls;
    ERR_clear_error();
    int rc = SSL_do_handshake(t->ssl);
    if (rc != 1 && SSL_get_error(t->ssl, rc) == SSL_ERROR_WANT_READ) return UV_EAGAIN;
    if (rc != 1) return fail(s);
    ERR_clear_error();
    t->is_open = true;
    if (SSL_has_pending(t->ssl)) s->readable = true; // the first request came along
    return 0;
}

/* Why a read found no data: 0, it only has to wait. */
static int explain(struct net_socket *s, int error)
{
    struct net_tls *t = s->tls;
    if (error == SSL_ERROR_WANT_READ) return 0;
    if (error == SSL_ERROR_ZERO_RETURN) return UV_EOF;
    if (t->lost != UV_EOF) return fail(s);
    /* An end without TLS's goodbye. From a server (tls.c: of clients OpenSSL accepts it) it may be a
     * cut that somebody else made, which matters where the end is all that ends an answer. */
    t->has_failed = true;
    if (!t->why) t->why = xstrdup("connection closed without the goodbye of TLS");
    return E_CLOSED;
}

ssize_t net_tls_read(struct net_socket *s, char *buffer, size_t size)
{
    struct net_tls *t = s->tls;
    size_t total = 0;
    int end = t->lost;
    t->taken = 0;
    while (total < size && end == 0) {
        size_t n = 0;
        ERR_clear_error();
        int rc = SSL_read_ex(t->ssl, buffer + total, size - total, &n);
        total += n;
        if (rc == 1) {
            t->dataless = 0;
            continue;
        }
        int error = SSL_get_error(t->ssl, rc);
        end = explain(s, error);
        ERR_clear_error();
        if (end == 0) return total > 0 ? (ssize_t)total : UV_EAGAIN;
    }
    s->readable = total > 0; // the buffer is full, or the end is still to be told
    if (end != 0) t->lost = end;
    return total > 0 ? (ssize_t)total : end;
}

/* ---- sending ---- */

/* Up to a record of the pieces from *index, *offset on: where they lie, or joined. */
static struct iovec next_record(const struct iovec *pieces, int count, int *index, size_t *offset,
                                char joined[RECORD_BYTES])
{
    while (*index < count && *offset == pieces[*index].iov_len)
        ++*index, *offset = 0;
    if (*index == count) return (struct iovec){NULL, 0};
    const struct iovec *piece = &pieces[*index];
    size_t left = piece->iov_len - *offset;
    if (left >= RECORD_BYTES || *index == count - 1) {
        struct iovec record = {(char *)piece->iov_base + *offset,
                               left < RECORD_BYTES ? left : RECORD_BYTES};
        *offset += record.iov_len;
        return record;
    }
    size_t len = 0;
    for (; *index < count && len < RECORD_BYTES; ++*index, *offset = 0) {
        piece = &pieces[*index];
        left = piece->iov_len - *offset;
        size_t n = left < RECORD_BYTES - len ? left : RECORD_BYTES - len;
        memcpy(joined + len, (char *)piece->iov_base + *offset, n);
        len += n;
        if (n < left) {
            *offset += n;
            break;
        }
    }
    return (struct iovec){joined, len};
}

ssize_t net_tls_send(struct net_socket *s, const struct iovec *pieces, int count)
{
    struct net_tls *t = s->tls;
    char joined[RECORD_BYTES];
    size_t total = 0, offset = 0;
    int index = 0;
    if (!t->is_open || t->has_failed) return UV_ENOTCONN;
    while (!s->blocked && t->send_error == 0) {
        struct iovec record = next_record(pieces, count, &index, &offset, joined);
        if (record.iov_len == 0) break;
        size_t n = 0;
        ERR_clear_error();
        if (SSL_write_ex(t->ssl, record.iov_base, record.iov_len, &n) != 1) return fail(s);
        CHECK(n == record.iov_len);
        total += n;
    }
    return t->send_error ? t->send_error : (ssize_t)total;
}

static void end_our_side(struct net_socket *s)
{
    s->tls->fin_due = false;
    shutdown(s->fd, SHUT_WR);
}

bool net_tls_flush(struct net_socket *s)
{
    struct net_tls *t = s->tls;
    while (t->out_sent < t->out.len && t->send_error == 0) {
        ssize_t n = send(s->fd, t->out.data + t->out_sent, t->out.len - t->out_sent, MSG_NOSIGNAL);
        if (n > 0) t->out_sent += (size_t)n;
        if (n < 0 && errno == EAGAIN) return false;
        if (n < 0 && errno != EINTR) t->send_error = -errno;
    }
    buf_deinit(&t->out);
    buf_init(&t->out, OUT_BYTES_MAX);
    t->out_sent = 0;
    if (t->fin_due) end_our_side(s);
    return true;
}

int net_tls_shutdown(struct net_socket *s)
{
    struct net_tls *t = s->tls;
    say_goodbye(t);
    if (t->send_error) return t->send_error;
    t->fin_due = true;
    if (!s->blocked) end_our_side(s);
    return 0;
}
