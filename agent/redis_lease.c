/* redis_lease.c - what Redis answers, as states.
 *
 *     AWAY ◄──► HELD    the scripts answer "new" or "ok"
 *       ▲        ▲
 *       └► REFUSED ◄─ "duplicate": another process with our id lives elsewhere; "older": a newer
 *                     one lives
 *
 * A refused agent goes on asking: it has the id when the other one is gone. Each state is logged
 * when it begins, once. Deadlines of a beat's length: an answer that comes later would be about the
 * past. */
#define LOG_MODULE "registration"
#include "agent/redis_lease.h"

#include "agent/agent_metrics.h"
#include "shared/base/arena.h"
#include "shared/base/check.h"
#include "shared/base/log.h"
#include "shared/net/redis_client.h"

#include <stdlib.h>

enum lease_state { LEASE_AWAY, LEASE_HELD, LEASE_REFUSED };

struct redis_lease {
    struct redis_client *client;
    struct redis_lease_options options;
    struct redis_script beat, load, leave;
    struct agent_record record; // as last written
    enum lease_state state;
    bool has_record; // a beat was sent
    void (*on_left)(void *arg);
    void *on_left_arg;
    void (*on_closed)(void *arg);
    void *on_closed_arg;
};

static void set_state(struct redis_lease *l, enum lease_state state, struct str why)
{
    if (state != LEASE_HELD) metric_add(&agent_metrics.registration_failures_total, 1);
    if (l->state == state) return;
    l->state = state;
    const char *redis = redis_client_address(l->client);
    switch (state) {
    case LEASE_HELD:
        log_info("registered", "redis=%s id=%s url=%s", redis, l->record.id, l->record.url);
        return;
    case LEASE_REFUSED:
        log_warn("another process holds this agent id, trying on", "redis=%s id=%s answer=" STR_FMT,
                 redis, l->record.id, STR_ARG(why));
        return;
    case LEASE_AWAY:
        log_warn("registration in redis fails, trying on", "redis=%s reason=" STR_FMT, redis,
                 STR_ARG(why));
    }
}

static void on_beat(void *arg, int status, const struct redis_reply *reply)
{
    struct redis_lease *l = arg;
    if (status != 0) {
        set_state(l, LEASE_AWAY, str_of(error_text(status)));
    } else if (reply->type == REDIS_FAIL) {
        set_state(l, LEASE_AWAY, reply->text);
    } else if (str_equal(reply->text, STR("new")) || str_equal(reply->text, STR("ok"))) {
        set_state(l, LEASE_HELD, reply->text);
    } else {
        set_state(l, LEASE_REFUSED, reply->text);
    }
}

static bool take_record(struct redis_lease *l)
{
    const char *local = redis_client_local_address(l->client);
    if (!l->options.record(l->options.arg, local, &l->record)) return false;
    l->has_record = true;
    return true;
}

void redis_lease_beat(struct redis_lease *l)
{
    if (!redis_client_is_connected(l->client) || !take_record(l)) return;
    struct arena arena;
    struct str argv[AGENT_BEAT_ARGC];
    arena_init(&arena);
    agent_record_beat_args(&arena, &l->record, AGENT_LEASE_MS, argv);
    redis_client_eval(l->client, AGENT_BEAT_MS, &l->beat, AGENT_BEAT_KEYS, AGENT_BEAT_ARGC, argv,
                      on_beat, l);
    arena_deinit(&arena);
}

static void on_load(void *arg, int status, const struct redis_reply *reply)
{
    struct redis_lease *l = arg;
    if (status != 0 || l->on_left) return;                           // the next beat will tell
    if (str_equal(reply->text, STR("unknown"))) redis_lease_beat(l); // a flush, or a long pause
}

void redis_lease_report_load(struct redis_lease *l)
{
    if (l->state != LEASE_HELD || !redis_client_is_connected(l->client) || !take_record(l)) return;
    struct arena arena;
    struct str argv[AGENT_LOAD_ARGC];
    arena_init(&arena);
    agent_record_load_args(&arena, &l->record, AGENT_LEASE_MS, argv);
    redis_client_eval(l->client, AGENT_LOAD_MS, &l->load, AGENT_LOAD_KEYS, AGENT_LOAD_ARGC, argv,
                      on_load, l);
    arena_deinit(&arena);
}

static void on_leave(void *arg, int status, const struct redis_reply *reply)
{
    struct redis_lease *l = arg;
    (void)reply;
    if (status != 0) {
        log_warn("redis was not told that this agent leaves", "reason=%s", error_text(status));
    }
    if (l->on_left) l->on_left(l->on_left_arg);
}

void redis_lease_leave(struct redis_lease *l, void (*on_left)(void *arg), void *arg)
{
    l->on_left = on_left;
    l->on_left_arg = arg;
    struct arena arena;
    struct str argv[AGENT_LEAVE_ARGC];
    arena_init(&arena);
    if (!l->has_record) take_record(l);
    agent_record_leave_args(&arena, &l->record, argv);
    redis_client_eval(l->client, AGENT_BEAT_MS, &l->leave, AGENT_LEAVE_KEYS, AGENT_LEAVE_ARGC, argv,
                      on_leave, l);
    arena_deinit(&arena);
}

static void on_state(void *arg, bool connected)
{
    struct redis_lease *l = arg;
    if (connected) {
        redis_lease_beat(l);
    } else {
        l->state = LEASE_AWAY; // the client has logged why
    }
}

int redis_lease_create(uv_loop_t *loop, const struct redis_lease_options *options,
                       struct redis_lease **out, struct error *err)
{
    struct redis_lease *l = xcalloc(1, sizeof *l);
    l->options = *options;
    l->beat.source = agent_record_beat_lua;
    l->load.source = agent_record_load_lua;
    l->leave.source = agent_record_leave_lua;
    struct redis_client_options client = {.url = options->url, .on_state = on_state, .arg = l};
    int rc = redis_client_create(loop, &client, &l->client, err);
    if (rc != 0) {
        free(l);
        return rc;
    }
    *out = l;
    return 0;
}

static void on_client_closed(void *arg)
{
    struct redis_lease *l = arg;
    void (*on_closed)(void *) = l->on_closed;
    void *closed_arg = l->on_closed_arg;
    free(l);
    on_closed(closed_arg);
}

void redis_lease_destroy(struct redis_lease *l, void (*on_closed)(void *arg), void *arg)
{
    l->on_left = NULL;
    l->on_closed = on_closed;
    l->on_closed_arg = arg;
    redis_client_destroy(l->client, on_client_closed, l);
}
