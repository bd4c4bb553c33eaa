/* The whole engine over a tiny model on several ranks of the CPU backend: the same answers, pages of all
 * ranks that come and go, and ranks that fail or hang. */
#include "engine/engine.h"

#include "engine/engine_internal.h"
#include "kernels/cpu/cpu_state.h"
#include "shared/base/clock.h"
#include "tests/kernels/tiny_runner.h"

#include <stdatomic.h>
#include <time.h>

#define CONTEXT 400
#define PROMPT  150
#define ANSWER  12
#define VOCAB   77

static struct tiny_model model;

/* ---- a backend with accidents ---- */

static struct backend_ops ops;      // the CPU's, with slots of ours
static atomic_int hang_at, fail_at; // gate_up and sync of rank 1 from that call on; 0: never
static atomic_int gate_ups, syncs;
static atomic_int load_hangs, load_fails; // ranks; 0: none (rank 0 is well)
static atomic_bool is_let_go;

static void sleep_ms(int ms)
{
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000L}, NULL);
}

static void gate_up(struct backend *b, int layer)
{
    if (b->rank == 1 && ++gate_ups == hang_at)
        while (!is_let_go)
            sleep_ms(1);
    cpu_gate_up(b, layer);
}

static int sync(struct backend *b, struct error *err)
{
    if (b->rank == 1 && ++syncs == fail_at)
        return error_set(err, E_DEVICE, "rank 1 fell off the bus");
    return backend_find("cpu")->sync(b, err);
}

static int load(struct backend *b, const struct model_params *params,
                const struct step_limits *limits, struct error *err)
{
    while (b->rank > 0 && b->rank == load_hangs && !is_let_go)
        sleep_ms(1);
    if (b->rank > 0 && b->rank == load_fails) return error_set(err, E_DEVICE, "no room");
    return backend_find("cpu")->load(b, params, limits, err);
}

/* Of the address sanitizer: what a lost rank writes to the stack of a function that has returned counts. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_stack_use_after_return=1";
}

/* ---- the engine ---- */

static struct str text_of(const void *arg, int32_t token, bool keep_special)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz";
    (void)arg;
    (void)keep_special;
    return (struct str){letters + token % 26, 1};
}

static struct engine *open_engine(struct engine_options o)
{
    struct engine_parts parts = {.ops = &ops,
                                 .params = &model.params,
                                 .context_len = CONTEXT,
                                 .sampled_vocab = VOCAB,
                                 .text = {text_of, NULL}};
    struct engine *e = NULL;
    struct error err = {0};
    gate_ups = syncs = hang_at = fail_at = 0;
    is_let_go = false;
    o.threads = o.tp;
    o.max_prefill_token_num = 64;
    o.max_batch_size = 4;
    if (engine_open_parts(&o, &parts, &e, &err) < 0) {
        printf("engine_open_parts: %s\n", err.text);
        NEED(0);
    }
    return e;
}

struct answer {
    int32_t tokens[ANSWER];
    int count, cached;
    enum engine_event_kind kind;
    char text[160];
};

static void submit(struct engine *e, uint64_t id, const int32_t *prompt, int count)
{
    struct engine_request r = {.id = id,
                               .prompt = prompt,
                               .prompt_count = (size_t)count,
                               .sampling = {.top_p = 1},
                               .max_tokens = ANSWER,
                               .ignore_eos = true,
                               .session = id};
    struct error err;
    NEED(engine_submit(e, &r, &err) == 0);
}

static struct answer wait_for(struct engine *e)
{
    struct answer a = {0};
    struct engine_event event;
    uint64_t deadline = clock_ms() + 60000;
    for (bool ended = false; !ended;) {
        NEED(clock_ms() < deadline);
        if (!engine_next_event(e, &event)) {
            sleep_ms(1);
            continue;
        }
        for (int i = 0; i < event.token_count; i++)
            a.tokens[a.count++] = event.tokens[i];
        ended = event.kind != ENGINE_EVENT_TOKENS;
        a.kind = event.kind;
        a.cached = event.cached_tokens;
        if (event.text) snprintf(a.text, sizeof a.text, "%s", event.text);
        engine_event_deinit(&event);
    }
    return a;
}

static void make_prompt(uint64_t seed, int32_t prompt[PROMPT])
{
    struct rng rng;
    rng_init(&rng, seed);
    for (int i = 0; i < PROMPT; i++)
        prompt[i] = (int32_t)rng_below(&rng, VOCAB);
}

