/* An answer that began elsewhere goes on as if it had not been interrupted: whole answers over the
 * fake backend, each resumed behind every one of its tokens. */
#include "engine/engine.h"

#include "engine/engine_internal.h"
#include "shared/base/buf.h"
#include "shared/base/clock.h"
#include "shared/base/rng.h"
#include "tests/fakes/fake_backend.h"
#include "tests/test.h"

#include <sched.h>

#define CONTEXT 200
#define STOP_ID 5

/* Letters, halves of an emoji, and a special token. */
static struct str fake_text(const void *arg, int32_t token, bool keep_special)
{
    static const char letters[] = "abcdefgh";
    (void)arg;
    if (token == 62) return keep_special ? STR("<62>") : STR("");
    if (token % 9 == 0) return STR("\xf0\x9f");
    if (token % 9 == 1) return STR("\x98\x80");
    return (struct str){letters + token % 8, 1 + token % 2};
}

static struct engine *open_engine(int depth)
{
    static const int32_t stops[] = {STOP_ID};
    struct engine_parts parts = {.ops = depth > 1 ? fake_ahead_ops() : &fake_backend_ops,
                                 .params = &fake_params,
                                 .context_len = CONTEXT,
                                 .sampled_vocab = FAKE_VOCAB,
                                 .stop_ids = stops,
                                 .stop_id_count = 1,
                                 .text = {fake_text, NULL}};
    struct engine_options o = {.pipeline_depth = depth,
                               .cache_max_tokens = 320, // some are preempted
                               .max_batch_size = 4,
                               .max_prefill_token_num = 50};
    struct engine *e = NULL;
    struct error err = {0};
    NEED(engine_open_parts(&o, &parts, &e, &err) == 0);
    return e;
}

struct answer_run {
    struct engine_request request;
    int32_t prompt[CONTEXT], tokens[CONTEXT];
    struct token_logprob logprobs[CONTEXT][2];
    int count;
    struct buf text;
    struct engine_event last; // numbers only
    bool ended;
};

static void take(struct answer_run *r, const struct engine_event *e)
{
    int n = r->request.sampling.logprobs;
    NEED(!r->ended && r->count + e->token_count <= CONTEXT);
    for (int i = 0; i < e->token_count; i++) {
        if (n > 0 && r->count >= e->resumed_tokens)
            memcpy(r->logprobs[r->count], e->logprobs + i * n, sizeof(*e->logprobs) * (size_t)n);
        r->tokens[r->count++] = e->tokens[i];
    }
    buf_append(&r->text, e->text, e->text_len);
    r->last = *e;
    r->ended = e->kind != ENGINE_EVENT_TOKENS;
}

static void run_all(struct engine *e, struct answer_run *list, int count)
{
    struct error err;
    uint64_t deadline = clock_ms() + 20000;
    for (int i = 0; i < count; i++) {
        list[i].request.prompt = list[i].prompt;
        list[i].request.id = (uint64_t)i + 1;
        NEED(engine_submit(e, &list[i].request, &err) == 0);
    }
    for (int ended = 0; ended < count;) {
        struct engine_event event;
        NEED(clock_ms() < deadline);
        if (!engine_next_event(e, &event)) {
            sched_yield();
            continue;
        }
        struct answer_run *r = &list[event.id - 1];
        take(r, &event);
        ended += r->ended;
        engine_event_deinit(&event);
    }
}

static const char *const stop_strings[] = {"bcbc", "\xf0\x9f\x98\x80\x61", "fgfga"};
static const size_t stop_lens[] = {4, 5, 5};

static void init_run(struct answer_run *r, int id)
{
    static const int32_t stop_ids[] = {33};
    struct rng rng;
    rng_init(&rng, (uint64_t)id * 17 + 3);
    *r = (struct answer_run){0};
    buf_init(&r->text, BUF_MAX_INTERNAL);
    int prompt_count = 1 + (int)rng_below(&rng, 60);
    for (int i = 0; i < prompt_count; i++)
        r->prompt[i] = (int32_t)rng_below(&rng, FAKE_VOCAB);
    r->request = (struct engine_request){
        .prompt_count = (size_t)prompt_count,
        .sampling = {.temperature = id % 3 ? 1.5f : 0,
                     .top_p = 1,
                     .seed = (uint64_t)id,
                     .repetition_penalty = id % 4 == 1 ? 1.3f : 0,
                     .frequency_penalty = id % 4 == 2 ? 0.7f : 0,
                     .logprobs = id % 2 ? 2 : 0},
        .max_tokens = id % 5 ? 60 : 0,
        .min_tokens = id % 6 == 2 ? 25 : 0,
        .ignore_eos = id % 7 == 3,
        .skip_special = id % 2,
        .stop = stop_strings,
        .stop_len = stop_lens,
        .stop_count = id % 4 ? 3 : 0,
        .stop_ids = stop_ids,
        .stop_id_count = id % 8 == 5,
    };
}

