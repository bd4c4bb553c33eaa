/* bench_engine.c - prefill, batch-1 decode and parallel decode of the engine alone (no HTTP), in
 * turns with llama.cpp's tools on the same file and thread count. Prompts are random tokens, new
 * ones for every request, so no cache can help. Definitions follow the peer's: prefill   tokens of
 * the prompt / time from submit to the first token decode    one sequence from an empty context,
 * tokens after the first / time between them batch     aggregate rate of B sequences of 128 prompt
 * tokens, from the moment all decode */
#include <stdio.h>
#include <stdlib.h>

#include "tests/bench/bench.h"
#include "tests/bench/bench_loop.h"

#include "shared/base/check.h"
#include "shared/base/clock.h"

#define PEER_BATCH_PROMPT 128

static int submit(struct bench_loop *s, int prompt, int generate, struct error *err)
{
    int32_t *ids = xmalloc(sizeof *ids * (size_t)prompt);
    bench_loop_tokens(s, ids, prompt);
    int rc = bench_loop_submit(s, ids, prompt, generate, err);
    free(ids);
    return rc;
}

/* Several sequences begin one after the other, as prefill goes beside those that run: each gets so
 * many more tokens that all of them still run when `generate` of each are counted. */
static int tokens_asked(int count, int prompt, int generate)
{
    return count > 1 ? generate + count * prompt : generate;
}

/* Submit `count` requests and follow them to the end. *decode_rate: aggregate tokens/s from the
 * moment every request has its first token, over `generate` tokens of each (or until the first one
 * ends); *first_s: submit to the first token. */
static int measure(struct bench_loop *s, int count, int prompt, int generate, double *first_s,
                   double *decode_rate, struct error *err)
{
    uint64_t start = clock_ns(), all_started = 0, last = 0;
    int started = 0, done = 0;
    int64_t tokens = 0;
    bool counting = true;
    bool *seen = xcalloc((size_t)count, sizeof *seen);
    uint64_t first_id = s->next_id + 1;
    int rc = 0;

    *first_s = *decode_rate = 0;
    for (int i = 0; i < count && rc == 0; i++)
        rc = submit(s, prompt, tokens_asked(count, prompt, generate), err);
    while (rc == 0 && done < count) {
        struct engine_event event;
        bench_loop_wait(s, &event);
        uint64_t now = clock_ns();
        size_t index = (size_t)(event.id - first_id);
        if (event.kind == ENGINE_EVENT_FAILED) {
            rc = error_set(err, event.error_code, "the engine failed a request: %.*s",
                           (int)event.text_len, event.text ? event.text : "");
        }
        if (event.token_count > 0 && all_started && counting) {
            tokens += event.token_count;
            last = now;
        }
        if (event.token_count > 0 && !seen[index]) {
            seen[index] = true;
            if (started++ == 0) *first_s = (double)(now - start) * 1e-9;
            if (started == count) all_started = now;
        }
        bool ended = event.kind == ENGINE_EVENT_DONE;
        if (counting && (ended || tokens >= (int64_t)count * generate)) {
            counting = false;
            for (int i = 0; i < count; i++)
                engine_cancel(s->engine, first_id + (uint64_t)i);
        }
        if (ended) done++;
        engine_event_deinit(&event);
    }
    free(seen);
    if (rc == 0 && generate > 1 && tokens == 0)
        rc = error_set(err, E_INVALID, "no moment in which all %d sequences decode", count);
    if (tokens > 0) *decode_rate = (double)tokens / ((double)(last - all_started) * 1e-9);
    return rc;
}

struct bench_table {
    struct bench_samples prefill, decode, batch, peer_prefill, peer_decode, peer_batch;
};

static int round_ours(const struct bench_options *o, struct bench_loop *s, struct bench_table *t,
                      struct error *err)
{
    double first = 0, rate = 0;

    int rc = measure(s, 1, (int)o->prefill, 1, &first, &rate, err);
    if (rc < 0) return rc;
    bench_samples_add(&t->prefill, (double)o->prefill / first);
    rc = measure(s, 1, 1, (int)o->decode, &first, &rate, err);
    if (rc < 0) return rc;
    bench_samples_add(&t->decode, rate);
    rc = measure(s, (int)o->batch, PEER_BATCH_PROMPT, (int)o->decode, &first, &rate, err);
    if (rc < 0) return rc;
    bench_samples_add(&t->batch, rate);
    return 0;
}

static int round_peer(const struct bench_options *o, struct bench_table *t, struct error *err)
{
    double rate = 0;
    int rc = 0;

    if (o->peer) {
        rc = bench_peer_prefill(o, &rate, err);
        if (rc < 0) return rc;
        bench_samples_add(&t->peer_prefill, rate);
        rc = bench_peer_decode(o, &rate, err);
        if (rc < 0) return rc;
        bench_samples_add(&t->peer_decode, rate);
    }
    if (o->peer_batched) {
        rc = bench_peer_batch(o, &rate, err);
        if (rc < 0) return rc;
        bench_samples_add(&t->peer_batch, rate);
    }
    return rc;
}

static void print_table(const struct bench_options *o, const struct bench_table *t)
{
    char name[64];

    snprintf(name, sizeof name, "prefill %lld", (long long)o->prefill);
    bench_print_row(name, "tok/s", &t->prefill, &t->peer_prefill);
    bench_print_row("decode, 1 sequence", "tok/s", &t->decode, &t->peer_decode);
    snprintf(name, sizeof name, "decode, %lld sequences", (long long)o->batch);
    bench_print_row(name, "tok/s", &t->batch, &t->peer_batch);
}

int bench_engine(const struct bench_options *o)
{
    struct bench_loop state;
    struct engine_options options = {
        .model_path = o->model,
        .backend = "cpu",
        .threads = (int)o->threads,
        .cpu_list = o->cpu_list,
        .cpu_isa = o->isa,
        .cache_max_entry_count = 0.5,
        .max_batch_size = (int)o->batch,
        .max_prefill_token_num = 512,
        .queue_max = (int)o->batch + 1,
        .prefill_pace = ENGINE_PACE_NONE, // all start together, as with the peer
    };
    struct bench_table table = {0};
    struct error err = {0};

    int rc = bench_loop_open(&state, &options, &err);
    if (rc < 0) {
        fprintf(stderr, "lm-bench: %s\n", err.text);
        return 1;
    }
    printf("%s, %s; median of %lld rounds (lowest..highest)\n", o->model,
           engine_info(state.engine)->backend, (long long)o->rounds);
    for (int64_t i = 0; i < o->rounds && rc == 0; i++) {
        rc = round_ours(o, &state, &table, &err);
        if (rc == 0) rc = round_peer(o, &table, &err);
    }
    bench_loop_close(&state);
    if (rc < 0) {
        fprintf(stderr, "lm-bench: %s\n", err.text);
        return 1;
    }
    print_table(o, &table);
    return 0;
}
