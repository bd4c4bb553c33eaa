/* bench_http.h - what the subjects that talk to a served URL share. Loop thread only. */
#ifndef LM_BENCH_BENCH_HTTP_H
#define LM_BENCH_BENCH_HTTP_H

#include <stdbool.h>

#include "shared/base/buf.h"
#include "shared/net/http_client.h"

struct bench_http {
    uv_loop_t loop;
    struct http_client *client;
    struct http_url url;
    struct tls *tls;
};

/* E_INVALID: no URL. */
FALLIBLE int bench_http_open(struct bench_http *h, const char *url, int connections,
                             struct error *err);
void bench_http_close(struct bench_http *h); // no call may be live

/* GET, waiting for it on the loop. False unless it answers 200. The caller owns *body (not
 * initialised before), in both cases. */
bool bench_http_get(struct bench_http *h, const char *path, struct buf *body);
/* The first model that the server lists, owned; NULL, said on stderr: none. */
char *bench_http_model(struct bench_http *h);

#endif
