/* Simulation: the real scheduler, batches and KV bookkeeping over the fake backend, no threads.
 * Every token that comes out is compared with what a fresh computation over the same tokens gives.
 * LM_SIM_SEEDS=n runs more of the random loads, LM_SIM_TURNS=n longer ones. */
#include "engine/scheduler.h"

#include "engine/decoder.h"
#include "engine/sampler.h"
#include "shared/base/rng.h"
#include "tests/fakes/fake_backend.h"
#include "tests/test.h"

#include <stdlib.h>

#define REQUESTS_MAX 64
#define STOP_TOKEN   5
#define CONTEXT      2000
#define ROPE_SETS    6
#define PAGE_BYTES   (KV_BLOCK_TOKENS * sizeof(uint64_t))

/* What a load may have in it. */
struct load {
    struct scheduler_limits limits;
    struct kv_memory_setup memory;
    int depth;
    int priorities, tenants, sessions; // how many of each; 0: none
    bool deadlines;
};

struct sim {
    struct load load;
    struct scheduler scheduler;
    struct kv_memory memory;
    struct backend *backend;
    struct batch batches[3];
    struct sampler_scratch scratch;
    struct step_limits limits;
    int depth;
    unsigned submitted, finished;
    struct list zombies;
    struct request *live[REQUESTS_MAX]; // with holes
    int live_count;
    uint64_t next_id, now_ms, done, failed, cancelled, expired, computed, cached;
    /* Turns of conversations, to be gone on with. */
    int32_t history[8][CONTEXT];
    int history_count[8];
    struct rng rng;
};

static const struct kv_memory_setup plain_memory = {.prefix_caching = true,
                                                    .session_pin_ratio = 0.5,
                                                    .session_host_bytes = 6 * PAGE_BYTES,
                                                    .page_bytes = PAGE_BYTES,
                                                    .ranks = 1};

static void sim_init_load(struct sim *s, const struct load *load, uint64_t seed)
{
    struct error err;
    *s = (struct sim){.load = *load, .depth = load->depth};
    rng_init(&s->rng, seed);
    list_init(&s->zombies);
    kv_memory_init(&s->memory, &load->memory);
    scheduler_init(&s->scheduler, &load->limits, &s->memory);
    s->limits = (struct step_limits){.tokens_max = scheduler_tokens_max(&load->limits),
                                     .sequences_max = load->limits.running_max,
                                     .rows_max = load->limits.running_max,
                                     .context_max = CONTEXT};
    NEED(fake_backend_ops.open(&(struct backend_options){0}, &s->backend, &err) == 0);
    NEED(fake_backend_ops.load(s->backend, &fake_params, &s->limits, &err) == 0);
    NEED(fake_backend_ops.kv_open(s->backend, KV_F32, load->memory.blocks, &err) == 0);
    for (int i = 0; i < 3; i++)
        batch_init(&s->batches[i], &s->limits);
}

static void sim_init(struct sim *s, struct scheduler_limits limits, int blocks, int depth,
                     uint64_t seed)
{
    struct load load = {.limits = limits, .memory = plain_memory, .depth = depth};
    load.memory.blocks = blocks;
    sim_init_load(s, &load, seed);
}

static void sim_deinit(struct sim *s)
{
    EXPECT_INT(s->memory.kv.count[KV_ACTIVE], 0);
    for (int i = 0; i < 3; i++)
        batch_deinit(&s->batches[i]);
    fake_backend_ops.close(s->backend);
    sampler_scratch_deinit(&s->scratch);
    scheduler_deinit(&s->scheduler);
    kv_memory_deinit(&s->memory);
}

/* By length, as the engine does; a few as if they went on with an answer that was begun elsewhere. */
static int sim_choose_rope(struct sim *s, const struct request *r)
{
    if (s->load.memory.rope_sets < 2) return 0;
    if (rng_below(&s->rng, 10) == 0) return (int)rng_below(&s->rng, ROPE_SETS);
    int set = r->prompt_count / 100;
    return set < ROPE_SETS ? set : ROPE_SETS - 1;
}

