#include "shared/net/agent_record.h"

#include "shared/net/http_client.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define VERSION   1
#define RATE_MAX  1e12
#define COUNT_MAX (1 << 28) // requests, tokens: readers may add such numbers up
#define EXACT_MAX (INT64_C(1) << 53)

/* ---- writing ---- */

static void put_models(struct json_writer *w, const struct agent_record *r)
{
    json_key(w, "models");
    json_array_begin(w);
    for (int i = 0; i < r->model_count; i++)
        json_put_text(w, r->models[i]);
    json_array_end(w);
}

static void put_facts(struct json_writer *w, const struct agent_record *r)
{
    json_field_int(w, "version", VERSION);
    json_field_text(w, "id", r->id);
    json_field_text(w, "incarnation", r->incarnation);
    json_field_int(w, "start_ms", r->start_ms);
    json_field_text(w, "url", r->url);
    put_models(w, r);
    json_field_int(w, "context_len", r->context_len);
    json_field_int(w, "capacity", r->capacity);
    json_field_int(w, "queue_max", r->queue_max);
    json_field_bool(w, "draining", r->draining);
}

void agent_record_print_facts(struct json_writer *w, const struct agent_record *r)
{
    json_object_begin(w);
    put_facts(w, r);
    json_object_end(w);
}

void agent_record_print(struct json_writer *w, const struct agent_record *r)
{
    json_object_begin(w);
    put_facts(w, r);
    json_key(w, "load");
    agent_load_print(w, &r->load);
    json_object_end(w);
}

static void put_seen(struct json_writer *w, const struct agent_load *l)
{
    json_key(w, "proxies");
    json_object_begin(w);
    for (int i = 0; i < l->seen_count; i++) {
        const struct agent_seen *s = &l->seen[i];
        char name[17];
        snprintf(name, sizeof name, "%016" PRIx64, s->proxy);
        json_key(w, name);
        json_object_begin(w);
        json_field_int(w, "high", (int64_t)s->high);
        json_key(w, "gaps");
        json_array_begin(w);
        for (int g = 0; g < s->gap_count; g++)
            json_put_int(w, (int64_t)l->gaps[s->first_gap + g]);
        json_array_end(w);
        json_field_int(w, "active", s->active);
        json_object_end(w);
    }
    json_object_end(w);
}

void agent_load_print(struct json_writer *w, const struct agent_load *l)
{
    double share = l->kv_used_share;
    if (!(share >= 0)) share = 0; // not a number, too
    if (share > 1) share = 1;
    json_object_begin(w);
    json_field_int(w, "running", l->running);
    json_field_int(w, "waiting", l->waiting);
    json_field_int(w, "prefill_tokens_waiting", l->prefill_tokens_waiting);
    json_field_double(w, "kv_used_share", share);
    json_field_double(w, "prefill_tokens_per_s", l->prefill_tokens_per_s);
    json_field_double(w, "inter_token_s", l->inter_token_s);
    json_field_double(w, "inter_token_slope_s", l->inter_token_slope_s);
    json_field_int(w, "prefix_version", (int64_t)l->prefix_version);
    json_field_int(w, "sequence", (int64_t)l->sequence);
    put_seen(w, l);
    json_object_end(w);
}

void agent_record_print_node(struct buf *out, const struct agent_record *r)
{
    struct json_writer w;
    json_writer_init(&w, out);
    json_object_begin(&w);
    json_field_text(&w, "url", r->url);
    json_key(&w, "status");
    json_object_begin(&w);
    put_models(&w, r);
    json_object_end(&w);
    json_key(&w, "lm");
    agent_record_print(&w, r);
    json_object_end(&w);
}

/* ---- reading ---- */

static int read_int(const struct json *v, const char *name, int64_t max, int64_t *out,
                    struct error *err)
{
    *out = 0;
    const struct json *member = json_get_set(v, name);
    if (!member) return 0;
    if (json_type(member) != JSON_NUMBER || !json_is_integer(member)) {
        return error_set(err, E_FORMAT, "'%s' must be an integer", name);
    }
    double value = json_number(member);
    if (value < 0 || value > (double)max)
        return error_set(err, E_INVALID, "'%s' is out of range", name);
    *out = (int64_t)value;
    return 0;
}

