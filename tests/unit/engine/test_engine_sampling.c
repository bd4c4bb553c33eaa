/* What requests may ask of sampling, through the whole engine over the fake backend: the same
 * answers alone, among others, two steps deep and preempted. */
#include "engine/engine.h"

#include "engine/engine_internal.h"
#include "engine/sampler.h"
#include "shared/base/buf.h"
#include "shared/base/clock.h"
#include "shared/base/rng.h"
#include "tests/fakes/fake_backend.h"
#include "tests/test.h"

#include <sched.h>

#define CONTEXT  600
#define RUNS_MAX 32

static struct str fake_text(const void *arg, int32_t token, bool keep_special)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz";
    (void)arg;
    if (token == 62) return keep_special ? STR("<62>") : STR("");
    return (struct str){letters + token % 26, 1};
}

static const struct backend_ops *ops = &fake_backend_ops; // of the engines that a test opens

static struct engine *open_engine(int depth, int cache_max_tokens, bool prefix_caching)
{
    struct engine_parts parts = {.ops = ops,
                                 .params = &fake_params,
                                 .context_len = CONTEXT,
                                 .sampled_vocab = FAKE_VOCAB,
                                 .text = {fake_text, NULL}};
    struct engine_options o = {.pipeline_depth = depth,
                               .cache_max_tokens = cache_max_tokens,
                               .prefix_caching = prefix_caching,
                               .max_batch_size = 16,
                               .max_prefill_token_num = 100};
    struct engine *e = NULL;
    struct error err = {0};
    NEED(engine_open_parts(&o, &parts, &e, &err) == 0);
    return e;
}

/* One request, and what came of it. */
struct run {
    struct engine_request request;
    int32_t prompt[CONTEXT], tokens[CONTEXT];
    struct token_logprob logprobs[CONTEXT][LOGPROBS_MAX], scores[CONTEXT][LOGPROBS_MAX];
    int count, scored;
    struct buf text;
    struct engine_event last; // numbers only
    bool ended;
};

static struct run runs[RUNS_MAX];

static void init_run(struct run *r, int id, int prompt_count, struct sampling_params sampling)
{
    struct rng rng;
    rng_init(&rng, (uint64_t)id * 31);
    buf_deinit(&r->text);
    memset(r, 0, sizeof *r);
    buf_init(&r->text, BUF_MAX_INTERNAL);
    for (int i = 0; i < prompt_count; i++)
        r->prompt[i] = (int32_t)rng_below(&rng, FAKE_VOCAB);
    r->request = (struct engine_request){.id = (uint64_t)id + 1,
                                         .prompt = r->prompt,
                                         .prompt_count = (size_t)prompt_count,
                                         .sampling = sampling,
                                         .max_tokens = 40,
                                         .skip_special = true};
}

static void take(struct run *r, const struct engine_event *e)
{
    int n = r->request.sampling.logprobs;
    NEED(!r->ended && r->count + e->token_count <= CONTEXT);
    EXPECT((e->logprobs != NULL) == (n > 0 && e->token_count > 0));
    for (int i = 0; i < e->token_count; i++) {
        if (n > 0) memcpy(r->logprobs[r->count], e->logprobs + i * n, sizeof(*e->logprobs) * n);
        r->tokens[r->count++] = e->tokens[i];
    }
    for (int i = 0; i < e->prompt_logprob_count; i++)
        memcpy(r->scores[r->scored++], e->prompt_logprobs + i * n, sizeof(*e->logprobs) * n);
    buf_append(&r->text, e->text, e->text_len);
    r->last = *e;
    r->ended = e->kind != ENGINE_EVENT_TOKENS;
}

/* Submit all of them at once, and wait for their ends. */
static void run_all(struct engine *e, struct run *list, int count)
{
    struct error err;
    uint64_t deadline = clock_ms() + 20000;
    for (int i = 0; i < count; i++)
        NEED(engine_submit(e, &list[i].request, &err) == 0);
    fake_backend.is_held = false;
    for (int ended = 0; ended < count;) {
        struct engine_event event;
        NEED(clock_ms() < deadline);
        if (!engine_next_event(e, &event)) {
            sched_yield();
            continue;
        }
        int at = 0;
        while (list[at].request.id != event.id)
            at++;
        take(&list[at], &event);
        ended += list[at].ended;
        engine_event_deinit(&event);
    }
}

