/* What each policy prefers. */
#include "proxy/route.h"

#include "shared/base/check.h"
#include "shared/base/hash.h"
#include "shared/net/agent_record.h"
#include "tests/proxy_fleet.h"
#include "tests/test.h"

#define NOW 1000000ull

enum { DRAWS = 20000 };

static struct fleet *f;
static struct route_state state;
static struct route_request request;
static struct route_choice choice;

static void begin(int agents)
{
    f = proxy_fleet_make(agents);
    route_state_init(&state, 42);
    request = (struct route_request){
        .prompt_tokens = 100, .output_tokens = 100, .probing_allowed = true, .now_ms = NOW};
}

static void end(void)
{
    proxy_fleet_free(f);
}

static int pick_by(const struct route_policy *policy)
{
    const struct fleet_model *model = fleet_find_model(f, STR("m"));
    NEED(route_choose(policy, &state, f, model, &request, &choice) == ROUTE_PICKED);
    return fleet_find_cell(f, choice.agent->cell);
}

static void pick_many(const struct route_policy *policy, int draws, int counts[])
{
    memset(counts, 0, (size_t)f->count * sizeof counts[0]);
    for (int i = 0; i < draws; i++)
        counts[pick_by(policy)]++;
}

/* Requests that come and stay. */
static void fill(const struct route_policy *policy, int requests)
{
    for (int i = 0; i < requests; i++)
        atomic_fetch_add(&f->agents[pick_by(policy)]->cell->in_flight, 1);
}

static int in_flight(int index)
{
    return atomic_load(&f->agents[index]->cell->in_flight);
}

static bool is_near(int got, double want, double share)
{
    return got > want * (1 - share) && got < want * (1 + share);
}

static void set_load(int index, int own, int others)
{
    atomic_store(&f->agents[index]->cell->in_flight, own);
    atomic_store(&f->agents[index]->cell->others_in_flight, others);
}

/* Reports of 1,000 tokens/s and so many tokens waiting. */
static void report(int index, int tokens_waiting)
{
    struct agent_load load = {.prefill_tokens_waiting = tokens_waiting,
                              .prefill_tokens_per_s = 1000};
    fleet_cell_report(f->agents[index]->cell, &load, NULL, NOW);
}

/* ---- affinity ---- */

static void test_fewest_seconds(void)
{
    begin(3); // of which two are looked at, so ask often
    report(0, 900);
    report(1, 100);
    report(2, 500);
    int counts[3];
    pick_many(&route_affinity, 3000, counts);
    EXPECT_INT(counts[0], 0);
    EXPECT(is_near(counts[1], 2000, 0.05));
    EXPECT(is_near(counts[2], 1000, 0.1)); // where 1 wasn't among them
    end();
}

static void test_cached_tokens_are_seconds(void)
{
    begin(2);
    state.weights.crowding_max = 1; // what others lose is left out here
    request.prompt_tokens = 2000;
    report(0, 0);
    report(1, 1000);
    request.hits[0] = (struct route_hit){f->agents[1]->cell, 1500};
    request.hit_count = 1;
    EXPECT_INT(pick_by(&route_affinity), 1); // 1.5 s against 2 s
    report(1, 1600);
    EXPECT_INT(pick_by(&route_affinity), 0); // 2.1 s: recomputing is faster
    EXPECT_INT(choice.affinity, ROUTE_AFFINITY_NONE);
    end();
}

static void test_a_session_stays_within_hysteresis(void)
{
    begin(2);
    state.weights.crowding_max = 1; // what others lose is left out here
    request.prompt_tokens = 1000;
    request.pinned = f->agents[0]->cell;
    report(0, 95); // 1.095 s against 1 s: within 10 %
    report(1, 0);
    EXPECT_INT(pick_by(&route_affinity), 0);
    EXPECT_INT(choice.affinity, ROUTE_AFFINITY_HIT);
    report(0, 105);
    EXPECT_INT(pick_by(&route_affinity), 1);
    EXPECT_INT(choice.affinity, ROUTE_AFFINITY_MOVED);
    request.prompt_tokens = 1;
    report(0, 18); // within 20 ms
    EXPECT_INT(pick_by(&route_affinity), 0);
    report(0, 25);
    EXPECT_INT(pick_by(&route_affinity), 1);
    request.prompt_tokens = 1000; // what it has cached counts, too
    request.pinned_cached_tokens = 900;
    report(0, 900);
    EXPECT_INT(pick_by(&route_affinity), 0);
    end();
}