static int read_small(const struct json *v, const char *name, int *out, struct error *err)
{
    int64_t value;
    int rc = read_int(v, name, COUNT_MAX, &value, err);
    *out = (int)value;
    return rc;
}

static int read_rate(const struct json *v, const char *name, double max, double *out,
                     struct error *err)
{
    *out = 0;
    const struct json *member = json_get_set(v, name);
    if (!member) return 0;
    if (json_type(member) != JSON_NUMBER)
        return error_set(err, E_FORMAT, "'%s' must be a number", name);
    *out = json_number(member);
    if (!(*out >= 0 && *out <= max)) return error_set(err, E_INVALID, "'%s' is out of range", name);
    return 0;
}

static int read_bool(const struct json *v, const char *name, bool *out, struct error *err)
{
    *out = false;
    const struct json *member = json_get_set(v, name);
    if (!member) return 0;
    if (json_type(member) != JSON_BOOL)
        return error_set(err, E_FORMAT, "'%s' must be a boolean", name);
    *out = json_is_true(member);
    return 0;
}

static bool is_plain(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f) return false;
    }
    return true;
}

/* A text of 1 .. size - 1 bytes without control characters. */
static int copy_text(const struct json *member, const char *name, char *out, size_t size,
                     struct error *err)
{
    if (!member) return error_set(err, E_FORMAT, "'%s' is missing", name);
    if (json_type(member) != JSON_STRING)
        return error_set(err, E_FORMAT, "'%s' must be a string", name);
    size_t len;
    const char *text = json_string(member, &len);
    if (len == 0 || len >= size || !is_plain(text, len)) {
        return error_set(err, E_INVALID, "'%s' must be plain text of 1 to %zu bytes", name,
                         size - 1);
    }
    memcpy(out, text, len + 1);
    return 0;
}

static bool is_id_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != 0 && strchr("._:-", c) != NULL);
}

static int read_id(const struct json *v, const char *name, char *out, size_t size,
                   struct error *err)
{
    int rc = copy_text(json_get(v, name), name, out, size, err);
    if (rc != 0) return rc;
    for (const char *c = out; *c; c++) {
        if (!is_id_char(*c)) {
            return error_set(err, E_INVALID, "'%s' may hold only letters, digits and '._:-'", name);
        }
    }
    return 0;
}

static int read_models(const struct json *v, struct agent_record *out, struct error *err)
{
    out->model_count = 0;
    const struct json *models = json_get_set(v, "models");
    if (!models) return 0;
    if (json_type(models) != JSON_ARRAY)
        return error_set(err, E_FORMAT, "'models' must be an array");
    if (json_len(models) > AGENT_MODELS_MAX) {
        return error_set(err, E_INVALID, "'models' has more than %d entries", AGENT_MODELS_MAX);
    }
    for (const struct json *m = json_first(models); m; m = json_next(m)) {
        char *text = out->models[out->model_count];
        int rc = copy_text(m, "models[]", text, sizeof out->models[0], err);
        if (rc != 0) return rc;
        out->model_count++;
    }
    return 0;
}

static int read_url(const struct json *v, struct agent_record *out, struct error *err)
{
    int rc = copy_text(json_get(v, "url"), "url", out->url, sizeof out->url, err);
    if (rc != 0) return rc;
    struct http_url url;
    rc = http_url_parse(out->url, &url, err);
    return rc == 0 ? 0 : error_prefix(err, E_INVALID, "'url'");
}

static int read_counter(const struct json *v, const char *name, uint64_t *out, struct error *err)
{
    int64_t value;
    int rc = read_int(v, name, EXACT_MAX, &value, err);
    *out = (uint64_t)value;
    return rc;
}

static int read_gaps(const struct json *v, uint64_t high, uint64_t gaps[AGENT_SEEN_GAPS],
                     struct error *err)
{
    int count = 0;
    const struct json *array = json_get_set(v, "gaps");
    if (!array) return 0;
    if (json_type(array) != JSON_ARRAY) return error_set(err, E_FORMAT, "'gaps' must be an array");
    if (json_len(array) > AGENT_SEEN_GAPS)
        return error_set(err, E_INVALID, "'gaps' has more than %d entries", AGENT_SEEN_GAPS);
    for (const struct json *g = json_first(array); g; g = json_next(g)) {
        if (json_type(g) != JSON_NUMBER || !json_is_integer(g))
            return error_set(err, E_FORMAT, "'gaps[]' must be an integer");
        double value = json_number(g);
        if (!(value >= 1 && value < (double)high))
            return error_set(err, E_INVALID, "'gaps[]' must be from 1 to below 'high'");
        gaps[count++] = (uint64_t)value;
    }
    return count;
}

