/* quota_redis.c - one timer, and scripts that nobody waits for.
 *
 * Rules:
 *  1. At most one settlement is under way. It takes up to LIMITS_BATCH accounts; when there were as
 *     many, the next one follows at once instead of with the next tick.
 *  2. A settlement whose answer doesn't come counts as not carried out: rather too little is given
 *     out than too much. Its accounts are collected again.
 *  3. The number of proxies falls only when it was read lower three times: after a restart of
 *     Redis the others need a second to be there again.
 *  4. lm:keys is parsed only when it has changed. */
#define LOG_MODULE "quota"
#include "proxy/quota_redis.h"

#include "proxy/proxy_metrics.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/hash.h"
#include "shared/base/log.h"
#include "shared/net/redis_client.h"

#include <stdio.h>
#include <stdlib.h>

#define TICK_MS        100
#define PRESENCE_TICKS 10
#define KEYS_TICKS     50
#define DEADLINE_MS    500
#define LOWER_READINGS 3
#define ID_BYTES       64

#define ORDER_ARGS     7
#define ANSWER_ITEMS   5

struct quota_redis {
    struct redis_client *client;
    struct limits *limits;
    struct api_key_ring *keys;
    char id[ID_BYTES], presence_key[ID_BYTES + 16];
    uv_timer_t tick;
    unsigned ticks;
    struct redis_script settle_script, presence_script, keys_script;

    bool settling, reading_keys;
    struct limits_order orders[LIMITS_BATCH];
    int order_count;
    int proxies, lower_readings;
    bool has_keys;
    uint64_t keys_print; // of what was read last

    int handles_open;
    void (*on_closed)(void *arg);
    void *on_closed_arg;
};

/* KEYS: an account each. ARGV: this proxy; then for each account the limits of requests and tokens,
 * what is owed of both, what is wanted of both, streams here. Answers, for each account: taken of
 * both, left of both, streams elsewhere. See limits.h. */
static const char settle_lua[] =
    "local time = redis.call('TIME')\n"
    "local now = time[1] * 1000 + math.floor(time[2] / 1000)\n"
    "local me = 's:' .. ARGV[1]\n"
    "local out = {}\n"
    "local function account(key, a)\n"
    "  local all = redis.call('HGETALL', key)\n"
    "  local have, others = {}, 0\n"
    "  for i = 1, #all, 2 do\n"
    "    local name, value = all[i], all[i + 1]\n"
    "    if string.sub(name, 1, 2) == 's:' then\n"
    "      local count, till = string.match(value, '^(%d+):(%d+)$')\n"
    "      if not till or tonumber(till) <= now then redis.call('HDEL', key, name)\n"
    "      elseif name ~= me then others = others + tonumber(count) end\n"
    "    else have[name] = tonumber(value) end\n"
    "  end\n"
    "  local passed = have.at and math.max(0, now - have.at) / 60000 or 1\n"
    "  local taken, left = {}, {}\n"
    "  for i, name in ipairs({'r', 't'}) do\n"
    "    local limit, owed = tonumber(ARGV[a + i]), tonumber(ARGV[a + 2 + i])\n"
    "    local level = math.min(limit, (have[name] or limit) + limit * passed)\n"
    "    level = math.max(-limit, math.min(limit, level - owed))\n"
    "    local extra = math.max(0, math.min(tonumber(ARGV[a + 4 + i]), level))\n"
    "    taken[i] = string.format('%.17g', owed + extra)\n"
    "    left[i] = string.format('%.17g', level - extra)\n"
    "  end\n"
    "  redis.call('HSET', key, 'r', left[1], 't', left[2], 'at', string.format('%d', now))\n"
    "  local streams = ARGV[a + 7]\n"
    "  if streams == '0' then redis.call('HDEL', key, me)\n"
    "  else redis.call('HSET', key, me, streams .. ':' .. string.format('%d', now + 3000)) end\n"
    "  redis.call('PEXPIRE', key, 120000)\n"
    "  for _, v in ipairs({taken[1], taken[2], left[1], left[2], tostring(others)}) do\n"
    "    out[#out + 1] = v\n"
    "  end\n"
    "end\n"
    "for i, key in ipairs(KEYS) do account(key, 1 + (i - 1) * 7) end\n"
    "return out\n";

