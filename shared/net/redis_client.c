/* redis_client.c - commands, scripts and subscriptions over two links: one for commands, one (from
 * the first subscription on) that only listens.
 *
 * Scripts: the first use sends the source (EVAL) and asks for its hash (SCRIPT LOAD); from then on
 * the hash goes (EVALSHA). A server that has lost it, by a restart or a flush, answers NOSCRIPT
 * without having run anything, and gets the source once more. */
#include "shared/net/redis_client.h"

#include "shared/base/check.h"
#include "shared/base/list.h"
#include "shared/net/redis_link.h"
#include "shared/net/redis_url.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SCRIPT_LOAD_MS 1000

struct subscription {
    struct list link;
    char *channel;
    void (*on_message)(void *arg, struct str message);
    void *arg;
};

struct redis_client {
    uv_loop_t *loop;
    struct redis_url url;
    void (*on_state)(void *arg, bool connected);
    void *arg;
    struct redis_link *commands;
    struct redis_link *events; // NULL: nothing subscribed
    struct list subscriptions;
    int links_open;
    void (*on_closed)(void *arg);
    void *on_closed_arg;
};

/* ---- life ---- */

static void on_commands_ready(void *arg)
{
    struct redis_client *c = arg;
    if (c->on_state) c->on_state(c->arg, true);
}

static void on_commands_lost(void *arg)
{
    struct redis_client *c = arg;
    if (c->on_state) c->on_state(c->arg, false);
}

int redis_client_create(uv_loop_t *loop, const struct redis_client_options *options,
                        struct redis_client **out, struct error *err)
{
    struct redis_client *c = xcalloc(1, sizeof *c);
    int rc = redis_url_parse(options->url, &c->url, err);
    if (rc != 0) {
        free(c);
        return rc;
    }
    c->loop = loop;
    c->on_state = options->on_state;
    c->arg = options->arg;
    list_init(&c->subscriptions);
    struct redis_link_options link = {
        .url = &c->url,
        .on_ready = on_commands_ready,
        .on_lost = on_commands_lost,
        .arg = c,
    };
    c->commands = redis_link_create(loop, &link);
    c->links_open = 1;
    *out = c;
    return 0;
}

static void on_link_closed(void *arg)
{
    struct redis_client *c = arg;
    if (--c->links_open > 0) return;
    while (!list_is_empty(&c->subscriptions)) {
        struct subscription *s = list_first(&c->subscriptions, struct subscription, link);
        list_remove(&s->link);
        free(s->channel);
        free(s);
    }
    void (*on_closed)(void *arg) = c->on_closed;
    void *on_closed_arg = c->on_closed_arg;
    explicit_bzero(&c->url, sizeof c->url); // the password
    free(c);
    if (on_closed) on_closed(on_closed_arg);
}

void redis_client_destroy(struct redis_client *c, void (*on_closed)(void *arg), void *arg)
{
    c->on_closed = on_closed;
    c->on_closed_arg = arg;
    redis_link_destroy(c->commands, on_link_closed, c);
    if (c->events) redis_link_destroy(c->events, on_link_closed, c);
}

bool redis_client_is_connected(const struct redis_client *c)
{
    return redis_link_is_ready(c->commands);
}

uv_loop_t *redis_client_loop(const struct redis_client *c)
{
    return c->loop;
}

const char *redis_client_address(const struct redis_client *c)
{
    return c->url.address;
}

const char *redis_client_local_address(const struct redis_client *c)
{
    return redis_link_local_address(c->commands);
}

/* ---- commands ---- */

static void put_parts(struct buf *out, int argc, const struct str *argv)
{
    for (int i = 0; i < argc; i++)
        redis_put_bulk(out, argv[i]);
}

void redis_client_command(struct redis_client *c, int deadline_ms, redis_callback *callback,
                          void *arg, int argc, const struct str *argv)
{
    struct buf command;
    buf_init(&command, BUF_MAX_INTERNAL);
    redis_put_count(&command, (size_t)argc);
    put_parts(&command, argc, argv);
    redis_link_submit(c->commands, buf_str(&command), deadline_ms, callback, arg);
    buf_deinit(&command);
}

void redis_client_flush(struct redis_client *c)
{
    redis_link_flush(c->commands);
}

/* ---- scripts ---- */

struct evaluation {
    struct redis_client *client;
    struct redis_script *script;
    redis_callback *callback;
    void *arg;
    uint64_t deadline_ms;
    int parts;        // of the tail
    struct buf tail;  // number of keys, keys, arguments; in RESP
    bool with_source; // EVAL was sent
};

static void on_evaluated(void *arg, int status, const struct redis_reply *reply);

