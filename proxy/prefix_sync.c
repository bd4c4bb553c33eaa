/* prefix_sync.c - one struct prefix_peer for each agent that says what it holds.
 *
 *     IDLE ──another version, and time──► PULLING ──first line──► PULLING, lines applied ─┐
 *      ▲                                    │ failed: later each time                    │ end
 *      └────────────────────────────────────┴────────────────────────────────────────────┘
 *
 *  1. peer->version is what the table has in full; it becomes 0 before the column is cleared for a
 *     `full` answer, and when an answer made no sense. Lines of a delta may be applied again: a pull
 *     that was cut is asked for again from the same version.
 *  2. What an agent may make us do is bounded: lines, bytes and time of an answer. */
#define LOG_MODULE "prefix_sync"
#include "proxy/prefix_sync.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "proxy/proxy_metrics.h"
#include "shared/base/check.h"
#include "shared/base/log.h"
#include "shared/net/agent_record.h"

#define PULL_INTERVAL_MS 500
#define PULL_WAIT_MS     2000 // connecting; the head; between bytes
#define PULL_TOTAL_MS    10000
#define PULLS_MAX        64
#define BACKOFF_MAX_MS   30000
#define LINE_BYTES       64
#define LINES_MAX        ((uint32_t)2 << 16) // 64 Ki hashes, each removed and added at worst

struct prefix_peer {
    struct prefix_sync *sync;
    int column;
    char url[AGENT_URL_BYTES];
    char incarnation[sizeof((struct agent_record *)NULL)->incarnation];
    uint64_t version, wanted; // what the table has, what there is; 0: nothing
    uint64_t next_ms;         // no pull before
    int failures;             // in a row

    /* the pull */
    struct http_call *call;
    uint64_t deadline_ms, now_ms; // now: of the last tick, for the back-off
    int status;
    bool full;
    uint64_t target; // version that the answer leads to; 0: the first line isn't in yet
    uint32_t lines;
    size_t line_len;
    char line[LINE_BYTES];
};

void prefix_sync_init(struct prefix_sync *s, struct http_client *client, struct prefix_table *table,
                      const char *join_key)
{
    memset(s, 0, sizeof *s);
    s->client = client;
    s->table = table;
    s->join_key = join_key;
}

static void stop_pull(struct prefix_peer *p)
{
    if (p->call) http_call_cancel(p->call);
    p->call = NULL;
    p->deadline_ms = 0;
    p->sync->running--;
}

static bool is_pulling(const struct prefix_peer *p)
{
    return p->deadline_ms != 0;
}

static void drop(struct prefix_peer *p)
{
    if (is_pulling(p)) stop_pull(p);
    p->sync->peers[p->column] = NULL;
    free(p);
}

void prefix_sync_deinit(struct prefix_sync *s)
{
    for (int i = 0; i < PREFIX_COLUMNS; i++) {
        if (s->peers[i]) drop(s->peers[i]);
    }
    CHECK(s->running == 0);
}

void prefix_sync_forget(struct prefix_sync *s, int column)
{
    CHECK(column >= 0 && column < PREFIX_COLUMNS);
    if (s->peers[column]) drop(s->peers[column]);
    prefix_table_clear_column(s->table, column);
}

/* ---- the end of a pull ---- */

static void succeed(struct prefix_peer *p)
{
    p->call = NULL; // it has ended
    stop_pull(p);
    p->failures = 0;
    p->version = p->target;
}

static void fail(struct prefix_peer *p, const char *why, const char *detail)
{
    log_debug("pull failed", "url=%s reason=\"%s%s\"", p->url, why, detail);
    metric_add(&proxy_metrics.prefix_pulls_failed_total, 1);
    stop_pull(p);
    uint64_t wait = (uint64_t)PULL_INTERVAL_MS << (p->failures < 6 ? p->failures : 6);
    p->next_ms = p->now_ms + (wait < BACKOFF_MAX_MS ? wait : BACKOFF_MAX_MS);
    p->failures++;
}

/* The answer makes no sense: what the table has is not to be trusted either. */
static void fail_garbage(struct prefix_peer *p, const char *why)
{
    p->version = 0;
    fail(p, "not understood: ", why);
}

/* ---- lines ---- */

static int parse_version(struct str text, uint64_t *out)
{
    int64_t value;
    if (str_to_int(text, &value) != 0 || value < 0) return E_FORMAT;
    *out = (uint64_t)value;
    return 0;
}

/* lm-prefixes <from> <to> full|delta */
static int take_first_line(struct prefix_peer *p, struct str line)
{
    struct str word, from_text, to_text;
    uint64_t from, to;
    if (!str_split(&line, ' ', &word) || !str_equal(word, STR("lm-prefixes")) ||
        !str_split(&line, ' ', &from_text) || !str_split(&line, ' ', &to_text) ||
        parse_version(from_text, &from) != 0 || parse_version(to_text, &to) != 0 || to == 0) {
        return E_FORMAT;
    }
    p->full = str_equal(line, STR("full"));
    if (!p->full && !(str_equal(line, STR("delta")) && from == p->version && to >= from)) {
        return E_FORMAT;
    }
    if (p->full || from == 0) { // from nothing: then nothing of what was known counts
        p->version = 0;
        prefix_table_clear_column(p->sync->table, p->column);
    }
    p->target = to;
    return 0;
}

