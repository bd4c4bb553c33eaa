/* Simulation: the real scheduler, batches and KV bookkeeping over the fake backend, no threads.
 * Every token that comes out is compared with what a fresh computation over the same tokens gives.
 */
#include "engine/scheduler.h"

#include "engine/decoder.h"
#include "engine/sampler.h"
#include "shared/base/rng.h"
#include "tests/fakes/fake_backend.h"
#include "tests/test.h"

#define REQUESTS_MAX 64
#define STOP_TOKEN   5
#define CONTEXT      2000

struct sim {
    struct scheduler scheduler;
    struct kv_cache kv;
    struct backend *backend;
    struct batch batches[3];
    struct sampler_scratch scratch;
    struct step_limits limits;
    int depth;
    unsigned submitted, finished;
    struct list zombies;
    struct request *live[REQUESTS_MAX]; // in order of arrival, with holes
    int live_count;
    uint64_t next_id, last_admitted, done, failed, cancelled;
    struct rng rng;
};

static void sim_init(struct sim *s, struct scheduler_limits limits, int blocks, int depth,
                     uint64_t seed)
{
    struct error err;
    *s = (struct sim){.depth = depth};
    rng_init(&s->rng, seed);
    list_init(&s->zombies);
    kv_cache_init(&s->kv, blocks);
    scheduler_init(&s->scheduler, &limits, &s->kv);
    s->limits = (struct step_limits){.tokens_max = scheduler_tokens_max(&limits),
                                     .sequences_max = limits.running_max,
                                     .rows_max = limits.running_max,
                                     .context_max = CONTEXT};
    NEED(fake_backend_ops.open(&(struct backend_options){0}, &s->backend, &err) == 0);
    NEED(fake_backend_ops.load(s->backend, &fake_params, &s->limits, &err) == 0);
    NEED(fake_backend_ops.kv_open(s->backend, KV_F32, blocks, &err) == 0);
    for (int i = 0; i < 3; i++)
        batch_init(&s->batches[i], &s->limits);
}

static void sim_deinit(struct sim *s)
{
    for (int i = 0; i < 3; i++)
        batch_deinit(&s->batches[i]);
    fake_backend_ops.close(s->backend);
    sampler_scratch_deinit(&s->scratch);
    kv_cache_deinit(&s->kv);
}

static struct request *sim_submit(struct sim *s, int prompt_count, int max_tokens)
{
    static int32_t prompt[CONTEXT];
    static const int32_t stops[] = {STOP_TOKEN};
    struct engine_request in = {.id = ++s->next_id,
                                .prompt = prompt,
                                .prompt_count = (size_t)prompt_count,
                                .sampling = {.top_p = 1},
                                .max_tokens = max_tokens};
    for (int i = 0; i < prompt_count; i++)
        prompt[i] = (int32_t)rng_below(&s->rng, FAKE_VOCAB);
    struct request *r = request_create(&in, CONTEXT, stops, 1);
    struct error err;
    if (scheduler_submit(&s->scheduler, r, &err) < 0) {
        EXPECT_INT(err.code, E_BUSY);
        EXPECT_INT(s->scheduler.running_count + s->scheduler.waiting_count,
                   s->scheduler.limits.running_max + s->scheduler.limits.queue_max);
        request_destroy(r);
        return NULL;
    }
    for (int i = 0; i < REQUESTS_MAX; i++) {
        if (s->live[i]) continue;
        s->live[i] = r;
        s->live_count++;
        return r;
    }
    UNREACHABLE();
}

static void sim_forget(struct sim *s, struct request *r)
{
    for (int i = 0; i < REQUESTS_MAX; i++)
        if (s->live[i] == r) s->live[i] = NULL;
    s->live_count--;
    if (r->in_flight > 0)
        list_push_back(&s->zombies, &r->link);
    else
        request_destroy(r);
}

static void sim_finish(struct sim *s, struct request *r)
{
    scheduler_finish(&s->scheduler, r);
    sim_forget(s, r);
}

/* Admission is in the order of arrival: nobody is overtaken. */
static void check_admissions(struct sim *s)
{
    for (int i = 0; i < REQUESTS_MAX; i++) {
        struct request *r = s->live[i];
        if (!r || !r->admitted) continue;
        for (int j = 0; j < REQUESTS_MAX; j++)
            if (s->live[j] && s->live[j]->arrival < r->arrival) EXPECT(s->live[j]->admitted);
    }
}

