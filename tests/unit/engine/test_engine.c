/* The whole engine, threads and all, over the fake backend. */
#include "engine/engine.h"

#include "engine/engine_internal.h"
#include "shared/base/buf.h"
#include "shared/base/clock.h"
#include "shared/base/rng.h"
#include "tests/fakes/fake_backend.h"
#include "tests/test.h"

#include <pthread.h>
#include <sys/resource.h>

#define MODEL_STOP  63
#define CONTEXT     600
#define CLIENTS_MAX 64

static const struct backend_ops *ops = &fake_backend_ops; // of the engines that a test opens

/* ---- an engine over the fake, and a consumer that waits ---- */

static pthread_mutex_t wake_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake_cond = PTHREAD_COND_INITIALIZER;
static int wakes;

static void on_events(void *arg)
{
    (void)arg;
    pthread_mutex_lock(&wake_lock);
    wakes++;
    pthread_cond_signal(&wake_cond);
    pthread_mutex_unlock(&wake_lock);
}

/* Token i reads as a letter; 62 is control text. */
static struct str fake_text(const void *arg, int32_t token, bool keep_special)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz";
    (void)arg;
    if (token == 62) return keep_special ? STR("<62>") : STR("");
    return (struct str){letters + token % 26, 1};
}

static struct engine *open_engine(struct engine_options o)
{
    static const int32_t stops[] = {MODEL_STOP};
    struct engine_parts parts = {.ops = ops,
                                 .params = &fake_params,
                                 .context_len = CONTEXT,
                                 .sampled_vocab = FAKE_VOCAB,
                                 .text = {fake_text, NULL},
                                 .stop_ids = stops,
                                 .stop_id_count = 1};
    struct engine *e = NULL;
    struct error err = {0};
    o.on_events = on_events;
    if (engine_open_parts(&o, &parts, &e, &err) < 0) {
        printf("engine_open_parts: %s\n", err.text);
        exit(1);
    }
    return e;
}

/* What one request got. */
struct client {
    uint64_t id;
    int32_t prompt[CONTEXT];
    int prompt_count;
    int32_t tokens[CONTEXT];
    int token_count, events;
    struct buf text;
    struct engine_event last; // numbers only
    bool ended;
};

static struct client clients[CLIENTS_MAX];
static int client_count;

static void reset_clients(void)
{
    for (int i = 0; i < client_count; i++)
        buf_deinit(&clients[i].text);
    client_count = 0;
}

static struct client *new_client(int prompt_count, uint64_t seed)
{
    struct client *c = &clients[client_count];
    struct rng rng;
    rng_init(&rng, seed);
    *c = (struct client){.id = (uint64_t)++client_count, .prompt_count = prompt_count};
    buf_init(&c->text, BUF_MAX_INTERNAL);
    for (int i = 0; i < prompt_count; i++)
        c->prompt[i] = (int32_t)rng_below(&rng, FAKE_VOCAB);
    return c;
}

static struct engine_request request_of(const struct client *c, int max_tokens)
{
    return (struct engine_request){.id = c->id,
                                   .prompt = c->prompt,
                                   .prompt_count = (size_t)c->prompt_count,
                                   .sampling = {.top_p = 1},
                                   .max_tokens = max_tokens,
                                   .ignore_eos = true,
                                   .skip_special = true};
}

static void take_event(struct engine_event *event)
{
    struct client *c = &clients[event->id - 1];
    EXPECT(event->id >= 1 && (int)event->id <= client_count && !c->ended);
    c->events++;
    for (int i = 0; i < event->token_count; i++)
        c->tokens[c->token_count++] = event->tokens[i];
    buf_append(&c->text, event->text, event->text_len);
    c->ended = event->kind != ENGINE_EVENT_TOKENS;
    c->last = *event;
    c->last.tokens = NULL;
    c->last.text = NULL;
    engine_event_deinit(event);
}

static void drain(struct engine *e)
{
    struct engine_event event;
    while (engine_next_event(e, &event))
        take_event(&event);
}

static int ended(void)
{
    int n = 0;
    for (int i = 0; i < client_count; i++)
        n += clients[i].ended;
    return n;
}