/* Three conversations take turns in a pool that holds one and a half: their pages go to host memory and
 * come back. */
static void converse(int tp, int depth, struct answer answers[6])
{
    struct engine *e =
        open_engine((struct engine_options){.tp = tp,
                                            .prefix_caching = true,
                                            .pipeline_depth = depth,
                                            .session_pin_ratio = 1,
                                            .session_host_bytes = 1 << 26,
                                            .cache_max_tokens = 5 * KV_BLOCK_TOKENS});
    struct engine_stats stats;
    for (uint64_t i = 0; i < 6; i++) {
        int32_t prompt[PROMPT];
        make_prompt(i % 3, prompt);
        submit(e, 1 + i % 3, prompt, i < 3 ? PROMPT - 20 : PROMPT);
        answers[i] = wait_for(e);
        EXPECT_INT(answers[i].kind, ENGINE_EVENT_DONE);
        EXPECT_INT(answers[i].count, ANSWER);
        if (i >= 3) EXPECT_INT(answers[i].cached, PROMPT - 20);
    }
    engine_stats(e, &stats);
    EXPECT(stats.kv_host_bytes > 0);
    engine_close(e);
}

static void test_ranks_answer_alike(void)
{
    struct answer want[6], got[6];
    converse(1, 1, want);
    for (int tp = 2; tp <= 4; tp++) {
        for (int depth = 1; depth <= 2; depth++) {
            converse(tp, depth, got);
            for (int i = 0; i < 6; i++)
                EXPECT(!memcmp(got[i].tokens, want[i].tokens, sizeof want[i].tokens));
        }
    }
}

static void test_memory_is_counted_over_ranks(void)
{
    struct engine *e = open_engine((struct engine_options){.tp = 1});
    struct engine_info one = *engine_info(e);
    EXPECT_INT(one.ranks, 1);
    EXPECT_INT(one.rank[0].weights_bytes, one.weights_bytes);
    engine_close(e);
    e = open_engine((struct engine_options){.tp = 2});
    const struct engine_info *two = engine_info(e);
    EXPECT_INT(two->ranks, 2);
    EXPECT(strstr(two->backend, "2 ranks of cpu"));
    EXPECT_INT(two->kv_block_bytes, one.kv_block_bytes); // 6 heads of 3: two and one
    EXPECT_INT(two->rank[0].kv_block_bytes, 2 * two->rank[1].kv_block_bytes);
    EXPECT_INT(two->rank[0].weights_bytes + two->rank[1].weights_bytes, two->weights_bytes);
    EXPECT(two->kv_blocks > 0);
    engine_close(e);
}

static void test_refusals(void)
{
    static const struct {
        int tp;
        int code;
        const char *text;
    } cases[] = {{7, E_UNSUPPORTED, "6 heads that share 3 are too few for 7 ranks"},
                 {65, E_INVALID, "tp is 65"},
                 {-1, E_INVALID, "tp is -1"}};
    struct engine_parts parts = {
        .ops = &ops, .params = &model.params, .context_len = CONTEXT, .sampled_vocab = VOCAB};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct engine_options o = {.tp = cases[i].tp};
        struct engine *e;
        struct error err = {0};
        EXPECT_INT(engine_open_parts(&o, &parts, &e, &err), cases[i].code);
        EXPECT(strstr(err.text, cases[i].text));
    }
    ops.group_create = NULL; // a backend of one rank
    struct engine_options o = {.tp = 2};
    struct engine *e;
    struct error err = {0};
    EXPECT_INT(engine_open_parts(&o, &parts, &e, &err), E_UNSUPPORTED);
    EXPECT(strstr(err.text, "the cpu backend runs one rank, not 2"));
    ops.group_create = backend_find("cpu")->group_create;
}

static void expect_failed(struct engine *e, const char *text)
{
    struct answer a = wait_for(e);
    struct engine_stats stats;
    struct error err;
    int32_t prompt[PROMPT];
    EXPECT_INT(a.kind, ENGINE_EVENT_FAILED);
    if (!strstr(a.text, text)) printf("'%s'\n", a.text);
    EXPECT(strstr(a.text, text));
    for (int i = 0; i < 1000; i++) {
        engine_stats(e, &stats);
        if (stats.failed) break;
        sleep_ms(1);
    }
    EXPECT(stats.failed);
    make_prompt(9, prompt);
    struct engine_request r = {.id = 9,
                               .prompt = prompt,
                               .prompt_count = PROMPT,
                               .sampling = {.top_p = 1},
                               .max_tokens = 5};
    EXPECT_INT(engine_submit(e, &r, &err), E_CLOSED);
}

