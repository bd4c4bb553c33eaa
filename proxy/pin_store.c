/* pin_store.c - the scripts, and what the proxy has to know of Redis before it can believe it.
 *
 * Rules:
 *  1. A pin belongs to (agent, incarnation). Claim takes what is nobody's, move what is still
 *     whose it was read to be: two proxies that decide at once both learn who won.
 *  2. Whether a missing pin means "never opened" depends on how long this Redis has kept pins:
 *     lm:session-epoch holds its run id and since when. A flush takes it away, a restart changes the
 *     run id; until it is as old as a pin may be, absence proves nothing (is_doubtful). So does an
 *     outage that we saw; right after it a pin doesn't prove that nobody has gone on (is_settling).
 *  3. The secret survives a flush: whoever knows it puts it back.
 *  4. An ended session leaves a note while absence proves nothing, so that nobody asks the agents and
 *     finds an old copy.
 *  5. Pins are anybody's bytes: what doesn't decode is nobody's. */
#define LOG_MODULE "session"
#include "proxy/pin_store.h"

#include "proxy/proxy_metrics.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/base/rng.h"
#include "shared/net/redis_client.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define SECRET_KEY   "lm:session-secret"
#define EPOCH_KEY    "lm:session-epoch"
#define SECRET_CHARS 32
#define SECRET_MAX   256
#define QUIET_MS     1000  // for what nobody waits for
#define GREET_MS     1000  // between looks at secret and epoch: an idle proxy notices outages, too
#define LATE_MS      1000  // of the start: sessions may have been named without the secret
#define SETTLE_MS    10000 // until all have connected, and what a dead agent's lease held is written

#define LUA_PIN                                                                                 \
    "local function decode(text)\n"                                                             \
    "  local ok, value = pcall(cjson.decode, text or 'null')\n"                                 \
    "  if ok and type(value) == 'table' then return value end\n"                                \
    "end\n"                                                                                     \
    "local pin = decode(redis.call('GET', KEYS[1])) or {}\n"                                    \
    "local turns = tonumber(redis.call('HGET', KEYS[2], 'turns'))\n"                            \
    "local noted = pin.ended and not pin.agent\n"                                               \
    "if type(pin.agent) ~= 'string' or type(pin.incarnation) ~= 'string' then pin = {} end\n"   \
    "local function number(value, default)\n"                                                   \
    "  return string.format('%.0f', tonumber(value) or default)\n"                              \
    "end\n"                                                                                     \
    "local function answer(won)\n"                                                              \
    "  local facts = pin.agent and decode(redis.call('GET', 'lm:agent:' .. pin.agent)) or {}\n" \
    "  return {won, pin.agent or '', pin.incarnation or '', number(pin.turn, 0),\n"             \
    "    pin.ended and 1 or 0, number(turns, -1), noted and 1 or 0,\n"                          \
    "    redis.call('EXISTS', KEYS[3]),\n"                                                      \
    "    type(facts.incarnation) == 'string' and facts.incarnation or ''}\n"                    \
    "end\n"                                                                                     \
    "local function set(turn, ended)\n"                                                         \
    "  turn = math.max(tonumber(turn) or 0, turns or 0)\n"                                      \
    "  pin = {agent = ARGV[1], incarnation = ARGV[2], kind = ARGV[3], turn = turn,\n"           \
    "    time = tonumber(redis.call('TIME')[1])}\n"                                             \
    "  if ended and not turns then pin.ended = true end\n"                                      \
    "  redis.call('SET', KEYS[1], cjson.encode(pin), 'PX', ARGV[4])\n"                          \
    "  if turns then redis.call('PEXPIRE', KEYS[2], ARGV[4]) end\n"                             \
    "end\n"

/* KEYS of all: lm:s:<key> lm:h:<key> lm:session-epoch
 * ARGV of all: agent, incarnation, kind, ttl_ms, turn, flag ('1' or '0'), from agent, from
 * incarnation */
static const char look_lua[] = LUA_PIN "return answer(0)\n";

