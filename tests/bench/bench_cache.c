/* bench_cache.c - what the prefix cache saves, and what a long prompt costs those who are being
 * answered. The engine alone, no HTTP; tokens are random, so nothing is found by accident.
 *
 *     prefix         1,000 tokens cold, then the same ones with 20 others behind them
 *     conversation   nine turns that grow to 3,000 tokens; the tenth with 60 more, and as many cold
 *     pace           time between tokens of four answers, alone and while 4,000 tokens of a
 *                    prompt are computed beside them */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/bench.h"
#include "tests/bench/bench_loop.h"

#include "shared/base/check.h"
#include "shared/base/clock.h"

#define PREFIX_TOKENS 1000
#define PREFIX_MORE   20
#define TURNS         10
#define TURN_TOKENS   300
#define ANSWER_TOKENS 33
#define LAST_TOKENS   60
#define STREAMS       4
#define STREAM_TOKENS 2000
#define ALONE_STEPS   40
#define LONG_PROMPT   4000
#define TOKENS_CAP    8192
#define GAPS_MAX      4096

struct cache_table {
    struct bench_samples prefix_cold, prefix_found, turn_cold, turn_found, alone, beside;
};

static int failed(const struct engine_event *event, struct error *err)
{
    if (event->kind != ENGINE_EVENT_FAILED) return 0;
    return error_set(err, event->error_code, "the engine failed a request: %.*s",
                     (int)event->text_len, event->text ? event->text : "");
}

/* One request to its end. *first_ms: to its first token; its tokens go behind ids[count]. */
static int ask(struct bench_loop *l, int32_t *ids, int *count, int generate, double *first_ms,
               struct error *err)
{
    uint64_t begun = clock_ns();
    int prompt = *count;
    int rc = bench_loop_submit(l, ids, prompt, generate, err);
    for (bool done = false; rc == 0 && !done;) {
        struct engine_event event;
        bench_loop_wait(l, &event);
        if (*count == prompt && event.token_count > 0)
            *first_ms = (double)(clock_ns() - begun) * 1e-6;
        for (int i = 0; i < event.token_count && *count < TOKENS_CAP; i++)
            ids[(*count)++] = event.tokens[i];
        rc = failed(&event, err);
        done = event.kind == ENGINE_EVENT_DONE;
        engine_event_deinit(&event);
    }
    return rc;
}

static int measure_prefix(struct bench_loop *l, struct cache_table *t, int32_t *ids,
                          struct error *err)
{
    double ms = 0;
    int count = PREFIX_TOKENS + PREFIX_MORE, rc;
    bench_loop_tokens(l, ids, count);
    if ((rc = ask(l, ids, &count, 1, &ms, err)) < 0) return rc;
    bench_samples_add(&t->prefix_cold, ms);
    count = PREFIX_TOKENS + PREFIX_MORE;
    bench_loop_tokens(l, ids + PREFIX_TOKENS, PREFIX_MORE);
    if ((rc = ask(l, ids, &count, 1, &ms, err)) < 0) return rc;
    bench_samples_add(&t->prefix_found, ms);
    return 0;
}

static int measure_turns(struct bench_loop *l, struct cache_table *t, int32_t *ids,
                         struct error *err)
{
    double ms = 0;
    int count = 0, rc;
    for (int turn = 0; turn < TURNS; turn++) {
        int more = turn < TURNS - 1 ? TURN_TOKENS : LAST_TOKENS;
        bench_loop_tokens(l, ids + count, more);
        count += more;
        if ((rc = ask(l, ids, &count, ANSWER_TOKENS, &ms, err)) < 0) return rc;
    }
    bench_samples_add(&t->turn_found, ms);
    count -= ANSWER_TOKENS;
    bench_loop_tokens(l, ids, count);
    if ((rc = ask(l, ids, &count, 1, &ms, err)) < 0) return rc;
    bench_samples_add(&t->turn_cold, ms);
    return 0;
}

/* Streams that run, and the times between the tokens of the first one. */
struct pace_run {
    double gap_ms[GAPS_MAX];
    int count;    // gaps seen
    int from, to; // those beside the long prompt
};

/* With the prompt: it comes after ALONE_STEPS tokens, and its first token is the end. Without:
 * until as many tokens have come. */
