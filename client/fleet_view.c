#include "client/fleet_view.h"

#include "client/plain_text.h"
#include "client/text_table.h"
#include "shared/base/check.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- reading: NAN and "" where nothing fits ---- */

static double number_of(const struct json *v)
{
    return v && json_type(v) == JSON_NUMBER ? json_number(v) : (double)NAN;
}

static double number_in(const struct json *v, const char *object, const char *name)
{
    return number_of(json_get(object ? json_get(v, object) : v, name));
}

static const char *text_in(const struct json *v, const char *name)
{
    const struct json *text = json_get(v, name);
    return text && json_type(text) == JSON_STRING ? json_string(text, NULL) : "";
}

static double sum_of(const struct json *object)
{
    double sum = 0;
    for (const struct json *v = json_first(object); v; v = json_next(v)) {
        double n = number_of(v);
        if (isfinite(n)) sum += n;
    }
    return sum;
}

/* ---- writing ---- */

/* 9999, 10.0k, 1.2M. */
static void put_count(struct buf *out, double n)
{
    static const char *const units[] = {"", "k", "M", "G", "T"};
    size_t unit = 0;
    if (!isfinite(n)) {
        buf_append_str(out, "-");
    } else if (fabs(n) < 10000) {
        buf_printf(out, "%.0f", n);
    } else {
        while (fabs(n) >= 1000 && unit + 1 < ARRAY_LEN(units)) {
            n /= 1000;
            unit++;
        }
        buf_printf(out, "%.1f%s", n, units[unit]);
    }
}

static void put_duration(struct buf *out, double seconds)
{
    if (!(seconds >= 0 && seconds < 1e10)) {
        buf_append_str(out, "-");
        return;
    }
    long long s = (long long)seconds;
    if (s < 60) {
        buf_printf(out, "%lld s", s);
    } else if (s < 3600) {
        buf_printf(out, "%lld min %lld s", s / 60, s % 60);
    } else if (s < 86400) {
        buf_printf(out, "%lld h %lld min", s / 3600, s / 60 % 60);
    } else {
        buf_printf(out, "%lld d %lld h", s / 86400, s / 3600 % 24);
    }
}

static void add_count(struct text_table *t, double n)
{
    struct buf cell;
    buf_init(&cell, BUF_MAX_INTERNAL);
    put_count(&cell, n);
    text_table_add(t, "%s", cell.data);
    buf_deinit(&cell);
}

static void add_scaled(struct text_table *t, double n, const char *format)
{
    if (isfinite(n)) {
        char cell[64];
        snprintf(cell, sizeof cell, "%.*f%s", n != 0 && fabs(n) < 10 ? 1 : 0, n, format);
        text_table_add(t, "%s", cell);
    } else {
        text_table_add(t, "-");
    }
}

static void add_seconds(struct text_table *t, double seconds)
{
    if (isfinite(seconds) && seconds >= 10) {
        add_scaled(t, seconds, " s");
    } else {
        add_scaled(t, seconds * 1e3, " ms");
    }
}

static void add_text(struct text_table *t, const char *text)
{
    text_table_add(t, "%s", text[0] ? text : "-");
}

/* ---- rates: between two answers of one process ---- */

static double seconds_between(const struct fleet_view *v)
{
    if (!v->before || strcmp(text_in(v->now, "id"), text_in(v->before, "id")) != 0) return 0;
    double seconds = number_in(v->now, NULL, "uptime_s") - number_in(v->before, NULL, "uptime_s");
    return isfinite(seconds) && seconds > 0 ? seconds : 0;
}

static double rate(double now, double before, double seconds)
{
    double grown = now - before;
    return seconds > 0 && isfinite(grown) && grown >= 0 ? grown / seconds : (double)NAN;
}

static void put_rate(const struct fleet_view *v, const char *object, const char *name,
                     struct buf *out)
{
    if (!v->has_rates) return;
    double n = rate(number_in(v->now, object, name), number_in(v->before, object, name),
                    seconds_between(v));
    if (isfinite(n)) {
        buf_printf(out, " (%.*f/s)", n < 10 ? 1 : 0, n);
    } else {
        buf_append_str(out, " (-/s)");
    }
}