/* Wait until `count` clients have ended; the test fails after 20 s. */
static void wait_ended(struct engine *e, int count)
{
    uint64_t deadline = clock_ms() + 20000;
    for (drain(e); ended() < count; drain(e)) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += 1;
        pthread_mutex_lock(&wake_lock);
        if (wakes == 0) pthread_cond_timedwait(&wake_cond, &wake_lock, &until);
        wakes = 0;
        pthread_mutex_unlock(&wake_lock);
        NEED(clock_ms() < deadline);
    }
}

static void submit(struct engine *e, const struct engine_request *r)
{
    struct error err;
    NEED(engine_submit(e, r, &err) == 0);
}

static void wait_idle(struct engine *e)
{
    struct engine_stats stats;
    uint64_t deadline = clock_ms() + 5000;
    do {
        engine_stats(e, &stats);
        NEED(clock_ms() < deadline);
    } while (stats.running + stats.waiting > 0);
    EXPECT_INT(stats.kv_blocks_used, 0);
}

/* The greedy text that the fake gives after a prompt, without batches and pages. */
static void expect_greedy(const struct client *c)
{
    static int32_t all[2 * CONTEXT];
    memcpy(all, c->prompt, sizeof c->prompt);
    for (int i = 0; i < c->token_count; i++) {
        all[c->prompt_count + i] = fake_next_token(all, c->prompt_count + i);
        EXPECT_INT(c->tokens[i], all[c->prompt_count + i]);
    }
}

/* ---- tests ---- */

static void test_one_request(void)
{
    struct engine *e = open_engine((struct engine_options){0});
    struct client *c = new_client(10, 1);
    struct engine_request r = request_of(c, 20);
    submit(e, &r);
    wait_ended(e, 1);
    EXPECT_INT(c->last.kind, ENGINE_EVENT_DONE);
    EXPECT_INT(c->last.finish, FINISH_LENGTH);
    EXPECT_INT(c->last.prompt_tokens, 10);
    EXPECT_INT(c->last.completion_tokens, 20);
    EXPECT_INT(c->token_count, 20);
    expect_greedy(c);
    struct buf want;
    buf_init(&want, BUF_MAX_INTERNAL);
    for (int i = 0; i < 20; i++) {
        struct str s = fake_text(NULL, c->tokens[i], false);
        buf_append(&want, s.data, s.len);
    }
    EXPECT_STR(c->text.data, want.data);
    buf_deinit(&want);
    wait_idle(e);
    engine_close(e);
    reset_clients();
}

/* Many at once, in pools that are too small for them, at both depths: the same tokens. */
static void test_batches_change_nothing(void)
{
    static const struct engine_options cases[] = {
        {.max_batch_size = 16, .max_prefill_token_num = 512},
        {.max_batch_size = 16, .max_prefill_token_num = 512, .pipeline_depth = 2},
        {.max_batch_size = 5, .max_prefill_token_num = 7},
        {.max_batch_size = 5, .max_prefill_token_num = 7, .pipeline_depth = 2},
        {.max_batch_size = 16, .max_prefill_token_num = 64, .cache_max_tokens = 640},
        {.max_batch_size = 16,
         .max_prefill_token_num = 64,
         .cache_max_tokens = 640,
         .pipeline_depth = 2},
    };
    static int32_t first[24][CONTEXT];
    static int first_count[24];
    for (size_t k = 0; k < ARRAY_LEN(cases); k++) {
        struct engine *e = open_engine(cases[k]);
        struct engine_stats stats;
        for (int i = 0; i < 24; i++) {
            struct client *c = new_client(1 + i * 13 % 150, (uint64_t)i);
            struct engine_request r = request_of(c, 30 + i * 7);
            r.ignore_eos = i % 2;
            if (i % 3 == 0)
                r.sampling = (struct sampling_params){
                    .temperature = 1, .top_p = 0.9f, .top_k = 20, .seed = (uint64_t)i};
            submit(e, &r);
        }
        wait_ended(e, 24);
        for (int i = 0; i < 24; i++) {
            struct client *c = &clients[i];
            EXPECT_INT(c->last.kind, ENGINE_EVENT_DONE);
            if (i % 3) expect_greedy(c);
            if (k == 0) {
                first_count[i] = c->token_count;
                memcpy(first[i], c->tokens, sizeof c->tokens);
            }
            EXPECT_INT(c->token_count, first_count[i]);
            EXPECT(memcmp(c->tokens, first[i], sizeof(int32_t) * (size_t)c->token_count) == 0);
        }
        wait_idle(e);
        engine_stats(e, &stats);
        EXPECT((stats.preemptions_total > 0) == (cases[k].cache_max_tokens > 0));
        engine_close(e);
        reset_clients();
    }
}