static const char claim_lua[] = LUA_PIN "if pin.agent then return answer(0) end\n"
                                        "set(ARGV[5], ARGV[6] == '1')\n"
                                        "return answer(1)\n";

static const char move_lua[] =
    LUA_PIN "if pin.agent ~= ARGV[7] or pin.incarnation ~= ARGV[8] then return answer(0) end\n"
            "set(math.max(tonumber(pin.turn) or 0, tonumber(ARGV[5])), ARGV[6] == '1')\n"
            "return answer(1)\n";

static const char publish_lua[] =
    LUA_PIN "if pin.agent and (tonumber(pin.turn) or 0) >= tonumber(ARGV[5]) then\n"
            "  return answer(0)\n"
            "end\n"
            "set(ARGV[5], false)\n"
            "return answer(1)\n";

static const char refresh_lua[] =
    LUA_PIN "if pin.agent ~= ARGV[1] or pin.incarnation ~= ARGV[2] then return answer(0) end\n"
            "if not pin.ended and (tonumber(pin.turn) or 0) < tonumber(ARGV[5]) then\n"
            "  set(ARGV[5], false)\n"
            "else\n"
            "  redis.call('PEXPIRE', KEYS[1], ARGV[4])\n"
            "  if turns then redis.call('PEXPIRE', KEYS[2], ARGV[4]) end\n"
            "end\n"
            "return answer(1)\n";

/* A new claim on the same id isn't what has ended: its pin says `ended` until it is opened. One that
 * came to nothing is taken back by the mark 'fresh' for whom it was from; 'any': whether the agent
 * opened it isn't known, as of a request that claimed the session in order to end it. */
static const char end_lua[] =
    LUA_PIN "local mine = pin.agent == ARGV[1] and pin.incarnation == ARGV[2] and\n"
            "  (ARGV[7] == 'any' or (pin.ended or false) == (ARGV[7] == 'fresh'))\n"
            "if pin.agent and not mine then return answer(0) end\n"
            "redis.call('DEL', KEYS[1], KEYS[2])\n"
            "if ARGV[6] == '1' then\n"
            "  redis.call('SET', KEYS[1], '{\"ended\":true}', 'PX', ARGV[4])\n"
            "end\n"
            "return answer(1)\n";

static const char greet_lua[] =
    "-- KEYS: lm:session-secret lm:session-epoch   ARGV: a secret to take if there is none, or ''\n"
    "if ARGV[1] ~= '' then redis.call('SET', KEYS[1], ARGV[1], 'NX') end\n"
    "local info = redis.pcall('INFO', 'server')\n"
    "local run = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or 'unknown'\n"
    "local time = redis.call('TIME')\n"
    "local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)\n"
    "local since = tonumber(redis.call('HGET', KEYS[2], 'since'))\n"
    "if not since or redis.call('HGET', KEYS[2], 'run') ~= run then\n"
    "  since = now\n"
    "  redis.call('HSET', KEYS[2], 'run', run, 'since', string.format('%.0f', now))\n"
    "end\n"
    "return {redis.call('GET', KEYS[1]) or '', string.format('%.0f', now - since)}\n";

enum pin_script { PIN_LOOK, PIN_CLAIM, PIN_MOVE, PIN_PUBLISH, PIN_REFRESH, PIN_END, PIN_SCRIPTS };

struct pin_store {
    struct redis_client *client;
    struct pin_store_options options;
    struct redis_script scripts[PIN_SCRIPTS], greet;
    struct session_secret secret;
    char secret_text[SECRET_MAX + 1]; // of the secret that Redis holds; "": not known yet
    bool has_secret;
    bool is_greeted; // since it was connected
    bool is_greeting, was_lost;
    uint64_t created_ms, doubt_until_ms, settle_until_ms; // monotonic
    uv_timer_t timer;
    int open_parts;
    void (*on_closed)(void *arg);
    void *on_closed_arg;
};

struct pin_call {
    struct pin_store *store;
    pin_callback *callback; // NULL: nobody waits
    void *arg;
};

/* ---- secret and epoch ---- */

