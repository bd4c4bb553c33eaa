/* bench_compile.c - what the streams of an agent feel while it compiles grammars: the time between their
 * tokens in turns of at least two seconds, one without any and one in which a schema is always being
 * compiled that takes as long as a schema can (it is refused in the end, so that it costs the engine
 * nothing). Such a turn lasts until its last schema is through, for an agent may hurry those who have waited
 * long; the next one without is as long. In the end, how long the schema takes where nobody streams. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/bench.h"
#include "tests/bench/bench_http.h"

#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/net/sse.h"

#define TURN_NS     2000000000ull
#define STREAMS_MAX 64
#define TARGET      "/v1/chat/completions"

#define ALONE       3 // schemas

/* Intersecting patterns is what takes longest: states multiply until there are too many. The number makes
 * it another schema, which the agent hasn't met. */
#define WORST                                                                                      \
    "{\"model\":\"bench\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_tokens\":1,"  \
    "\"response_format\":{"                                                                        \
    "\"type\":\"json_schema\",\"json_schema\":{\"name\":\"worst\",\"schema\":{\"title\":\"%d\","   \
    "\"type\":\"string\""                                                                          \
    ",\"allOf\":[{\"pattern\":\"^(.*a.{8}b.*)$\"},{\"pattern\":\"(c.{9}d)\"},{\"pattern\":\"x.{7}" \
    "y\"}]}}}}"

struct compile_bench;

struct compile_stream {
    struct compile_bench *bench;
    struct sse_parser parser;
    uint64_t last_ns; // of this turn; 0: no token yet
    int status;
    bool has_parser;
};

struct gaps {
    double *ms; // owned
    size_t count, cap;
};

struct compile_bench {
    const struct bench_options *options;
    struct bench_http http;
    struct compile_stream stream[STREAMS_MAX];
    char body[512]; // of a stream
    char schema[sizeof WORST + 16];
    struct gaps quiet, busy;
    bool is_measuring, is_busy, is_compiling;
    struct bench_samples compile_ms, alone_ms;
    uint64_t compile_begun;
    int compiled;
    int live; // calls
    bool ends, failed;
};

/* ---- streams ---- */

static void begin_stream(struct compile_bench *b, struct compile_stream *s);

static void add_gap(struct gaps *g, double ms)
{
    if (g->count == g->cap) {
        g->cap = g->cap ? 2 * g->cap : 4096;
        g->ms = xrealloc_array(g->ms, g->cap, sizeof *g->ms);
    }
    g->ms[g->count++] = ms;
}

static void on_event(void *arg, struct str data)
{
    struct compile_stream *s = arg;
    struct compile_bench *b = s->bench;
    uint64_t now = clock_ns();
    (void)data;
    if (!b->is_measuring) return;
    if (s->last_ns) add_gap(b->is_busy ? &b->busy : &b->quiet, (double)(now - s->last_ns) * 1e-6);
    s->last_ns = now;
}

static void stream_head(void *arg, int status, const struct http_headers *headers)
{
    (void)headers;
    ((struct compile_stream *)arg)->status = status;
}

static void stream_body(void *arg, const char *data, size_t len)
{
    struct compile_stream *s = arg;
    if (sse_parser_feed(&s->parser, data, len) < 0) s->status = 0;
}

static void stream_end(void *arg)
{
    struct compile_stream *s = arg;
    s->bench->live--;
    s->bench->failed |= s->status != 200;
    if (!s->bench->ends && !s->bench->failed) begin_stream(s->bench, s);
}

static void stream_fail(void *arg, const struct http_failure *failure)
{
    struct compile_stream *s = arg;
    s->bench->live--;
    s->bench->failed = true;
    fprintf(stderr, "lm-bench: %s\n", failure->text);
}

static void post(struct compile_bench *b, const char *body, struct http_call_options *call)
{
    static const struct http_header header = {STR("Content-Type"), STR("application/json")};
    call->host = b->http.url.host;
    call->port = b->http.url.port;
    call->method = "POST";
    call->target = STR(TARGET);
    call->headers = &header;
    call->header_count = 1;
    call->body = str_of(body);
    b->live++;
    http_call_start(b->http.client, call);
}

static void begin_stream(struct compile_bench *b, struct compile_stream *s)
{
    if (s->has_parser) sse_parser_deinit(&s->parser);
    s->bench = b;
    s->last_ns = 0;
    s->has_parser = true;
    sse_parser_init(&s->parser, 1 << 20, on_event, s);
    post(b, b->body,
         &(struct http_call_options){.on_head = stream_head,
                                     .on_body = stream_body,
                                     .on_end = stream_end,
                                     .on_fail = stream_fail,
                                     .arg = s});
}

/* ---- schemas ---- */

static void begin_compile(struct compile_bench *b);

static void compile_head(void *arg, int status, const struct http_headers *headers)
{
    struct compile_bench *b = arg;
    (void)headers;
    if (status == 400) return;
    fprintf(stderr, "lm-bench: the agent answers the worst schema with %d\n", status);
    b->failed = true;
}

static void compile_body(void *arg, const char *data, size_t len)
{
    (void)arg;
    (void)data;
    (void)len;
}

static void compile_end(void *arg)
{
    struct compile_bench *b = arg;
    b->live--;
    b->is_compiling = false;
    struct bench_samples *s = b->ends ? &b->alone_ms : &b->compile_ms;
    if (s->count < BENCH_SAMPLES_MAX)
        bench_samples_add(s, (double)(clock_ns() - b->compile_begun) * 1e-6);
}