/* Two proxies with dice of their own and loads that differ a little. */
static void test_ties_go_by_rendezvous_and_proxies_agree(void)
{
    begin(100);
    for (int i = 0; i < 100; i++)
        report(i, 0);
    struct route_state other;
    route_state_init(&other, 4711);
    int agreed = 0, first = 0;
    for (uint64_t key = 1; key <= 2000; key++) {
        request.key = hash_mix(key);
        int here = pick_by(&route_affinity);
        uint16_t order[RENDEZVOUS_FIRST];
        rendezvous_first(f, fleet_find_model(f, STR("m")), request.key, order);
        first += here == order[0];
        struct route_state own = state;
        state = other;
        for (int i = 0; i < 100; i++)
            report(i, (int)(key + (uint64_t)i) % 5); // 4 ms: noise
        agreed += here == pick_by(&route_affinity);
        other = state;
        state = own;
    }
    EXPECT(agreed >= 2000 * 0.96); // but for one in a hundred of each, who explores
    EXPECT(first >= 2000 * 0.98);
    end();
}

static void test_keys_spread(void)
{
    begin(10);
    int counts[10] = {0};
    for (uint64_t key = 1; key <= DRAWS; key++) {
        request.key = key;
        counts[pick_by(&route_affinity)]++;
    }
    for (int i = 0; i < 10; i++)
        EXPECT(is_near(counts[i], DRAWS / 10.0, 0.12));
    end();
}

static void test_of_tied_ones_the_cached_wins(void)
{
    begin(8);
    for (int i = 0; i < 8; i++)
        report(i, 4000); // 5 % of 4 s are more than this cache saves
    request.prompt_tokens = 200;
    request.hits[0] = (struct route_hit){f->agents[6]->cell, 150};
    request.hit_count = 1;
    int hits = 0;
    for (uint64_t key = 1; key <= 500; key++) {
        request.key = key;
        hits += pick_by(&route_affinity) == 6;
    }
    EXPECT(hits > 480); // the others explore
    end();
}

/* What a session would gain by moving is weighed against what others lose: on an idle fleet it moves
 * as soon as waiting takes longer than computing its history elsewhere, on a busy one much later. */
static void test_a_busy_fleet_moves_less(void)
{
    begin(8);
    request.key = 5;
    request.prompt_tokens = 1000;
    request.pinned = f->agents[0]->cell;
    request.pinned_cached_tokens = 900;
    for (int i = 0; i < 8; i++)
        report(i, i == 0 ? 1500 : 0); // 1.5 + 0.1 s there, 1 s anywhere else
    EXPECT(pick_by(&route_affinity) != 0);
    for (int i = 0; i < 8; i++)
        report(i, i == 0 ? 1500 : i < 7 ? 1 : 0); // seven of eight are busy, though not for long
    for (int i = 0; i < 1000; i++)
        (void)pick_by(&route_affinity);
    EXPECT(state.crowded > 0.8 && state.crowded < 1);
    EXPECT_INT(pick_by(&route_affinity), 0);
    for (int i = 1; i < 8; i++)
        report(i, 0); // the crowd is gone
    report(0, 1500);
    request.now_ms = NOW + 100;
    for (int i = 0; i < 1000; i++)
        (void)pick_by(&route_affinity);
    EXPECT(state.crowded < 0.3);
    EXPECT(pick_by(&route_affinity) != 0);
    end();
}

/* Hours later the first requests needn't unlearn the evening one hundredth at a time. */
static void test_crowds_are_forgotten_by_time(void)
{
    begin(4);
    for (int i = 0; i < 4; i++)
        report(i, 5000);
    for (int i = 0; i < 500; i++)
        (void)pick_by(&route_affinity);
    EXPECT(state.crowded > 0.9);
    request.now_ms = NOW + 60000; // nothing was sent meanwhile, and the reports are stale
    (void)pick_by(&route_affinity);
    EXPECT(state.crowded == 0);
    end();
}

