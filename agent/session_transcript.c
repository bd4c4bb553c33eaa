/* session_transcript.c - five scripts, a secret and a mark.
 *
 * Rules:
 *  1. Ownership is the pin's incarnation. Taking a session over is a compare-and-set: the script
 *     that reads the pin writes it, and only if its owner is gone or idle.
 *  2. What an owner that is gone had and hasn't written down more of than we, we may write, and go
 *     on from if a proxy says that we have it: it may have been given to us while Redis was away. An
 *     owner is busy while lm:h's `running` names it and lm:agent:<id> says that it lives. What a dead
 *     owner left running is over when its lease is. That may have begun when Redis came back, with a
 *     beat that it found waiting.
 *  3. A transcript is read whole or not at all: a missing record, one that doesn't follow, another
 *     model's are told apart and never served.
 *  4. An append names the turn before it. If Redis has another one (it was away, flushed, or has
 *     lost the end), everything is written anew, within the same deadline.
 *  5. Our mark tells that Redis was flushed; who knows the secret then puts it back.
 *  6. A session beyond the size cap has no transcript rather than half of one. */
#define LOG_MODULE "session"
#include "agent/session_transcript.h"

#include "shared/base/check.h"
#include "shared/base/log.h"
#include "shared/base/rng.h"
#include "shared/net/redis_client.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECRET_KEY   "lm:session-secret"
#define MARK_KEY     "lm:sessions:"
#define SECRET_CHARS 32
#define SECRET_MAX   256
#define GREET_MS     1000    // between looks at the mark
#define MARK_MS      "60000" // it goes soon after its agent; frozen for longer, one writes for nothing
#define QUIET_MS     1000    // for what nobody waits for

#define LUA_PIN                                                                              \
    "local function decode(text)\n"                                                          \
    "  local ok, value = pcall(cjson.decode, text or 'null')\n"                              \
    "  if ok and type(value) == 'table' then return value end\n"                             \
    "end\n"                                                                                  \
    "local function set_pin(agent, incarnation, turn, ttl)\n"                                \
    "  local pin = cjson.encode({agent = agent, incarnation = incarnation,\n"                \
    "    kind = 'interactive', turn = turn, time = tonumber(redis.call('TIME')[1])})\n"      \
    "  redis.call('SET', KEYS[1], pin, 'PX', ttl)\n"                                         \
    "  if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('PEXPIRE', KEYS[2], ttl) end\n" \
    "end\n"                                                                                  \
    "local function lives(pin)\n"                                                            \
    "  local facts = decode(redis.call('GET', 'lm:agent:' .. tostring(pin.agent)))\n"        \
    "  return facts and facts.incarnation == pin.incarnation\n"                              \
    "end\n"                                                                                  \
    "local pin = decode(redis.call('GET', KEYS[1]))\n"                                       \
    "local turns = tonumber(redis.call('HGET', KEYS[2], 'turns'))\n"

static const char open_lua[] =
    "-- KEYS: lm:s:<name> lm:h:<name>\n"
    "-- ARGV: agent, incarnation, held serial or -1, mode, ttl_ms, model\n" LUA_PIN
    "local me, held, mode, ttl = ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])\n"
    "local function history()\n"
    "  local out = {'history', string.format('%.0f', turns)}\n"
    "  for i = 1, tonumber(redis.call('HGET', KEYS[2], 'records')) or 0 do\n"
    "    out[#out + 1] = redis.call('HGET', KEYS[2], 'r' .. i)\n"
    "  end\n"
    "  return out\n"
    "end\n"
    "if mode == 'new' then\n"
    "  redis.call('DEL', KEYS[2])\n"
    "  turns, held, pin = nil, -1, nil\n"
    "end\n"
    "if turns and redis.call('HGET', KEYS[2], 'model') ~= ARGV[6] then return {'foreign'} end\n"
    "if mode == 'read' then return turns and history() or {'unknown'} end\n"
    "local mine = pin and pin.incarnation == me\n"
    "local ended = pin and pin.ended\n"
    "if pin and not mine and not ended then\n"
    "  local lives = lives(pin)\n"
    "  if mode == 'existing' then\n" // rule 2
    "    if held < math.max(turns or 0, tonumber(pin.turn) or 0) then return {'unclaimed'} end\n"
    "    if lives then return {'busy'} end\n"
    "  end\n"
    "  if mode == 'any' then\n"
    "    if lives and redis.call('HGET', KEYS[2], 'running') == pin.incarnation then\n"
    "      return {'busy'}\n"
    "    end\n"
    "    if not turns then return {lives and 'elsewhere' or 'lost'} end\n"
    "  end\n"
    "end\n"
    "if (mode == 'adopt' or mode == 'existing' and held < 0) and not turns then\n"
    "  return {'unknown'}\n"
    "end\n"
    "redis.call('HSET', KEYS[2], 'running', me)\n"
    "local known = pin and not ended and tonumber(pin.turn) or 0\n" // more than is written down
    "set_pin(ARGV[1], me, math.max(turns or 0, known), ttl)\n"
    "if mode == 'adopt' then return history() end\n"
    "if ended then return {held >= 0 and 'ended' or 'new'} end\n"
    "if turns and (turns > held or pin and not mine and turns == held) then return history() end\n"
    "return {held >= 0 and 'own' or 'new'}\n";

