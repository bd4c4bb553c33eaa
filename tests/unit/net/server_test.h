/* server_test.h - an http_server for tests: it echoes, streams, or hands the exchange to the test.
 */
#ifndef LM_SERVER_TEST_H
#define LM_SERVER_TEST_H

#include "shared/base/check.h"
#include "shared/net/http_server.h"
#include "shared/net/loop.h"
#include "tests/unit/net/net_test.h"

static struct http_server *server;
static struct http_exchange *held; // the last request to /hold, until the test ends it
static int requests, gone, drained;
static bool server_closed;

static inline void on_held_gone(void *arg)
{
    (void)arg;
    gone++;
    held = NULL;
}

static inline void on_held_drain(void *arg)
{
    (void)arg;
    drained++;
}

/* /hold: kept, watched. /orphan: kept, not watched. /close: closes the server. Others: an echo. */
static inline void on_test_request(struct http_exchange *x, void *arg)
{
    (void)arg;
    requests++;
    const struct http_request *r = http_exchange_request(x);
    if (str_equal(r->path, STR("/hold"))) {
        held = x;
        http_exchange_watch(x, on_held_gone, on_held_drain, NULL);
        return;
    }
    if (str_equal(r->path, STR("/orphan"))) {
        held = x;
        return;
    }
    if (str_equal(r->path, STR("/large"))) {
        struct buf body;
        buf_init(&body, BUF_MAX_INTERNAL);
        for (int i = 0; i < 1000000; i++)
            buf_printf(&body, "%07d,", i);
        http_respond(x, 200, "text/plain", buf_str(&body));
        buf_deinit(&body);
        return;
    }
    struct buf out;
    buf_init(&out, BUF_MAX_INTERNAL);
    buf_printf(&out, "[%.*s %.*s?%.*s %zu:%.*s]", STR_ARG(r->method), STR_ARG(r->path),
               STR_ARG(r->query), r->body.len, STR_ARG(r->body));
    CHECK(r->body.data[r->body.len] == 0);
    http_respond(x, 200, "text/plain", buf_str(&out));
    buf_deinit(&out);
}

static inline void start_server(struct http_server_options options)
{
    struct error err = {0};
    uv_loop_init(&loop);
    options.host = "127.0.0.1";
    if (!options.on_request) options.on_request = on_test_request;
    held = NULL;
    requests = gone = drained = 0;
    server_closed = false;
    int rc = http_server_open(&loop, &options, &server, &err);
    if (rc != 0) printf("%s\n", err.text);
    NEED(rc == 0);
}

static inline void on_server_closed(void *arg)
{
    (void)arg;
    server_closed = true;
}

/* Everything must be gone afterwards: uv_loop_close fails if a handle is left. */
static inline void stop_server(void)
{
    http_server_close(server, on_server_closed, NULL);
    EXPECT(SPIN_UNTIL(server_closed, 5000));
    EXPECT_INT(uv_loop_close(&loop), 0);
}

#endif