/* One rank's device fails: the other doesn't wait for it, and everything is freed. */
static void test_a_failing_rank_fails_the_engine(void)
{
    for (int depth = 1; depth <= 2; depth++) {
        struct engine *e = open_engine((struct engine_options){.tp = 3, .pipeline_depth = depth});
        int32_t prompt[PROMPT];
        make_prompt(5, prompt);
        fail_at = syncs + 6;
        submit(e, 1, prompt, PROMPT);
        expect_failed(e, "rank 1 fell off the bus");
        engine_close(e);
    }
}

static int open_code(int tp_timeout_ms, int hang, struct engine **e, struct error *err)
{
    struct engine_parts parts = {
        .ops = &ops, .params = &model.params, .context_len = CONTEXT, .sampled_vocab = VOCAB};
    struct engine_options o = {.tp = 3, .threads = 3, .tp_timeout_ms = tp_timeout_ms};
    gate_ups = syncs = fail_at = 0;
    hang_at = hang;
    return engine_open_parts(&o, &parts, e, err);
}

static void test_a_rank_that_can_not_load(void)
{
    struct engine *e;
    struct error err = {0};
    load_fails = 2;
    EXPECT_INT(open_code(0, 0, &e, &err), E_DEVICE);
    EXPECT_STR(err.text, "rank 2: no room");
    EXPECT(!e);
    load_fails = 0;
}

/* The reason is told in time, and what the lost rank reads stays. */
static void test_a_rank_that_hangs_while_another_can_not_load(void)
{
    static struct engine *e;
    struct error err = {0};
    is_let_go = false;
    load_fails = 2;
    load_hangs = 1;
    EXPECT_INT(open_code(100, 0, &e, &err), E_DEVICE);
    EXPECT_STR(err.text, "rank 2: no room");
    EXPECT(e);
    load_fails = load_hangs = 0;
    is_let_go = true;
    sleep_ms(100);
}

/* The batch of the self-test is one that a lost rank can reach, too. */
static void test_a_rank_that_hangs_in_the_self_test(void)
{
    static struct engine *e;
    struct error err = {0};
    is_let_go = false;
    EXPECT_INT(open_code(100, 1, &e, &err), E_DEVICE);
    EXPECT(!strncmp(err.text, "self-test failed", 16));
    EXPECT(e);
    hang_at = 0;
    is_let_go = true;
    sleep_ms(200);
}

/* One rank doesn't come back from a stage: the others say so in time, the engine fails and can be closed,
 * and what the lost rank may still touch stays. */
static void test_a_hanging_rank_fails_the_engine(void)
{
    static struct engine *e; // kept, as its memory is
    e = open_engine((struct engine_options){.tp = 3, .tp_timeout_ms = 100, .pipeline_depth = 2});
    int32_t prompt[PROMPT];
    make_prompt(5, prompt);
    hang_at = gate_ups + 5;
    submit(e, 1, prompt, PROMPT);
    expect_failed(e, "rank 1 did not answer the other ranks for 0.1 s");
    engine_close(e);
    is_let_go = true; // it comes back into memory that is there
    sleep_ms(100);
}

int main(void)
{
    static const enum dtype types[] = {DTYPE_Q8_0, DTYPE_F16, DTYPE_Q4_0};
    struct rng rng;
    ops = *backend_find("cpu");
    ops.gate_up = gate_up;
    ops.sync = sync;
    ops.load = load;
    rng_init(&rng, 1);
    model.params = scalars(64, 6, 3, 32, 96, VOCAB);
    tiny_fill(&model, &rng, types, 3, true);
    RUN(test_ranks_answer_alike);
    RUN(test_memory_is_counted_over_ranks);
    RUN(test_refusals);
    RUN(test_a_rank_that_can_not_load);
    RUN(test_a_rank_that_hangs_while_another_can_not_load);
    RUN(test_a_rank_that_hangs_in_the_self_test);
    RUN(test_a_failing_rank_fails_the_engine);
    RUN(test_a_hanging_rank_fails_the_engine);
    tiny_free(&model);
    return TEST_END();
}