/* Half of the fleet has the system prompt: no list could name them all. */
static void test_a_crowd_has_it_cached(void)
{
    begin(20);
    static struct prefix_crowd crowd;
    crowd = (struct prefix_crowd){.cached_tokens = 1500};
    for (int i = 0; i < 20; i++) {
        int column = f->agents[i]->cell->column;
        report(i, 0);
        if (i % 2 == 0) crowd.columns[column / 64] |= 1ull << (column % 64);
    }
    request.prompt_tokens = 2000;
    request.crowd = &crowd;
    int counts[20], used = 0;
    pick_many(&route_affinity, 2000, counts);
    for (int i = 0; i < 20; i++) {
        if (i % 2 != 0) EXPECT_INT(counts[i], 0);
        used += counts[i] > 0;
    }
    EXPECT_INT(used, 10);
    EXPECT(choice.cached_tokens == 1500);
    /* What half of the fleet has costs the other half less than a third: 0.5 + 0.44 s. */
    state.weights.crowding_max = 1;
    for (int i = 0; i < 20; i += 2)
        report(i, 300); // 0.3 + 0.5 s
    pick_many(&route_affinity, 200, counts);
    EXPECT_INT(counts[1], 0);
    for (int i = 0; i < 20; i += 2)
        report(i, 600);
    pick_many(&route_affinity, 2000, counts);
    for (int i = 0; i < 20; i++)
        EXPECT((counts[i] > 0) == (i % 2 != 0));
    EXPECT(choice.cached_tokens == 0); // a price isn't a promise
    end();
}

static void test_unknown_rates_are_average(void)
{
    begin(2);
    report(0, 0); // 1,000 tokens/s; the other is stale, as foreign nodes are
    request.prompt_tokens = 100;
    EXPECT_INT(pick_by(&route_affinity), 0);
    set_load(0, 0, 0);
    report(0, 400); // 0.5 s against 0.1 s + 0.25 s
    EXPECT_INT(pick_by(&route_affinity), 1);
    EXPECT(choice.seconds > 0.34 && choice.seconds < 0.36);
    end();
}

static void test_when_all_are_stale_the_penalty_cancels(void)
{
    begin(4);
    for (int i = 0; i < 4; i++)
        report(i, i == 2 ? 0 : 5000);
    request.now_ms = NOW + 60000; // Redis is away
    struct fleet_dispatch d[3];
    for (int i = 0; i < 4; i++)
        if (i != 1) fleet_cell_take(f->agents[i]->cell, &d[i > 1 ? i - 1 : 0], 1000);
    int counts[4];
    pick_many(&route_affinity, 400, counts);
    EXPECT(counts[1] > 180); // by what we sent ourselves; it is looked at every other time
    for (int i = 0; i < 4; i++)
        if (i != 1) fleet_cell_release(f->agents[i]->cell, &d[i > 1 ? i - 1 : 0]);
    end();
}

/* ---- least load, round robin, random ---- */

static void test_least_load_picks_the_least(void)
{
    begin(4);
    set_load(0, 3, 0);
    set_load(1, 0, 2);
    set_load(2, 1, 0);
    set_load(3, 1, 1);
    int counts[4];
    pick_many(&route_least_load, 100, counts);
    EXPECT_INT(counts[2], 100);
    end();
}

static void test_least_load_spreads_ties(void)
{
    begin(5);
    set_load(4, 1, 0);
    int counts[5];
    pick_many(&route_least_load, DRAWS, counts);
    for (int i = 0; i < 4; i++)
        EXPECT(is_near(counts[i], DRAWS / 4.0, 0.1));
    EXPECT_INT(counts[4], 0);
    end();
}

static void test_least_load_fills_by_capacity(void)
{
    begin(3);
    f->agents[0]->capacity = 100;
    f->agents[1]->capacity = 200;
    f->agents[2]->capacity = 700;
    fill(&route_least_load, 100);
    EXPECT_INT(in_flight(0), 10);
    EXPECT_INT(in_flight(1), 20);
    EXPECT_INT(in_flight(2), 70);
    end();
}

static void test_least_load_knows_speed_of_foreign_nodes(void)
{
    begin(2);
    f->agents[0]->speed = 3;
    f->agents[1]->speed = 1;
    fill(&route_least_load, 400);
    EXPECT(is_near(in_flight(0), 300, 0.02));
    end();
}

static void test_round_robin_is_even(void)
{
    begin(7);
    set_load(3, 100, 100);
    int counts[7];
    pick_many(&route_round_robin, 700, counts);
    for (int i = 0; i < 7; i++)
        EXPECT_INT(counts[i], 100);
    end();
}

