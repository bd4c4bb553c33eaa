/* bench_soak.c - is every answer right under pressure? A fixed set of requests is first answered one
 * by one by an agent with room to spare. Then `concurrency` clients draw from the set for `seconds`
 * from an agent whose pool holds only a share of what they ask for, so sequences wait, are preempted,
 * share prefixes and lose cached ones. Some clients leave in mid-stream. Every whole answer must be
 * the one that was given alone, byte for byte; nothing may fail, and in the end nothing may be left:
 * no sequence, no block held.
 *
 *     solo agent: requests 0, 1, 2, ... alone     -> text, finish_reason, token counts
 *     pool = share * clients * mean(prompt + completion)
 *     load agent: clients x random requests       -> compare, time
 *     /metrics until idle, SIGTERM, exit status 0
 *
 * With a URL the same server answers both parts, and its pool is its own affair. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/bench.h"
#include "tests/bench/bench_http.h"
#include "tests/bench/soak_requests.h"

#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/json.h"
#include "shared/base/rng.h"
#include "shared/net/sse.h"

#define LEAVE_ONE_IN 16 // clients that leave in mid-stream
#define DRAIN_NS     (300ull * 1000000000)
#define IDLE_NS      (10ull * 1000000000)
#define REPORTS_MAX  5 // mismatches and errors that are printed in full
#define ANSWER_MAX   (1u << 20)

struct times {
    double *seconds;
    size_t count, cap;
};

struct client {
    struct soak *soak;
    struct http_call *call; // NULL: between requests
    const struct soak_request *request;
    struct sse_parser parser;
    struct soak_answer answer;
    uint64_t start_ns, last_ns;
    int status, events;
    int leave_after; // events; -1: stays
    bool done;       // [DONE] came
};

struct soak {
    const struct bench_options *options;
    struct soak_set set;
    struct bench_http http;
    uv_timer_t tick; // so that the loop turns when nothing else happens
    struct client *clients;
    int client_count, live;
    struct rng rng;
    uint64_t end_ns;
    bool solo;
    int64_t answers, mismatches, errors, left;
    struct times first, gap;
};

/* ---- one request ---- */

static void client_start(struct client *c, const struct soak_request *request);

static void times_add(struct times *t, double seconds)
{
    if (t->count == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 4096;
        t->seconds = xrealloc_array(t->seconds, t->cap, sizeof *t->seconds);
    }
    t->seconds[t->count++] = seconds;
}

/* What the clients ask for next; in the solo part each request once. */
static const struct soak_request *next_request(struct soak *s)
{
    if (s->solo) return s->answers < s->set.count ? &s->set.request[s->answers] : NULL;
    if (clock_ns() >= s->end_ns) return NULL;
    return &s->set.request[rng_below(&s->rng, (uint32_t)s->set.count)];
}

static void client_end(struct client *c)
{
    const struct soak_request *next;

    sse_parser_deinit(&c->parser);
    soak_answer_deinit(&c->answer);
    c->call = NULL;
    c->soak->live--;
    if ((next = next_request(c->soak)) != NULL) client_start(c, next);
}

static void report_error(struct client *c, const char *text)
{
    if (c->soak->errors++ < REPORTS_MAX)
        fprintf(stderr, "lm-bench: request %d: %s\n", c->request->index, text);
}

static void check_answer(struct client *c)
{
    struct soak *s = c->soak;
    struct soak_answer *want = &s->set.answer[c->request->index];

    s->answers++;
    if (s->solo) {
        soak_answer_move(want, &c->answer);
        return;
    }
    if (soak_answer_equal(want, &c->answer)) return;
    if (s->mismatches++ < REPORTS_MAX) soak_answer_print(c->request, want, &c->answer);
}

static void on_data(void *arg, struct str data)
{
    struct client *c = arg;
    struct soak *s = c->soak;
    uint64_t now = clock_ns();

    if (str_equal(data, STR("[DONE]"))) {
        c->done = true;
        return;
    }
    if (soak_answer_add(&c->answer, data) && !s->solo) {
        if (c->events == 0)
            times_add(&s->first, (double)(now - c->start_ns) * 1e-9);
        else
            times_add(&s->gap, (double)(now - c->last_ns) * 1e-9);
        c->last_ns = now;
        c->events++;
    }
}

static void on_head(void *arg, int status, const struct http_headers *headers)
{
    (void)headers;
    ((struct client *)arg)->status = status;
}

static void on_body(void *arg, const char *data, size_t len)
{
    struct client *c = arg;
    if (sse_parser_feed(&c->parser, data, len) < 0) c->status = 0;
}

static void on_end(void *arg)
{
    struct client *c = arg;
    char text[64];

    if (c->status == 200 && c->done && !c->answer.bad) {
        check_answer(c);
    } else {
        snprintf(text, sizeof text, "status %d, %s", c->status,
                 c->answer.bad ? "an event that is not understood" : "stream not ended");
        report_error(c, text);
    }
    client_end(c);
}