static int read_seen(const struct json *v, struct agent_load *out, struct error *err)
{
    struct agent_seen seen = {0};
    uint64_t gaps[AGENT_SEEN_GAPS];
    struct str name = str_of(json_name(v));
    if (name.len != 16 || str_to_hex64(name, &seen.proxy) != 0 || seen.proxy == 0)
        return error_set(err, E_INVALID, "'proxies' needs names of 16 hexadecimal digits");
    if (json_type(v) != JSON_OBJECT) return error_set(err, E_FORMAT, "'proxies' must have objects");
    if (agent_load_seen(out, seen.proxy)) // the same digits, upper and lower case
        return error_set(err, E_INVALID, "'proxies' names one twice");
    int rc = read_counter(v, "high", &seen.high, err);
    if (rc == 0) rc = read_small(v, "active", &seen.active, err);
    if (rc == 0) rc = seen.gap_count = read_gaps(v, seen.high, gaps, err);
    if (rc < 0) return rc;
    agent_load_add_seen(out, &seen, gaps);
    return 0;
}

static int read_proxies(const struct json *v, struct agent_load *out, struct error *err)
{
    const struct json *proxies = json_get_set(v, "proxies");
    if (!proxies) return 0;
    if (json_type(proxies) != JSON_OBJECT)
        return error_set(err, E_FORMAT, "'proxies' must be an object");
    if (json_len(proxies) > AGENT_SEEN_MAX)
        return error_set(err, E_INVALID, "'proxies' has more than %d members", AGENT_SEEN_MAX);
    for (const struct json *p = json_first(proxies); p; p = json_next(p)) {
        int rc = read_seen(p, out, err);
        if (rc != 0) return rc;
    }
    return 0;
}

int agent_load_parse(const struct json *v, struct agent_load *out, struct error *err)
{
    memset(out, 0, sizeof *out);
    if (!v || json_type(v) != JSON_OBJECT)
        return error_set(err, E_FORMAT, "'load' must be an object");
    int rc = read_small(v, "running", &out->running, err);
    if (rc == 0) rc = read_small(v, "waiting", &out->waiting, err);
    if (rc == 0)
        rc = read_int(v, "prefill_tokens_waiting", EXACT_MAX, &out->prefill_tokens_waiting, err);
    if (rc == 0) rc = read_rate(v, "kv_used_share", 1, &out->kv_used_share, err);
    if (rc == 0)
        rc = read_rate(v, "prefill_tokens_per_s", RATE_MAX, &out->prefill_tokens_per_s, err);
    if (rc == 0) rc = read_rate(v, "inter_token_s", RATE_MAX, &out->inter_token_s, err);
    if (rc == 0) rc = read_rate(v, "inter_token_slope_s", RATE_MAX, &out->inter_token_slope_s, err);
    if (rc == 0) rc = read_counter(v, "prefix_version", &out->prefix_version, err);
    if (rc == 0) rc = read_counter(v, "sequence", &out->sequence, err);
    return rc == 0 ? read_proxies(v, out, err) : rc;
}

/* ---- what proxies have sent ---- */

const struct agent_seen *agent_load_seen(const struct agent_load *l, uint64_t proxy)
{
    for (int i = 0; i < l->seen_count; i++) {
        if (l->seen[i].proxy == proxy) return &l->seen[i];
    }
    return NULL;
}

bool agent_load_has_accepted(const struct agent_load *l, const struct agent_seen *seen, uint64_t n)
{
    if (n > seen->high) return false;
    for (int i = 0; i < seen->gap_count; i++) {
        if (l->gaps[seen->first_gap + i] == n) return false;
    }
    return true;
}

void agent_load_add_seen(struct agent_load *l, const struct agent_seen *seen, const uint64_t *gaps)
{
    if (l->seen_count == AGENT_SEEN_MAX) return;
    int room = AGENT_GAPS_MAX - l->gap_count;
    if (room > AGENT_SEEN_GAPS) room = AGENT_SEEN_GAPS;
    struct agent_seen *s = &l->seen[l->seen_count++];
    *s = *seen;
    s->first_gap = l->gap_count;
    s->gap_count = seen->gap_count < room ? seen->gap_count : room;
    for (int i = 0; i < s->gap_count; i++)
        l->gaps[l->gap_count++] = gaps[i];
}