static void doubt(struct pin_store *s, uint64_t for_ms)
{
    uint64_t until_ms = clock_ms() + for_ms;
    if (until_ms > s->doubt_until_ms) s->doubt_until_ms = until_ms;
}

static void take_secret(struct pin_store *s, struct str text)
{
    if (s->options.secret || text.len == 0 || text.len > SECRET_MAX) return;
    bool is_late = !s->has_secret && clock_ms() - s->created_ms > LATE_MS;
    bool is_other = s->has_secret && !str_equal(text, str_of(s->secret_text));
    if (is_other) log_warn("the session secret in Redis is another one now", "sessions=moved");
    if (is_late || is_other) doubt(s, s->options.hard_ttl_ms); // keys were others until now
    memcpy(s->secret_text, text.data, text.len);
    s->secret_text[text.len] = 0;
    session_secret_of(text, &s->secret);
    s->has_secret = true;
}

static void on_greeted(void *arg, int status, const struct redis_reply *reply)
{
    struct pin_store *s = arg;
    int64_t age_ms = 0;
    s->is_greeting = false;
    bool is_fine = status == 0 && reply->type == REDIS_ARRAY && reply->count == 2 &&
                   str_to_int(reply->items[1].text, &age_ms) == 0;
    if (!is_fine) {
        if (status != E_CLOSED) log_warn("redis gives no session secret", "status=%d", status);
        s->was_lost = s->was_lost || (status == E_TIMEOUT && s->is_greeted);
        return; // asked again soon
    }
    take_secret(s, reply->items[0].text);
    uint64_t ttl_ms = s->options.hard_ttl_ms;
    if (age_ms < 0) age_ms = 0; // the clock went back
    if ((uint64_t)age_ms < ttl_ms) doubt(s, ttl_ms - (uint64_t)age_ms);
    if (s->was_lost) {
        doubt(s, ttl_ms);
        s->settle_until_ms = clock_ms() + SETTLE_MS;
    }
    s->was_lost = false;
    bool is_first = !s->is_greeted;
    s->is_greeted = s->has_secret && redis_client_is_connected(s->client);
    if (is_first && s->is_greeted && s->options.on_ready) s->options.on_ready(s->options.arg);
}

static void greet(struct pin_store *s)
{
    char fresh[SECRET_CHARS + 1];
    if (s->is_greeting) return;
    s->is_greeting = true;
    random_id(fresh, SECRET_CHARS);
    struct str known = str_of(s->secret_text[0] ? s->secret_text : fresh);
    struct str argv[] = {STR(SECRET_KEY), STR(EPOCH_KEY), s->options.secret ? STR("") : known};
    redis_client_eval(s->client, QUIET_MS, &s->greet, 2, 3, argv, on_greeted, s);
}

static void on_state(void *arg, bool connected)
{
    struct pin_store *s = arg;
    if (!connected) {
        s->was_lost = s->was_lost || s->is_greeted;
        s->is_greeted = false;
        return;
    }
    greet(s);
}

static void on_timer(uv_timer_t *timer)
{
    struct pin_store *s = timer->data;
    if (redis_client_is_connected(s->client)) greet(s);
}

/* ---- life ---- */

int pin_store_create(uv_loop_t *loop, const struct pin_store_options *options,
                     struct pin_store **out, struct error *err)
{
    static const char *const sources[PIN_SCRIPTS] = {
        [PIN_LOOK] = look_lua,       [PIN_CLAIM] = claim_lua,     [PIN_MOVE] = move_lua,
        [PIN_PUBLISH] = publish_lua, [PIN_REFRESH] = refresh_lua, [PIN_END] = end_lua,
    };
    struct pin_store *s = xcalloc(1, sizeof *s);
    s->options = *options;
    s->created_ms = clock_ms();
    for (int i = 0; i < PIN_SCRIPTS; i++)
        s->scripts[i].source = sources[i];
    s->greet.source = greet_lua;
    if (options->secret) {
        session_secret_of(str_of(options->secret), &s->secret);
        s->has_secret = true;
    }
    struct redis_client_options client = {.url = options->url, .on_state = on_state, .arg = s};
    int rc = redis_client_create(loop, &client, &s->client, err);
    if (rc != 0) {
        free(s);
        return rc;
    }
    uv_timer_init(loop, &s->timer);
    s->timer.data = s;
    uv_timer_start(&s->timer, on_timer, GREET_MS, GREET_MS);
    *out = s;
    return 0;
}