/* A request of each kind of stop. The tokens are the fake's own, found by a run to the length
 * limit. */
static void test_stops(void)
{
    for (int depth = 1; depth <= 2; depth++) {
        struct engine *e = open_engine((struct engine_options){.pipeline_depth = depth});
        struct client *plain = new_client(12, 4);
        struct engine_request r = request_of(plain, 30);
        submit(e, &r);
        wait_ended(e, 1);
        int32_t stop = plain->tokens[6];
        int at = 0;
        while (plain->tokens[at] != stop)
            at++;

        struct client *by_id = new_client(12, 4);
        r = request_of(by_id, 30);
        r.stop_ids = &stop;
        r.stop_id_count = 1;
        submit(e, &r);
        wait_ended(e, 2);
        EXPECT_INT(by_id->last.finish, FINISH_STOP);
        EXPECT_INT(by_id->token_count, at + 1); // the closing token is told
        EXPECT_INT(by_id->last.completion_tokens, at + 1);
        size_t shown = 0;
        for (int i = 0; i < at; i++)
            shown += fake_text(NULL, plain->tokens[i], false).len;
        EXPECT_INT(by_id->text.len, shown); // but not shown
        EXPECT(memcmp(by_id->tokens, plain->tokens, sizeof(int32_t) * (size_t)(at + 1)) == 0);

        struct client *by_text = new_client(12, 4);
        const char *word = plain->text.data + 5;
        size_t word_len = 3;
        char *found = memmem(plain->text.data, plain->text.len, word, word_len);
        r = request_of(by_text, 30);
        r.stop = &word;
        r.stop_len = &word_len;
        r.stop_count = 1;
        submit(e, &r);
        wait_ended(e, 3);
        EXPECT_INT(by_text->last.finish, FINISH_STOP);
        EXPECT_INT(by_text->text.len, found - plain->text.data);
        EXPECT_INT(by_text->last.completion_tokens, by_text->token_count);

        struct client *late = new_client(12, 4);
        r = request_of(late, 30);
        r.stop_ids = &stop;
        r.stop_id_count = 1;
        r.min_tokens = 12;
        submit(e, &r);
        wait_ended(e, 4);
        EXPECT(late->token_count >= 12);
        for (int i = 0; i < 12; i++)
            EXPECT(late->tokens[i] != stop);
        wait_idle(e);
        engine_close(e);
        reset_clients();
    }
}

/* The model's own stop token ends a request unless it is ignored. */
static void test_model_stop(void)
{
    struct engine *e = open_engine((struct engine_options){0});
    int stopped = 0;
    for (int i = 0; i < 20; i++) {
        struct client *c = new_client(5, 100 + (uint64_t)i);
        struct engine_request r = request_of(c, 100);
        r.ignore_eos = false;
        submit(e, &r);
    }
    wait_ended(e, 20);
    for (int i = 0; i < 20; i++) {
        struct client *c = &clients[i];
        expect_greedy(c);
        for (int j = 0; j < c->token_count - 1; j++)
            EXPECT(c->tokens[j] != MODEL_STOP);
        if (c->last.finish == FINISH_STOP) {
            stopped++;
            EXPECT_INT(c->tokens[c->token_count - 1], MODEL_STOP);
            EXPECT_INT(c->last.completion_tokens, c->token_count);
        } else {
            EXPECT_INT(c->last.completion_tokens, 100);
        }
    }
    EXPECT(stopped > 5);
    engine_close(e);
    reset_clients();
}