int agent_record_parse(const struct json *v, struct agent_record *out, struct error *err)
{
    memset(out, 0, sizeof *out);
    if (!v || json_type(v) != JSON_OBJECT) return error_set(err, E_FORMAT, "not an object");
    int rc = read_id(v, "id", out->id, sizeof out->id, err);
    if (rc == 0) rc = read_id(v, "incarnation", out->incarnation, sizeof out->incarnation, err);
    if (rc == 0) rc = read_int(v, "start_ms", EXACT_MAX, &out->start_ms, err);
    if (rc == 0) rc = read_url(v, out, err);
    if (rc == 0) rc = read_models(v, out, err);
    if (rc == 0) rc = read_small(v, "context_len", &out->context_len, err);
    if (rc == 0) rc = read_small(v, "capacity", &out->capacity, err);
    if (rc == 0) rc = read_small(v, "queue_max", &out->queue_max, err);
    if (rc == 0) rc = read_bool(v, "draining", &out->draining, err);
    const struct json *load = json_get_set(v, "load");
    if (rc == 0 && load) rc = agent_load_parse(load, &out->load, err);
    return rc;
}

/* ---- Redis ---- */

const char agent_record_beat_lua[] =
    "-- KEYS: lm:agent:<id> lm:agents lm:load:<id>\n"
    "-- ARGV: facts, start_ms, incarnation, lease_ms, id, load\n"
    "local time = redis.call('TIME')\n"
    "local now = time[1] * 1000 + math.floor(time[2] / 1000)\n"
    "local lease = tonumber(ARGV[4])\n"
    "local known = redis.call('GET', KEYS[1])\n"
    "if known then\n"
    "  local ok, facts = pcall(cjson.decode, known)\n"
    "  if ok and type(facts) == 'table' and facts.incarnation ~= ARGV[3] then\n"
    "    local start = tonumber(facts.start_ms) or 0\n"
    "    if start > tonumber(ARGV[2]) then return 'older' end\n"
    "    local at_its_url = facts.url == cjson.decode(ARGV[1]).url\n"
    "    if start == tonumber(ARGV[2]) or not at_its_url then return 'duplicate' end\n"
    "    known = nil\n"
    "  end\n"
    "end\n"
    "if known then\n"
    "  local stands = redis.call('GET', KEYS[3])\n"
    "  local ok_old, old = pcall(cjson.decode, stands or '')\n"
    "  local ok_new, new = pcall(cjson.decode, ARGV[6])\n"
    "  if stands and ok_old and ok_new and\n"
    "      (tonumber(old.sequence) or 0) > (tonumber(new.sequence) or 0) then return 'ok' end\n"
    "end\n"
    "redis.call('SET', KEYS[1], ARGV[1], 'PX', lease)\n"
    "redis.call('SET', KEYS[3], ARGV[6], 'PX', lease)\n"
    "redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now))\n"
    "redis.call('ZADD', KEYS[2], string.format('%.0f', now + lease), ARGV[5])\n"
    "if known then return 'ok' end\n"
    "redis.call('PUBLISH', 'lm:ev', 'up ' .. ARGV[5])\n"
    "return 'new'\n";

const char agent_record_load_lua[] =
    "-- KEYS: lm:agent:<id> lm:load:<id>   ARGV: incarnation, lease_ms, load, sequence\n"
    "local ok, facts = pcall(cjson.decode, redis.call('GET', KEYS[1]) or '')\n"
    "if not ok or type(facts) ~= 'table' or facts.incarnation ~= ARGV[1] then return 'unknown' "
    "end\n"
    "local ok_old, old = pcall(cjson.decode, redis.call('GET', KEYS[2]) or '')\n"
    "if ok_old and type(old) == 'table' and\n"
    "    (tonumber(old.sequence) or 0) > tonumber(ARGV[4]) then return 'ok' end\n"
    "redis.call('SET', KEYS[2], ARGV[3], 'PX', tonumber(ARGV[2]))\n"
    "return 'ok'\n";

