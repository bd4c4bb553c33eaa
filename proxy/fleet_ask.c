#include "proxy/fleet_ask.h"

#include "shared/base/check.h"

#include <stdio.h>
#include <stdlib.h>

struct asked {
    struct fleet_ask *owner;
    struct fleet_agent *agent; // a reference
    struct http_call *call;    // NULL: over
    int status;
    struct buf body;
};

struct fleet_ask {
    uv_timer_t timer; // the deadline; with nobody to ask the next turn of the loop
    void (*on_done)(void *arg, const struct fleet_answer *answers, int count);
    void *arg;
    int count, open;
    bool is_over;
    struct buf body; // of the request, for all of them
    struct asked asked[];
};

static void on_closed(uv_handle_t *handle)
{
    struct fleet_ask *k = handle->data;
    buf_deinit(&k->body);
    free(k);
}

static void destroy(struct fleet_ask *k)
{
    for (int i = 0; i < k->count; i++) {
        if (k->asked[i].call) http_call_cancel(k->asked[i].call);
        k->asked[i].call = NULL;
        fleet_agent_unref(k->asked[i].agent);
        buf_deinit(&k->asked[i].body);
    }
    uv_close((uv_handle_t *)&k->timer, on_closed);
}

static void finish(struct fleet_ask *k)
{
    if (k->is_over) return;
    k->is_over = true;
    struct fleet_answer answers[FLEET_ASK_MAX];
    for (int i = 0; i < k->count; i++) {
        struct asked *a = &k->asked[i];
        bool is_whole = !a->call && !a->body.overflow;
        answers[i] = (struct fleet_answer){a->agent, is_whole ? a->status : 0, buf_str(&a->body)};
    }
    k->on_done(k->arg, answers, k->count);
    destroy(k);
}

static void on_timer(uv_timer_t *timer)
{
    finish(timer->data);
}

static void one_over(struct asked *a)
{
    a->call = NULL;
    if (--a->owner->open == 0) finish(a->owner);
}

static void on_head(void *arg, int status, const struct http_headers *headers)
{
    (void)headers;
    ((struct asked *)arg)->status = status;
}

static void on_body(void *arg, const char *data, size_t len)
{
    buf_append(&((struct asked *)arg)->body, data, len);
}

static void on_end(void *arg)
{
    one_over(arg);
}

static void on_fail(void *arg, const struct http_failure *failure)
{
    (void)failure;
    struct asked *a = arg;
    a->status = 0;
    one_over(a);
}

static void start_one(struct fleet_ask *k, const struct fleet_ask_options *options,
                      struct fleet_agent *agent)
{
    struct asked *a = &k->asked[k->count++];
    *a = (struct asked){.owner = k, .agent = fleet_agent_ref(agent)};
    buf_init(&a->body, FLEET_ASK_BYTES);
    struct buf target;
    buf_init(&target, BUF_MAX_INTERNAL);
    buf_printf(&target, "%s" STR_FMT, agent->path, STR_ARG(options->target));
    struct http_call_options call = {
        .scheme = agent->scheme,
        .host = agent->host,
        .port = agent->port,
        .method = options->method,
        .target = buf_str(&target),
        .headers = options->headers,
        .header_count = options->header_count,
        .body = buf_str(&k->body),
        .connect_timeout_ms = options->timeout_ms,
        .head_timeout_ms = options->timeout_ms,
        .idle_timeout_ms = options->timeout_ms,
        .on_head = on_head,
        .on_body = on_body,
        .on_end = on_end,
        .on_fail = on_fail,
        .arg = a,
    };
    a->call = http_call_start(options->client, &call);
    k->open++;
    buf_deinit(&target);
}

struct fleet_ask *fleet_ask_start(uv_loop_t *loop, const struct fleet_ask_options *options)
{
    int count = options->agent_count < FLEET_ASK_MAX ? options->agent_count : FLEET_ASK_MAX;
    struct fleet_ask *k = xcalloc(1, sizeof *k + (size_t)count * sizeof k->asked[0]);
    k->on_done = options->on_done;
    k->arg = options->arg;
    uv_timer_init(loop, &k->timer);
    k->timer.data = k;
    buf_init(&k->body, BUF_MAX_INTERNAL);
    buf_append(&k->body, options->body.data, options->body.len);
    for (int i = 0; i < count; i++)
        start_one(k, options, options->agents[i]);
    uv_timer_start(&k->timer, on_timer, count ? (uint64_t)options->timeout_ms : 0, 0);
    return k;
}

void fleet_ask_cancel(struct fleet_ask *k)
{
    if (k->is_over) return;
    k->is_over = true;
    destroy(k);
}
