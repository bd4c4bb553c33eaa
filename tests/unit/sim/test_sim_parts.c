/* The simulator's parts: what its table stands on. */
#include "tests/sim/sim_agent.h"

#include "shared/base/check.h"
#include "tests/test.h"

#include <math.h>

/* ---- calendar ---- */

static void test_events_come_in_order(void)
{
    struct sim_calendar c;
    struct rng rng;
    struct sim_event e;
    sim_calendar_init(&c);
    rng_init(&rng, 3);
    uint64_t last = 0;
    int added = 0, taken = 0;
    while (taken < 20000) {
        for (int i = 0; i < 3 && added < 20000; i++, added++) {
            static const uint32_t spans[] = {1, 900, 5000, 1000000, 900000000};
            uint64_t ahead = rng_below(&rng, spans[rng_below(&rng, ARRAY_LEN(spans))]);
            sim_calendar_add(&c, c.now_us + ahead, 1, (uint32_t)added, 0);
        }
        NEED(sim_calendar_take(&c, &e));
        EXPECT(e.time_us >= last && c.now_us == e.time_us);
        last = e.time_us;
        taken++;
    }
    EXPECT(!sim_calendar_take(&c, &e));
    sim_calendar_deinit(&c);
}

/* ---- workload ---- */

static void test_chains_grow_at_the_end(void)
{
    struct sim_workload w;
    sim_workload_init(&w, 1, 2000, 50, 0);
    EXPECT(w.turns_mean > 3 && w.turns_mean < 6);
    for (uint32_t s = 0; s < 2000; s++) {
        struct sim_link before[SIM_CHAIN_MAX], now[SIM_CHAIN_MAX];
        int count = 0;
        uint32_t tokens = w.system_tokens[w.sessions[s].system];
        for (uint32_t t = 0; t < w.sessions[s].turns; t++) {
            struct sim_turn turn = sim_workload_turn(&w, s, t);
            int more = sim_workload_chain(&w, s, t, now);
            EXPECT(more >= count);
            EXPECT(count == 0 || memcmp(before, now, (size_t)count * sizeof *now) == 0);
            EXPECT(now[more - 1].tokens <= tokens + turn.message);
            tokens += turn.message + turn.answer;
            memcpy(before, now, sizeof now);
            count = more;
        }
        EXPECT(tokens <= SIM_CONTEXT_TOKENS);
    }
    sim_workload_deinit(&w);
}

static void test_hot_share(void)
{
    struct sim_workload w;
    sim_workload_init(&w, 1, 20000, 1000, 0.5);
    int hot = 0;
    for (uint32_t s = 0; s < 20000; s++)
        hot += w.sessions[s].system == 0;
    EXPECT(hot > 10000 && hot < 12500); // and its share by Zipf's law
    sim_workload_deinit(&w);
}

/* ---- caches ---- */

static void test_caches_keep_their_rules(void)
{
    enum { AGENTS = 3, SESSIONS = 200 };
    struct sim_workload w;
    struct sim_caches c;
    struct rng rng;
    bool is_held[AGENTS][SESSIONS] = {{false}};
    int refused = 0;
    rng_init(&rng, 9);
    sim_workload_init(&w, 2, SESSIONS, 10, 0);
    sim_caches_init(&c, &w, AGENTS, 20000, true);
    for (int i = 0; i < 30000; i++) {
        uint32_t a = rng_below(&rng, AGENTS), s = rng_below(&rng, SESSIONS);
        uint32_t first = w.sessions[s].history + sim_workload_turn(&w, s, 0).message;
        if (is_held[a][s]) {
            bool broke_off = rng_below(&rng, 4) == 0;
            if (!broke_off) sim_cache_publish(&c, a, s, 0, first);
            sim_cache_release(&c, a, s, broke_off ? 0 : first + 100);
            is_held[a][s] = false;
            if (!broke_off) EXPECT(sim_cache_find(&c, a, s, first + 300) + 64 > first + 100);
        } else if (sim_cache_hold(&c, a, s, first + 100)) {
            is_held[a][s] = true;
        } else {
            refused++;
        }
        EXPECT(sim_cache_find(&c, a, s, first) < first); // never the last token
        if (i % 500 == 0) sim_cache_check(&c, a);
    }
    EXPECT(refused > 0);
    for (uint32_t a = 0; a < AGENTS; a++) {
        for (uint32_t s = 0; s < SESSIONS; s++)
            if (is_held[a][s]) sim_cache_release(&c, a, s, 0);
        sim_cache_check(&c, a);
        /* Each hash that came has gone, as often, in the log. */
        sim_cache_clear(&c, a);
        int live = 0;
        for (uint32_t i = 0; i < c.agents[a].log_count; i++)
            live += c.agents[a].log[i].tokens ? 1 : -1;
        EXPECT_INT(live, 0);
    }
    sim_caches_deinit(&c);
    sim_workload_deinit(&w);
}

