/* registry_redis.c - Redis as one source among others.
 *
 * Rules:
 *  1. One scan at a time. A hint that comes meanwhile, or sooner than HINT_MS after the last one,
 *     is remembered and answered by one more scan: a thousand hints cost no more than one.
 *  2. A lease read here counts from Redis' own clock, which came with the reading: clocks of
 *     machines don't matter.
 *  3. No complete reading for LOST_MS means that the source is lost: the registry keeps what it
 *     knows (its rule 4). After it is back, absence counts only once everybody had the time for
 *     a beat.
 *  4. Beats heard by HTTP, on whatever thread, are written with the next tick, by the agents' own
 *     script, so it doesn't matter who writes and how many do.
 *  5. The registry's lock is taken where a reply is worked on, never while waiting for one. */
#define LOG_MODULE "registry"
#include "proxy/registry_redis.h"

#include "proxy/proxy_metrics.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/net/redis_client.h"

#include <stdio.h>
#include <stdlib.h>

#define TICK_MS     250
#define SCAN_MS     1000
#define HINT_MS     50
#define DEADLINE_MS 1000
#define LOST_MS     2500
#define ROW_ITEMS   4 // of the list script: id, expiry, facts, load

struct registry_redis {
    struct redis_client *client;
    struct registry *registry;
    uv_timer_t tick, hint;
    bool scanning, reading_loads, rescan;
    uint64_t scans;                         // complete ones
    uint64_t scan_started_ms, scan_done_ms; // of the last complete one
    uint64_t absence_counts_ms;             // from then on (rule 3)
    struct redis_script list_script, beat_script;

    char (*ids)[AGENT_ID_BYTES]; // of the last scan; whose loads are read
    int id_count;

    int handles_open; // timers and the client
    void (*on_closed)(void *arg);
    void *on_closed_arg;
};

static void scan(struct registry_redis *r);

/* ---- reading all ---- */

/* A time in ms; -1: it isn't one. */
static int64_t time_of(const struct redis_reply *reply)
{
    int64_t value = -1;
    if (reply->type == REDIS_INT) value = reply->integer;
    if (reply->type == REDIS_STRING && str_to_int(reply->text, &value) < 0) return -1;
    return value < 0 ? -1 : value;
}

static int parse_facts(struct str text, struct agent_record *out, struct error *err)
{
    struct json *root = json_parse(text.data, text.len, err);
    if (!root) return err->code;
    int rc = agent_record_parse(root, out, err);
    json_destroy(root);
    return rc;
}

static int parse_load(const struct redis_reply *reply, struct agent_load *out, struct error *err)
{
    if (reply->type != REDIS_STRING) return E_NOT_FOUND;
    struct json *root = json_parse(reply->text.data, reply->text.len, err);
    if (!root) return err->code;
    int rc = agent_load_parse(root, out, err);
    json_destroy(root);
    return rc;
}

/* One agent of the list. A record that can't be read is somebody's bug, not a reason to stop. */
static void take_row(struct registry_redis *r, const struct redis_reply *row, int64_t redis_ms,
                     uint64_t now_ms)
{
    int64_t expiry_ms = time_of(&row[1]);
    if (row[0].type != REDIS_STRING || row[2].type != REDIS_STRING || expiry_ms <= redis_ms) return;
    struct agent_record record;
    struct error err;
    int rc = parse_facts(row[2].text, &record, &err);
    if (rc == 0 && !str_equal(row[0].text, str_of(record.id))) {
        rc = error_set(&err, E_INVALID, "'id' is not the one of the key");
    }
    if (rc == 0) {
        struct error ignored;
        if (parse_load(&row[3], &record.load, &ignored) < 0) {
            record.load = (struct agent_load){.sequence = 0};
        }
        uint64_t lease_ms = (uint64_t)(expiry_ms - redis_ms);
        if (lease_ms > AGENT_LEASE_MS) lease_ms = AGENT_LEASE_MS;
        rc = registry_hear(r->registry, REGISTRY_REDIS, &record, lease_ms, (uint64_t)expiry_ms,
                           now_ms, &err);
    }
    if (rc < 0) {
        log_debug("record ignored", "agent=" STR_FMT " reason=\"%s\"", STR_ARG(row[0].text),
                  err.text);
        return;
    }
    registry_find(r->registry, record.id)->listed = r->scans;
    if (r->id_count < FLEET_AGENTS_MAX) {
        snprintf(r->ids[r->id_count++], AGENT_ID_BYTES, "%s", record.id);
    }
}

