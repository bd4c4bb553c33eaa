/* client_test.h - an http_client for tests, and what came of its calls. */
#ifndef LM_CLIENT_TEST_H
#define LM_CLIENT_TEST_H

#include "shared/net/http_client.h"
#include "tests/unit/net/server_test.h"

static struct http_client *client;
static bool client_closed;

/* What came of one call. */
struct outcome {
    struct http_call *call;
    int heads, ends, fails;
    int status;
    struct buf body;
    char header[128]; // value of x-test
    char local[64];
    struct http_failure failure;
    char failure_text[256];
    bool cancel_in_head, cancel_in_body, pause_in_body;
};

static inline void on_head(void *arg, int status, const struct http_headers *headers)
{
    struct outcome *o = arg;
    o->heads++;
    o->status = status;
    struct str value = http_headers_get(headers, "x-test");
    snprintf(o->header, sizeof o->header, "%.*s", (int)value.len, value.data ? value.data : "");
    snprintf(o->local, sizeof o->local, "%s", http_call_local_address(o->call));
    if (o->cancel_in_head) {
        http_call_cancel(o->call);
        o->call = NULL;
    }
}

static inline void on_body(void *arg, const char *data, size_t len)
{
    struct outcome *o = arg;
    buf_append(&o->body, data, len);
    if (o->pause_in_body) http_call_pause(o->call);
    if (o->cancel_in_body) {
        http_call_cancel(o->call);
        o->call = NULL;
    }
}

static inline void on_end(void *arg)
{
    struct outcome *o = arg;
    o->ends++;
    o->call = NULL;
}

static inline void on_fail(void *arg, const struct http_failure *failure)
{
    struct outcome *o = arg;
    o->fails++;
    o->call = NULL;
    o->failure = *failure;
    snprintf(o->failure_text, sizeof o->failure_text, "%s", failure->text);
    o->failure.text = o->failure_text;
}

static inline struct http_call_options options_for(struct outcome *o, int port, const char *target)
{
    memset(o, 0, sizeof *o);
    buf_init(&o->body, BUF_MAX_INTERNAL);
    return (struct http_call_options){
        .host = "127.0.0.1",
        .port = port,
        .method = "GET",
        .target = str_of(target),
        .on_head = on_head,
        .on_body = on_body,
        .on_end = on_end,
        .on_fail = on_fail,
        .arg = o,
    };
}

static inline void get(struct outcome *o, int port, const char *target)
{
    struct http_call_options options = options_for(o, port, target);
    o->call = http_call_start(client, &options);
    EXPECT_INT(o->heads + o->ends + o->fails, 0); // callbacks never run inside
}

static inline bool is_done(const struct outcome *o)
{
    return o->ends + o->fails > 0;
}

static inline const char *body_of(const struct outcome *o)
{
    return o->body.len ? o->body.data : "";
}

static inline void on_client_closed(void *arg)
{
    (void)arg;
    client_closed = true;
}

static inline void start_client(struct http_client_options options)
{
    client_closed = false;
    client = http_client_create(&loop, &options);
}

static inline void stop_client(void)
{
    http_client_destroy(client, on_client_closed, NULL);
    EXPECT(!client_closed);
    EXPECT(SPIN_UNTIL(client_closed, 5000));
}

#endif
