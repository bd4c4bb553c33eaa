#include "proxy/route_score.h"

#include "shared/base/check.h"
#include "shared/net/agent_record.h"
#include "tests/proxy_fleet.h"
#include "tests/test.h"

#include <math.h>

#define NOW 1000000ull

/* An idle grown-up: 1,000 tokens/s. */
static struct route_reading idle(void)
{
    return (struct route_reading){.prefill_per_s = 1000, .slope_s = 0.001, .age_s = 3600};
}

static double score(const struct route_reading *a, double uncached, double output)
{
    return route_score_seconds(&route_weights_default, a, uncached, output);
}

static bool is(double got, double want)
{
    if (fabs(got - want) < 1e-9) return true;
    printf("  got %.9f, want %.9f\n", got, want);
    return false;
}

static void test_tokens_over_rate(void)
{
    struct route_reading a = idle();
    EXPECT(is(score(&a, 500, 0), 0.5));
    a.waiting_tokens = 300; // W
    EXPECT(is(score(&a, 500, 0), 0.8));
    a.own_tokens = 200; // O
    EXPECT(is(score(&a, 500, 0), 1.0));
    a.prefill_per_s = 4000; // P
    EXPECT(is(score(&a, 500, 0), 0.25));
}

static void test_decode_term(void)
{
    struct route_reading a = idle();
    a.sequences = 4;
    double without = score(&a, 0, 0);
    EXPECT(is(score(&a, 0, 200) - without, 0.001 * 4 * 200 * 0.25));
    a.slope_s = 0; // unknown
    EXPECT(is(score(&a, 0, 200) - without, route_weights_default.nominal_slope_s * 4 * 200 * 0.25));
}

static void test_kv_term(void)
{
    struct route_reading a = idle();
    EXPECT(is(score(&a, 0, 0), 0));
    a.kv_share = 0.5;
    EXPECT(is(score(&a, 0, 0), 0.1));
    a.kv_share = 0.9;
    EXPECT(is(score(&a, 0, 0), 0.9));
    a.kv_share = 0.99;
    double most = score(&a, 0, 0);
    EXPECT(most > 9.8 && most < 10);
    a.kv_share = 1; // nothing is infinite
    EXPECT(is(score(&a, 0, 0), most));
    a.kv_share = -1;
    EXPECT(is(score(&a, 0, 0), 0));
}

static void test_failure_term(void)
{
    struct route_reading a = idle();
    a.failure_rate = 0.2;
    EXPECT(is(score(&a, 100, 0), 0.1 + 0.4));
}

static void test_slow_start(void)
{
    struct route_reading a = idle();
    a.age_s = 0;
    EXPECT(is(score(&a, 100, 0), 0.1 * 5));
    a.age_s = 10;
    EXPECT(is(score(&a, 100, 0), 0.1 * 3));
    a.age_s = 20;
    EXPECT(is(score(&a, 100, 0), 0.1));
}

static void test_stale_costs_the_same_at_any_age(void)
{
    struct route_reading a = idle();
    a.is_stale = true;
    EXPECT(is(score(&a, 100, 0), 0.1 + 0.25));
    a.age_s = 0; // the penalty isn't multiplied: it must cancel out when all are stale
    EXPECT(is(score(&a, 100, 0), 0.5 + 0.25));
}

/* ---- reading ---- */

static void test_reading_a_fresh_report(void)
{
    struct fleet *f = proxy_fleet_make(1);
    struct fleet_agent *a = f->agents[0];
    struct fleet_dispatch d[2];
    fleet_cell_take(a->cell, &d[0], 100);
    fleet_cell_take(a->cell, &d[1], 30);
    struct agent_load load = {.running = 4,
                              .waiting = 1,
                              .prefill_tokens_waiting = 700,
                              .kv_used_share = 0.25,
                              .prefill_tokens_per_s = 5000,
                              .inter_token_slope_s = 0.002};
    struct fleet_own_report own = {.high = 1, .active = 1};
    fleet_cell_report(a->cell, &load, &own, NOW);
    fleet_cell_set_birth(a->cell, NOW - 5000);
    struct route_reading r;
    route_score_read(&route_weights_default, a, NOW, &r);
    EXPECT(is(r.waiting_tokens, 700));
    route_score_read(&route_weights_default, a, NOW + 100, &r);
    EXPECT(is(r.waiting_tokens, 200)); // the rest has been computed meanwhile
    route_score_read(&route_weights_default, a, NOW + 3000, &r);
    EXPECT(!r.is_stale);
    EXPECT(is(r.waiting_tokens, 0));
    EXPECT(is(r.own_tokens, 30));   // the first is in the report
    EXPECT(is(r.sequences, 4 + 2)); // four of others, two of ours
    EXPECT(is(r.kv_share, 0.25));
    EXPECT(is(r.prefill_per_s, 5000));
    EXPECT(is(r.slope_s, 0.002));
    EXPECT(is(r.age_s, 8));
    EXPECT(is(r.failure_rate, 0));
    for (int i = 0; i < 2; i++)
        fleet_cell_release(a->cell, &d[i]);
    fleet_unref(f);
}

static void test_reading_a_stale_report(void)
{
    struct fleet *f = proxy_fleet_make(1);
    struct fleet_agent *a = f->agents[0];
    struct fleet_dispatch d[2];
    fleet_cell_take(a->cell, &d[0], 100);
    fleet_cell_take(a->cell, &d[1], 30);
    struct agent_load load = {.running = 9,
                              .prefill_tokens_waiting = 700,
                              .kv_used_share = 0.9,
                              .prefill_tokens_per_s = 5000};
    struct fleet_own_report own = {.high = 2, .active = 2};
    fleet_cell_report(a->cell, &load, &own, NOW);
    fleet_cell_note_started(a->cell, &d[1]);
    struct route_reading r;
    route_score_read(&route_weights_default, a, NOW + 3001, &r);
    EXPECT(r.is_stale);
    EXPECT(is(r.waiting_tokens, 0));
    EXPECT(is(r.own_tokens, 100)); // what we sent and has not begun to answer
    EXPECT(is(r.sequences, 2));
    EXPECT(is(r.kv_share, 0));
    EXPECT(is(r.prefill_per_s, 5000)); // the machine is the same
    EXPECT(is(r.age_s, route_weights_default.slow_start_s));
    for (int i = 0; i < 2; i++)
        fleet_cell_release(a->cell, &d[i]);
    fleet_unref(f);
}

static void test_nothing_reported_yet(void)
{
    struct fleet *f = proxy_fleet_make(1);
    struct route_reading r;
    f->agents[0]->speed = 2;
    route_score_read(&route_weights_default, f->agents[0], NOW, &r);
    EXPECT(r.is_stale);
    EXPECT(is(r.prefill_per_s, 0)); // to be filled in with what the others do
    fleet_unref(f);
}

int main(void)
{
    RUN(test_tokens_over_rate);
    RUN(test_decode_term);
    RUN(test_kv_term);
    RUN(test_failure_term);
    RUN(test_slow_start);
    RUN(test_stale_costs_the_same_at_any_age);
    RUN(test_reading_a_fresh_report);
    RUN(test_reading_a_stale_report);
    RUN(test_nothing_reported_yet);
    return TEST_END();
}