static void test_cancel(void)
{
    for (int depth = 1; depth <= 2; depth++) {
        struct engine *e =
            open_engine((struct engine_options){.max_batch_size = 2, .pipeline_depth = depth});
        fake_backend.step_us = 2000;
        for (int i = 0; i < 5; i++) {
            struct client *c = new_client(20, (uint64_t)i);
            struct engine_request r = request_of(c, 500);
            submit(e, &r);
        }
        while (clients[0].token_count < 3 || clients[1].token_count < 3)
            drain(e);
        uint64_t begun = clock_ms();
        engine_cancel(e, 1);  // running
        engine_cancel(e, 5);  // waiting
        engine_cancel(e, 99); // nobody
        wait_ended(e, 2);
        EXPECT(clock_ms() - begun < 1000);
        EXPECT(clients[0].ended && clients[4].ended);
        EXPECT_INT(clients[0].last.finish, FINISH_CANCELLED);
        EXPECT_INT(clients[0].last.completion_tokens, clients[0].token_count);
        EXPECT_INT(clients[4].token_count, 0);
        for (uint64_t id = 1; id <= 5; id++)
            engine_cancel(e, id); // twice is harmless
        wait_ended(e, 5);
        wait_idle(e);
        fake_backend.step_us = 0;
        engine_close(e);
        reset_clients();
    }
}

static void test_refusals(void)
{
    struct engine *e = open_engine(
        (struct engine_options){.max_batch_size = 1, .queue_max = 3, .session_len = 100});
    struct error err;
    EXPECT_INT(engine_info(e)->context_len, 100);
    struct client *c = new_client(100, 1);
    struct engine_request r = request_of(c, 5);
    EXPECT_INT(engine_submit(e, &r, &err), E_CONTEXT_LENGTH);
    r.prompt_count = 0;
    EXPECT_INT(engine_submit(e, &r, &err), E_INVALID);
    r.prompt_count = 10;
    c->prompt[3] = FAKE_VOCAB;
    EXPECT_INT(engine_submit(e, &r, &err), E_INVALID);
    c->prompt[3] = -1;
    EXPECT_INT(engine_submit(e, &r, &err), E_INVALID);
    c->prompt[3] = 1;
    r.sampling.top_p = 0;
    EXPECT_INT(engine_submit(e, &r, &err), E_INVALID);
    r.sampling.top_p = 1;
    r.sampling.temperature = NAN;
    EXPECT_INT(engine_submit(e, &r, &err), E_INVALID);
    r.sampling.temperature = 0;
    const char *empty = "";
    size_t none = 0;
    r.stop = &empty;
    r.stop_len = &none;
    r.stop_count = 1;
    EXPECT_INT(engine_submit(e, &r, &err), E_INVALID);
    EXPECT_INT(client_count, 1);
    reset_clients();

    /* One that fills the context, then one more than the queue holds. */
    fake_backend.is_held = true;
    int accepted = 0;
    for (int i = 0; i < 12; i++) {
        c = new_client(90, (uint64_t)i);
        r = request_of(c, 0);
        if (engine_submit(e, &r, &err) == 0) {
            accepted++;
        } else {
            EXPECT_INT(err.code, E_BUSY);
            buf_deinit(&clients[--client_count].text);
            break;
        }
    }
    EXPECT(accepted >= 4 && accepted <= 5); // one runs, three wait
    fake_backend.is_held = false;
    wait_ended(e, accepted);
    for (int i = 0; i < accepted; i++) {
        EXPECT_INT(clients[i].last.finish, FINISH_LENGTH);
        EXPECT_INT(clients[i].token_count, 10);
    }
    wait_idle(e);
    engine_close(e);
    reset_clients();
}

static void test_bad_logits_fail_their_request_only(void)
{
    for (int depth = 1; depth <= 2; depth++) {
        struct engine *e = open_engine((struct engine_options){.pipeline_depth = depth});
        for (int i = 0; i < 6; i++) {
            struct client *c = new_client(30, (uint64_t)i);
            for (int j = 0; j < 30; j++)
                c->prompt[j] %= 32;
            if (i == 2) c->prompt[29] = 40;
        }
        fake_backend.nan_token = 40;
        for (int i = 0; i < 6; i++) {
            struct engine_request r = request_of(&clients[i], 8);
            int32_t banned = 40;
            r.min_tokens = 8; // keeps the others off the poisoned token
            r.stop_ids = &banned;
            r.stop_id_count = 1;
            submit(e, &r);
        }
        wait_ended(e, 6);
        for (int i = 0; i < 6; i++)
            EXPECT_INT(clients[i].last.kind, i == 2 ? ENGINE_EVENT_FAILED : ENGINE_EVENT_DONE);
        EXPECT_INT(clients[2].last.error_code, E_DEVICE);
        EXPECT(clients[2].text.len > 0);
        fake_backend.nan_token = -1;
        wait_idle(e);
        engine_close(e);
        reset_clients();
    }
}