static const char append_lua[] =
    "-- KEYS: lm:s:<name> lm:h:<name>\n"
    "-- ARGV: agent, incarnation, serial before, serial, ttl_ms, bytes_max, model, mode, "
    "records...\n"
    "-- mode: append or replace, -unopened if the turn began without Redis\n" LUA_PIN
    "local records, bytes = 0, 0\n"
    "local is_append = string.sub(ARGV[8], 1, 6) == 'append'\n"
    "if pin and pin.incarnation ~= ARGV[2] then\n"
    "  local base, is_unopened = tonumber(ARGV[3]), string.find(ARGV[8], '-unopened', 1, true)\n"
    "  local has_more = (turns or 0) > base or (tonumber(pin.turn) or 0) > base\n"
    "  if not is_unopened or not pin.agent or has_more then return 'moved' end\n"
    "  if lives(pin) then return 'held' end\n"
    "end\n"
    "if is_append then\n"
    "  if (turns or 0) ~= tonumber(ARGV[3]) then return 'gap' end\n"
    "  if turns and redis.call('HGET', KEYS[2], 'model') ~= ARGV[7] then return 'gap' end\n"
    "  records = tonumber(redis.call('HGET', KEYS[2], 'records')) or 0\n"
    "  bytes = tonumber(redis.call('HGET', KEYS[2], 'bytes')) or 0\n"
    "end\n"
    "for i = 9, #ARGV do bytes = bytes + #ARGV[i] end\n"
    "if bytes > tonumber(ARGV[6]) then\n"
    "  if is_append then return 'gap' end\n" // without rewound turns it may fit
    "  redis.call('DEL', KEYS[2])\n"
    "  set_pin(ARGV[1], ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5]))\n"
    "  return 'full'\n"
    "end\n"
    "if not is_append then redis.call('DEL', KEYS[2]) end\n"
    "for i = 9, #ARGV do\n"
    "  records = records + 1\n"
    "  redis.call('HSET', KEYS[2], 'r' .. records, ARGV[i])\n"
    "end\n"
    "redis.call('HSET', KEYS[2], 'turns', ARGV[4], 'records', records, 'bytes', bytes,\n"
    "           'model', ARGV[7])\n"
    "redis.call('HDEL', KEYS[2], 'running')\n"
    "set_pin(ARGV[1], ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5]))\n"
    "return 'ok'\n";

static const char release_lua[] =
    "-- KEYS: lm:s:<name> lm:h:<name>   ARGV: incarnation, '1' if the session has no "
    "turns\n" LUA_PIN "if not pin or pin.incarnation ~= ARGV[1] then return 'other' end\n"
    "redis.call('HDEL', KEYS[2], 'running')\n"
    "if ARGV[2] == '1' and not turns then redis.call('DEL', KEYS[1], KEYS[2]) end\n"
    "return 'ok'\n";

/* Where another agent may hold a copy, a note stays that tells it. */
static const char end_lua[] =
    "-- KEYS: lm:s:<name> lm:h:<name>   ARGV: incarnation, ttl_ms\n" LUA_PIN
    "redis.call('DEL', KEYS[2])\n"
    "if pin and pin.incarnation ~= ARGV[1] then\n"
    "  redis.call('SET', KEYS[1], '{\"ended\":true}', 'PX', tonumber(ARGV[2]))\n"
    "else\n"
    "  redis.call('DEL', KEYS[1])\n"
    "end\n"
    "return 'ok'\n";

