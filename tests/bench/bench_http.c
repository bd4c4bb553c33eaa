#include "tests/bench/bench_http.h"

#include <stdio.h>
#include <stdlib.h>

#include "shared/base/check.h"
#include "shared/base/json.h"
#include "shared/net/loop.h"

#define BODY_MAX (1u << 20)

int bench_http_open(struct bench_http *h, const char *url, int connections, struct error *err)
{
    int rc = http_url_parse(url, &h->url, err);
    if (rc < 0) return rc;
    /* For https the certificates that SSL_CERT_FILE names, or the system's. */
    rc = tls_create(&(struct tls_settings){0}, &h->tls, err);
    if (rc < 0) return rc;
    uv_loop_init(&h->loop);
    struct http_client_options options = {.idle_per_origin_max = connections, .tls = h->tls};
    h->client = http_client_create(&h->loop, &options);
    return 0;
}

static void on_closed(void *arg)
{
    *(bool *)arg = true;
}

void bench_http_close(struct bench_http *h)
{
    bool closed = false;

    http_client_destroy(h->client, on_closed, &closed);
    while (!closed)
        uv_run(&h->loop, UV_RUN_ONCE);
    loop_close_all(&h->loop);
    uv_loop_close(&h->loop);
    tls_destroy(h->tls);
}

struct fetch {
    struct buf *body;
    int status;
    bool ended;
};

static void fetch_head(void *arg, int status, const struct http_headers *headers)
{
    (void)headers;
    ((struct fetch *)arg)->status = status;
}

static void fetch_body(void *arg, const char *data, size_t len)
{
    buf_append(((struct fetch *)arg)->body, data, len);
}

static void fetch_end(void *arg)
{
    ((struct fetch *)arg)->ended = true;
}

static void fetch_fail(void *arg, const struct http_failure *failure)
{
    struct fetch *f = arg;
    fprintf(stderr, "lm-bench: %s\n", failure->text);
    f->status = 0;
    f->ended = true;
}

bool bench_http_get(struct bench_http *h, const char *path, struct buf *body)
{
    struct fetch f = {.body = body};
    char target[600];

    buf_init(body, BODY_MAX);
    snprintf(target, sizeof target, "%s%s", h->url.path, path);
    http_call_start(h->client, &(struct http_call_options){.scheme = h->url.scheme,
                                                           .host = h->url.host,
                                                           .port = h->url.port,
                                                           .method = "GET",
                                                           .target = str_of(target),
                                                           .head_timeout_ms = 10000,
                                                           .on_head = fetch_head,
                                                           .on_body = fetch_body,
                                                           .on_end = fetch_end,
                                                           .on_fail = fetch_fail,
                                                           .arg = &f});
    while (!f.ended)
        uv_run(&h->loop, UV_RUN_ONCE);
    return f.status == 200 && !body->overflow;
}

char *bench_http_model(struct bench_http *h)
{
    struct buf body;
    char *model = NULL;

    bool ok = bench_http_get(h, "/v1/models", &body);
    struct json *list = ok ? json_parse(body.data, body.len, NULL) : NULL;
    const struct json *id = json_get(json_first(json_get(list, "data")), "id");
    if (id && json_type(id) == JSON_STRING) model = xstrdup(json_string(id, NULL));
    json_destroy(list);
    buf_deinit(&body);
    if (!model) fprintf(stderr, "lm-bench: the server lists no model\n");
    return model;
}