static void test_device_error_ends_service(void)
{
    for (int depth = 1; depth <= 2; depth++) {
        struct engine *e =
            open_engine((struct engine_options){.max_batch_size = 2, .pipeline_depth = depth});
        struct engine_stats stats;
        struct error err;
        fake_backend.is_held = true;
        for (int i = 0; i < 4; i++) {
            struct engine_request r = request_of(new_client(10, (uint64_t)i), 300);
            submit(e, &r);
        }
        fake_backend.fail_at_step = 12; // now that all are in
        fake_backend.is_held = false;
        wait_ended(e, 4);
        for (int i = 0; i < 4; i++) {
            EXPECT_INT(clients[i].last.kind, ENGINE_EVENT_FAILED);
            EXPECT_INT(clients[i].last.error_code, E_DEVICE);
        }
        wait_idle(e);
        engine_stats(e, &stats);
        EXPECT(stats.failed);
        struct engine_request r = request_of(new_client(10, 9), 3);
        EXPECT_INT(engine_submit(e, &r, &err), E_CLOSED);
        engine_close(e);
        fake_backend.fail_at_step = 0;
        reset_clients();
    }
}

static void test_self_test_refuses_a_broken_model(void)
{
    struct engine *e = NULL;
    struct error err = {0};
    struct engine_parts parts = {.ops = ops,
                                 .params = &fake_params,
                                 .context_len = CONTEXT,
                                 .sampled_vocab = FAKE_VOCAB,
                                 .text = {fake_text, NULL}};
    fake_backend.nan_token = FAKE_VOCAB - 1;
    EXPECT_INT(engine_open_parts(&(struct engine_options){0}, &parts, &e, &err), E_DEVICE);
    EXPECT(strstr(err.text, "self-test") != NULL);
    fake_backend.nan_token = -1;
    fake_backend.fail_at_step = 2;
    EXPECT_INT(engine_open_parts(&(struct engine_options){0}, &parts, &e, &err), E_DEVICE);
    fake_backend.fail_at_step = 0;
    struct engine_options bad = {.pipeline_depth = 3};
    EXPECT_INT(engine_open_parts(&bad, &parts, &e, &err), E_INVALID);
    bad = (struct engine_options){.cache_max_entry_count = 1e-18};
    EXPECT_INT(engine_open_parts(&bad, &parts, &e, &err), E_LIMIT);
    EXPECT(e == NULL);
}

/* Nobody takes events until all is done: then there is one per request, with everything in it. */
static void test_slow_consumer(void)
{
    struct engine *e = open_engine((struct engine_options){0});
    struct engine_stats stats;
    for (int i = 0; i < 8; i++) {
        struct engine_request r = request_of(new_client(10, (uint64_t)i), 50);
        submit(e, &r);
    }
    do
        engine_stats(e, &stats);
    while (stats.generated_tokens_total < 8 * 50);
    wait_ended(e, 8);
    for (int i = 0; i < 8; i++) {
        EXPECT_INT(clients[i].events, 1);
        EXPECT_INT(clients[i].token_count, 50);
    }
    engine_close(e);
    reset_clients();
}

/* Who has submitted a request finds it in the numbers, wherever it is meanwhile. */
static void test_numbers_count_at_once(void)
{
    for (int depth = 1; depth <= 2; depth++) {
        struct engine *e = open_engine((struct engine_options){
            .max_batch_size = 3, .queue_max = 100, .pipeline_depth = depth});
        fake_backend.step_us = 1000;
        struct engine_stats stats;
        int64_t tokens = 0;
        for (int i = 0; i < 60; i++) {
            struct engine_request r = request_of(new_client(40 + i, (uint64_t)i), 500);
            submit(e, &r);
            tokens += r.prompt_count;
            engine_stats(e, &stats);
            EXPECT_INT(stats.running + stats.waiting, i + 1); // none ends so soon
            EXPECT(stats.prefill_tokens_waiting <= tokens);
            EXPECT(stats.prefill_tokens_waiting >= (i > 3 ? 41 * (i - 3) : 0));
        }
        engine_close(e);
        fake_backend.step_us = 0;
        reset_clients();
    }
}