/* ---- the proxy ---- */

static void put_number(const struct fleet_view *v, const char *object, const char *name,
                       const char *what, struct buf *out)
{
    put_count(out, number_in(v->now, object, name));
    buf_append_str(out, what);
}

static void put_process(const struct fleet_view *v, struct buf *out)
{
    buf_printf(out, "lm-proxy %s at %s: %s, up ", text_in(v->now, "version"), v->url,
               text_in(v->now, "phase"));
    put_duration(out, number_in(v->now, NULL, "uptime_s"));
    double threads = number_in(v->now, NULL, "threads");
    buf_printf(out, ", %.0f thread%s, routing %s, Redis %s\n", threads, threads == 1 ? "" : "s",
               text_in(v->now, "routing"), text_in(v->now, "redis"));
}

/* "12 running (3 interactive, 9 default)" */
static void put_classes(const struct fleet_view *v, const char *name, struct buf *out)
{
    const struct json *classes = json_get(json_get(v->now, "requests"), name);
    buf_append_str(out, ", ");
    put_count(out, sum_of(classes));
    buf_printf(out, " %s", name);
    int shown = 0;
    for (const struct json *c = json_first(classes); c; c = json_next(c)) {
        if (!(number_of(c) > 0)) continue;
        buf_append_str(out, shown++ ? ", " : " (");
        put_count(out, number_of(c));
        buf_printf(out, " %s", json_name(c));
    }
    if (shown) buf_append_char(out, ')');
}

static void put_requests(const struct fleet_view *v, struct buf *out)
{
    put_number(v, "requests", "total", " requests", out);
    put_rate(v, "requests", "total", out);
    put_classes(v, "running", out);
    put_classes(v, "waiting", out);
    buf_append_str(out, ", ");
    put_number(v, "requests", "failed", " failed, ", out);
    put_number(v, "requests", "lost", " lost\n", out);
}

/* The share of prompt tokens that were cached: of the interval where one is known, else ever. */
static void put_hits(const struct fleet_view *v, struct buf *out)
{
    double prompt = number_in(v->now, "tokens", "prompt");
    double cached = number_in(v->now, "tokens", "cached");
    double expected = number_in(v->now, "tokens", "cached_expected");
    if (!(prompt > 0)) {
        buf_append_str(out, ", cache hits -");
        return;
    }
    buf_printf(out, ", cache hits %.1f %%", cached / prompt * 100);
    if (isfinite(expected)) buf_printf(out, " (expected %.1f %%)", expected / prompt * 100);
    if (!v->has_rates || seconds_between(v) == 0) return;
    double fresh = prompt - number_in(v->before, "tokens", "prompt");
    double found = cached - number_in(v->before, "tokens", "cached");
    if (fresh > 0 && found >= 0) buf_printf(out, ", now %.1f %%", found / fresh * 100);
}

static void put_tokens(const struct fleet_view *v, struct buf *out)
{
    put_number(v, "tokens", "prompt", " prompt tokens", out);
    put_rate(v, "tokens", "prompt", out);
    buf_append_str(out, ", ");
    put_number(v, "tokens", "completion", " in answers", out);
    put_rate(v, "tokens", "completion", out);
    put_hits(v, out);
    buf_append_char(out, '\n');
}

static void put_repairs(const struct fleet_view *v, struct buf *out)
{
    const struct json *retries = json_get(v->now, "retries");
    double denied = number_in(retries, NULL, "denied");
    put_count(out, sum_of(retries) - (isfinite(denied) ? denied : 0));
    buf_append_str(out, " retries, ");
    put_number(v, NULL, "resumes", " streams resumed; sessions: ", out);
    put_number(v, "sessions", "hit", " hit, ", out);
    put_number(v, "sessions", "moved", " moved, ", out);
    put_number(v, "sessions", "lost", " lost\n\n", out);
}

