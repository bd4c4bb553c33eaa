/* bench_load.c - streaming chats against a served URL (agent, proxy, or any OpenAI-compatible
 * server): `concurrency` at a time until `requests` are done. Prints aggregate tokens/s, time to
 * first token, time between tokens, and failures. A chunk with content counts as one token. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/bench.h"
#include "tests/bench/bench_http.h"

#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/json.h"
#include "shared/net/sse.h"

struct load;

struct load_stream {
    struct load *load;
    struct sse_parser parser;
    struct buf body;
    uint64_t start_ns, last_ns;
    int tokens, status;
    bool done;
};

struct load {
    const struct bench_options *options;
    struct bench_http http;
    char *model;
    int64_t issued, finished, failed, tokens;
    double *first_s, *gap_s; // grown
    size_t first_count, gap_count, gap_cap;
};

static void next_stream(struct load *l, struct load_stream *s);

static void stream_finish(struct load_stream *s, bool ok)
{
    struct load *l = s->load;

    l->finished++;
    if (!ok) l->failed++;
    sse_parser_deinit(&s->parser);
    buf_deinit(&s->body);
    next_stream(l, s);
}

static void on_data(void *arg, struct str data)
{
    struct load_stream *s = arg;
    struct load *l = s->load;

    if (str_equal(data, STR("[DONE]"))) {
        s->done = true;
        return;
    }
    struct json *chunk = json_parse(data.data, data.len, NULL);
    const struct json *content =
        json_get(json_get(json_first(json_get(chunk, "choices")), "delta"), "content");
    size_t len = 0;
    if (content && json_type(content) == JSON_STRING) json_string(content, &len);
    json_destroy(chunk);
    if (len == 0) return;
    uint64_t now = clock_ns();
    if (s->tokens++ == 0) {
        l->first_s[l->first_count++] = (double)(now - s->start_ns) * 1e-9;
    } else {
        if (l->gap_count == l->gap_cap) {
            l->gap_cap = l->gap_cap ? l->gap_cap * 2 : 4096;
            l->gap_s = xrealloc_array(l->gap_s, l->gap_cap, sizeof *l->gap_s);
        }
        l->gap_s[l->gap_count++] = (double)(now - s->last_ns) * 1e-9;
    }
    s->last_ns = now;
    l->tokens++;
}

static void stream_head(void *arg, int status, const struct http_headers *headers)
{
    (void)headers;
    ((struct load_stream *)arg)->status = status;
}

static void stream_body(void *arg, const char *data, size_t len)
{
    struct load_stream *s = arg;

    if (sse_parser_feed(&s->parser, data, len) < 0) s->status = 0;
}

static void stream_end(void *arg)
{
    struct load_stream *s = arg;

    stream_finish(s, s->status == 200 && s->done);
}

static void stream_fail(void *arg, const struct http_failure *failure)
{
    struct load_stream *s = arg;

    if (s->load->failed == 0) fprintf(stderr, "lm-bench: %s\n", failure->text);
    stream_finish(s, false);
}

static void next_stream(struct load *l, struct load_stream *s)
{
    const struct bench_options *o = l->options;
    struct json_writer w;
    char text[1024], target[600];

    if (l->issued >= o->requests) return;
    l->issued++;
    *s = (struct load_stream){.load = l, .start_ns = clock_ns()};
    sse_parser_init(&s->parser, 1 << 20, on_data, s);
    buf_init(&s->body, BUF_MAX_INTERNAL);
    snprintf(text, sizeof text, "%lld. %s", (long long)l->issued, o->prompt);
    json_writer_init(&w, &s->body);
    json_object_begin(&w);
    json_field_text(&w, "model", l->model);
    json_field_bool(&w, "stream", true);
    json_field_int(&w, "max_tokens", o->max_tokens);
    json_field_int(&w, "temperature", 0);
    json_key(&w, "messages");
    json_array_begin(&w);
    json_object_begin(&w);
    json_field_text(&w, "role", "user");
    json_field_text(&w, "content", text);
    json_object_end(&w);
    json_array_end(&w);
    json_object_end(&w);

    const struct http_header header = {STR("Content-Type"), STR("application/json")};
    snprintf(target, sizeof target, "%s/v1/chat/completions", l->http.url.path);
    http_call_start(l->http.client, &(struct http_call_options){
                                        .scheme = l->http.url.scheme,
                                        .host = l->http.url.host,
                                        .port = l->http.url.port,
                                        .method = "POST",
                                        .target = str_of(target),
                                        .headers = &header,
                                        .header_count = 1,
                                        .body = buf_str(&s->body),
                                        .on_head = stream_head,
                                        .on_body = stream_body,
                                        .on_end = stream_end,
                                        .on_fail = stream_fail,
                                        .arg = s,
                                    });
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_quantiles(const char *name, double *values, size_t count)
{
    if (count == 0) return;
    qsort(values, count, sizeof *values, compare);
    printf("%-24s p50 %8.1f ms   p90 %8.1f ms   p99 %8.1f ms\n", name, values[count / 2] * 1e3,
           values[count * 9 / 10] * 1e3, values[count * 99 / 100] * 1e3);
}

static void print_load(struct load *l, double seconds)
{
    printf("%lld requests, %lld failed, %.1f s, %lld at a time\n", (long long)l->finished,
           (long long)l->failed, seconds, (long long)l->options->concurrency);
    printf("%-24s %.1f tok/s, %.2f requests/s\n", "aggregate", (double)l->tokens / seconds,
           (double)l->finished / seconds);
    print_quantiles("time to first token", l->first_s, l->first_count);
    print_quantiles("time between tokens", l->gap_s, l->gap_count);
}

int bench_load(const struct bench_options *o, const char *url)
{
    struct load load = {.options = o};
    struct error err;
    int code = 1;

    if (bench_http_open(&load.http, url, (int)o->concurrency, &err) < 0) {
        fprintf(stderr, "lm-bench: %s\n", err.text);
        return EXIT_USAGE;
    }
    load.model = bench_http_model(&load.http);
    if (load.model) {
        struct load_stream *streams = xcalloc((size_t)o->concurrency, sizeof *streams);
        load.first_s = xcalloc((size_t)o->requests, sizeof *load.first_s);
        uint64_t start = clock_ns();
        for (int64_t i = 0; i < o->concurrency; i++)
            next_stream(&load, &streams[i]);
        while (load.finished < o->requests)
            uv_run(&load.http.loop, UV_RUN_ONCE);
        print_load(&load, (double)(clock_ns() - start) * 1e-9);
        code = load.failed == 0 ? 0 : 1;
        free(streams);
    }
    bench_http_close(&load.http);
    free(load.model);
    free(load.first_s);
    free(load.gap_s);
    return code;
}