/* What the session's next turn would do, without one. */
static const char restore_lua[] =
    "-- KEYS, ARGV: as of append, serial before unused; mode: running, or idle\n" LUA_PIN
    "local serial, mine = tonumber(ARGV[4]), pin and pin.incarnation == ARGV[2]\n"
    "if pin and not mine then\n"
    "  if not pin.agent or (tonumber(pin.turn) or 0) >= serial then return 'moved' end\n"
    "  if lives(pin) then return 'held' end\n"
    "end\n"
    "if turns and turns >= serial then return 'ok' end\n"
    "local bytes = 0\n"
    "for i = 9, #ARGV do bytes = bytes + #ARGV[i] end\n"
    "if bytes > tonumber(ARGV[6]) then return 'full' end\n"
    "local running = redis.call('HGET', KEYS[2], 'running')\n"
    "redis.call('DEL', KEYS[2])\n"
    "for i = 9, #ARGV do redis.call('HSET', KEYS[2], 'r' .. (i - 8), ARGV[i]) end\n"
    "redis.call('HSET', KEYS[2], 'turns', ARGV[4], 'records', #ARGV - 8, 'bytes', bytes,\n"
    "           'model', ARGV[7])\n"
    "if ARGV[8] == 'running' then running = ARGV[2] end\n"
    "set_pin(ARGV[1], ARGV[2], math.max(serial, pin and tonumber(pin.turn) or 0), "
    "tonumber(ARGV[5]))\n"
    "if running then redis.call('HSET', KEYS[2], 'running', running) end\n"
    "redis.call('PEXPIRE', KEYS[2], ARGV[5])\n"
    "return 'ok'\n";

/* The mark goes with everything else. */
static const char greet_lua[] =
    "-- KEYS: lm:session-secret lm:sessions:<agent>   ARGV: a secret to take if there is none, or "
    "'',\n"
    "-- incarnation, mark_ms\n"
    "if ARGV[1] ~= '' then redis.call('SET', KEYS[1], ARGV[1], 'NX') end\n"
    "local was_there = redis.call('GET', KEYS[2]) == ARGV[2]\n"
    "redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])\n"
    "return {redis.call('GET', KEYS[1]) or '', was_there and 1 or 0}\n";

struct session_transcript {
    struct redis_client *client;
    struct session_transcript_options options;
    struct redis_script open, append, restore, release, end, greet;
    struct session_secret secret;
    char secret_text[SECRET_MAX + 1]; // that Redis holds; "": not known yet
    bool has_secret;
    bool is_marked;            // our mark was set
    bool is_back, is_greeting; // connected anew; asking
    uint64_t greeted_ms;       // loop time
    char model[256];
    struct session_limits limits;
    char ttl[24];
    void (*on_closed)(void *arg);
    void *on_closed_arg;
};

struct names {
    char pin[32], transcript[32];
};

static void make_names(uint64_t name, struct names *out)
{
    snprintf(out->pin, sizeof out->pin, "lm:s:%016" PRIx64, name);
    snprintf(out->transcript, sizeof out->transcript, "lm:h:%016" PRIx64, name);
}

/* ---- the secret ---- */

static void take_secret(struct session_transcript *t, struct str text)
{
    if (t->has_secret || text.len == 0 || text.len > SECRET_MAX) return;
    memcpy(t->secret_text, text.data, text.len);
    t->secret_text[text.len] = 0;
    session_secret_of(text, &t->secret);
    t->has_secret = true;
}

static void on_greeted(void *arg, int status, const struct redis_reply *reply)
{
    struct session_transcript *t = arg;
    t->is_greeting = false;
    bool is_fine = status == 0 && reply->type == REDIS_ARRAY && reply->count == 2;
    if (!is_fine) {
        if (status != E_CLOSED) log_warn("redis gives no session secret", "status=%d", status);
        return; // asked again soon
    }
    take_secret(t, reply->items[0].text);
    bool was_there = reply->items[1].type == REDIS_INT && reply->items[1].integer == 1;
    bool is_flushed = t->is_marked && !was_there, was_away = t->is_back && t->is_marked;
    t->is_marked = true;
    t->is_back = false;
    if ((is_flushed || was_away) && t->options.on_back)
        t->options.on_back(t->options.arg, is_flushed);
}