static struct request *sim_submit_request(struct sim *s, struct engine_request *in)
{
    static const int32_t stops[] = {STOP_TOKEN};
    struct error err;
    in->id = ++s->next_id;
    in->sampling.top_p = 1;
    struct request *r = request_create(in, CONTEXT, stops, 1);
    r->rope_set = sim_choose_rope(s, r);
    if (scheduler_submit(&s->scheduler, r, &err) < 0) {
        EXPECT_INT(err.code, E_BUSY);
        EXPECT_INT(s->scheduler.running_count + scheduler_waiting(&s->scheduler),
                   scheduler_open_max(&s->scheduler.limits));
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

static struct request *sim_submit(struct sim *s, int prompt_count, int max_tokens)
{
    static int32_t prompt[CONTEXT];
    struct engine_request in = {
        .prompt = prompt, .prompt_count = (size_t)prompt_count, .max_tokens = max_tokens};
    for (int i = 0; i < prompt_count; i++)
        prompt[i] = (int32_t)rng_below(&s->rng, FAKE_VOCAB);
    return sim_submit_request(s, &in);
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

static bool sim_plan(struct sim *s)
{
    struct batch *b = &s->batches[s->submitted % 3];
    batch_clear(b, s->submitted ? &s->batches[(s->submitted - 1) % 3] : NULL);
    bool planned = scheduler_plan(&s->scheduler, b);
    scheduler_check(&s->scheduler);
    for (struct request *r; (r = scheduler_take_failed(&s->scheduler)) != NULL;) {
        EXPECT(blocks_for(r->prompt_count + r->max_tokens) > s->memory.kv.total);
        s->failed++;
        sim_forget(s, r);
    }
    if (planned) {
        s->submitted++;
        s->computed += (uint64_t)b->tokens;
    }
    return planned;
}

static void sim_move(struct sim *s, const struct kv_move *m)
{
    if (m->kind == KV_MOVE_COPY)
        fake_backend_ops.kv_copy(s->backend, m->from, m->to, m->tokens);
    else if (m->kind == KV_MOVE_SAVE)
        fake_backend_ops.kv_save(s->backend, m->from, m->tokens, m->page->bytes);
    else
        fake_backend_ops.kv_restore(s->backend, m->to, m->tokens, m->page->bytes);
}

static void sim_execute(struct sim *s, struct batch *b)
{
    struct error err;
    for (int i = 0; i < b->moves.count; i++)
        sim_move(s, &b->moves.move[i]);
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

/* A conversation may go on from what was said. */
static void sim_remember(struct sim *s, const struct request *r)
{
    int i = r->session > 0 ? (int)(r->session % ARRAY_LEN(s->history))
                           : (int)rng_below(&s->rng, ARRAY_LEN(s->history));
    memcpy(s->history[i], r->tokens, (size_t)r->count * sizeof *r->tokens);
    s->history_count[i] = r->count;
}

static void sim_complete(struct sim *s)
{
    struct batch *b = &s->batches[s->finished++ % 3];
    sim_execute(s, b);
    for (int i = 0; i < b->sequences; i++) {
        struct request *r = b->entry[i].request;
        bool has_token = scheduler_complete_entry(&s->scheduler, b, i);
        if (r->state == REQUEST_FINISHED) {
            EXPECT(!has_token);
            if (r->in_flight > 0) continue;
            list_remove(&r->link);
            request_destroy(r);
        } else if (has_token) {
            int32_t token = r->tokens[r->count - 1];
            EXPECT_INT(token, fake_next_token_in(r->rope_set, r->tokens, r->count - 1));
            if (!request_is_stop(r, token) && request_generated(r) < r->max_tokens) continue;
            s->done++;
            s->cached += (uint64_t)r->cached;
            sim_remember(s, r);
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

/* ---- random loads ---- */

static void sim_submit_random(struct sim *s)
{
    static int32_t prompt[CONTEXT];
    int blocks = s->memory.kv.total, from = 0;
    int fresh = 1 + (int)rng_below(&s->rng, (uint32_t)(blocks * 16));
    if (rng_below(&s->rng, 20) == 0) fresh = blocks * KV_BLOCK_TOKENS + 1; // never fits
    if (rng_below(&s->rng, 20) == 0) fresh = blocks * KV_BLOCK_TOKENS - 3; // alone, barely
    struct engine_request in = {.prompt = prompt, .max_tokens = 1 + (int)rng_below(&s->rng, 200)};
    if (s->load.priorities) in.priority = (int)rng_below(&s->rng, (uint32_t)s->load.priorities) - 1;
    if (s->load.tenants) in.tenant = rng_below(&s->rng, (uint32_t)s->load.tenants);
    if (s->load.sessions) in.session = rng_below(&s->rng, (uint32_t)s->load.sessions + 1);
    if (s->load.deadlines && rng_below(&s->rng, 8) == 0)
        in.deadline_ms = s->now_ms + 1 + rng_below(&s->rng, 500);
    if (rng_below(&s->rng, 3) > 0) { // begins like another
        int i = in.session ? (int)(in.session % ARRAY_LEN(s->history))
                           : (int)rng_below(&s->rng, ARRAY_LEN(s->history));
        from = s->history_count[i];
        if (!in.session && from > 0) from = (int)rng_below(&s->rng, (uint32_t)from + 1);
        memcpy(prompt, s->history[i], (size_t)from * sizeof *prompt);
    }
    for (int i = from; i < CONTEXT; i++)
        prompt[i] = (int32_t)rng_below(&s->rng, FAKE_VOCAB);
    int count = from + fresh < CONTEXT - 1 ? from + fresh : CONTEXT - 1;
    if (from > 0 && from < CONTEXT && rng_below(&s->rng, 4) == 0) count = from;
    in.prompt_count = (size_t)count;
    int copies = 1;
    if (rng_below(&s->rng, 8) == 0) { // several answers, or several clients with one prompt
        copies = 2 + (int)rng_below(&s->rng, 4);
        in.group = rng_below(&s->rng, 2) ? s->next_id + 1 : 0;
    }
    while (copies-- > 0 && s->live_count < REQUESTS_MAX) {
        struct request *r = sim_submit_request(s, &in);
        if (r && rng_below(&s->rng, 4) > 0) r->stop_id_count = 0; // most run to max_tokens
    }
}

static void sim_expire(struct sim *s)
{
    for (struct request *r; (r = scheduler_take_expired(&s->scheduler, s->now_ms)) != NULL;) {
        EXPECT(r->deadline_ms <= s->now_ms);
        s->expired++;
        sim_forget(s, r);
    }
}

static void sim_random_turn(struct sim *s)
{
    uint32_t dice = rng_below(&s->rng, 1000);
    s->now_ms++;
    sim_expire(s);
    if (dice < 120 && s->live_count < REQUESTS_MAX) {
        sim_submit_random(s);
    } else if (dice < 140) {
        struct request *r = s->live[rng_below(&s->rng, REQUESTS_MAX)];
        if (r) {
            s->cancelled++;
            sim_finish(s, r);
        }
    } else if (dice < 145 && s->load.sessions) {
        session_pages_forget(&s->memory.sessions,
                             1 + rng_below(&s->rng, (uint32_t)s->load.sessions));
    } else if (s->submitted - s->finished < (unsigned)s->depth && dice < 800) {
        sim_plan(s);
    } else if (s->submitted != s->finished) {
        sim_complete(s);
    }
}

static long number_from(const char *name, long otherwise)
{
    const char *text = getenv(name);
    int64_t number;
    if (!text || str_to_int(str_of(text), &number) < 0 || number < 1) return otherwise;
    return (long)number;
}

struct totals {
    uint64_t preemptions, cached, expired;
};

static void run_random(const struct load *load, uint64_t seed, struct totals *totals)
{
    static struct sim s;
    sim_init_load(&s, load, seed);
    long turns = number_from("LM_SIM_TURNS", 3000);
    for (long turn = 0; turn < turns; turn++)
        sim_random_turn(&s);
    /* No starvation: what is there ends within the steps that it would need one after the other. */
    EXPECT(sim_drain(&s, 60000));
    EXPECT(list_is_empty(&s.zombies));
    EXPECT_INT(s.memory.kv.count[KV_ACTIVE], 0);
    EXPECT(s.done > 0);
    totals->preemptions += s.scheduler.preemptions;
    totals->cached += s.cached;
    totals->expired += s.expired;
    sim_deinit(&s);
}

static void test_random_loads(void)
{
    static const struct load loads[] = {
        {.limits = {4, 32, 8, 0}, .memory = {.blocks = 4}},
        {.limits = {8, 100, 8, 0}, .memory = {.blocks = 5}, .priorities = 3, .deadlines = true},
        {.limits = {3, 7, 8, 0}, .memory = {.blocks = 9}, .tenants = 3, .sessions = 5},
        {.limits = {16, 256, 8, 0}, .memory = {.blocks = 20}, .priorities = 2, .sessions = 12},
        {.limits = {12, 64, 30, 0}, .memory = {.blocks = 40}, .tenants = 5, .sessions = 30},
    };
    struct totals totals = {0};
    fake_backend.kv_copies = fake_backend.kv_saves = fake_backend.kv_restores = 0;
    long seeds = number_from("LM_SIM_SEEDS", 2);
    for (uint64_t seed = 1; seed <= (uint64_t)seeds; seed++) {
        for (size_t i = 0; i < 4 * ARRAY_LEN(loads); i++) {
            struct load load = loads[i % ARRAY_LEN(loads)];
            int blocks = load.memory.blocks;
            load.memory = plain_memory;
            load.memory.blocks = blocks;
            load.memory.rope_sets = i % 2 ? ROPE_SETS : 1;
            load.memory.prefix_caching = i < 3 * ARRAY_LEN(loads);
            load.depth = 1 + (int)(i / ARRAY_LEN(loads)) % 2;
            run_random(&load, seed + 100 * i, &totals);
        }
    }
    printf("%llu preemptions, %llu cached tokens, %llu deadlines, %d copies, %d saves, "
           "%d restores\n",
           (unsigned long long)totals.preemptions, (unsigned long long)totals.cached,
           (unsigned long long)totals.expired, fake_backend.kv_copies, fake_backend.kv_saves,
           fake_backend.kv_restores);
    /* The loads do reach what they are here for. */
    EXPECT(totals.preemptions > 100 && totals.cached > 1000 && totals.expired > 10);
    EXPECT(fake_backend.kv_copies > 100 && fake_backend.kv_saves > 100);
    EXPECT(fake_backend.kv_restores > 20);
}

/* ---- one thing at a time ---- */

/* Decodes go first, the rest of the budget goes to prompts, and a prompt is cut into chunks. */
static void test_budget(void)
{
    struct sim s;
    sim_init(&s, (struct scheduler_limits){8, 100, 8, 0}, 40, 1, 1);
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

/* A short prompt doesn't wait for the end of a long one, but takes no more than half of a step. */
static void test_short_prompts_go_by(void)
{
    struct sim s;
    sim_init(&s, (struct scheduler_limits){8, 100, 8, 0}, 40, 1, 1);
    struct request *big = sim_submit(&s, 170, 50);
    struct request *small = sim_submit(&s, 40, 50), *next = sim_submit(&s, 40, 50);
    NEED(sim_plan(&s));
    EXPECT(big->computed == 100 && small->state == REQUEST_WAITING);
    sim_complete(&s);
    NEED(sim_plan(&s));
    EXPECT_INT(small->computed, 40);
    EXPECT_INT(next->state, REQUEST_WAITING); // a full step's worth runs
    EXPECT_INT(big->computed, 160);
    sim_complete(&s);
    EXPECT(sim_drain(&s, 1000));
    sim_deinit(&s);
}

static void test_queue_is_bounded(void)
{
    struct sim s;
    sim_init(&s, (struct scheduler_limits){1, 64, 2, 0}, 8, 1, 1);
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
    sim_init(&s, (struct scheduler_limits){4, 512, 8, 0}, 4, 1, 1);
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
    sim_init(&s, (struct scheduler_limits){4, 512, 8, 0}, 4, 1, 3);
    struct request *r = sim_submit(&s, 4 * KV_BLOCK_TOKENS - 2, 1000);
    r->stop_id_count = 0;
    EXPECT(sim_drain(&s, 1000));
    EXPECT_INT(s.failed, 1);
    EXPECT_INT(s.memory.kv.count[KV_ACTIVE], 0);
    sim_deinit(&s);
}

/* The newcomer yields to the older sequence, then comes back and gives what it would have given. */
static void test_youngest_is_preempted(void)
{
    static struct sim s;
    for (int depth = 1; depth <= 2; depth++) {
        sim_init(&s, (struct scheduler_limits){4, 512, 8, 0}, 4, depth, 11);
        struct request *old = sim_submit(&s, 60, 130);
        struct request *young = sim_submit(&s, 60, 130);
        old->stop_id_count = young->stop_id_count = 0;
        EXPECT(sim_drain(&s, 2000));
        EXPECT(s.scheduler.preemptions > 0);
        EXPECT_INT(s.done, 2);
        sim_deinit(&s);
    }
}

/* ---- sharing ---- */

static int32_t shared_prompt[CONTEXT];

static struct engine_request request_like(int prompt_count, int max_tokens)
{
    for (int i = 0; i < CONTEXT; i++)
        shared_prompt[i] = i * 7 % FAKE_VOCAB;
    return (struct engine_request){
        .prompt = shared_prompt, .prompt_count = (size_t)prompt_count, .max_tokens = max_tokens};
}

static struct request *sim_submit_endless(struct sim *s, struct engine_request in)
{
    struct request *r = sim_submit_request(s, &in);
    NEED(r != NULL);
    r->stop_id_count = 0;
    return r;
}

static void test_equal_prompts_share_one_prefill(void)
{
    static struct sim s;
    for (int depth = 1; depth <= 2; depth++) {
        sim_init(&s, (struct scheduler_limits){8, 100, 8, 0}, 40, depth, 1);
        for (int i = 0; i < 5; i++)
            sim_submit_endless(&s, request_like(333, 1));
        EXPECT(sim_drain(&s, 100));
        EXPECT_INT(s.computed, 333 + 4); // each computes its last token
        EXPECT_INT(s.cached, 4 * 332);
        sim_deinit(&s);
    }
}

/* The first one is gone before its prompt is done: the others take what is there and go on, or, if
 * that can't be trusted, begin anew. */
static void test_producer_dies(void)
{
    static struct sim s;
    for (int run = 0; run < 4; run++) {
        int depth = 1 + run % 2;
        bool distrusted = run / 2;
        sim_init(&s, (struct scheduler_limits){8, 100, 8, 0}, 40, depth, 1);
        struct request *first = sim_submit_endless(&s, request_like(333, 20));
        sim_submit_endless(&s, request_like(333, 20));
        sim_submit_endless(&s, request_like(333, 20));
        NEED(sim_plan(&s));
        EXPECT_INT(s.scheduler.running_count, 1); // the others wait for it
        if (distrusted) {
            scheduler_finish_distrusted(&s.scheduler, first);
            sim_forget(&s, first);
        } else {
            sim_finish(&s, first);
        }
        EXPECT(sim_drain(&s, 100));
        EXPECT_INT(s.done, 2);
        EXPECT_INT(s.cached, 332 + (distrusted ? 0 : 100));
        sim_deinit(&s);
    }
}

/* Lists that a backend may find too long. */
static void test_rows_for_the_host(void)
{
    static struct sim s;
    static int32_t prompt[CONTEXT];
    static struct logit_bias bias[51];
    for (int i = 0; i < CONTEXT; i++)
        prompt[i] = i;
    for (int i = 0; i < 51; i++)
        bias[i].token = i;
    sim_init(&s, (struct scheduler_limits){8, 4096, 8, 0}, 200, 1, 1);
    for (int is_long = 0; is_long <= 1; is_long++) {
        struct engine_request in = {
            .prompt = prompt,
            .prompt_count = CONTEXT - 2,
            .max_tokens = 1,
            .sampling = {.repetition_penalty = 2, .bias = bias, .bias_count = is_long ? 51 : 50}};
        struct request *r = request_create(&in, CONTEXT, NULL, 0);
        struct batch b;
        batch_init(&b, &s.limits);
        batch_clear(&b, NULL);
        EXPECT(kv_memory_grow(&s.memory, r, CONTEXT - 2));
        batch_add(&b, r, CONTEXT - 2, true);
        EXPECT_INT(b.host_rows, is_long);
        kv_memory_end(&s.memory, r);
        request_destroy(r);
        batch_deinit(&b);
    }
    sim_deinit(&s);
}

/* A preempted one finds what it had computed, unless it was evicted for the one that took it. */
static void test_resuming_is_cheap(void)
{
    static struct sim s;
    sim_init(&s, (struct scheduler_limits){1, 512, 8, 0}, 20, 1, 1);
    struct request *low = sim_submit_endless(&s, request_like(300, 50));
    for (int i = 0; i < 10; i++) {
        NEED(sim_plan(&s));
        sim_complete(&s);
    }
    struct engine_request in = request_like(40, 5);
    in.priority = -1;
    sim_submit_endless(&s, in);
    NEED(sim_plan(&s));
    EXPECT_INT(low->state, REQUEST_WAITING);
    sim_complete(&s);
    EXPECT(sim_drain(&s, 100));
    EXPECT_INT(s.scheduler.preemptions, 1);
    EXPECT_INT(s.computed, 300 + 49 + 1 + 4); // nothing twice: 39 of 40 tokens are low's own
    sim_deinit(&s);
}

/* ---- who waits for whom ---- */

static void test_priority_takes_a_full_pool(void)
{
    static struct sim s;
    sim_init(&s, (struct scheduler_limits){8, 512, 8, 0}, 8, 1, 1);
    struct request *low[3];
    for (int i = 0; i < 3; i++) {
        low[i] = sim_submit(&s, 2 * KV_BLOCK_TOKENS - 20, 15);
        low[i]->stop_id_count = 0;
    }
    NEED(sim_plan(&s));
    sim_complete(&s);
    struct engine_request in = request_like(4 * KV_BLOCK_TOKENS, 10);
    in.priority = -3;
    struct request *high = sim_submit_endless(&s, in);
    NEED(sim_plan(&s));
    EXPECT_INT(high->state, REQUEST_RUNNING);
    EXPECT_INT(low[0]->state, REQUEST_RUNNING); // only as many as it takes
    EXPECT_INT(low[2]->state, REQUEST_WAITING);
    sim_complete(&s);
    EXPECT(sim_drain(&s, 200));
    EXPECT_INT(s.done, 4);
    sim_deinit(&s);
}

/* However many of a better class keep coming, the others end. */
static void test_no_class_starves(void)
{
    static struct sim s;
    for (int depth = 1; depth <= 2; depth++) {
        sim_init(&s, (struct scheduler_limits){2, 64, 8, 0}, 6, depth, 1);
        struct engine_request in = request_like(100, 60);
        in.priority = 9;
        uint64_t low = sim_submit_endless(&s, in)->id;
        int steps = 0;
        for (; scheduler_find(&s.scheduler, low) && steps < 20000; steps++) {
            while (s.live_count < 6) {
                struct request *r = sim_submit(&s, 150, 20);
                NEED(r != NULL);
                r->stop_id_count = 0;
            }
            while (s.submitted - s.finished < (unsigned)depth && sim_plan(&s))
                ;
            sim_complete(&s);
        }
        EXPECT(steps < 3000);
        EXPECT(sim_drain(&s, 2000));
        sim_deinit(&s);
    }
}

/* One tenant's twenty don't stand before another's one. */
static void test_tenants_take_turns(void)
{
    static struct sim s;
    sim_init(&s, (struct scheduler_limits){1, 512, 40, 0}, 40, 1, 1);
    struct engine_request in = {.tenant = 1, .prompt = shared_prompt, .max_tokens = 3};
    for (int i = 0; i < 20; i++) {
        in.prompt_count = (size_t)(300 + i);
        shared_prompt[0] = i; // no two begin alike
        sim_submit_endless(&s, in);
    }
    in.tenant = 2;
    struct request *other = sim_submit_endless(&s, in);
    uint64_t id = other->id;
    for (int i = 0; i < 200 && scheduler_find(&s.scheduler, id); i++) {
        NEED(sim_plan(&s));
        sim_complete(&s);
    }
    EXPECT(s.done <= 9); // a quantum of the first tenant's, not all of its twenty
    EXPECT(sim_drain(&s, 500));
    sim_deinit(&s);
}

int main(void)
{
    RUN(test_budget);
    RUN(test_short_prompts_go_by);
    RUN(test_queue_is_bounded);
    RUN(test_what_never_fits_fails_and_others_go_on);
    RUN(test_outgrowing_the_pool);
    RUN(test_youngest_is_preempted);
    RUN(test_equal_prompts_share_one_prefill);
    RUN(test_producer_dies);
    RUN(test_rows_for_the_host);
    RUN(test_resuming_is_cheap);
    RUN(test_priority_takes_a_full_pool);
    RUN(test_no_class_starves);
    RUN(test_tenants_take_turns);
    RUN(test_random_loads);
    return TEST_END();
}