static void compile_fail(void *arg, const struct http_failure *failure)
{
    struct compile_bench *b = arg;
    b->live--;
    b->failed = true;
    fprintf(stderr, "lm-bench: %s\n", failure->text);
}

static void begin_compile(struct compile_bench *b)
{
    snprintf(b->schema, sizeof b->schema, WORST, b->compiled++);
    b->is_compiling = true;
    b->compile_begun = clock_ns();
    post(b, b->schema,
         &(struct http_call_options){.on_head = compile_head,
                                     .on_body = compile_body,
                                     .on_end = compile_end,
                                     .on_fail = compile_fail,
                                     .arg = b});
}

/* ---- turns ---- */

/* How long it took. */
static uint64_t run_turn(struct compile_bench *b, bool is_busy, bool is_measuring,
                         uint64_t least_ns)
{
    uint64_t begun = clock_ns();
    for (int i = 0; i < STREAMS_MAX; i++)
        b->stream[i].last_ns = 0;
    b->is_measuring = is_measuring;
    b->is_busy = is_busy;
    while ((clock_ns() - begun < least_ns || b->is_compiling) && !b->failed) {
        if (is_busy && !b->is_compiling) begin_compile(b);
        uv_run(&b->http.loop, UV_RUN_ONCE);
    }
    b->is_measuring = b->is_busy = false;
    return clock_ns() - begun;
}

static void compile_alone(struct compile_bench *b)
{
    for (int i = 0; i < ALONE && !b->failed; i++) {
        begin_compile(b);
        while (b->is_compiling && !b->failed)
            uv_run(&b->http.loop, UV_RUN_ONCE);
    }
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(const struct gaps *g, size_t percent)
{
    return g->count ? g->ms[g->count * percent / 100] : 0;
}

static void print_gaps(const char *name, const struct gaps *g)
{
    printf("%-28s %7zu tokens   p50 %8.1f ms   p90 %8.1f ms   p99 %8.1f ms\n", name, g->count,
           quantile(g, 50), quantile(g, 90), quantile(g, 99));
}

static void print_compile_bench(struct compile_bench *b)
{
    if (b->quiet.count == 0 || b->busy.count == 0) return;
    qsort(b->quiet.ms, b->quiet.count, sizeof *b->quiet.ms, compare);
    qsort(b->busy.ms, b->busy.count, sizeof *b->busy.ms, compare);
    print_gaps("between tokens", &b->quiet);
    print_gaps("while schemas compile", &b->busy);
    printf("%-28s %.2f of p50, %.2f of p99\n", "ratio",
           quantile(&b->busy, 50) / quantile(&b->quiet, 50),
           quantile(&b->busy, 99) / quantile(&b->quiet, 99));
    printf("%-28s %7d          median %.0f ms (%.0f..%.0f)\n", "schemas, until refused",
           b->compile_ms.count, bench_samples_median(&b->compile_ms),
           bench_samples_at(&b->compile_ms, 0), bench_samples_at(&b->compile_ms, 1));
    printf("%-28s %7d          median %.0f ms (%.0f..%.0f)\n", "where nobody streams",
           b->alone_ms.count, bench_samples_median(&b->alone_ms), bench_samples_at(&b->alone_ms, 0),
           bench_samples_at(&b->alone_ms, 1));
}

static int measure(struct compile_bench *b, int port)
{
    const struct bench_options *o = b->options;
    char url[64];
    struct error err;
    int streams = o->concurrency < STREAMS_MAX ? (int)o->concurrency : STREAMS_MAX;
    snprintf(url, sizeof url, "http://127.0.0.1:%d", port);
    snprintf(b->body, sizeof b->body,
             "{\"model\":\"bench\",\"messages\":[{\"role\":\"user\",\"content\":\"Count.\"}],"
             "\"stream\":true,"
             "\"ignore_eos\":true,\"temperature\":0,\"max_tokens\":%lld}",
             (long long)o->max_tokens);
    if (bench_http_open(&b->http, url, streams + 1, &err) < 0) return 1;
    for (int i = 0; i < streams; i++)
        begin_stream(b, &b->stream[i]);
    run_turn(b, false, false, TURN_NS); // until all stream
    uint64_t turn_ns = run_turn(b, true, false, TURN_NS);
    for (int64_t i = 0; i < o->rounds && !b->failed; i++) {
        run_turn(b, false, true, turn_ns);
        turn_ns = run_turn(b, true, true, TURN_NS);
    }
    b->ends = true;
    while (b->live > 0 && !b->failed)
        uv_run(&b->http.loop, UV_RUN_ONCE);
    compile_alone(b);
    print_compile_bench(b);
    bench_http_close(&b->http);
    for (int i = 0; i < streams; i++)
        if (b->stream[i].has_parser) sse_parser_deinit(&b->stream[i].parser);
    return b->failed ? 1 : 0;
}

int bench_compile(const struct bench_options *o)
{
    struct compile_bench *b = xcalloc(1, sizeof *b);
    struct bench_agent agent;
    struct error err;
    b->options = o;
    int rc = bench_agent_start(o, NULL, true, &agent, &err);
    int code = rc < 0 ? 1 : measure(b, agent.port);
    if (rc == 0) rc = bench_agent_stop(&agent, &err);
    if (rc < 0) fprintf(stderr, "lm-bench: %s\n", err.text);
    free(b->quiet.ms);
    free(b->busy.ms);
    free(b);
    return rc < 0 ? 1 : code;
}
