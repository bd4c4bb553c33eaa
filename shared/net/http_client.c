/* http_client.c - the client as a whole: deadlines, deferred failures, the end. */
#include "shared/net/http_client.h"

#include "shared/base/check.h"
#include "shared/net/http_call.h"

#include <stdlib.h>

#define SWEEP_BUSY_MS 25   // while there are calls: how late a deadline may be noticed
#define SWEEP_IDLE_MS 1000 // while connections only rest

static void set_default(int *value, int def)
{
    if (*value == 0) *value = def;
}

static uint64_t pool_period(const struct http_client *client)
{
    uint64_t eighth = (uint64_t)client->options.idle_timeout_ms / 8;
    return eighth < SWEEP_IDLE_MS ? eighth : SWEEP_IDLE_MS;
}

/* Looking at thousands of calls forty times a second would cost more than what they do: they are
 * looked at when the earliest of their deadlines is due, as it was known last. */
static void on_sweep(uv_timer_t *timer)
{
    struct http_client *client = timer->data;
    uint64_t now = uv_now(client->loop);
    if (now >= client->due_ms) {
        client->due_ms = UINT64_MAX;
        /* A callback may end any other call: what is due is marked first, then failed one by one. */
        list_each (call, &client->calls, struct http_call, link)
            http_call_sweep(call, now);
    }
    if (now < client->pool_due_ms) return;
    client->pool_due_ms = now + pool_period(client);
    http_pool_sweep(client, now);
}

void http_client_adjust_sweep(struct http_client *client)
{
    uint64_t period = client->connection_count > 0 ? SWEEP_IDLE_MS : 0;
    if (!list_is_empty(&client->calls)) period = SWEEP_BUSY_MS;
    if (period == client->sweep_ms || uv_is_closing((uv_handle_t *)&client->sweep)) return;
    client->sweep_ms = period;
    if (period == 0) {
        uv_timer_stop(&client->sweep);
    } else {
        uv_timer_start(&client->sweep, on_sweep, period, period);
    }
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct http_client *client = handle->data;
    client->handles_open--;
    http_client_free_when_closed(client);
}

static void on_released(void *arg)
{
    struct http_client *client = arg;
    void (*on_closed)(void *arg) = client->on_closed;
    void *on_closed_arg = client->on_closed_arg;
    for (size_t i = 0; i < ARRAY_LEN(client->origins); i++)
        hash_map_deinit(&client->origins[i]);
    buf_deinit(&client->spare);
    http_parser_memory_destroy(client->parser_spare);
    free(client);
    if (on_closed) on_closed(on_closed_arg);
}

void http_client_free_when_closed(struct http_client *client)
{
    if (!client->closing || client->connection_count > 0 || client->lookups > 0) return;
    if (!list_is_empty(&client->calls)) return;
    uv_handle_t *handles[] = {(uv_handle_t *)&client->sweep, (uv_handle_t *)&client->turn};
    for (size_t i = 0; i < ARRAY_LEN(handles); i++) {
        if (!uv_is_closing(handles[i])) uv_close(handles[i], on_handle_closed);
    }
    if (client->handles_open == 0) net_sockets_unref(client->sockets, on_released, client);
}

static void on_turn(uv_idle_t *turn)
{
    struct http_client *client = turn->data;
    struct list due; // a callback may start a call that fails: that one waits for the next turn
    list_init(&due);
    while (!list_is_empty(&client->failed)) {
        struct list *item = client->failed.next;
        list_remove(item);
        list_push_back(&due, item);
    }
    while (!list_is_empty(&due)) {
        http_call_fail_deferred(list_first(&due, struct http_call, failed_link));
    }
    if (list_is_empty(&client->failed)) uv_idle_stop(turn);
    if (!client->closing) return;
    list_each_safe (c, &client->connections, struct http_client_connection, link) {
        http_client_connection_close(c);
    }
    http_client_free_when_closed(client);
}

void http_client_defer_failure(struct http_call *call, int failure)
{
    struct http_client *client = call->client;
    if (call->failure == 0) call->failure = failure;
    list_remove(&call->failed_link);
    list_push_back(&client->failed, &call->failed_link);
    uv_idle_start(&client->turn, on_turn);
}

struct http_client *http_client_create(uv_loop_t *loop, const struct http_client_options *options)
{
    struct http_client *client = xcalloc(1, sizeof *client);
    client->loop = loop;
    if (options) client->options = *options;
    set_default(&client->options.idle_per_origin_max, 64);
    set_default(&client->options.idle_timeout_ms, 50 * 1000);
    struct http_limits *limits = &client->options.limits;
    if (limits->header_bytes == 0) limits->header_bytes = http_limits_default.header_bytes;
    if (limits->header_count == 0) limits->header_count = http_limits_default.header_count;
    if (limits->target_bytes == 0) limits->target_bytes = http_limits_default.target_bytes;
    client->sockets = net_sockets_ref(loop);
    buf_init(&client->spare, BUF_MAX_INTERNAL);
    list_init(&client->calls);
    list_init(&client->failed);
    list_init(&client->connections);
    for (size_t i = 0; i < ARRAY_LEN(client->origins); i++)
        hash_map_init(&client->origins[i]);
    CHECK(uv_timer_init(loop, &client->sweep) == 0);
    CHECK(uv_idle_init(loop, &client->turn) == 0);
    client->sweep.data = client->turn.data = client;
    client->handles_open = 2;
    client->due_ms = UINT64_MAX;
    return client;
}

void http_client_destroy(struct http_client *client, void (*on_closed)(void *arg), void *arg)
{
    CHECK(!client->closing);
    client->closing = true;
    client->on_closed = on_closed;
    client->on_closed_arg = arg;
    list_each (call, &client->calls, struct http_call, link) {
        http_client_defer_failure(call, E_CANCELLED);
    }
    uv_idle_start(&client->turn, on_turn);
}