/* A prompt in the step that runs waits like any other: the step may take seconds. */
static void test_prompts_in_flight_are_waiting(void)
{
    for (int depth = 1; depth <= 2; depth++) {
        struct engine *e =
            open_engine((struct engine_options){.max_batch_size = 3, .pipeline_depth = depth});
        fake_backend.step_us = 300000;
        struct engine_request r = request_of(new_client(40, 1), 2);
        submit(e, &r);
        uint64_t begun_ms = clock_ms();
        struct engine_stats stats = {0};
        while (stats.running == 0)
            engine_stats(e, &stats);
        if (clock_ms() < begun_ms + 200) {
            EXPECT_INT(stats.prefill_tokens_waiting, r.prompt_count);
        } else {
            printf("  too slow to see it\n");
        }
        engine_close(e);
        fake_backend.step_us = 0;
        reset_clients();
    }
}

static void test_marks(void)
{
    struct engine *e =
        open_engine((struct engine_options){.max_batch_size = 2, .prefix_caching = true});
    struct engine_mark marks[] = {{7, 64}, {8, 64}, {9, 128}};
    struct engine_request r = request_of(new_client(150, 1), 3);
    struct error err;
    for (int bad = 0; bad < 4; bad++) {
        struct engine_mark wrong[] = {{7, (int[]){65, 0, -64, 192}[bad]}};
        r.marks = wrong;
        r.mark_count = 1;
        EXPECT_INT(engine_submit(e, &r, &err), E_INVALID);
    }
    r.marks = marks;
    r.mark_count = 3;
    submit(e, &r);
    wait_ended(e, 1);
    struct engine_mark_event event[4];
    for (int i = 0; i < 3; i++) {
        NEED(engine_next_mark_event(e, &event[i]));
        EXPECT(event[i].is_live && event[i].mark.name == marks[i].name);
        EXPECT_INT(event[i].mark.tokens, marks[i].tokens);
    }
    EXPECT(event[0].block == event[1].block && event[1].block != event[2].block);
    EXPECT(!engine_next_mark_event(e, &event[3]));
    EXPECT_INT(engine_lost_mark_events(e), 0);
    engine_close(e);
    reset_clients();
}

static void test_close_with_work_open(void)
{
    for (int depth = 1; depth <= 2; depth++) {
        struct engine *e =
            open_engine((struct engine_options){.max_batch_size = 3, .pipeline_depth = depth});
        fake_backend.step_us = 500;
        for (int i = 0; i < 10; i++) {
            struct engine_request r = request_of(new_client(40, (uint64_t)i), 400);
            submit(e, &r);
        }
        while (clients[0].token_count < 2)
            drain(e);
        engine_close(e);
        fake_backend.step_us = 0;
        reset_clients();
    }
    engine_close(NULL);
}

/* ---- what is kept ---- */

static struct client *client_like(const struct client *other, int prompt_count)
{
    struct client *c = new_client(0, 0);
    memcpy(c->prompt, other->prompt, sizeof c->prompt);
    c->prompt_count = prompt_count;
    return c;
}

/* A client that goes on where another one ended, with `more` tokens of its own. */
static struct client *client_after(const struct client *other, int more)
{
    struct client *c = new_client(other->prompt_count + other->token_count + more, 77);
    memcpy(c->prompt, other->prompt, (size_t)other->prompt_count * sizeof *c->prompt);
    memcpy(c->prompt + other->prompt_count, other->tokens,
           (size_t)other->token_count * sizeof *c->prompt);
    return c;
}

static void run_client(struct engine *e, struct client *c, int max_tokens, uint64_t session)
{
    struct engine_request r = request_of(c, max_tokens);
    r.session = session;
    submit(e, &r);
    wait_ended(e, client_count);
    expect_greedy(c);
}