static void end_missing_leases(struct registry_redis *r, uint64_t now_ms)
{
    if (now_ms < r->absence_counts_ms) return;
    list_each (m, &r->registry->members, struct registry_member, link) {
        if (m->lease_until_ms[REGISTRY_REDIS] <= now_ms || m->listed == r->scans) continue;
        registry_lease_ended(r->registry, REGISTRY_REDIS, m->record.id, now_ms);
    }
}

static void take_list(struct registry_redis *r, const struct redis_reply *list, int64_t redis_ms,
                      uint64_t now_ms)
{
    if (r->registry->source_lost[REGISTRY_REDIS]) {
        log_info("registry in Redis is back", "agents=%zu", list->count / ROW_ITEMS);
        registry_set_source_lost(r->registry, REGISTRY_REDIS, false, now_ms);
        r->absence_counts_ms = now_ms + AGENT_LEASE_MS;
    }
    r->scans++;
    r->id_count = 0;
    for (size_t i = 1; i + ROW_ITEMS <= list->count; i += ROW_ITEMS)
        take_row(r, &list->items[i], redis_ms, now_ms);
    end_missing_leases(r, now_ms);
    registry_tick(r->registry, now_ms);
    r->scan_done_ms = now_ms;
    metric_add(&proxy_metrics.redis_scans_total, 1);
}

static void count_failure(const struct redis_reply *reply, const char *what)
{
    metric_add(&proxy_metrics.redis_failures_total, 1);
    if (reply && reply->type == REDIS_FAIL) {
        log_warn("Redis refuses", "command=%s error=\"" STR_FMT "\"", what, STR_ARG(reply->text));
    }
}

static void on_hint_timer(uv_timer_t *timer)
{
    struct registry_redis *r = timer->data;
    scan(r);
}

static void on_list(void *arg, int status, const struct redis_reply *reply)
{
    struct registry_redis *r = arg;
    r->scanning = false;
    if (r->on_closed) return;
    bool is_list = status == 0 && reply->type == REDIS_ARRAY && reply->count > 0;
    int64_t redis_ms = is_list ? time_of(&reply->items[0]) : -1;
    if (redis_ms >= 0) {
        registry_lock(r->registry);
        take_list(r, reply, redis_ms, clock_ms());
        registry_unlock(r->registry);
    } else {
        count_failure(reply, "list");
    }
    if (!r->rescan) return;
    r->rescan = false;
    uv_timer_start(&r->hint, on_hint_timer, HINT_MS, 0);
}

static void scan(struct registry_redis *r)
{
    if (r->scanning) {
        r->rescan = true;
        return;
    }
    if (!redis_client_is_connected(r->client)) return;
    r->scanning = true;
    r->scan_started_ms = clock_ms();
    struct str argv[AGENT_LIST_ARGC];
    agent_record_list_args(argv);
    redis_client_eval(r->client, DEADLINE_MS, &r->list_script, AGENT_LIST_KEYS, AGENT_LIST_ARGC,
                      argv, on_list, r);
}

static void on_hint(void *arg, struct str message)
{
    struct registry_redis *r = arg;
    if (r->on_closed) return;
    log_debug("hint", "message=\"" STR_FMT "\"", STR_ARG(message));
    if (uv_is_active((uv_handle_t *)&r->hint)) return;
    uv_timer_start(&r->hint, on_hint_timer, HINT_MS, 0);
}

/* ---- loads ---- */

static void on_loads(void *arg, int status, const struct redis_reply *reply)
{
    struct registry_redis *r = arg;
    r->reading_loads = false;
    if (r->on_closed) return;
    if (status != 0 || reply->type != REDIS_ARRAY) {
        count_failure(reply, "mget");
        return;
    }
    /* The ids may have been read anew since: then this reading is not of these. */
    if (reply->count != (size_t)r->id_count || r->scanning) return;
    registry_lock(r->registry);
    for (int i = 0; i < r->id_count; i++) {
        struct agent_load load;
        struct error err;
        if (parse_load(&reply->items[i], &load, &err) == 0) {
            registry_report_load(r->registry, r->ids[i], &load, clock_ms());
        }
    }
    registry_unlock(r->registry);
}

static void read_loads(struct registry_redis *r)
{
    if (r->reading_loads || r->scanning || r->id_count == 0) return;
    if (!redis_client_is_connected(r->client)) return;
    struct arena arena;
    arena_init(&arena);
    struct str *argv = arena_alloc(&arena, ((size_t)r->id_count + 1) * sizeof *argv);
    argv[0] = STR("MGET");
    for (int i = 0; i < r->id_count; i++)
        argv[i + 1] = str_of(arena_printf(&arena, "lm:load:%s", r->ids[i]));
    r->reading_loads = true;
    redis_client_command(r->client, DEADLINE_MS, on_loads, r, r->id_count + 1, argv);
    arena_deinit(&arena);
}