static bool sim_plan(struct sim *s)
{
    struct batch *b = &s->batches[s->submitted % 3];
    batch_clear(b, s->submitted ? &s->batches[(s->submitted - 1) % 3] : NULL);
    bool planned = scheduler_plan(&s->scheduler, b);
    scheduler_check(&s->scheduler);
    for (struct request *r; (r = scheduler_take_failed(&s->scheduler)) != NULL;) {
        EXPECT(blocks_for(r->prompt_count + r->max_tokens) > s->kv.total);
        s->failed++;
        sim_forget(s, r);
    }
    check_admissions(s);
    if (planned) s->submitted++;
    return planned;
}

static void sim_execute(struct sim *s, struct batch *b)
{
    struct error err;
    for (int i = 0; i < b->links; i++)
        b->ids[b->link[i].token] = b->previous->row_info[b->link[i].row].token;
    struct step step = batch_step(b, b->ids);
    decoder_forward(&fake_backend_ops, s->backend, 1, &step);
    NEED(fake_backend_ops.sync(s->backend, &err) == 0);
    for (int i = 0; i < b->rows; i++) {
        struct batch_row *row = &b->row_info[i];
        row->status = 0;
        row->token = sampler_draw(&row->input, s->backend->logits + i * FAKE_VOCAB, FAKE_VOCAB,
                                  &s->scratch, NULL);
    }
}

static void sim_complete(struct sim *s)
{
    struct batch *b = &s->batches[s->finished++ % 3];
    sim_execute(s, b);
    for (int i = 0; i < b->sequences; i++) {
        struct request *r = b->entry[i].request;
        bool has_token = scheduler_complete_entry(b, i);
        if (r->state == REQUEST_FINISHED) {
            EXPECT(!has_token);
            if (r->in_flight > 0) continue;
            list_remove(&r->link);
            request_destroy(r);
        } else if (has_token) {
            int32_t token = r->tokens[r->count - 1];
            EXPECT_INT(token, fake_next_token(r->tokens, r->count - 1));
            if (!request_is_stop(r, token) && request_generated(r) < r->max_tokens) continue;
            s->done++;
            sim_finish(s, r);
        }
    }
    scheduler_check(&s->scheduler);
}

/* Run to the end of all requests; false if that takes more steps than it may. */
static bool sim_drain(struct sim *s, int steps)
{
    while (s->live_count > 0 && steps-- > 0) {
        while (s->submitted - s->finished < (unsigned)s->depth && sim_plan(s))
            ;
        if (s->submitted != s->finished) sim_complete(s);
    }
    while (s->submitted != s->finished)
        sim_complete(s);
    return s->live_count == 0;
}

static void sim_random_turn(struct sim *s)
{
    uint32_t dice = rng_below(&s->rng, 100);
    if (dice < 12 && s->live_count < REQUESTS_MAX) {
        int blocks = s->kv.total;
        int prompt = 1 + (int)rng_below(&s->rng, (uint32_t)(blocks * 16));
        if (rng_below(&s->rng, 20) == 0) prompt = blocks * KV_BLOCK_TOKENS + 1; // never fits
        if (rng_below(&s->rng, 20) == 0) prompt = blocks * KV_BLOCK_TOKENS - 3; // alone, barely
        struct request *r = sim_submit(s, prompt < CONTEXT - 1 ? prompt : CONTEXT - 1,
                                       1 + (int)rng_below(&s->rng, 200));
        if (r && rng_below(&s->rng, 4) > 0) r->stop_id_count = 0; // most run to max_tokens
    } else if (dice < 14) {
        struct request *r = s->live[rng_below(&s->rng, REQUESTS_MAX)];
        if (r) {
            s->cancelled++;
            sim_finish(s, r);
        }
    } else if (s->submitted - s->finished < (unsigned)s->depth && dice < 80) {
        sim_plan(s);
    } else if (s->submitted != s->finished) {
        sim_complete(s);
    }
}

static void run_random(int blocks, int depth, int running_max, int prefill_max, uint64_t seed,
                       uint64_t *preemptions)
{
    static struct sim s;
    struct scheduler_limits limits = {running_max, prefill_max, 8};
    sim_init(&s, limits, blocks, depth, seed);
    for (int turn = 0; turn < 6000; turn++)
        sim_random_turn(&s);
    /* No starvation: what is there ends within the steps that it would need one after the other. */
    EXPECT(sim_drain(&s, 60000));
    EXPECT(list_is_empty(&s.zombies));
    EXPECT_INT(s.kv.free_count, blocks);
    EXPECT(s.done > 0);
    *preemptions += s.scheduler.preemptions;
    sim_deinit(&s);
}