static void on_fail(void *arg, const struct http_failure *failure)
{
    struct client *c = arg;
    report_error(c, failure->text);
    client_end(c);
}

static void client_start(struct client *c, const struct soak_request *request)
{
    struct soak *s = c->soak;
    const struct http_header header = {STR("Content-Type"), STR("application/json")};
    char target[600];

    c->request = request;
    c->status = c->events = 0;
    c->done = false;
    c->leave_after =
        s->solo || rng_below(&s->rng, LEAVE_ONE_IN) != 0 ? -1 : (int)rng_below(&s->rng, 20);
    c->start_ns = clock_ns();
    sse_parser_init(&c->parser, ANSWER_MAX, on_data, c);
    soak_answer_init(&c->answer, ANSWER_MAX);
    snprintf(target, sizeof target, "%s/v1/completions", s->http.url.path);
    s->live++;
    c->call =
        http_call_start(s->http.client, &(struct http_call_options){.scheme = s->http.url.scheme,
                                                                    .host = s->http.url.host,
                                                                    .port = s->http.url.port,
                                                                    .method = "POST",
                                                                    .target = str_of(target),
                                                                    .headers = &header,
                                                                    .header_count = 1,
                                                                    .body = buf_str(&request->body),
                                                                    .on_head = on_head,
                                                                    .on_body = on_body,
                                                                    .on_end = on_end,
                                                                    .on_fail = on_fail,
                                                                    .arg = c});
}

/* Outside of callbacks, where a call may be cancelled. */
static void let_leave(struct soak *s)
{
    for (int i = 0; i < s->client_count; i++) {
        struct client *c = &s->clients[i];
        if (!c->call || c->leave_after < 0 || c->events < c->leave_after) continue;
        if (c->leave_after == 0 && clock_ns() - c->start_ns < 20000000) continue;
        http_call_cancel(c->call);
        s->left++;
        client_end(c);
    }
}

/* ---- parts ---- */

/* Clients that find no request at their start stay away. False: not all were answered in time. */
static bool run_clients(struct soak *s, int count)
{
    s->client_count = count;
    s->clients = xcalloc((size_t)count, sizeof *s->clients);
    for (int i = 0; i < count; i++) {
        const struct soak_request *request = next_request(s);
        s->clients[i].soak = s;
        if (request) client_start(&s->clients[i], request);
    }
    while (s->live > 0 && (s->solo || clock_ns() < s->end_ns + DRAIN_NS) &&
           (!s->solo || s->errors == 0)) {
        uv_run(&s->http.loop, UV_RUN_ONCE);
        let_leave(s);
    }
    bool all = s->live == 0;
    for (int i = 0; i < count; i++) {
        struct client *c = &s->clients[i];
        if (!c->call) continue;
        http_call_cancel(c->call);
        sse_parser_deinit(&c->parser);
        soak_answer_deinit(&c->answer);
    }
    free(s->clients);
    s->clients = NULL;
    s->live = 0;
    return all;
}

/* ---- what is left in the end ---- */

/* A metric's value, labels included in the name; -1: there is none. */
static double metric(const struct buf *text, const char *name)
{
    size_t len = strlen(name);

    for (const char *line = text->data; line && *line; line = strchr(line, '\n')) {
        if (*line == '\n') line++;
        if (strncmp(line, name, len) == 0 && line[len] == ' ') return strtod(line + len, NULL);
    }
    return -1;
}

static const char *const left_over[] = {SOAK_IDLE_METRICS};