/* ---- agents ---- */

static struct sim_workload work;
static struct sim_caches caches;
static struct sim_requests requests;
static struct sim_calendar calendar;
static struct sim_agents agents;
static double first_s[64], end_s[64];
static int ended;

static const struct sim_agent_model model = {
    .prefill_per_s = 8000, .base_s = 0.016, .slope_s = 0.0004, .batch = 8, .queue = 16};

static void on_first(void *arg, uint32_t slot)
{
    (void)arg;
    first_s[slot] = (double)calendar.now_us / 1e6;
}

static void on_end(void *arg, uint32_t slot)
{
    (void)arg;
    end_s[slot] = (double)calendar.now_us / 1e6;
    ended++;
}

static void begin(void)
{
    sim_workload_init(&work, 4, 64, 1, 0);
    sim_caches_init(&caches, &work, 1, 200000, false);
    sim_requests_init(&requests);
    sim_calendar_init(&calendar);
    agents = (struct sim_agents){.caches = &caches,
                                 .requests = &requests,
                                 .calendar = &calendar,
                                 .event_kind = 1,
                                 .on_first_token = on_first,
                                 .on_finished = on_end};
    sim_agents_init(&agents, &model, 1);
    ended = 0;
}

static void end(void)
{
    sim_agent_check(&agents, 0);
    sim_agents_deinit(&agents);
    sim_calendar_deinit(&calendar);
    for (uint32_t i = 1; i < requests.used; i++)
        sim_request_give(&requests, i);
    sim_requests_deinit(&requests);
    sim_caches_deinit(&caches);
    sim_workload_deinit(&work);
}

static uint32_t send_work(uint32_t prompt, uint32_t answer)
{
    uint32_t slot = sim_request_take(&requests);
    struct sim_request *q = sim_request_at(&requests, slot);
    q->session = slot;
    q->prompt = prompt;
    q->answer = answer;
    q->counter = slot;
    EXPECT_INT(sim_agent_accept(&agents, slot), SIM_AGENT_TAKEN);
    return slot;
}

static void run_until(double seconds)
{
    struct sim_event e;
    sim_calendar_add(&calendar, (uint64_t)(seconds * 1e6), 2, 0, 0);
    while (sim_calendar_take(&calendar, &e) && e.kind != 2) {
        sim_agent_advance(&agents, e.subject, e.stamp);
        sim_agent_check(&agents, 0);
    }
}

static bool is_about(double got, double want)
{
    if (fabs(got - want) < 2e-6 * 100) return true;
    printf("  got %.6f, want %.6f\n", got, want);
    return false;
}

static void test_alone(void)
{
    begin();
    double forecast = sim_agent_forecast(&agents, 0, 4000);
    uint32_t a = send_work(4000, 101);
    run_until(60);
    EXPECT(is_about(first_s[a], 0.016 + 0.5)); // one step with all of the prompt
    EXPECT(is_about(forecast, first_s[a]));
    EXPECT(is_about(end_s[a], first_s[a] + 100 * 0.0164));
    end();
}