static void test_random_is_weighted_by_speed(void)
{
    begin(3);
    int counts[3];
    pick_many(&route_random, DRAWS, counts);
    for (int i = 0; i < 3; i++)
        EXPECT(is_near(counts[i], DRAWS / 3.0, 0.1));
    f->agents[0]->speed = 6;
    f->agents[1]->speed = 2; // the third weighs their mean: 4
    pick_many(&route_random, DRAWS, counts);
    EXPECT(is_near(counts[0], DRAWS / 2.0, 0.1));
    EXPECT(is_near(counts[1], DRAWS / 6.0, 0.1));
    EXPECT(is_near(counts[2], DRAWS / 3.0, 0.1));
    end();
}

/* ---- LMDeploy's latencies ---- */

static void test_expected_latency_fills_by_speed(void)
{
    begin(3);
    f->agents[0]->speed = 1;
    f->agents[1]->speed = 3; // the third counts as their mean, 2: it has none, or 0 or less
    fill(&route_min_expected_latency, 600);
    EXPECT_INT(in_flight(0), 100);
    EXPECT_INT(in_flight(1), 300);
    EXPECT_INT(in_flight(2), 200);
    end();
}

/* A speed of 0 divides by zero in LMDeploy, a negative one attracts everything. */
static void test_expected_latency_survives_odd_speeds(void)
{
    begin(2);
    f->agents[0]->speed = 0;
    f->agents[1]->speed = -4;
    fill(&route_min_expected_latency, 100);
    EXPECT_INT(in_flight(0), 50);
    EXPECT_INT(in_flight(1), 50);
    end();
}

static void test_expected_latency_spreads_ties(void)
{
    begin(4);
    int counts[4];
    pick_many(&route_min_expected_latency, DRAWS, counts);
    for (int i = 0; i < 4; i++)
        EXPECT(is_near(counts[i], DRAWS / 4.0, 0.1));
    end();
}

static void test_observed_latency_takes_the_fastest(void)
{
    begin(3);
    for (int i = 0; i < 3; i++)
        fleet_cell_add_latency(f->agents[i]->cell, i == 1 ? 1 : 2, NOW);
    int counts[3];
    pick_many(&route_min_observed_latency, 100, counts);
    EXPECT_INT(counts[1], 100);
    end();
}

/* In LMDeploy a node without history is infinitely slow, for ever. */
static void test_observed_latency_measures_everybody(void)
{
    begin(3);
    fleet_cell_add_latency(f->agents[0]->cell, 1, NOW);
    fleet_cell_add_latency(f->agents[1]->cell, 0.5, NOW);
    EXPECT_INT(pick_by(&route_min_observed_latency), 2);
    set_load(2, 1, 0); // is being measured: no more until it has answered
    for (int i = 0; i < 20; i++)
        EXPECT_INT(pick_by(&route_min_observed_latency), 1);
    set_load(2, 0, 0);
    fleet_cell_add_latency(f->agents[2]->cell, 0.1, NOW);
    EXPECT_INT(pick_by(&route_min_observed_latency), 2);
    /* And one that was slow once is asked again some day. */
    request.now_ms = NOW + 29000;
    fleet_cell_add_latency(f->agents[1]->cell, 0.5, request.now_ms);
    fleet_cell_add_latency(f->agents[2]->cell, 0.1, request.now_ms);
    EXPECT_INT(pick_by(&route_min_observed_latency), 2);
    request.now_ms = NOW + 30000;
    EXPECT_INT(pick_by(&route_min_observed_latency), 0);
    end();
}

int main(void)
{
    RUN(test_fewest_seconds);
    RUN(test_cached_tokens_are_seconds);
    RUN(test_a_session_stays_within_hysteresis);
    RUN(test_ties_go_by_rendezvous_and_proxies_agree);
    RUN(test_keys_spread);
    RUN(test_of_tied_ones_the_cached_wins);
    RUN(test_a_busy_fleet_moves_less);
    RUN(test_crowds_are_forgotten_by_time);
    RUN(test_a_crowd_has_it_cached);
    RUN(test_unknown_rates_are_average);
    RUN(test_when_all_are_stale_the_penalty_cancels);
    RUN(test_least_load_picks_the_least);
    RUN(test_least_load_spreads_ties);
    RUN(test_least_load_fills_by_capacity);
    RUN(test_least_load_knows_speed_of_foreign_nodes);
    RUN(test_round_robin_is_even);
    RUN(test_random_is_weighted_by_speed);
    RUN(test_expected_latency_fills_by_speed);
    RUN(test_expected_latency_survives_odd_speeds);
    RUN(test_expected_latency_spreads_ties);
    RUN(test_observed_latency_takes_the_fastest);
    RUN(test_observed_latency_measures_everybody);
    return TEST_END();
}