/* The fake's logits after these tokens. */
static void fake_logits_after(const int32_t *tokens, int count, float *out)
{
    uint64_t state = 0;
    for (int i = 0; i < count; i++)
        state = hash_mix(state ^ hash_mix((uint64_t)tokens[i] << 32 | (uint64_t)i));
    for (int j = 0; j < FAKE_VOCAB; j++)
        out[j] = (float)(hash_mix(state + (uint64_t)j) % 1000) / 100;
}

/* The answer by definition: the sampler over histories counted anew for every token. */
static void expect_sampled(const struct run *r)
{
    static int32_t all[2 * CONTEXT];
    struct sampler_scratch scratch = {0};
    int prompt_count = (int)r->request.prompt_count;
    memcpy(all, r->prompt, sizeof r->prompt);
    for (int i = 0; i < r->count; i++) {
        float logits[FAKE_VOCAB];
        struct token_logprob logprobs[LOGPROBS_MAX];
        struct token_history history = {0};
        token_history_add_prompt(&history, r->prompt, prompt_count);
        for (int k = 0; k < i; k++)
            token_history_add(&history, r->tokens[k]);
        struct sampler_input in = {
            .params = &r->request.sampling, .position = prompt_count + i, .history = &history};
        fake_logits_after(all, prompt_count + i, logits);
        EXPECT_INT(sampler_draw(&in, logits, FAKE_VOCAB, &scratch, logprobs), r->tokens[i]);
        EXPECT(memcmp(logprobs, r->logprobs[i],
                      (size_t)r->request.sampling.logprobs * sizeof *logprobs) == 0);
        all[prompt_count + i] = r->tokens[i];
        token_history_deinit(&history);
    }
    EXPECT_INT(r->count, r->request.max_tokens);
    sampler_scratch_deinit(&scratch);
}

static void expect_scored(const struct run *r)
{
    struct sampler_scratch scratch = {0};
    if (!r->request.prompt_logprobs) {
        EXPECT_INT(r->scored, 0);
        return;
    }
    EXPECT_INT(r->scored, (int)r->request.prompt_count - 1);
    for (int i = 0; i < r->scored; i++) {
        float logits[FAKE_VOCAB];
        struct token_logprob want[LOGPROBS_MAX];
        int count = r->request.sampling.logprobs;
        fake_logits_after(r->prompt, i + 1, logits);
        EXPECT(sampler_score(r->prompt[i + 1], logits, FAKE_VOCAB, &scratch, want, count) == 0);
        EXPECT(memcmp(want, r->scores[i], (size_t)count * sizeof *want) == 0);
    }
    sampler_scratch_deinit(&scratch);
}

static void init_mixed(struct run *list, int count)
{
    static const struct logit_bias bias[] = {{3, 2.5f}, {9, -100}, {17, -2}};
    static const int prompts[] = {1, 2, 33, 34, 100, 130, 7, 65, 200};
    for (int i = 0; i < count; i++) {
        struct sampling_params s = {.temperature = i % 3 ? 0.9f : 0,
                                    .top_p = i % 4 ? 0.95f : 1,
                                    .seed = (uint64_t)i / 4,
                                    .choice = (uint32_t)i % 4,
                                    .repetition_penalty = i % 2 ? 1.4f : 0,
                                    .presence_penalty = i % 5 ? 0 : 0.8f,
                                    .frequency_penalty = i % 3 ? 0 : 1.1f,
                                    .bias = bias,
                                    .bias_count = i % 4,
                                    .logprobs = i % 6};
        init_run(&list[i], i, prompts[i % 9], s);
        list[i].request.prompt_logprobs = i % 6 > 3;
        list[i].request.max_tokens = 110;
    }
}