static void greet(struct session_transcript *t)
{
    if (t->is_greeting) return;
    t->is_greeting = true;
    t->greeted_ms = uv_now(redis_client_loop(t->client));
    char fresh[SECRET_CHARS + 1], mark[sizeof MARK_KEY + 256];
    random_id(fresh, SECRET_CHARS);
    snprintf(mark, sizeof mark, MARK_KEY "%s", t->options.agent_id);
    struct str secret = str_of(t->secret_text[0] ? t->secret_text : fresh);
    struct str argv[] = {STR(SECRET_KEY), str_of(mark), t->options.secret ? STR("") : secret,
                         str_of(t->options.incarnation), STR(MARK_MS)};
    redis_client_eval(t->client, QUIET_MS, &t->greet, 2, ARRAY_LEN(argv), argv, on_greeted, t);
}

static void on_state(void *arg, bool connected)
{
    struct session_transcript *t = arg;
    if (!connected) return;
    t->is_back = true;
    greet(t);
}

void session_transcript_tick(struct session_transcript *t)
{
    uint64_t now_ms = uv_now(redis_client_loop(t->client));
    if (redis_client_is_connected(t->client) && now_ms - t->greeted_ms >= GREET_MS) greet(t);
}

/* ---- life ---- */

int session_transcript_create(uv_loop_t *loop, const struct session_transcript_options *options,
                              struct session_transcript **out, struct error *err)
{
    struct session_transcript *t = xcalloc(1, sizeof *t);
    t->options = *options;
    if (t->options.bytes_max == 0) t->options.bytes_max = TRANSCRIPT_BYTES_MAX;
    t->open.source = open_lua;
    t->append.source = append_lua;
    t->release.source = release_lua;
    t->end.source = end_lua;
    t->restore.source = restore_lua;
    t->greet.source = greet_lua;
    snprintf(t->ttl, sizeof t->ttl, "%" PRIu64, options->ttl_ms);
    if (options->secret) {
        session_secret_of(str_of(options->secret), &t->secret);
        t->has_secret = true;
    }
    struct redis_client_options client = {.url = options->url, .on_state = on_state, .arg = t};
    int rc = redis_client_create(loop, &client, &t->client, err);
    if (rc != 0) {
        free(t);
        return rc;
    }
    *out = t;
    return 0;
}

static void on_client_closed(void *arg)
{
    struct session_transcript *t = arg;
    void (*on_closed)(void *) = t->on_closed;
    void *closed_arg = t->on_closed_arg;
    explicit_bzero(&t->secret, sizeof t->secret);
    free(t);
    if (on_closed) on_closed(closed_arg);
}

void session_transcript_destroy(struct session_transcript *t, void (*on_closed)(void *arg),
                                void *arg)
{
    t->on_closed = on_closed;
    t->on_closed_arg = arg;
    redis_client_destroy(t->client, on_client_closed, t);
}

void session_transcript_set_model(struct session_transcript *t, const char *model,
                                  const struct session_limits *limits)
{
    snprintf(t->model, sizeof t->model, "%s", model);
    t->limits = *limits;
}

bool session_transcript_name(const struct session_transcript *t, struct str tenant,
                             struct str model, int64_t id, uint64_t *name)
{
    if (!t->has_secret) return false;
    *name = session_key(&t->secret, tenant, model, STR("interactive"), id);
    return true;
}

/* ---- open ---- */

struct opening {
    struct session_transcript *owner;
    session_transcript_on_open *on_open;
    void *arg;
};

static enum transcript_state read_history(struct session_transcript *t,
                                          const struct redis_reply *reply,
                                          struct session_history *out)
{
    struct error err = {0};
    int64_t turns = 0;
    int rc = reply->count < 2 || str_to_int(reply->items[1].text, &turns) != 0
                 ? error_set(&err, E_FORMAT, "the number of its turns is missing")
                 : 0;
    for (size_t i = 2; rc == 0 && i < reply->count; i++) {
        rc = reply->items[i].type == REDIS_STRING
                 ? session_record_apply(out, reply->items[i].text, &t->limits, &err)
                 : error_set(&err, E_FORMAT, "a record is missing");
    }
    if (rc == 0 && (out->turn_count == 0 || out->serial != (uint64_t)turns)) {
        rc = error_set(&err, E_FORMAT, "its last record is missing");
    }
    if (rc == 0) return TRANSCRIPT_HISTORY;
    log_error("a session's transcript is damaged", "reason=%s", err.text);
    session_history_deinit(out);
    return TRANSCRIPT_DAMAGED;
}