static int run_streams(struct bench_loop *l, int32_t *ids, bool with_prompt, struct pace_run *run,
                       struct error *err)
{
    uint64_t first = 0, last = 0, prompt = 0;
    int rc = 0;
    run->count = 0;
    for (int i = 0; i < STREAMS && rc == 0; i++) {
        bench_loop_tokens(l, ids, PREFIX_MORE);
        rc = bench_loop_submit(l, ids, PREFIX_MORE, STREAM_TOKENS, err);
        first = first ? first : l->next_id;
    }
    for (bool over = false; rc == 0 && !over;) {
        struct engine_event event;
        bench_loop_wait(l, &event);
        uint64_t now = clock_ns();
        if (event.id == first && last && run->count < GAPS_MAX)
            run->gap_ms[run->count++] = (double)(now - last) * 1e-6;
        if (event.id == first) last = now;
        over = event.kind == ENGINE_EVENT_DONE ||
               (with_prompt ? prompt && event.id == prompt : run->count >= run->to);
        rc = failed(&event, err);
        engine_event_deinit(&event);
        if (rc < 0 || !with_prompt || prompt || run->count < ALONE_STEPS) continue;
        bench_loop_tokens(l, ids, LONG_PROMPT);
        rc = bench_loop_submit(l, ids, LONG_PROMPT, 1, err);
        prompt = l->next_id;
        run->from = run->count;
    }
    if (with_prompt) run->to = run->count;
    return rc;
}

static void end_streams(struct bench_loop *l, uint64_t first)
{
    struct engine_event event;
    struct engine_stats stats;
    for (uint64_t id = first; id <= l->next_id; id++)
        engine_cancel(l->engine, id);
    do {
        bench_loop_wait(l, &event);
        engine_event_deinit(&event);
        engine_stats(l->engine, &stats);
    } while (stats.running + stats.waiting > 0);
    while (engine_next_event(l->engine, &event))
        engine_event_deinit(&event);
}

/* Answers that get longer take longer a token, with the prompt or without: compared are the same
 * tokens of both runs. */
static int measure_pace(struct bench_loop *l, struct cache_table *t, int32_t *ids,
                        struct error *err)
{
    static struct pace_run beside, alone;
    uint64_t first = l->next_id + 1;
    int rc = run_streams(l, ids, true, &beside, err);
    end_streams(l, first);
    alone.to = beside.to;
    first = l->next_id + 1;
    if (rc == 0) rc = run_streams(l, ids, false, &alone, err);
    end_streams(l, first);
    int to = alone.count < beside.to ? alone.count : beside.to, count = to - beside.from;
    if (rc < 0 || count <= 0) return rc;
    bench_samples_add(&t->alone, bench_median(alone.gap_ms + beside.from, count));
    bench_samples_add(&t->beside, bench_median(beside.gap_ms + beside.from, count));
    return 0;
}

static void print_ratio(const char *name, const struct bench_samples *part,
                        const struct bench_samples *whole, const char *target)
{
    printf("%-34s %8.1f ms  of %8.1f ms: %5.1f %%  (target: %s)\n", name,
           bench_samples_median(part), bench_samples_median(whole),
           100 * bench_samples_median(part) / bench_samples_median(whole), target);
}

static int run_rounds(const struct bench_options *o, struct bench_loop *l, struct cache_table *t,
                      struct error *err)
{
    int32_t *ids = xcalloc(TOKENS_CAP, sizeof *ids);
    int rc = 0;
    for (int64_t i = 0; i < o->rounds && rc == 0; i++) {
        if ((rc = measure_prefix(l, t, ids, err)) < 0) break;
        if ((rc = measure_turns(l, t, ids, err)) < 0) break;
        rc = measure_pace(l, t, ids, err);
    }
    free(ids);
    return rc;
}

int bench_cache(const struct bench_options *o)
{
    struct bench_loop loop;
    struct cache_table table = {0};
    struct error err = {0};
    struct engine_options options = {
        .model_path = o->model,
        .threads = (int)o->threads,
        .cpu_list = o->cpu_list,
        .cpu_isa = o->isa,
        .cache_max_entry_count = 0.5,
        .cache_max_tokens = 40960,
        .prefix_caching = true,
    };
    int rc = bench_loop_open(&loop, &options, &err);
    if (rc == 0) {
        printf("%s, %s; medians of %lld rounds\n", o->model, engine_info(loop.engine)->backend,
               (long long)o->rounds);
        rc = run_rounds(o, &loop, &table, &err);
    }
    bench_loop_close(&loop);
    if (rc < 0) {
        fprintf(stderr, "lm-bench: %s\n", err.text);
        return 1;
    }
    print_ratio("first token, same 1,000 tokens", &table.prefix_found, &table.prefix_cold,
                "< 15 %");
    print_ratio("first token, turn 10 of 3,000", &table.turn_found, &table.turn_cold, "< 10 %");
    print_ratio("between tokens, beside a prompt", &table.beside, &table.alone, "<= 200 %");
    return 0;
}