const char agent_record_leave_lua[] =
    "-- KEYS: lm:agent:<id> lm:agents lm:load:<id>   ARGV: id, incarnation\n"
    "local ok, facts = pcall(cjson.decode, redis.call('GET', KEYS[1]) or '')\n"
    "if not ok or type(facts) ~= 'table' or facts.incarnation ~= ARGV[2] then return 'other' end\n"
    "redis.call('DEL', KEYS[1], KEYS[3])\n"
    "redis.call('ZREM', KEYS[2], ARGV[1])\n"
    "redis.call('PUBLISH', 'lm:ev', 'down ' .. ARGV[1])\n"
    "return 'ok'\n";

const char agent_record_list_lua[] =
    "-- KEYS: lm:agents\n"
    "local time = redis.call('TIME')\n"
    "local now = time[1] * 1000 + math.floor(time[2] / 1000)\n"
    "local out = {string.format('%.0f', now)}\n"
    "local live = redis.call('ZRANGEBYSCORE', KEYS[1], string.format('(%.0f', now), '+inf',\n"
    "                        'WITHSCORES')\n"
    "for i = 1, #live, 2 do\n"
    "  local facts = redis.call('GET', 'lm:agent:' .. live[i])\n"
    "  if facts then\n"
    "    out[#out + 1] = live[i]\n"
    "    out[#out + 1] = live[i + 1]\n"
    "    out[#out + 1] = facts\n"
    "    out[#out + 1] = redis.call('GET', 'lm:load:' .. live[i])\n"
    "  end\n"
    "end\n"
    "return out\n";

static struct str print_facts(struct arena *a, const struct agent_record *r)
{
    struct buf out;
    struct json_writer w;
    buf_init(&out, BUF_MAX_INTERNAL);
    json_writer_init(&w, &out);
    agent_record_print_facts(&w, r);
    struct str text = {arena_strndup(a, out.data, out.len), out.len};
    buf_deinit(&out);
    return text;
}

static struct str print_load(struct arena *a, const struct agent_load *l)
{
    struct buf out;
    struct json_writer w;
    buf_init(&out, BUF_MAX_INTERNAL);
    json_writer_init(&w, &out);
    agent_load_print(&w, l);
    struct str text = {arena_strndup(a, out.data, out.len), out.len};
    buf_deinit(&out);
    return text;
}

static struct str text_of(struct arena *a, const char *text)
{
    size_t len = strlen(text);
    return (struct str){arena_strndup(a, text, len), len};
}

static struct str agent_key(struct arena *a, const struct agent_record *r)
{
    return str_of(arena_printf(a, "lm:agent:%s", r->id));
}

static struct str load_key(struct arena *a, const struct agent_record *r)
{
    return str_of(arena_printf(a, "lm:load:%s", r->id));
}

void agent_record_beat_args(struct arena *a, const struct agent_record *r, int lease_ms,
                            struct str argv[AGENT_BEAT_ARGC])
{
    argv[0] = agent_key(a, r);
    argv[1] = STR("lm:agents");
    argv[2] = load_key(a, r);
    argv[3] = print_facts(a, r);
    argv[4] = str_of(arena_printf(a, "%lld", (long long)r->start_ms));
    argv[5] = text_of(a, r->incarnation);
    argv[6] = str_of(arena_printf(a, "%d", lease_ms));
    argv[7] = text_of(a, r->id);
    argv[8] = print_load(a, &r->load);
}

void agent_record_load_args(struct arena *a, const struct agent_record *r, int lease_ms,
                            struct str argv[AGENT_LOAD_ARGC])
{
    argv[0] = agent_key(a, r);
    argv[1] = load_key(a, r);
    argv[2] = text_of(a, r->incarnation);
    argv[3] = str_of(arena_printf(a, "%d", lease_ms));
    argv[4] = print_load(a, &r->load);
    argv[5] = str_of(arena_printf(a, "%llu", (unsigned long long)r->load.sequence));
}

void agent_record_leave_args(struct arena *a, const struct agent_record *r,
                             struct str argv[AGENT_LEAVE_ARGC])
{
    argv[0] = agent_key(a, r);
    argv[1] = STR("lm:agents");
    argv[2] = load_key(a, r);
    argv[3] = text_of(a, r->id);
    argv[4] = text_of(a, r->incarnation);
}

void agent_record_list_args(struct str argv[AGENT_LIST_ARGC])
{
    argv[0] = STR("lm:agents");
}