static void part_closed(struct pin_store *s)
{
    if (--s->open_parts > 0) return;
    void (*on_closed)(void *) = s->on_closed;
    void *arg = s->on_closed_arg;
    explicit_bzero(&s->secret, sizeof s->secret);
    explicit_bzero(s->secret_text, sizeof s->secret_text);
    free(s);
    if (on_closed) on_closed(arg);
}

static void on_client_closed(void *arg)
{
    part_closed(arg);
}

static void on_timer_closed(uv_handle_t *handle)
{
    part_closed(handle->data);
}

void pin_store_destroy(struct pin_store *s, void (*on_closed)(void *arg), void *arg)
{
    s->on_closed = on_closed;
    s->on_closed_arg = arg;
    s->open_parts = 2;
    s->is_greeted = false;
    s->options.on_ready = NULL;
    uv_close((uv_handle_t *)&s->timer, on_timer_closed);
    redis_client_destroy(s->client, on_client_closed, s);
}

bool pin_store_is_up(const struct pin_store *s)
{
    return s->is_greeted;
}

bool pin_store_secret(const struct pin_store *s, struct session_secret *out)
{
    if (s->has_secret) *out = s->secret;
    return s->has_secret;
}

bool pin_store_is_doubtful(const struct pin_store *s, uint64_t now_ms)
{
    return now_ms < s->doubt_until_ms;
}

bool pin_store_is_settling(const struct pin_store *s, uint64_t now_ms)
{
    return now_ms < s->settle_until_ms;
}

/* ---- calls ---- */

#define ANSWER_ITEMS 9

static int64_t integer_of(const struct redis_reply *r)
{
    int64_t value;
    if (r->type == REDIS_INT) return r->integer;
    return str_to_int(r->text, &value) == 0 ? value : 0;
}

static bool copy_text(char *out, size_t size, struct str text)
{
    if (text.len >= size) return false;
    memcpy(out, text.data, text.len);
    out[text.len] = 0;
    return true;
}

static int read_answer(struct pin_store *s, const struct redis_reply *r, struct pin_answer *out)
{
    *out = (struct pin_answer){.presence = PIN_ABSENT};
    if (r->type == REDIS_FAIL) {
        log_warn("redis fails on a session", "reason=" STR_FMT, STR_ARG(r->text));
        return E_PROTOCOL;
    }
    if (r->type != REDIS_ARRAY || r->count != ANSWER_ITEMS) return E_PROTOCOL;
    bool is_named =
        r->items[1].text.len > 0 &&
        copy_text(out->owner.agent, sizeof out->owner.agent, r->items[1].text) &&
        copy_text(out->owner.incarnation, sizeof out->owner.incarnation, r->items[2].text);
    if (!is_named) out->owner = (struct pin_owner){.agent = ""};
    int64_t turn = integer_of(&r->items[3]);
    out->turn = turn < 0 ? 0 : turn > INT32_MAX ? INT32_MAX : (uint32_t)turn;
    bool is_fresh = integer_of(&r->items[4]) != 0;
    out->presence = !is_named ? PIN_ABSENT : is_fresh ? PIN_FRESH : PIN_PRESENT;
    out->is_won = integer_of(&r->items[0]) == 1;
    out->transcript = integer_of(&r->items[5]);
    out->is_noted_end = integer_of(&r->items[6]) == 1;
    out->is_alive = is_named && out->owner.incarnation[0] &&
                    str_equal(r->items[8].text, str_of(out->owner.incarnation));
    if (integer_of(&r->items[7]) == 0) { // flushed: rule 2
        doubt(s, s->options.hard_ttl_ms);
        greet(s);
    }
    return 0;
}

