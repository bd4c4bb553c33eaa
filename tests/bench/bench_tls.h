/* bench_tls.h - what `lm-bench proxy --tls` needs: a key and a certificate for the proxies, and
 * clients that trust anybody. */
#ifndef LM_BENCH_BENCH_TLS_H
#define LM_BENCH_BENCH_TLS_H

#include "shared/base/error.h"

struct ssl_st; // OpenSSL's SSL

/* dir/key.pem, dir/cert.pem, and dir/pair.pem with both: P-256, signed by itself. */
FALLIBLE int bench_tls_write_files(const char *dir, struct error *err);
void bench_tls_remove_files(const char *dir);

/* A client's session on a connected socket, which stays the caller's. Never NULL. */
struct ssl_st *bench_tls_open(int fd);
void bench_tls_close(struct ssl_st *ssl); // NULL is fine
/* Send a request on a connection of its own; its answer's status, -1: none came. */
int bench_tls_request(int port, const char *text);

#endif
