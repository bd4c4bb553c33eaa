/* The default model through the whole engine: a request gives the same tokens alone and among 16
 * others, whatever the chunks of its prefill, the steps in flight, or preemptions, and whether its
 * prompt was computed, found in the prefix cache or brought back from host memory. */
#include "engine/engine.h"
#include "engine/tokenizer.h"
#include "shared/base/buf.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "tests/golden/fixtures.h"

#include <pthread.h>

#define CLIENTS     17
#define TOKENS      40
#define TOKENS_LONG 150
#define PROMPT_MAX  600

static struct json *reference;

struct client {
    int32_t prompt[PROMPT_MAX];
    int prompt_count;
    int32_t tokens[256];
    int token_count;
    struct buf text;
    struct engine_event last; // numbers only
    bool ended;
};

static struct client clients[CLIENTS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t woken = PTHREAD_COND_INITIALIZER;
static int wakes;

static void on_events(void *arg)
{
    (void)arg;
    pthread_mutex_lock(&lock);
    wakes++;
    pthread_cond_signal(&woken);
    pthread_mutex_unlock(&lock);
}

static struct engine *open_engine(struct engine_options o)
{
    struct engine *e;
    struct error err = {0};
    uint64_t begun = clock_ms();
    o.model_path = fixture_model();
    o.on_events = on_events;
    if (o.cache_max_tokens == 0) o.cache_max_tokens = 16384;
    if (engine_open(&o, &e, &err) < 0) {
        printf("engine_open: %s\n", err.text);
        exit(1);
    }
    printf("  %s, ready after %d ms\n", engine_info(e)->backend, (int)(clock_ms() - begun));
    return e;
}

static void take_event(struct engine_event *event)
{
    struct client *c = &clients[event->id - 1];
    NEED(event->id >= 1 && event->id <= CLIENTS && !c->ended);
    NEED(c->token_count + event->token_count <= (int)ARRAY_LEN(c->tokens));
    for (int i = 0; i < event->token_count; i++)
        c->tokens[c->token_count++] = event->tokens[i];
    buf_append(&c->text, event->text, event->text_len);
    c->ended = event->kind != ENGINE_EVENT_TOKENS;
    c->last = *event;
    c->last.tokens = NULL;
    c->last.text = NULL;
    engine_event_deinit(event);
}

static void wait_for(struct engine *e, int first, int count)
{
    for (;;) {
        struct engine_event event;
        int ended = 0;
        while (engine_next_event(e, &event))
            take_event(&event);
        for (int i = first; i < first + count; i++)
            ended += clients[i].ended;
        if (ended == count) return;
        pthread_mutex_lock(&lock);
        while (wakes == 0)
            pthread_cond_wait(&woken, &lock);
        wakes = 0;
        pthread_mutex_unlock(&lock);
    }
}

static void reset(void)
{
    for (int i = 0; i < CLIENTS; i++) {
        buf_deinit(&clients[i].text);
        clients[i].token_count = 0;
        clients[i].ended = false;
        buf_init(&clients[i].text, BUF_MAX_INTERNAL);
    }
}

static void submit(struct engine *e, int index, int max_tokens)
{
    struct client *c = &clients[index];
    struct error err;
    struct engine_request r = {.id = (uint64_t)index + 1,
                               .prompt = c->prompt,
                               .prompt_count = (size_t)c->prompt_count,
                               .sampling = {.top_p = 1},
                               .max_tokens = max_tokens,
                               .session = (uint64_t)index + 1,
                               .ignore_eos = max_tokens > TOKENS, // a long run is to be long
                               .skip_special = true};
    if (index % 2)
        r.sampling = (struct sampling_params){.temperature = 0.8f,
                                              .top_p = 0.95f,
                                              .min_p = 0.01f,
                                              .top_k = 50,
                                              .seed = (uint64_t)index};
    NEED(engine_submit(e, &r, &err) == 0);
}

/* The prompts of the fixtures, and one text repeated, so that lengths differ widely. */
static void load_prompts(void)
{
    int n = 0;
    static const char *const lists[] = {"conversations", "completions"};
    for (size_t l = 0; l < ARRAY_LEN(lists); l++)
        for (const struct json *c = json_first(json_get(reference, lists[l])); c;
             c = json_next(c), n++)
            for (const struct json *id = json_first(json_get(c, "ids")); id; id = json_next(id))
                if (clients[n].prompt_count < PROMPT_MAX)
                    clients[n].prompt[clients[n].prompt_count++] = (int32_t)json_number(id);
    for (int long_one = n; long_one < CLIENTS; long_one++) {
        struct client *c = &clients[long_one];
        c->prompt_count = 100 + 97 * (long_one - n);
        for (int i = 0; i < c->prompt_count; i++)
            c->prompt[i] = clients[long_one % n].prompt[i % clients[long_one % n].prompt_count];
    }
    NEED(n == 13);
}

static void check_text(const struct engine *e, const struct client *c)
{
    struct buf want;
    buf_init(&want, BUF_MAX_INTERNAL);
    int shown = c->token_count - (c->last.finish == FINISH_STOP); // a closing token isn't shown
    tokenizer_decode(engine_tokenizer(e), c->tokens, (size_t)shown, false, &want);
    EXPECT(str_equal(buf_str(&want), buf_str(&c->text)));
    EXPECT(c->last.finish == FINISH_LENGTH || c->last.finish == FINISH_STOP);
    EXPECT_INT(c->last.completion_tokens, c->token_count);
    EXPECT_INT(c->last.prompt_tokens, c->prompt_count);
    buf_deinit(&want);
}

static int32_t expected[CLIENTS][TOKENS_LONG];
static int expected_count[CLIENTS];

/* The first `count` clients at once. Returns preemptions. */
static uint64_t run_together(struct engine_options options, int count, int max_tokens)
{
    struct engine_stats stats;
    struct engine *e = open_engine(options);
    reset();
    for (int i = 0; i < count; i++)
        submit(e, (i * 5) % count, max_tokens);
    wait_for(e, 0, count);
    for (int i = 0; i < count; i++)
        check_text(e, &clients[i]);
    engine_stats(e, &stats);
    printf("  %llu steps, %llu preemptions, prefill %.0f tokens/s, step %.1f ms\n",
           (unsigned long long)stats.steps, (unsigned long long)stats.preemptions_total,
           stats.prefill_tokens_per_s, 1e3 * stats.inter_token_s);
    engine_close(e);
    return stats.preemptions_total;
}

static void keep_tokens(int count)
{
    for (int i = 0; i < count; i++) {
        expected_count[i] = clients[i].token_count;
        memcpy(expected[i], clients[i].tokens, sizeof expected[i]);
    }
}

static void expect_same_tokens(int count)
{
    for (int i = 0; i < count; i++) {
        EXPECT_INT(clients[i].token_count, expected_count[i]);
        EXPECT(memcmp(clients[i].tokens, expected[i],
                      sizeof(int32_t) * (size_t)expected_count[i]) == 0);
    }
}

/* Each by itself: what all else is compared with. The greedy ones agree with the reference as far
 * as its margins are clear. */
static void test_alone(void)
{
    struct engine *e = open_engine((struct engine_options){.max_prefill_token_num = 512});
    reset();
    for (int i = 0; i < CLIENTS; i++) {
        submit(e, i, TOKENS);
        wait_for(e, i, 1);
        check_text(e, &clients[i]);
    }
    keep_tokens(CLIENTS);
    const struct json *c = json_first(json_get(reference, "conversations"));
    const struct json *want = json_first(json_get(c, "greedy"));
    const struct json *margin = json_first(json_get(c, "margin"));
    for (int i = 0; json_number(margin) >= 0.35; i++) {
        EXPECT_INT(clients[0].tokens[i], json_number(want));
        want = json_next(want);
        margin = json_next(margin);
    }
    engine_close(e);
}

static void test_among_others(void)
{
    run_together((struct engine_options){.max_prefill_token_num = 512}, CLIENTS, TOKENS);
    expect_same_tokens(CLIENTS);
}

static void test_small_chunks_two_in_flight(void)
{
    run_together((struct engine_options){.max_prefill_token_num = 37, .pipeline_depth = 2}, CLIENTS,
                 TOKENS);
    expect_same_tokens(CLIENTS);
}

/* All at once, then once more: the second time all but the last token of each prompt is found. */
static void test_from_the_prefix_cache(void)
{
    struct engine *e =
        open_engine((struct engine_options){.prefix_caching = true, .max_prefill_token_num = 300});
    for (int round = 0; round < 2; round++) {
        reset();
        for (int i = 0; i < CLIENTS; i++)
            submit(e, i, TOKENS);
        wait_for(e, 0, CLIENTS);
        expect_same_tokens(CLIENTS);
        for (int i = 0; round == 1 && i < CLIENTS; i++)
            EXPECT_INT(clients[i].last.cached_tokens, clients[i].prompt_count - 1);
    }
    engine_close(e);
}

/* A pool for one conversation at a time: the others' pages go to host memory and come back. */
static void test_from_host_memory(void)
{
    struct engine *e = open_engine((struct engine_options){.prefix_caching = true,
                                                           .cache_max_tokens = 640,
                                                           .session_pin_ratio = 0.5,
                                                           .session_host_bytes = 64 << 20});
    struct engine_stats stats;
    const int first = CLIENTS - 4; // the long ones
    for (int round = 0; round < 2; round++) {
        reset();
        for (int i = first; i < CLIENTS; i++) {
            submit(e, i, TOKENS);
            wait_for(e, i, 1);
            if (round == 1) EXPECT_INT(clients[i].last.cached_tokens, clients[i].prompt_count - 1);
            EXPECT_INT(clients[i].token_count, expected_count[i]);
            EXPECT(memcmp(clients[i].tokens, expected[i],
                          sizeof(int32_t) * (size_t)expected_count[i]) == 0);
        }
    }
    engine_stats(e, &stats);
    EXPECT(stats.kv_host_bytes > 0);
    EXPECT(stats.sessions[SESSION_HOST] > 0);
    engine_close(e);
}

/* Preempted and computed again by prefill: what decode had computed comes out the same. */
static void test_small_cache_preempts(void)
{
    struct engine_options o = {.max_batch_size = 9};
    EXPECT_INT(run_together(o, 4, TOKENS_LONG), 0);
    keep_tokens(4);
    o.cache_max_tokens = 512;
    EXPECT(run_together(o, 4, TOKENS_LONG) > 0);
    expect_same_tokens(4);
    o.pipeline_depth = 2;
    EXPECT(run_together(o, 4, TOKENS_LONG) > 0);
    expect_same_tokens(4);
}

static void test_one_thread(void)
{
    run_together((struct engine_options){.threads = 1, .max_batch_size = 4}, CLIENTS, TOKENS);
    expect_same_tokens(CLIENTS);
}

static void test_stop_string_and_cancel(void)
{
    struct engine *e = open_engine((struct engine_options){0});
    struct error err;
    reset();
    const char *stop = "dance of";
    size_t stop_len = strlen(stop);
    struct engine_request r = {.id = 1,
                               .prompt = clients[0].prompt,
                               .prompt_count = (size_t)clients[0].prompt_count,
                               .sampling = {.top_p = 1},
                               .max_tokens = 60,
                               .skip_special = true,
                               .stop = &stop,
                               .stop_len = &stop_len,
                               .stop_count = 1};
    NEED(engine_submit(e, &r, &err) == 0);
    submit(e, 1, 200);
    wait_for(e, 0, 1);
    engine_cancel(e, 2);
    wait_for(e, 1, 1);
    EXPECT_INT(clients[1].last.finish, FINISH_CANCELLED);
    EXPECT(clients[0].text.len == 0 || !strstr(clients[0].text.data, "dance"));
    bool stopped = clients[0].last.finish == FINISH_STOP;
    EXPECT(stopped || clients[0].last.completion_tokens == 60);
    r.prompt_count = 0;
    EXPECT_INT(engine_submit(e, &r, &err), E_INVALID);
    engine_close(e);
}

int main(void)
{
    if (!fixture_model())
        test_skip("the default model isn't here: scripts/fetch-model, or LM_MODEL=FILE");
    reference = fixture_json("smollm2/reference.json");
    NEED(reference != NULL);
    load_prompts();
    RUN(test_alone);
    RUN(test_among_others);
    RUN(test_small_chunks_two_in_flight);
    RUN(test_one_thread);
    RUN(test_from_the_prefix_cache);
    RUN(test_from_host_memory);
    RUN(test_small_cache_preempts);
    RUN(test_stop_string_and_cancel);
    reset();
    json_destroy(reference);
    return TEST_END();
}