/* Beside an answer a prompt goes in chunks of 0.6 * 16.4 ms * 8,000/s, 78 tokens. */
static void test_prompt_beside_answer(void)
{
    begin();
    uint32_t a = send_work(100, 2000);
    run_until(1);
    double now_s = (double)calendar.now_us / 1e6;
    double forecast = sim_agent_forecast(&agents, 0, 780);
    uint32_t b = send_work(780 + sim_cache_find(&caches, 0, 2, 1000), 10); // what it finds is extra
    run_until(60);
    double step_s = 0.0164, wait_s = first_s[b] - now_s;
    double steps_s = 10 * step_s + 780 / 8000.0;
    EXPECT(wait_s > steps_s && wait_s < steps_s + step_s); // and the rest of a step
    EXPECT(fabs(forecast - wait_s) < 0.001);
    EXPECT(end_s[a] > first_s[a] + 1999 * step_s + 780 / 8000.0);
    EXPECT_INT(ended, 2);
    end();
}

static void test_batch_is_bounded(void)
{
    begin();
    uint32_t slots[12];
    for (int i = 0; i < 12; i++)
        slots[i] = send_work(80, 50);
    EXPECT_INT(sim_agent_running(&agents.agents[0]), 1); // the first began at once
    run_until(0.1);
    EXPECT_INT(sim_agent_running(&agents.agents[0]), 8);
    EXPECT_INT(sim_agent_load(&agents, 0).waiting, 4);
    run_until(30);
    EXPECT_INT(ended, 12);
    EXPECT(first_s[slots[11]] >= end_s[slots[0]]);
    end();
}

static void test_killed_in_the_middle(void)
{
    begin();
    uint32_t a = send_work(80, 1000), b = send_work(8000, 10);
    run_until(0.1);
    uint32_t c = send_work(9000, 5);
    run_until(0.15);
    struct sim_fifo lost = {0};
    sim_agent_kill(&agents, 0, &lost);
    EXPECT_INT(lost.count, 3);
    struct sim_request *qa = sim_request_at(&requests, a);
    EXPECT(qa->emitted > 0 && qa->prompt == 80 + qa->emitted && qa->emitted + qa->answer == 1000);
    EXPECT(sim_request_at(&requests, b)->emitted == 0);
    EXPECT(sim_request_at(&requests, c)->answer == 5);
    EXPECT(caches.agents[0].held == 0 && caches.agents[0].idle == 0);
    EXPECT_INT(sim_agent_accept(&agents, a), SIM_AGENT_REFUSED);
    sim_agent_start(&agents, 0);
    run_until(1);
    EXPECT_INT(sim_agent_accept(&agents, a), SIM_AGENT_TAKEN);
    run_until(60);
    EXPECT_INT(ended, 1);
    end();
}

static void test_counters_and_gaps(void)
{
    begin();
    static const uint64_t order[] = {1, 4, 2, 6, 3};
    const struct sim_agent_peer *peer = sim_agent_peer_of(&agents, 0, 0);
    for (size_t i = 0; i < ARRAY_LEN(order); i++) {
        uint32_t slot = sim_request_take(&requests);
        *sim_request_at(&requests, slot) =
            (struct sim_request){.session = slot, .prompt = 10, .answer = 2, .counter = order[i]};
        EXPECT_INT(sim_agent_accept(&agents, slot), SIM_AGENT_TAKEN);
        if (i == 1) EXPECT(peer->high == 4 && peer->gap_count == 2 && peer->gaps[0] == 2);
    }
    EXPECT(peer->high == 6 && peer->gap_count == 1 && peer->gaps[0] == 5 && peer->active == 5);
    run_until(5);
    EXPECT(peer->active == 0);
    end();
}

int main(void)
{
    RUN(test_events_come_in_order);
    RUN(test_chains_grow_at_the_end);
    RUN(test_hot_share);
    RUN(test_caches_keep_their_rules);
    RUN(test_alone);
    RUN(test_prompt_beside_answer);
    RUN(test_batch_is_bounded);
    RUN(test_killed_in_the_middle);
    RUN(test_counters_and_gaps);
    return TEST_END();
}