/* KEYS: lm:proxies, lm:proxy:<id>. ARGV: the id. Answers how many proxies there are. */
static const char presence_lua[] = "local time = redis.call('TIME')\n"
                                   "local now = time[1] * 1000 + math.floor(time[2] / 1000)\n"
                                   "redis.call('ZADD', KEYS[1], now + 6000, ARGV[1])\n"
                                   "redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)\n"
                                   "redis.call('PEXPIRE', KEYS[1], 60000)\n"
                                   "redis.call('SET', KEYS[2], ARGV[1], 'PX', 6000)\n"
                                   "return redis.call('ZCARD', KEYS[1])\n";

/* KEYS: lm:keys. ARGV: how many fields are too many. */
static const char keys_lua[] =
    "if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[1]) then\n"
    "  return redis.error_reply('ERR lm:keys has more than ' .. ARGV[1] .. ' fields')\n"
    "end\n"
    "return redis.call('HGETALL', KEYS[1])\n";

static void count_failure(const struct redis_reply *reply, const char *what)
{
    metric_add(&proxy_metrics.redis_failures_total, 1);
    if (reply && reply->type == REDIS_FAIL) {
        log_warn("Redis refuses", "command=%s error=\"" STR_FMT "\"", what, STR_ARG(reply->text));
    }
}

/* ---- settling ---- */

static void settle(struct quota_redis *q);

static int parse_answer(const struct redis_reply *items, struct limits_answer *out)
{
    double values[ANSWER_ITEMS];
    for (int i = 0; i < ANSWER_ITEMS; i++) {
        if (items[i].type != REDIS_STRING) return E_FORMAT;
        int rc = str_to_double(items[i].text, &values[i]);
        if (rc < 0) return rc;
    }
    *out = (struct limits_answer){
        .taken = {values[0], values[1]},
        .level = {values[2], values[3]},
        .streams = values[4] >= 0 && values[4] < 1e9 ? (int)values[4] : 0,
    };
    return 0;
}

static void on_settled(void *arg, int status, const struct redis_reply *reply)
{
    struct quota_redis *q = arg;
    struct limits_answer answers[LIMITS_BATCH];
    q->settling = false;
    if (q->on_closed) return;
    bool ok = status == 0 && reply->type == REDIS_ARRAY &&
              reply->count == (size_t)q->order_count * ANSWER_ITEMS;
    for (int i = 0; ok && i < q->order_count; i++)
        ok = parse_answer(&reply->items[i * ANSWER_ITEMS], &answers[i]) == 0;
    if (!ok) count_failure(reply, "settle");
    limits_apply(q->limits, clock_ms(), q->orders, q->order_count, ok ? answers : NULL);
    if (ok && q->order_count == LIMITS_BATCH) settle(q); // rule 1
}

static void put_order(struct arena *arena, const struct limits_order *o, struct str *args)
{
    for (int i = 0; i < LIMITS_RESOURCES; i++) {
        args[i] = str_of(arena_printf(arena, "%.17g", o->per_minute[i]));
        args[2 + i] = str_of(arena_printf(arena, "%.17g", o->owed[i]));
        args[4 + i] = str_of(arena_printf(arena, "%.17g", o->wanted[i]));
    }
    args[6] = str_of(arena_printf(arena, "%d", o->streams));
}

static void settle(struct quota_redis *q)
{
    if (q->settling || !redis_client_is_connected(q->client)) return;
    q->order_count = limits_collect(q->limits, clock_ms(), q->orders);
    if (q->order_count == 0) return;
    struct str argv[LIMITS_BATCH * (1 + ORDER_ARGS) + 1];
    struct arena arena;
    arena_init(&arena);
    int n = q->order_count;
    argv[n] = str_of(q->id);
    for (int i = 0; i < n; i++) {
        argv[i] = str_of(arena_printf(&arena, "lm:rl:%s", q->orders[i].id));
        put_order(&arena, &q->orders[i], &argv[n + 1 + i * ORDER_ARGS]);
    }
    q->settling = true;
    redis_client_eval(q->client, DEADLINE_MS, &q->settle_script, n, n + 1 + n * ORDER_ARGS, argv,
                      on_settled, q);
    arena_deinit(&arena);
}

/* ---- how many proxies ---- */

static void on_presence(void *arg, int status, const struct redis_reply *reply)
{
    struct quota_redis *q = arg;
    if (q->on_closed) return;
    if (status != 0 || reply->type != REDIS_INT || reply->integer < 1) {
        count_failure(reply, "presence");
        return;
    }
    int count = reply->integer > 10000 ? 10000 : (int)reply->integer;
    if (count < q->proxies && ++q->lower_readings < LOWER_READINGS) return; // rule 3
    q->lower_readings = 0;
    if (count == q->proxies) return;
    log_info("proxies share quotas", "count=%d", count);
    q->proxies = count;
    limits_set_proxies(q->limits, count);
}

