/* tls.h - keys, certificates and whom to trust: what the TLS connections of a process are made with.
 *
 * OpenSSL, TLS 1.2 and 1.3, ciphers with forward secrecy and authentication, ALPN "http/1.1", no
 * renegotiation, no compression, session tickets. One `struct tls` serves all threads of a process,
 * as server and as client, and outlives whoever uses it. tls_take() changes what new connections get;
 * open ones keep what they began with. */
#ifndef LM_NET_TLS_H
#define LM_NET_TLS_H

#include <stdbool.h>

#include "shared/base/config.h"
#include "shared/base/error.h"

struct ssl_st; // OpenSSL's SSL
struct tls;

/* As options set them: TLS_SERVER_OPTIONS and TLS_CA_OPTION in a program's table. Owned strings. */
struct tls_settings {
    bool ssl;
    char *keyfile, *certfile; // PEM; the certificate's file holds its chain, too
    char *ca_file;            // PEM; NULL: the system's store
};

#define TLS_SERVER_OPTIONS(field)                                                           \
    {"ssl", OPTION_FLAG, field + offsetof(struct tls_settings, ssl), .group = "TLS",        \
     .help = "serve HTTPS, with the key and certificate that SSL_KEYFILE and SSL_CERTFILE " \
             "name"},                                                                       \
        {"ssl-keyfile",                                                                     \
         OPTION_STRING,                                                                     \
         field + offsetof(struct tls_settings, keyfile),                                    \
         .arg = "FILE",                                                                     \
         .group = "TLS",                                                                    \
         .help = "private key, PEM, instead of SSL_KEYFILE; means --ssl; read again on "    \
                 "SIGHUP"},                                                                 \
    {                                                                                       \
        "ssl-certfile", OPTION_STRING, field + offsetof(struct tls_settings, certfile),     \
            .arg = "FILE", .group = "TLS",                                                  \
            .help = "certificate and those that it is signed with, PEM, instead of "        \
                    "SSL_CERTFILE; means --ssl; read again on SIGHUP"                       \
    }
#define TLS_CA_OPTION(field, whose)                                              \
    {                                                                            \
        "ssl-ca", OPTION_STRING, field + offsetof(struct tls_settings, ca_file), \
            .arg = "FILE", .group = "TLS",                                       \
            .help = "certificates to trust, PEM, where " whose                   \
                    " speak https; by default those of the system"               \
    }

/* Completes them from SSL_KEYFILE and SSL_CERTFILE. E_INVALID: --ssl without one of the two. */
FALLIBLE int tls_settings_complete(struct tls_settings *settings, struct error *err);
bool tls_settings_serve(const struct tls_settings *settings); // TLS is wanted

/* Reads the files that the settings name. E_INVALID: they can't be read, or don't fit together. */
FALLIBLE int tls_create(const struct tls_settings *settings, struct tls **out, struct error *err);
/* New connections get what `fresh` read, which is consumed. Whether it serves TLS stays as it is. */
void tls_take(struct tls *t, struct tls *fresh);
void tls_destroy(struct tls *t); // NULL is fine
bool tls_serves(const struct tls *t);

/* For net_socket_secure(); any thread. Never NULL: whoever listens has a certificate. */
struct ssl_st *tls_accept(struct tls *t);
/* host: a name, or an address without brackets; it must stand in the peer's certificate, unless
 * nothing is verified: that is for peers on this machine which we started. */
FALLIBLE int tls_connect(struct tls *t, const char *host, bool verify, struct ssl_st **out,
                         struct error *err);
void tls_discard(struct ssl_st *session); // one that no socket was given; NULL is fine

#endif