static void test_nothing_depends_on_the_batch(void)
{
    static const struct {
        int depth, cache_max_tokens;
        bool prefix_caching;
        enum { HOST_DRAWS, BACKEND_DRAWS, BACKEND_IS_AHEAD } kind;
    } cases[] = {{1, 0, false, HOST_DRAWS},       {2, 0, false, HOST_DRAWS},
                 {1, 300, false, HOST_DRAWS},     {2, 300, false, HOST_DRAWS},
                 {1, 0, true, HOST_DRAWS},        {2, 300, true, HOST_DRAWS},
                 {1, 0, false, BACKEND_DRAWS},    {2, 300, true, BACKEND_DRAWS},
                 {2, 0, false, BACKEND_IS_AHEAD}, {2, 300, true, BACKEND_IS_AHEAD}};
    for (size_t k = 0; k < ARRAY_LEN(cases); k++) {
        ops = cases[k].kind == HOST_DRAWS      ? &fake_backend_ops
              : cases[k].kind == BACKEND_DRAWS ? fake_drawing_ops()
                                               : fake_ahead_ops();
        fake_backend.step_us = cases[k].kind == BACKEND_IS_AHEAD ? 300 : 0;
        struct engine *e =
            open_engine(cases[k].depth, cases[k].cache_max_tokens, cases[k].prefix_caching);
        struct engine_stats stats;
        int cached = 0;
        for (int round = 0; round < 2; round++) { // the second finds the first one's prompts
            init_mixed(runs, RUNS_MAX);
            run_all(e, runs, RUNS_MAX);
            for (int i = 0; i < RUNS_MAX; i++) {
                EXPECT_INT(runs[i].last.kind, ENGINE_EVENT_DONE);
                expect_sampled(&runs[i]);
                expect_scored(&runs[i]);
                cached += runs[i].last.cached_tokens;
                if (runs[i].request.prompt_logprobs) EXPECT_INT(runs[i].last.cached_tokens, 0);
            }
        }
        EXPECT((cached > 0) == cases[k].prefix_caching);
        engine_stats(e, &stats);
        EXPECT((stats.preemptions_total > 0) == (cases[k].cache_max_tokens > 0));
        EXPECT((stats.steps_ahead > 0) == (cases[k].kind == BACKEND_IS_AHEAD));
        engine_close(e);
    }
    fake_backend.step_us = 0;
    ops = &fake_backend_ops;
}

/* Backends are given each token of a bias once. */
static void test_bias_that_comes_twice(void)
{
    static const struct logit_bias bias[] = {{5, 40}, {3, 50}, {5, 40}};
    ops = fake_drawing_ops();
    struct engine *e = open_engine(2, 0, false);
    init_run(&runs[0], 0, 20, (struct sampling_params){.top_p = 1, .bias = bias, .bias_count = 3});
    run_all(e, runs, 1);
    for (int i = 0; i < runs[0].count; i++)
        EXPECT_INT(runs[0].tokens[i], 5);
    engine_close(e);
    ops = &fake_backend_ops;
}

/* Without a prefix cache, too, a group computes its prompt once. */
static void test_choices_differ(void)
{
    struct engine *e = open_engine(2, 0, false);
    for (int i = 0; i < 4; i++) {
        init_run(&runs[i], i, 20,
                 (struct sampling_params){
                     .temperature = 1, .top_p = 1, .seed = 5, .choice = (uint32_t)(i % 3)});
        memcpy(runs[i].prompt, runs[0].prompt, sizeof runs[0].prompt);
        runs[i].request.group = 7;
    }
    fake_backend.is_held = true; // the first one must not end before the last one comes
    run_all(e, runs, 4);
    EXPECT_INT(runs[0].last.cached_tokens, 0);
    for (int i = 1; i < 4; i++)
        EXPECT_INT(runs[i].last.cached_tokens, 19); // the last token's logits each computes itself
    size_t bytes = 40 * sizeof(int32_t);
    EXPECT(memcmp(runs[0].tokens, runs[1].tokens, bytes) != 0);
    EXPECT(memcmp(runs[1].tokens, runs[2].tokens, bytes) != 0);
    EXPECT(memcmp(runs[0].tokens, runs[3].tokens, bytes) == 0);
    engine_close(e);
}