static void test_cached_tokens_are_exact(void)
{
    for (int depth = 1; depth <= 2; depth++) {
        struct engine *e =
            open_engine((struct engine_options){.prefix_caching = true, .pipeline_depth = depth});
        struct client *first = new_client(150, 1);
        run_client(e, first, 20, 0);
        EXPECT_INT(first->last.cached_tokens, 0);
        struct client *same = client_like(first, 150);
        run_client(e, same, 20, 0);
        EXPECT_INT(same->last.cached_tokens, 149); // the last one's logits are needed
        struct client *begins = client_like(first, 128);
        run_client(e, begins, 5, 0);
        EXPECT_INT(begins->last.cached_tokens, 127);
        struct client *differs = client_like(first, 150);
        differs->prompt[100] ^= 1;
        run_client(e, differs, 5, 0);
        EXPECT_INT(differs->last.cached_tokens, 100);
        /* The last token of an answer was sampled, but never computed. */
        struct client *next = client_after(first, 30);
        run_client(e, next, 5, 0);
        EXPECT_INT(next->last.cached_tokens, 150 + 19);
        struct engine_stats stats;
        wait_idle(e);
        engine_stats(e, &stats);
        EXPECT_INT(stats.cached_tokens_total, 149 + 127 + 100 + 169);
        EXPECT(stats.kv_blocks_cached > 0);
        engine_close(e);
        reset_clients();
    }
}

static void test_nothing_is_kept_without_the_cache(void)
{
    struct engine *e = open_engine((struct engine_options){0});
    struct engine_stats stats;
    struct client *first = new_client(150, 1);
    run_client(e, first, 20, 5);
    struct client *same = client_like(first, 150);
    run_client(e, same, 20, 5);
    EXPECT_INT(same->last.cached_tokens, 0);
    wait_idle(e);
    engine_stats(e, &stats);
    EXPECT_INT(stats.kv_blocks_cached + stats.kv_blocks_pinned, 0);
    EXPECT_INT(engine_session_state(e, 5), SESSION_TOKENS);
    engine_close(e);
    reset_clients();
}

/* Several answers to one prompt compute it once, also when it is shorter than a block, nothing else
 * is kept, and not all of them fit in the batch. */
static void test_a_group_shares_one_prefill(void)
{
    static const int lengths[] = {30, 64, 200};
    for (int run = 0; run < 12; run++) {
        bool caching = run % 2;
        int length = lengths[run / 4];
        struct engine *e = open_engine((struct engine_options){
            .prefix_caching = caching, .max_batch_size = 3, .pipeline_depth = 1 + run / 2 % 2});
        struct client *first = new_client(length, 1);
        for (int i = 1; i < 6; i++)
            client_like(first, length);
        fake_backend.is_held = true; // the first one must not end before the last one comes
        for (int i = 0; i < 6; i++) {
            struct engine_request r = request_of(&clients[i], 20);
            r.group = 9;
            r.sampling.choice = (uint32_t)i;
            submit(e, &r);
        }
        fake_backend.is_held = false;
        wait_ended(e, 6);
        for (int i = 0; i < 6; i++) {
            expect_greedy(&clients[i]);
            EXPECT_INT(clients[i].last.cached_tokens, i == 0 ? 0 : length - 1);
        }
        wait_idle(e);
        engine_close(e);
        reset_clients();
    }
}

static void test_deadlines(void)
{
    struct engine *e = open_engine((struct engine_options){.max_batch_size = 1});
    fake_backend.step_us = 2000;
    for (int i = 0; i < 3; i++) {
        struct engine_request r = request_of(new_client(20, (uint64_t)i), 60);
        if (i > 0) r.deadline_ms = clock_ms() + (i == 1 ? 30 : 60000);
        submit(e, &r);
    }
    wait_ended(e, 3);
    EXPECT_INT(clients[0].token_count, 60);
    EXPECT_INT(clients[1].last.kind, ENGINE_EVENT_FAILED);
    EXPECT_INT(clients[1].last.error_code, E_TIMEOUT);
    EXPECT_INT(clients[2].token_count, 60);
    fake_backend.step_us = 0;
    wait_idle(e);
    engine_close(e);
    reset_clients();
}