/* ---- writing what was heard by HTTP ---- */

static void on_written(void *arg, int status, const struct redis_reply *reply)
{
    (void)arg;
    if (status != 0 || reply->type == REDIS_FAIL) count_failure(reply, "beat");
}

static void write_lease(struct registry_redis *r, const struct agent_record *record)
{
    struct arena arena;
    arena_init(&arena);
    struct str argv[AGENT_BEAT_ARGC];
    agent_record_beat_args(&arena, record, AGENT_LEASE_MS, argv);
    redis_client_eval(r->client, DEADLINE_MS, &r->beat_script, AGENT_BEAT_KEYS, AGENT_BEAT_ARGC,
                      argv, on_written, NULL);
    arena_deinit(&arena);
}

void registry_redis_write_leases(struct registry_redis *r)
{
    if (!redis_client_is_connected(r->client)) return;
    registry_lock(r->registry);
    struct registry_member *m;
    while ((m = registry_next_unwritten(r->registry)))
        write_lease(r, &m->record);
    registry_unlock(r->registry);
}

/* ---- life ---- */

static void lose_source(struct registry_redis *r, uint64_t now_ms)
{
    registry_lock(r->registry);
    registry_set_source_lost(r->registry, REGISTRY_REDIS, true, now_ms);
    registry_unlock(r->registry);
}

static void on_state(void *arg, bool connected)
{
    struct registry_redis *r = arg;
    if (r->on_closed) return;
    metric_set(&proxy_metrics.redis_connected, connected);
    if (!connected) {
        lose_source(r, clock_ms());
        return;
    }
    /* What was asked before the loss is answered (with E_CLOSED) before this. */
    uv_timer_start(&r->hint, on_hint_timer, 0, 0);
}

static void on_tick(uv_timer_t *timer)
{
    struct registry_redis *r = timer->data;
    uint64_t now_ms = clock_ms();
    if (!r->registry->source_lost[REGISTRY_REDIS] && now_ms - r->scan_done_ms > LOST_MS) {
        log_warn("registry in Redis doesn't answer", "last_ms=%llu: going on with what is known",
                 (unsigned long long)(now_ms - r->scan_done_ms));
        lose_source(r, now_ms);
    }
    if (now_ms - r->scan_started_ms >= SCAN_MS) {
        scan(r);
    } else {
        read_loads(r);
    }
}

static void handle_closed(struct registry_redis *r)
{
    if (--r->handles_open > 0) return;
    void (*on_closed)(void *arg) = r->on_closed;
    void *arg = r->on_closed_arg;
    free(r->ids);
    free(r);
    on_closed(arg);
}

static void on_timer_closed(uv_handle_t *handle)
{
    handle_closed(handle->data);
}

static void on_client_closed(void *arg)
{
    handle_closed(arg);
}

int registry_redis_start(uv_loop_t *loop, const char *url, struct registry *registry,
                         struct registry_redis **out, struct error *err)
{
    struct registry_redis *r = xcalloc(1, sizeof *r);
    r->registry = registry;
    r->list_script.source = agent_record_list_lua;
    r->beat_script.source = agent_record_beat_lua;
    struct redis_client_options options = {.url = url, .on_state = on_state, .arg = r};
    int rc = redis_client_create(loop, &options, &r->client, err);
    if (rc < 0) {
        free(r);
        return rc;
    }
    r->ids = xcalloc(FLEET_AGENTS_MAX, sizeof *r->ids);
    r->scan_done_ms = clock_ms();
    r->handles_open = 3;
    CHECK(uv_timer_init(loop, &r->tick) == 0 && uv_timer_init(loop, &r->hint) == 0);
    r->tick.data = r->hint.data = r;
    CHECK(uv_timer_start(&r->tick, on_tick, TICK_MS, TICK_MS) == 0);
    redis_client_subscribe(r->client, AGENT_EVENTS_CHANNEL, on_hint, r);
    registry->source_lost[REGISTRY_REDIS] = true; // until it has been read
    *out = r;
    return 0;
}

void registry_redis_stop(struct registry_redis *r, void (*on_closed)(void *arg), void *arg)
{
    r->on_closed = on_closed;
    r->on_closed_arg = arg;
    uv_close((uv_handle_t *)&r->tick, on_timer_closed);
    uv_close((uv_handle_t *)&r->hint, on_timer_closed);
    redis_client_destroy(r->client, on_client_closed, r);
}

bool registry_redis_is_connected(const struct registry_redis *r)
{
    return redis_client_is_connected(r->client);
}

bool registry_redis_has_scanned(const struct registry_redis *r)
{
    return r->scans > 0;
}