static void test_random_loads(void)
{
    uint64_t preemptions = 0;
    for (uint64_t seed = 1; seed <= 8; seed++) {
        for (int depth = 1; depth <= 2; depth++) {
            run_random(4, depth, 4, 32, seed, &preemptions);
            run_random(5, depth, 8, 100, seed + 100, &preemptions);
            run_random(9, depth, 3, 7, seed + 200, &preemptions);
            run_random(20, depth, 16, 256, seed + 300, &preemptions);
        }
    }
    printf("preemptions: %llu\n", (unsigned long long)preemptions);
    EXPECT(preemptions > 300); // the loads do reach what they are here for
}

/* Decodes go first, the rest of the budget goes to prompts, and a prompt is cut into chunks. */
static void test_budget(void)
{
    struct sim s;
    sim_init(&s, (struct scheduler_limits){8, 100, 8}, 40, 1, 1);
    EXPECT_INT(s.limits.tokens_max, 100);
    sim_submit(&s, 30, 50);
    sim_submit(&s, 250, 50);
    NEED(sim_plan(&s));
    EXPECT_INT(s.batches[0].tokens, 100);
    EXPECT_INT(s.batches[0].sequences, 2);
    EXPECT_INT(s.batches[0].rows, 1);
    sim_complete(&s);
    NEED(sim_plan(&s));
    EXPECT_INT(s.batches[1].entry[0].count, 1);
    EXPECT_INT(s.batches[1].entry[1].count, 99);
    EXPECT(sim_drain(&s, 1000));
    sim_deinit(&s);
}

static void test_queue_is_bounded(void)
{
    struct sim s;
    sim_init(&s, (struct scheduler_limits){1, 64, 2}, 8, 1, 1);
    /* A burst: none of them has run yet, and still there is room for one to run and two to wait. */
    for (int i = 0; i < 3; i++)
        EXPECT(sim_submit(&s, 10, 5) != NULL);
    EXPECT(sim_submit(&s, 10, 5) == NULL);
    sim_plan(&s);
    EXPECT(sim_submit(&s, 10, 5) == NULL);
    sim_complete(&s);
    EXPECT(sim_drain(&s, 1000));
    EXPECT(sim_submit(&s, 10, 5) != NULL);
    EXPECT(sim_drain(&s, 1000));
    EXPECT_INT(s.done, 4);
    sim_deinit(&s);
}

static void test_what_never_fits_fails_and_others_go_on(void)
{
    struct sim s;
    sim_init(&s, (struct scheduler_limits){4, 512, 8}, 4, 1, 1);
    sim_submit(&s, 4 * KV_BLOCK_TOKENS + 1, 5); // its prompt is larger than the pool
    sim_submit(&s, 20, 5);
    EXPECT(sim_drain(&s, 1000));
    EXPECT_INT(s.failed, 1);
    EXPECT_INT(s.done, 1);
    sim_deinit(&s);
}

/* A sequence that outgrows the pool fails when it is alone, after all others had to yield. */
static void test_outgrowing_the_pool(void)
{
    static struct sim s;
    sim_init(&s, (struct scheduler_limits){4, 512, 8}, 4, 1, 3);
    struct request *r = sim_submit(&s, 4 * KV_BLOCK_TOKENS - 2, 1000);
    r->stop_id_count = 0;
    EXPECT(sim_drain(&s, 1000));
    EXPECT_INT(s.failed, 1);
    EXPECT_INT(s.kv.free_count, 4);
    sim_deinit(&s);
}

/* The newcomer yields to the older sequence, then comes back and gives what it would have given. */
static void test_youngest_is_preempted(void)
{
    static struct sim s;
    for (int depth = 1; depth <= 2; depth++) {
        sim_init(&s, (struct scheduler_limits){4, 512, 8}, 4, depth, 11);
        struct request *old = sim_submit(&s, 60, 130);
        struct request *young = sim_submit(&s, 60, 130);
        old->stop_id_count = young->stop_id_count = 0;
        EXPECT(sim_drain(&s, 2000));
        EXPECT(s.scheduler.preemptions > 0);
        EXPECT_INT(s.done, 2);
        sim_deinit(&s);
    }
}

int main(void)
{
    RUN(test_budget);
    RUN(test_queue_is_bounded);
    RUN(test_what_never_fits_fails_and_others_go_on);
    RUN(test_outgrowing_the_pool);
    RUN(test_youngest_is_preempted);
    RUN(test_random_loads);
    return TEST_END();
}