/* One session after the other in a small pool: down the ladder, and up again. */
static void test_sessions(void)
{
    struct engine *e = open_engine((struct engine_options){
        .prefix_caching = true,
        .cache_max_tokens = (int64_t)12 * KV_BLOCK_TOKENS,
        .session_pin_ratio = 0.5,
        .session_host_bytes = 7 * (int64_t)sizeof(uint64_t) * KV_BLOCK_TOKENS});
    struct client *first = new_client(200, 1);
    EXPECT_INT(engine_session_state(e, 1), SESSION_TOKENS);
    run_client(e, first, 40, 1);
    EXPECT_INT(engine_session_state(e, 1), SESSION_HOT);
    run_client(e, new_client(200, 2), 40, 2); // over the budget with the first one
    EXPECT_INT(engine_session_state(e, 1), SESSION_CACHED);
    EXPECT_INT(engine_session_state(e, 2), SESSION_HOT);
    run_client(e, new_client(500, 3), 40, 0); // needs more than what is free
    EXPECT_INT(engine_session_state(e, 1), SESSION_HOST);
    struct client *next = client_after(first, 10);
    run_client(e, next, 10, 1);
    EXPECT_INT(next->last.cached_tokens, 239);
    EXPECT_INT(engine_session_state(e, 1), SESSION_HOT);
    engine_session_release(e, 1);
    EXPECT_INT(engine_session_state(e, 1), SESSION_TOKENS);
    for (int i = 0; i < 4; i++)
        run_client(e, new_client(500, 10 + (uint64_t)i), 40, 10 + (uint64_t)i);
    EXPECT_INT(engine_session_state(e, 2), SESSION_TOKENS); // host memory has its budget, too
    struct engine_stats stats;
    wait_idle(e);
    engine_stats(e, &stats);
    EXPECT_INT(stats.sessions[0] + stats.sessions[1] + stats.sessions[2] + stats.sessions[3], 5);
    EXPECT(stats.kv_host_bytes <= 7 * (int64_t)sizeof(uint64_t) * KV_BLOCK_TOKENS);
    engine_close(e);
    reset_clients();
}

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static void test_idle_costs_nothing(void)
{
    struct engine *e = open_engine((struct engine_options){0});
    struct engine_request r = request_of(new_client(10, 1), 5);
    submit(e, &r);
    wait_ended(e, 1);
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    double begun = cpu_seconds();
    nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
    EXPECT(cpu_seconds() - begun < 0.01);
    engine_close(e);
    reset_clients();
}

/* Long steps: each next one begins while one runs, also where a draw depends on the token before. */
static void test_steps_ahead(void)
{
    static const struct sampling_params cases[] = {
        {.top_p = 1},
        {.top_p = 1, .temperature = 1, .seed = 3, .logprobs = 4},
        {.top_p = 1, .repetition_penalty = 1.3f},
    };
    static int32_t tokens[2][CONTEXT];
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        for (int ahead = 0; ahead < 2; ahead++) {
            fake_backend.step_us = ahead ? 10000 : 0;
            struct engine *e = open_engine((struct engine_options){.pipeline_depth = 1 + ahead});
            struct client *c = new_client(10, 1);
            struct engine_request r = request_of(c, 20);
            struct engine_stats stats;
            r.sampling = cases[i];
            submit(e, &r);
            wait_ended(e, 1);
            wait_idle(e);
            engine_stats(e, &stats);
            if (ahead)
                EXPECT(stats.steps_ahead >= 5 && stats.steps_ahead < stats.steps); // of 20
            else
                EXPECT_INT(stats.steps_ahead, 0);
            if (i == 0) expect_greedy(c);
            memcpy(tokens[ahead], c->tokens, sizeof c->tokens);
            engine_close(e);
            reset_clients();
        }
        EXPECT(memcmp(tokens[0], tokens[1], sizeof tokens[0]) == 0);
    }
    fake_backend.step_us = 0;
}

static void run_all(void)
{
    RUN(test_one_request);
    RUN(test_batches_change_nothing);
    RUN(test_stops);
    RUN(test_model_stop);
    RUN(test_cancel);
    RUN(test_refusals);
    RUN(test_bad_logits_fail_their_request_only);
    RUN(test_device_error_ends_service);
    RUN(test_self_test_refuses_a_broken_model);
    RUN(test_slow_consumer);
    RUN(test_numbers_count_at_once);
    RUN(test_prompts_in_flight_are_waiting);
    RUN(test_marks);
    RUN(test_close_with_work_open);
    RUN(test_cached_tokens_are_exact);
    RUN(test_nothing_is_kept_without_the_cache);
    RUN(test_a_group_shares_one_prefill);
    RUN(test_deadlines);
    RUN(test_sessions);
    RUN(test_idle_costs_nothing);
}

int main(void)
{
    run_all();
    ops = fake_ahead_ops();
    run_all();
    RUN(test_steps_ahead);
    return TEST_END();
}