static void expect_same(const struct answer_run *got, const struct answer_run *want, int resumed)
{
    const struct engine_event *e = &got->last;
    int n = want->request.sampling.logprobs;
    EXPECT_INT(e->kind, ENGINE_EVENT_DONE);
    EXPECT_INT(e->finish, want->last.finish);
    EXPECT_INT(e->completion_tokens, want->last.completion_tokens);
    EXPECT_INT(e->released_tokens, want->last.released_tokens);
    EXPECT(e->cached_tokens <= (int)want->request.prompt_count);
    EXPECT(n > 0 ? e->resumed_tokens <= resumed : e->resumed_tokens == resumed);
    EXPECT(got->count == want->count &&
           memcmp(got->tokens, want->tokens, sizeof(int32_t) * (size_t)want->count) == 0);
    EXPECT(str_equal(buf_str(&got->text), buf_str(&want->text)));
    for (int i = e->resumed_tokens; i < want->count; i++)
        EXPECT(memcmp(got->logprobs[i], want->logprobs[i], sizeof *want->logprobs * (n > 0)) == 0);
}

#define RUNS 24

static struct answer_run whole[RUNS], resumed[CONTEXT];

/* Run i again from behind each of its tokens, four at a time, which don't all fit. Returns how many had
 * tokens drawn anew. */
static int resume_everywhere(struct engine *e, int i)
{
    int count = whole[i].count, redrawn = 0;
    for (int k = 0; k <= count; k++) {
        init_run(&resumed[k], i);
        resumed[k].request.resumed = whole[i].tokens;
        resumed[k].request.resumed_count = (size_t)k;
    }
    for (int first = 0; first <= count; first += 4)
        run_all(e, resumed + first, count + 1 - first < 4 ? count + 1 - first : 4);
    for (int k = 0; k <= count; k++) {
        expect_same(&resumed[k], &whole[i], k);
        redrawn += resumed[k].last.resumed_tokens < k;
        buf_deinit(&resumed[k].text);
    }
    return redrawn;
}

static bool has_preempted(struct engine *e)
{
    struct engine_stats stats;
    engine_stats(e, &stats);
    return stats.preemptions_total > 0;
}

static void test_behind_every_token(void)
{
    for (int depth = 1; depth <= 2; depth++) {
        struct engine *e = open_engine(depth);
        int stopped = 0, redrawn = 0;
        for (int i = 0; i < RUNS; i++) {
            init_run(&whole[i], i);
            run_all(e, &whole[i], 1);
            stopped += whole[i].last.finish == FINISH_STOP;
            redrawn += resume_everywhere(e, i);
        }
        EXPECT(stopped > 3 && stopped < RUNS - 3 && redrawn > 10);
        /* On a busy machine the four of a round may come one after the other. */
        for (int i = 0; i < 20 * RUNS && !has_preempted(e); i++)
            (void)resume_everywhere(e, i % RUNS);
        EXPECT(has_preempted(e));
        for (int i = 0; i < RUNS; i++)
            buf_deinit(&whole[i].text);
        engine_close(e);
    }
}

/* The last event leaves a moment before the counters that go with it. */
static void settled_stats(struct engine *e, struct engine_stats *stats)
{
    uint64_t deadline = clock_ms() + 20000;
    do {
        NEED(clock_ms() < deadline);
        engine_stats(e, stats);
    } while (stats->running + stats->waiting > 0);
}

/* A whole answer is only told again: no step is made for it. */
static void test_nothing_is_computed(void)
{
    static struct answer_run first, again;
    struct engine *e = open_engine(1);
    struct engine_stats before, after;
    init_run(&first, 2);
    run_all(e, &first, 1);
    settled_stats(e, &before);
    init_run(&again, 2);
    again.request.resumed = first.tokens;
    again.request.resumed_count = (size_t)first.count;
    run_all(e, &again, 1);
    settled_stats(e, &after);
    expect_same(&again, &first, first.count);
    EXPECT_INT(after.steps, before.steps);
    EXPECT_INT(after.generated_tokens_total, before.generated_tokens_total);
    buf_deinit(&first.text);
    buf_deinit(&again.text);
    engine_close(e);
}

static int submit_resumed(struct engine *e, struct answer_run *r, const int32_t *ids, size_t count,
                          struct error *err)
{
    r->request.prompt = r->prompt;
    r->request.id = 1;
    r->request.resumed = ids;
    r->request.resumed_count = count;
    return engine_submit(e, &r->request, err);
}

static void test_refused(void)
{
    static struct answer_run r;
    static int32_t ids[CONTEXT];
    struct engine *e = open_engine(1);
    struct error err;
    init_run(&r, 1);
    ids[0] = FAKE_VOCAB;
    EXPECT_INT(submit_resumed(e, &r, ids, 1, &err), E_INVALID);
    EXPECT_STR(err.text, "resumed token 64 at 0 is not in the vocabulary of 64 tokens");
    ids[0] = -1;
    EXPECT_INT(submit_resumed(e, &r, ids, 1, &err), E_INVALID);
    ids[0] = 2;
    EXPECT_INT(submit_resumed(e, &r, ids, 61, &err), E_INVALID);
    EXPECT_STR(err.text, "61 resumed tokens, and the answer may have 60");
    r.request.prompt_logprobs = true;
    EXPECT_INT(submit_resumed(e, &r, ids, 1, &err), E_INVALID);
    r.request.prompt_logprobs = false;
    ids[0] = STOP_ID; // the answer would have ended here
    r.request.resumed = ids;
    r.request.resumed_count = 2;
    run_all(e, &r, 1);
    EXPECT_INT(r.last.kind, ENGINE_EVENT_FAILED);
    EXPECT_INT(r.last.error_code, E_INVALID);
    buf_deinit(&r.text);
    engine_close(e);
}

int main(void)
{
    RUN(test_behind_every_token);
    RUN(test_nothing_is_computed);
    RUN(test_refused);
    return TEST_END();
}