static void tell_presence(struct quota_redis *q)
{
    if (!redis_client_is_connected(q->client)) return;
    struct str argv[] = {STR("lm:proxies"), str_of(q->presence_key), str_of(q->id)};
    redis_client_eval(q->client, DEADLINE_MS, &q->presence_script, 2, 3, argv, on_presence, q);
}

/* ---- keys ---- */

static uint64_t print_of(struct str s)
{
    return hash_mix(hash_bytes(s.data ? s.data : "", s.len));
}

/* Whatever the order. */
static uint64_t fingerprint(const struct redis_reply *reply)
{
    uint64_t print = reply->count;
    for (size_t i = 0; i + 1 < reply->count; i += 2)
        print +=
            hash_mix(print_of(reply->items[i].text) ^ (print_of(reply->items[i + 1].text) + 1));
    return print;
}

static void on_keys(void *arg, int status, const struct redis_reply *reply)
{
    struct quota_redis *q = arg;
    q->reading_keys = false;
    if (q->on_closed) return;
    if (status != 0 || reply->type != REDIS_ARRAY || reply->count % 2 != 0) {
        count_failure(reply, "keys");
        return;
    }
    uint64_t print = fingerprint(reply);
    if (q->has_keys && print == q->keys_print) return;
    q->has_keys = true;
    q->keys_print = print;
    size_t count = reply->count / 2;
    struct api_key_row *rows = xcalloc(count + 1, sizeof *rows);
    for (size_t i = 0; i < count; i++)
        rows[i] = (struct api_key_row){reply->items[2 * i].text, reply->items[2 * i + 1].text};
    api_key_ring_set_rows(q->keys, rows, count);
    limits_retain(q->limits, q->keys->current);
    free(rows);
}

static void read_keys(struct quota_redis *q)
{
    if (!q->keys || q->reading_keys || !redis_client_is_connected(q->client)) return;
    char most[16];
    snprintf(most, sizeof most, "%d", API_KEYS_MAX);
    struct str argv[] = {STR("lm:keys"), str_of(most)};
    q->reading_keys = true;
    redis_client_eval(q->client, DEADLINE_MS, &q->keys_script, 1, 2, argv, on_keys, q);
}

/* ---- life ---- */

static void on_tick(uv_timer_t *timer)
{
    struct quota_redis *q = timer->data;
    q->ticks++;
    settle(q);
    if (q->ticks % PRESENCE_TICKS == 0) tell_presence(q);
    if (q->ticks % KEYS_TICKS == 0) read_keys(q);
}

static void on_state(void *arg, bool connected)
{
    struct quota_redis *q = arg;
    if (q->on_closed || !connected) return;
    tell_presence(q);
    read_keys(q);
}

static void handle_closed(struct quota_redis *q)
{
    if (--q->handles_open > 0) return;
    void (*on_closed)(void *arg) = q->on_closed;
    void *arg = q->on_closed_arg;
    free(q);
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

int quota_redis_start(uv_loop_t *loop, const struct quota_redis_options *options,
                      struct quota_redis **out, struct error *err)
{
    struct quota_redis *q = xcalloc(1, sizeof *q);
    struct redis_client_options client = {.url = options->url, .on_state = on_state, .arg = q};
    int rc = redis_client_create(loop, &client, &q->client, err);
    if (rc < 0) {
        free(q);
        return rc;
    }
    q->limits = options->limits;
    q->keys = options->keys;
    q->proxies = 1;
    q->settle_script.source = settle_lua;
    q->presence_script.source = presence_lua;
    q->keys_script.source = keys_lua;
    snprintf(q->id, sizeof q->id, "%s", options->proxy_id);
    snprintf(q->presence_key, sizeof q->presence_key, "lm:proxy:%s", q->id);
    CHECK(uv_timer_init(loop, &q->tick) == 0);
    q->tick.data = q;
    CHECK(uv_timer_start(&q->tick, on_tick, TICK_MS, TICK_MS) == 0);
    q->handles_open = 2;
    *out = q;
    return 0;
}

void quota_redis_stop(struct quota_redis *q, void (*on_closed)(void *arg), void *arg)
{
    q->on_closed = on_closed;
    q->on_closed_arg = arg;
    uv_close((uv_handle_t *)&q->tick, on_timer_closed);
    redis_client_destroy(q->client, on_client_closed, q);
}