static enum transcript_state read_opened(struct session_transcript *t, int status,
                                         const struct redis_reply *reply,
                                         struct session_history *out)
{
    static const struct {
        const char *word;
        enum transcript_state state;
    } rows[] = {
        {"own", TRANSCRIPT_OWN},
        {"new", TRANSCRIPT_NEW},
        {"ended", TRANSCRIPT_ENDED},
        {"busy", TRANSCRIPT_BUSY},
        {"elsewhere", TRANSCRIPT_ELSEWHERE},
        {"lost", TRANSCRIPT_LOST},
        {"unknown", TRANSCRIPT_UNKNOWN},
        {"unclaimed", TRANSCRIPT_UNCLAIMED},
        {"foreign", TRANSCRIPT_FOREIGN},
    };
    if (status != 0) return TRANSCRIPT_AWAY;
    if (reply->type == REDIS_FAIL) {
        log_warn("redis fails on a session", "reason=" STR_FMT, STR_ARG(reply->text));
        bool is_ours = !str_starts_with(reply->text, STR("WRONGTYPE"));
        return is_ours ? TRANSCRIPT_AWAY : TRANSCRIPT_DAMAGED;
    }
    if (reply->type != REDIS_ARRAY || reply->count == 0) return TRANSCRIPT_AWAY;
    struct str word = reply->items[0].text;
    if (str_equal(word, STR("history"))) return read_history(t, reply, out);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (str_equal(word, str_of(rows[i].word))) return rows[i].state;
    }
    return TRANSCRIPT_AWAY;
}

static void on_opened(void *arg, int status, const struct redis_reply *reply)
{
    struct opening *o = arg;
    struct session_history history = {0};
    enum transcript_state state = read_opened(o->owner, status, reply, &history);
    o->on_open(o->arg, state, &history);
    session_history_deinit(&history);
    free(o);
}

static void send_open(struct session_transcript *t, uint64_t name, int64_t held, const char *mode,
                      session_transcript_on_open *on_open, void *arg)
{
    struct opening *o = xcalloc(1, sizeof *o);
    *o = (struct opening){t, on_open, arg};
    struct names names;
    char serial[24];
    make_names(name, &names);
    snprintf(serial, sizeof serial, "%" PRId64, held);
    struct str argv[] = {str_of(names.pin),
                         str_of(names.transcript),
                         str_of(t->options.agent_id),
                         str_of(t->options.incarnation),
                         str_of(serial),
                         str_of(mode),
                         str_of(t->ttl),
                         str_of(t->model)};
    redis_client_eval(t->client, TRANSCRIPT_OPEN_MS, &t->open, 2, ARRAY_LEN(argv), argv, on_opened,
                      o);
}

void session_transcript_open(struct session_transcript *t, uint64_t name, int64_t held,
                             enum session_expect expect, session_transcript_on_open *on_open,
                             void *arg)
{
    static const char *const modes[] = {"any", "new", "existing", "adopt"};
    send_open(t, name, held, modes[expect], on_open, arg);
}

void session_transcript_read(struct session_transcript *t, uint64_t name,
                             session_transcript_on_open *on_open, void *arg)
{
    send_open(t, name, -1, "read", on_open, arg);
}

/* ---- append ---- */

struct saving {
    struct session_transcript *owner;
    uint64_t name, base;
    const struct session_history *history; // borrowed
    bool is_rewrite, is_restore, is_running, was_opened;
    uint64_t deadline_ms; // loop time
    session_transcript_on_saved *on_saved;
    void *arg;
};

static void on_appended(void *arg, int status, const struct redis_reply *reply);

struct argument_list {
    struct str *items;
    int count;
};

static void put_record(void *arg, struct str record)
{
    struct argument_list *list = arg;
    list->items[list->count++] = (struct str){xmemdup(record.data, record.len), record.len};
}

#define APPEND_FIXED 10 // keys and arguments before the records

static struct str mode_of(const struct saving *s)
{
    if (s->is_restore) return s->is_running ? STR("running") : STR("idle");
    if (s->was_opened) return s->is_rewrite ? STR("replace") : STR("append");
    return s->is_rewrite ? STR("replace-unopened") : STR("append-unopened");
}