/* Tokens of the text that is out: a stop string's own tokens never count, nor does a stop token. */
static void test_released_tokens(void)
{
    struct engine *e = open_engine(1, 0, false);
    struct sampling_params s = {.top_p = 1, .logprobs = 1};
    struct run *r = &runs[0];
    init_run(r, 0, 10, s);
    run_all(e, runs, 1);
    EXPECT_INT(r->last.released_tokens, 40);
    char text[64];
    int32_t tokens[40];
    NEED(r->text.len == 40 &&
         strchr(r->text.data, '<') == NULL); // no control token: one letter each
    memcpy(text, r->text.data, 40);
    memcpy(tokens, r->tokens, sizeof tokens);

    const char *stop = text + 20;
    size_t stop_len = 3;
    text[40] = 0;
    size_t first = 0;
    while (strncmp(text + first, stop, stop_len) != 0)
        first++;
    init_run(r, 0, 10, s);
    r->request.stop = &stop;
    r->request.stop_len = &stop_len;
    r->request.stop_count = 1;
    run_all(e, runs, 1);
    EXPECT_INT(r->last.completion_tokens, (int)(first + stop_len));
    EXPECT_INT(r->last.released_tokens, (int)first);
    EXPECT(r->text.len == first && r->last.finish == FINISH_STOP);

    int32_t stop_id = tokens[10];
    int earliest = 0;
    while (tokens[earliest] != stop_id)
        earliest++;
    init_run(r, 0, 10, s);
    r->request.stop_ids = &stop_id;
    r->request.stop_id_count = 1;
    run_all(e, runs, 1);
    EXPECT_INT(r->last.completion_tokens, earliest + 1);
    EXPECT_INT(r->last.released_tokens, earliest);
    engine_close(e);
}

/* Special tokens that whoever reads the text has to see, though others are skipped. */
static void test_shown_tokens(void)
{
    static const int32_t shown[] = {61, 62};
    static const struct logit_bias bias = {62, 100};
    struct engine *e = open_engine(1, 0, false);
    for (int i = 0; i < 3; i++) {
        init_run(&runs[i], i, 5,
                 (struct sampling_params){.top_p = 1, .bias = &bias, .bias_count = 1});
        runs[i].request.max_tokens = 3;
        runs[i].request.ignore_eos = true;
        runs[i].request.shown = shown;
        runs[i].request.shown_count = i;
    }
    run_all(e, runs, 3);
    EXPECT(runs[0].text.len == 0 && runs[1].text.len == 0);
    EXPECT(str_equal(buf_str(&runs[2].text), STR("<62><62><62>")));
    engine_close(e);
}

static void test_refusals(void)
{
    static const struct logit_bias unknown = {FAKE_VOCAB, 1}, steep = {1, 101}, none = {1, NAN};
    static const struct {
        struct sampling_params sampling;
        bool prompt_logprobs;
        const char *text;
    } cases[] = {
        {{.top_p = 1, .bias = &unknown, .bias_count = 1}, false, "not in the vocabulary"},
        {{.top_p = 1, .bias = &steep, .bias_count = 1}, false, "-100 to 100"},
        {{.top_p = 1, .bias = &none, .bias_count = 1}, false, "-100 to 100"},
        {{.top_p = 1, .bias = &none, .bias_count = -1}, false, "logit_bias"},
        {{.top_p = 1, .bias = &none, .bias_count = LOGIT_BIAS_MAX + 1}, false, "at most 4096"},
        {{.top_p = 1, .repetition_penalty = -1}, false, "repetition_penalty"},
        {{.top_p = 1, .repetition_penalty = NAN}, false, "repetition_penalty"},
        {{.top_p = 1, .presence_penalty = INFINITY}, false, "finite"},
        {{.top_p = 1, .frequency_penalty = NAN}, false, "finite"},
        {{.top_p = 1, .logprobs = LOGPROBS_MAX + 1}, false, "at most 21"},
        {{.top_p = 1, .logprobs = -1}, false, "at most 21"},
        {{.top_p = 1}, true, "prompt_logprobs"},
    };
    struct engine *e = open_engine(1, 0, false);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct error err = {0};
        init_run(&runs[0], 0, 5, cases[i].sampling);
        runs[0].request.prompt_logprobs = cases[i].prompt_logprobs;
        EXPECT_INT(engine_submit(e, &runs[0].request, &err), E_INVALID);
        EXPECT(strstr(err.text, cases[i].text));
    }
    engine_close(e);
}

int main(void)
{
    RUN(test_nothing_depends_on_the_batch);
    RUN(test_bias_that_comes_twice);
    RUN(test_choices_differ);
    RUN(test_released_tokens);
    RUN(test_shown_tokens);
    RUN(test_refusals);
    for (int i = 0; i < RUNS_MAX; i++)
        buf_deinit(&runs[i].text);
    return TEST_END();
}