/* ---- the agents ---- */

static const struct json *find_agent(const struct json *status, const char *id)
{
    const struct json *a = json_first(json_get(status, "agents"));
    while (a && strcmp(text_in(a, "id"), id) != 0)
        a = json_next(a);
    return a;
}

static void add_models(struct text_table *t, const struct json *models)
{
    struct buf names;
    buf_init(&names, BUF_MAX_INTERNAL);
    for (const struct json *m = json_first(models); m; m = json_next(m)) {
        if (json_type(m) != JSON_STRING) continue;
        buf_printf(&names, "%s%s", names.len ? ", " : "", json_string(m, NULL));
    }
    add_text(t, names.len ? names.data : "");
    buf_deinit(&names);
}

static void add_agent(const struct fleet_view *v, struct text_table *t, const struct json *a)
{
    add_text(t, text_in(a, "id"));
    add_text(t, text_in(a, "state"));
    add_text(t, text_in(a, "breaker"));
    add_seconds(t, number_in(a, NULL, "score_s"));
    add_count(t, number_in(a, NULL, "in_flight"));
    add_count(t, number_in(a, NULL, "others_in_flight"));
    add_count(t, number_in(a, NULL, "running"));
    add_count(t, number_in(a, NULL, "waiting"));
    add_scaled(t, number_in(a, NULL, "kv_used_share") * 100, " %");
    add_count(t, number_in(a, NULL, "prefill_tokens_per_s"));
    add_seconds(t, number_in(a, NULL, "inter_token_s"));
    add_scaled(t, number_in(a, NULL, "failure_rate") * 100, " %");
    if (v->has_rates) {
        const struct json *before = find_agent(v->before, text_in(a, "id"));
        add_scaled(t,
                   rate(number_in(a, NULL, "dispatches"), number_in(before, NULL, "dispatches"),
                        seconds_between(v)),
                   "");
    }
    add_models(t, json_get(a, "models"));
    if (v->has_urls) add_text(t, text_in(a, "url"));
}

static void put_agents(const struct fleet_view *v, struct buf *out)
{
    static const struct text_column fixed[] = {
        {"AGENT", false}, {"STATE", false},    {"BREAKER", false}, {"SCORE", true},
        {"OURS", true},   {"OTHERS", true},    {"RUNNING", true},  {"WAITING", true},
        {"KV", true},     {"PREFILL/S", true}, {"STEP", true},     {"FAILING", true},
    };
    struct text_column columns[TEXT_TABLE_COLUMNS_MAX];
    size_t count = ARRAY_LEN(fixed);
    memcpy(columns, fixed, sizeof fixed);
    if (v->has_rates) columns[count++] = (struct text_column){"REQ/S", true};
    columns[count++] = (struct text_column){"MODELS", false};
    if (v->has_urls) columns[count++] = (struct text_column){"URL", false};
    struct text_table t;
    text_table_init(&t, columns, count);
    const struct json *agents = json_get(v->now, "agents");
    for (const struct json *a = json_first(agents); a; a = json_next(a))
        add_agent(v, &t, a);
    text_table_print(&t, out);
    text_table_deinit(&t);
    size_t shown = json_len(agents);
    buf_printf(out, "%zu agent%s\n", shown, shown == 1 ? "" : "s");
}

bool fleet_view_fits(const struct json *status)
{
    const struct json *agents = json_get(status, "agents"), *id = json_get(status, "id");
    return agents && json_type(agents) == JSON_ARRAY && id && json_type(id) == JSON_STRING;
}

void fleet_view_print(const struct fleet_view *v, struct buf *out)
{
    struct buf head;
    buf_init(&head, BUF_MAX_INTERNAL);
    put_process(v, &head);
    put_requests(v, &head);
    put_tokens(v, &head);
    put_repairs(v, &head);
    plain_text_append(out, buf_str(&head));
    buf_deinit(&head);
    put_agents(v, out);
}