static void send_append(struct saving *s, struct str record)
{
    struct session_transcript *t = s->owner;
    struct names names;
    char base[24], serial[24], bytes[24];
    make_names(s->name, &names);
    snprintf(base, sizeof base, "%" PRIu64, s->base);
    snprintf(serial, sizeof serial, "%" PRIu64, s->history->serial);
    snprintf(bytes, sizeof bytes, "%zu", t->options.bytes_max);
    struct str fixed[APPEND_FIXED] = {str_of(names.pin),
                                      str_of(names.transcript),
                                      str_of(t->options.agent_id),
                                      str_of(t->options.incarnation),
                                      str_of(base),
                                      str_of(serial),
                                      str_of(t->ttl),
                                      str_of(bytes),
                                      str_of(t->model),
                                      mode_of(s)};
    size_t records = s->is_rewrite ? (size_t)s->history->turn_count : 1;
    struct argument_list argv = {xcalloc(APPEND_FIXED + records, sizeof *argv.items), APPEND_FIXED};
    memcpy(argv.items, fixed, sizeof fixed);
    if (s->is_rewrite) {
        session_history_print(s->history, put_record, &argv);
    } else {
        put_record(&argv, record);
    }
    uint64_t now = uv_now(redis_client_loop(t->client));
    int left_ms = s->deadline_ms > now ? (int)(s->deadline_ms - now) : 0;
    redis_client_eval(t->client, left_ms, s->is_restore ? &t->restore : &t->append, 2, argv.count,
                      argv.items, on_appended, s);
    for (int i = APPEND_FIXED; i < argv.count; i++)
        free((char *)argv.items[i].data);
    free(argv.items);
}

static void on_appended(void *arg, int status, const struct redis_reply *reply)
{
    struct saving *s = arg;
    struct str answer = status == 0 ? reply->text : str_of(error_text(status));
    enum transcript_saved saved = TRANSCRIPT_MISSED;
    if (status == 0 && str_equal(answer, STR("gap")) && !s->is_rewrite) {
        s->is_rewrite = true; // rule 4
        send_append(s, (struct str){0});
        return;
    }
    if (status == 0 && str_equal(answer, STR("ok"))) {
        saved = TRANSCRIPT_SAVED;
    } else if (status == 0 && str_equal(answer, STR("moved"))) {
        saved = TRANSCRIPT_MOVED;
    } else if (status == 0 && str_equal(answer, STR("held"))) {
        saved = TRANSCRIPT_HELD;
    } else {
        log_warn("a turn is not in redis", "reason=" STR_FMT, STR_ARG(answer));
    }
    s->on_saved(s->arg, saved);
    free(s);
}

void session_transcript_append(struct session_transcript *t, uint64_t name, bool was_opened,
                               uint64_t base, const struct session_history *h, struct str record,
                               session_transcript_on_saved *on_saved, void *arg)
{
    struct saving *s = xcalloc(1, sizeof *s);
    *s = (struct saving){
        .owner = t,
        .name = name,
        .was_opened = was_opened,
        .base = base,
        .history = h,
        .deadline_ms = uv_now(redis_client_loop(t->client)) + TRANSCRIPT_APPEND_MS,
        .on_saved = on_saved,
        .arg = arg,
    };
    send_append(s, record);
}

void session_transcript_restore(struct session_transcript *t, uint64_t name,
                                const struct session_history *h, bool is_running,
                                session_transcript_on_saved *on_saved, void *arg)
{
    struct saving *s = xcalloc(1, sizeof *s);
    *s = (struct saving){
        .owner = t,
        .name = name,
        .is_running = is_running,
        .base = h->serial,
        .history = h,
        .is_rewrite = true,
        .is_restore = true,
        .deadline_ms = uv_now(redis_client_loop(t->client)) + QUIET_MS,
        .on_saved = on_saved,
        .arg = arg,
    };
    send_append(s, (struct str){0});
    s->history = NULL; // sent
}

/* ---- what nobody waits for ---- */

void session_transcript_release(struct session_transcript *t, uint64_t name, bool is_empty)
{
    struct names names;
    make_names(name, &names);
    struct str argv[] = {str_of(names.pin), str_of(names.transcript),
                         str_of(t->options.incarnation), is_empty ? STR("1") : STR("0")};
    redis_client_eval(t->client, QUIET_MS, &t->release, 2, ARRAY_LEN(argv), argv, NULL, NULL);
}

void session_transcript_end(struct session_transcript *t, uint64_t name)
{
    struct names names;
    make_names(name, &names);
    struct str argv[] = {str_of(names.pin), str_of(names.transcript),
                         str_of(t->options.incarnation), str_of(t->ttl)};
    redis_client_eval(t->client, QUIET_MS, &t->end, 2, ARRAY_LEN(argv), argv, NULL, NULL);
    redis_client_flush(t->client); // before its client hears of it, and begins it anew elsewhere
}