static void on_reply(void *arg, int status, const struct redis_reply *reply)
{
    struct pin_call *call = arg;
    struct pin_answer answer;
    if (status == 0) status = read_answer(call->store, reply, &answer);
    if (status != 0) metric_add(&proxy_metrics.redis_failures_total, 1);
    if (call->callback) call->callback(call->arg, status, status == 0 ? &answer : NULL);
    free(call);
}

static void run(struct pin_store *s, enum pin_script script, const struct pin_request *r,
                pin_callback *callback, void *arg)
{
    struct pin_call *call = xcalloc(1, sizeof *call);
    *call = (struct pin_call){s, callback, arg};
    char pin[32], transcript[32], ttl[24], turn[16];
    snprintf(pin, sizeof pin, "lm:s:%016" PRIx64, r->key);
    snprintf(transcript, sizeof transcript, "lm:h:%016" PRIx64, r->key);
    bool is_hard = r->kind == SESSION_HARD;
    snprintf(ttl, sizeof ttl, "%" PRIu64, is_hard ? s->options.hard_ttl_ms : PIN_SOFT_TTL_MS);
    snprintf(turn, sizeof turn, "%" PRIu32, r->turn);
    struct str argv[] = {
        str_of(pin),
        str_of(transcript),
        STR(EPOCH_KEY),
        str_of(r->owner.agent),
        str_of(r->owner.incarnation),
        is_hard ? STR("interactive") : STR("soft"),
        str_of(ttl),
        str_of(turn),
        r->is_fresh ? STR("1") : STR("0"),
        str_of(r->from.agent),
        str_of(r->from.incarnation),
    };
    redis_client_eval(s->client, r->deadline_ms, &s->scripts[script], 3, ARRAY_LEN(argv), argv,
                      on_reply, call);
}

void pin_store_look(struct pin_store *s, uint64_t key, int deadline_ms, pin_callback *callback,
                    void *arg)
{
    struct pin_request request = {.key = key, .kind = SESSION_HARD, .deadline_ms = deadline_ms};
    run(s, PIN_LOOK, &request, callback, arg);
}

void pin_store_claim(struct pin_store *s, const struct pin_request *request, pin_callback *callback,
                     void *arg)
{
    run(s, PIN_CLAIM, request, callback, arg);
}

void pin_store_move(struct pin_store *s, const struct pin_request *request, pin_callback *callback,
                    void *arg)
{
    run(s, PIN_MOVE, request, callback, arg);
}

void pin_store_publish(struct pin_store *s, const struct pin_request *request,
                       pin_callback *callback, void *arg)
{
    run(s, PIN_PUBLISH, request, callback, arg);
}

void pin_store_refresh(struct pin_store *s, const struct pin_request *request)
{
    struct pin_request r = *request;
    r.deadline_ms = QUIET_MS;
    if (s->is_greeted) run(s, PIN_REFRESH, &r, NULL, NULL);
}

void pin_store_note_turn(struct pin_store *s, const struct pin_request *request,
                         pin_callback *callback, void *arg)
{
    run(s, PIN_REFRESH, request, callback, arg);
}

void pin_store_withdraw(struct pin_store *s, const struct pin_request *request)
{
    struct pin_request r = *request;
    r.deadline_ms = QUIET_MS;
    r.is_fresh = false;
    r.from = (struct pin_owner){.agent = "fresh"};
    if (s->is_greeted) run(s, PIN_END, &r, NULL, NULL);
}

void pin_store_end(struct pin_store *s, const struct pin_request *request)
{
    struct pin_request r = *request;
    r.deadline_ms = QUIET_MS;
    r.from =
        request->is_fresh ? (struct pin_owner){.agent = "any"} : (struct pin_owner){.agent = ""};
    r.is_fresh = r.kind == SESSION_HARD && pin_store_is_doubtful(s, clock_ms()); // leave a note
    if (!s->is_greeted) return;
    run(s, PIN_END, &r, NULL, NULL);
    redis_client_flush(
        s->client); // before its client hears of it, and begins it anew somewhere else
}