/* +<hash16> <tokens>, or -<hash16> */
static int take_line(struct prefix_peer *p, struct str line)
{
    uint64_t hash;
    int64_t tokens;
    if (p->target == 0) return take_first_line(p, line);
    if (line.len < 1 + PREFIX_HASH_DIGITS || ++p->lines > LINES_MAX) return E_FORMAT;
    if (prefix_hash_parse((struct str){line.data + 1, PREFIX_HASH_DIGITS}, &hash) != 0) {
        return E_FORMAT;
    }
    struct str rest = {line.data + 1 + PREFIX_HASH_DIGITS, line.len - 1 - PREFIX_HASH_DIGITS};
    if (line.data[0] == '-') {
        if (rest.len > 0 || p->full) return E_FORMAT;
        prefix_table_remove(p->sync->table, hash, p->column);
        return 0;
    }
    if (line.data[0] != '+' || rest.len < 2 || rest.data[0] != ' ') return E_FORMAT;
    rest = (struct str){rest.data + 1, rest.len - 1};
    if (str_to_int(rest, &tokens) != 0 || tokens < 1 || tokens > UINT32_MAX) return E_FORMAT;
    prefix_table_add(p->sync->table, hash, p->column, (uint32_t)tokens);
    return 0;
}

/* ---- the call ---- */

static void on_head(void *arg, int status, const struct http_headers *headers)
{
    (void)headers;
    struct prefix_peer *p = arg;
    p->status = status;
}

static void on_body(void *arg, const char *data, size_t len)
{
    struct prefix_peer *p = arg;
    if (p->status != 200) return; // an error's text; its length is bounded by the deadline
    while (len > 0) {
        const char *end = memchr(data, '\n', len);
        size_t n = end ? (size_t)(end - data) : len;
        if (n > LINE_BYTES - p->line_len) {
            fail_garbage(p, "a line that is too long");
            return;
        }
        memcpy(p->line + p->line_len, data, n);
        p->line_len += n;
        if (!end) return;
        struct str line = {p->line, p->line_len};
        p->line_len = 0;
        if (take_line(p, line) != 0) {
            fail_garbage(p, p->target ? "a line" : "the first line");
            return;
        }
        data += n + 1;
        len -= n + 1;
    }
}

static void on_end(void *arg)
{
    struct prefix_peer *p = arg;
    p->call = NULL;
    if (p->status != 200) {
        fail(p, "it answered with an error", "");
    } else if (p->target == 0 || p->line_len > 0) {
        fail_garbage(p, "it ends inside a line");
    } else {
        succeed(p);
    }
}

static void on_fail(void *arg, const struct http_failure *failure)
{
    struct prefix_peer *p = arg;
    p->call = NULL;
    fail(p, failure->text, "");
}

static void start_pull(struct prefix_peer *p, uint64_t now_ms)
{
    struct http_url url;
    CHECK(http_url_parse(p->url, &url, NULL) == 0);
    char target[sizeof url.path + 64];
    snprintf(target, sizeof target, "%s/lm/prefixes?since=%" PRIu64, url.path, p->version);
    struct http_header key = {STR("x-lm-join-key"), str_of(p->sync->join_key)};
    p->deadline_ms = now_ms + PULL_TOTAL_MS;
    p->next_ms = now_ms + PULL_INTERVAL_MS;
    p->status = 0;
    p->target = 0;
    p->lines = 0;
    p->line_len = 0;
    struct http_call_options options = {
        .scheme = url.scheme,
        .host = url.host,
        .port = url.port,
        .method = "GET",
        .target = str_of(target),
        .headers = &key,
        .header_count = p->sync->join_key ? 1 : 0,
        .connect_timeout_ms = PULL_WAIT_MS,
        .head_timeout_ms = PULL_WAIT_MS,
        .idle_timeout_ms = PULL_WAIT_MS,
        .on_head = on_head,
        .on_body = on_body,
        .on_end = on_end,
        .on_fail = on_fail,
        .arg = p,
    };
    metric_add(&proxy_metrics.prefix_pulls_total, 1);
    p->sync->running++;
    p->call = http_call_start(p->sync->client, &options);
}

/* ---- when ---- */

void prefix_sync_note(struct prefix_sync *s, const char *url, const char *incarnation, int column,
                      uint64_t version, uint64_t now_ms)
{
    CHECK(column >= 0 && column < PREFIX_COLUMNS);
    struct prefix_peer *p = s->peers[column];
    if (p &&
        (version == 0 || strcmp(p->url, url) != 0 || strcmp(p->incarnation, incarnation) != 0)) {
        prefix_sync_forget(s, column);
        p = NULL;
    }
    if (version == 0) return;
    if (!p) {
        p = xcalloc(1, sizeof *p);
        p->sync = s;
        p->column = column;
        snprintf(p->url, sizeof p->url, "%s", url);
        snprintf(p->incarnation, sizeof p->incarnation, "%s", incarnation);
        s->peers[column] = p;
    }
    p->wanted = version;
    p->now_ms = now_ms;
}

void prefix_sync_tick(struct prefix_sync *s, uint64_t now_ms)
{
    for (int i = 0; i < PREFIX_COLUMNS; i++) {
        struct prefix_peer *p = s->peers[i];
        if (!p) continue;
        p->now_ms = now_ms;
        if (is_pulling(p) && now_ms >= p->deadline_ms) fail(p, "it takes too long", "");
    }
    for (int i = 0; i < PREFIX_COLUMNS && s->running < PULLS_MAX; i++) {
        struct prefix_peer *p = s->peers[s->next];
        s->next = (s->next + 1) % PREFIX_COLUMNS;
        if (p && !is_pulling(p) && p->version != p->wanted && now_ms >= p->next_ms) {
            start_pull(p, now_ms);
        }
    }
}