static void send_evaluation(struct evaluation *e)
{
    struct buf command;
    buf_init(&command, BUF_MAX_INTERNAL);
    redis_put_count(&command, (size_t)e->parts + 2);
    redis_put_bulk(&command, e->with_source ? STR("EVAL") : STR("EVALSHA"));
    redis_put_bulk(&command, str_of(e->with_source ? e->script->source : e->script->sha1));
    buf_append(&command, e->tail.data, e->tail.len);
    uint64_t now = uv_now(e->client->loop);
    int left_ms = e->deadline_ms > now ? (int)(e->deadline_ms - now) : 0;
    redis_link_submit(e->client->commands, buf_str(&command), left_ms, on_evaluated, e);
    buf_deinit(&command);
}

static bool is_unknown_script(const struct redis_reply *reply)
{
    return reply && reply->type == REDIS_FAIL && str_starts_with(reply->text, STR("NOSCRIPT"));
}

static void on_evaluated(void *arg, int status, const struct redis_reply *reply)
{
    struct evaluation *e = arg;
    if (status == 0 && !e->with_source && is_unknown_script(reply)) {
        e->with_source = true;
        send_evaluation(e);
        return;
    }
    redis_callback *callback = e->callback;
    void *callback_arg = e->arg;
    buf_deinit(&e->tail);
    free(e);
    if (callback) callback(callback_arg, status, reply);
}

static void on_script_loaded(void *arg, int status, const struct redis_reply *reply)
{
    struct redis_script *script = arg;
    if (status != 0 || reply->type != REDIS_STRING) return; // the next use asks again
    if (reply->text.len != sizeof script->sha1 - 1) return;
    memcpy(script->sha1, reply->text.data, sizeof script->sha1 - 1);
}

void redis_client_eval(struct redis_client *c, int deadline_ms, struct redis_script *script,
                       int keys, int argc, const struct str *argv, redis_callback *callback,
                       void *arg)
{
    struct evaluation *e = xcalloc(1, sizeof *e);
    e->client = c;
    e->script = script;
    e->callback = callback;
    e->arg = arg;
    e->deadline_ms = uv_now(c->loop) + (uint64_t)deadline_ms;
    e->parts = argc + 1;
    char count[16];
    snprintf(count, sizeof count, "%d", keys);
    buf_init(&e->tail, BUF_MAX_INTERNAL);
    redis_put_bulk(&e->tail, str_of(count));
    put_parts(&e->tail, argc, argv);
    e->with_source = script->sha1[0] == 0;
    if (e->with_source) {
        struct str load[] = {STR("SCRIPT"), STR("LOAD"), str_of(script->source)};
        redis_client_command(c, SCRIPT_LOAD_MS, on_script_loaded, script, 3, load);
    }
    send_evaluation(e);
}

/* ---- subscriptions ---- */

static void send_subscribe(struct redis_client *c, const struct subscription *s)
{
    struct buf command;
    buf_init(&command, BUF_MAX_INTERNAL);
    redis_put_count(&command, 2);
    redis_put_bulk(&command, STR("SUBSCRIBE"));
    redis_put_bulk(&command, str_of(s->channel));
    redis_link_tell(c->events, buf_str(&command));
    buf_deinit(&command);
}

static void on_events_ready(void *arg)
{
    struct redis_client *c = arg;
    list_each (s, &c->subscriptions, struct subscription, link)
        send_subscribe(c, s);
}

/* ["message", channel, text]; confirmations and pongs come here, too. */
static void on_event(void *arg, const struct redis_reply *reply)
{
    struct redis_client *c = arg;
    if (reply->type != REDIS_ARRAY || reply->count != 3) return;
    if (!str_equal(reply->items[0].text, STR("message"))) return;
    struct str channel = reply->items[1].text, text = reply->items[2].text;
    list_each_safe (s, &c->subscriptions, struct subscription, link) {
        if (str_equal(channel, str_of(s->channel))) s->on_message(s->arg, text);
    }
}

void redis_client_subscribe(struct redis_client *c, const char *channel,
                            void (*on_message)(void *arg, struct str message), void *arg)
{
    struct subscription *s = xcalloc(1, sizeof *s);
    s->channel = xstrdup(channel);
    s->on_message = on_message;
    s->arg = arg;
    list_push_back(&c->subscriptions, &s->link);
    if (c->events) {
        send_subscribe(c, s);
        return;
    }
    struct redis_link_options link = {
        .url = &c->url,
        .pubsub = true,
        .on_ready = on_events_ready,
        .on_event = on_event,
        .arg = c,
    };
    c->events = redis_link_create(c->loop, &link);
    c->links_open++;
}