/* Ten seconds for the last cancelled sequence; then everything must be back. */
static int check_idle(struct soak *s)
{
    uint64_t start = clock_ns();
    struct buf text;

    for (;;) {
        int64_t held = 0;
        bool ok = bench_http_get(&s->http, "/metrics", &text);
        for (size_t i = 0; ok && i < ARRAY_LEN(left_over); i++)
            held += metric(&text, left_over[i]) != 0;
        if ((ok && held == 0) || clock_ns() - start > IDLE_NS) break;
        buf_deinit(&text);
        for (int i = 0; i < 10; i++)
            uv_run(&s->http.loop, UV_RUN_ONCE);
    }
    int bad = 0;
    printf("left in the end:");
    for (size_t i = 0; i < ARRAY_LEN(left_over); i++) {
        double value = metric(&text, left_over[i]);
        printf(" %s %g", left_over[i], value);
        bad += value != 0;
    }
    printf("\npreemptions %g, prompt tokens %g, of them cached %g\n",
           metric(&text, "lm_agent_engine_preemptions_total"),
           metric(&text, "lm_agent_prompt_tokens_total"),
           metric(&text, "lm_agent_cached_tokens_total"));
    buf_deinit(&text);
    return bad;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_times(const char *name, struct times *t)
{
    if (t->count == 0) return;
    qsort(t->seconds, t->count, sizeof *t->seconds, compare);
    printf("%-22s p50 %9.1f ms   p99 %9.1f ms   max %9.1f ms\n", name,
           t->seconds[t->count / 2] * 1e3, t->seconds[t->count * 99 / 100] * 1e3,
           t->seconds[t->count - 1] * 1e3);
}

/* ---- the whole ---- */

static void on_tick(uv_timer_t *timer)
{
    (void)timer;
}

static int solo_part(struct soak *s)
{
    uint64_t start = clock_ns();

    char *model = bench_http_model(&s->http);
    if (!model) return 1;
    soak_set_init(&s->set, model, (int)s->options->distinct, (uint64_t)s->options->seed);
    free(model);
    s->solo = true;
    s->answers = 0;
    bool all = run_clients(s, 1);
    if (!all || s->errors > 0) return 1;
    soak_set_print(&s->set);
    printf("answered alone in %.1f s\n", (double)(clock_ns() - start) * 1e-9);
    fflush(stdout);
    return 0;
}

static int load_part(struct soak *s)
{
    uint64_t start = clock_ns();

    s->solo = false;
    s->answers = 0;
    s->end_ns = start + (uint64_t)s->options->seconds * 1000000000;
    bool all = run_clients(s, (int)s->options->concurrency);
    printf("%lld clients, %.1f s: %lld answers compared, %lld mismatches, %lld errors, %lld left "
           "early%s\n",
           (long long)s->options->concurrency, (double)(clock_ns() - start) * 1e-9,
           (long long)s->answers, (long long)s->mismatches, (long long)s->errors,
           (long long)s->left, all ? "" : "; SOME NEVER ENDED");
    print_times("time to first token", &s->first);
    print_times("time between tokens", &s->gap);
    int held = check_idle(s);
    return !all || s->mismatches > 0 || s->errors > 0 || held > 0 || s->answers == 0;
}

/* The connections are made for a server, and end before it does. */
static int open_http(struct soak *s, const char *url, struct error *err)
{
    int rc = bench_http_open(&s->http, url, (int)s->options->concurrency, err);
    if (rc < 0) return rc;
    uv_timer_init(&s->http.loop, &s->tick);
    uv_timer_start(&s->tick, on_tick, 10, 10);
    return 0;
}

/* Start one, let `part` use it, stop it: its exit status counts too. */
static int with_agent(struct soak *s, const char *const *args, int (*part)(struct soak *s))
{
    struct bench_agent agent;
    struct error err;
    char url[64];
    int code = 1;

    if (bench_agent_start(s->options, args, false, &agent, &err) < 0) {
        fprintf(stderr, "lm-bench: %s\n", err.text);
        return 1;
    }
    double before = bench_agent_resident_mb(&agent);
    snprintf(url, sizeof url, "http://127.0.0.1:%d", agent.port);
    if (open_http(s, url, &err) == 0) {
        code = part(s);
        bench_http_close(&s->http);
        printf("resident: %.1f MiB at the start, %.1f MiB at the end\n", before,
               bench_agent_resident_mb(&agent));
    } else {
        fprintf(stderr, "lm-bench: %s\n", err.text);
    }
    if (bench_agent_stop(&agent, &err) < 0) {
        fprintf(stderr, "lm-bench: %s\n", err.text);
        code = 1;
    }
    return code;
}

/* First an agent with room for all, then one with the pool that is asked for. */
static int with_agents(struct soak *s)
{
    const struct bench_options *o = s->options;
    const char *args[24] = {"--log-level", "error"};
    char tokens[24];
    int n = 2;

    for (size_t i = 0; i < o->agent_args.count && n < 20; i++)
        args[n++] = o->agent_args.items[i];
    if (with_agent(s, args, solo_part) != 0) return 1;
    int64_t demand = soak_set_demand(&s->set, (int)o->concurrency);
    int64_t pool = (int64_t)((double)demand * o->pool);
    snprintf(tokens, sizeof tokens, "%lld", (long long)pool);
    args[n++] = "--cache-max-tokens";
    args[n] = tokens;
    printf("pool: %lld tokens, %.0f %% of the demand of %lld\n", (long long)pool, o->pool * 100,
           (long long)demand);
    fflush(stdout);
    return with_agent(s, args, load_part);
}

int bench_soak(const struct bench_options *o, const char *url)
{
    struct soak s = {.options = o};
    struct error err;
    int code;

    rng_init(&s.rng, (uint64_t)o->seed);
    if (!url) {
        code = with_agents(&s);
    } else if (open_http(&s, url, &err) < 0) {
        fprintf(stderr, "lm-bench: %s\n", err.text);
        return EXIT_USAGE;
    } else {
        code = solo_part(&s) != 0 || load_part(&s) != 0;
        bench_http_close(&s.http);
    }
    printf("%s\n", code == 0 ? "passed" : "FAILED");
    soak_set_deinit(&s.set);
    free(s.first.seconds);
    free(s.gap.seconds);
    return code;
}
