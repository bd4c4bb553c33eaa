#include "proxy/fleet_cell.h"

#include "shared/base/check.h"
#include "shared/base/rng.h"
#include "shared/net/agent_record.h"
#include "tests/test.h"

static struct agent_load load_of(int running, int waiting)
{
    return (struct agent_load){.running = running, .waiting = waiting};
}

static long long unseen(const struct fleet_cell *c)
{
    return (long long)atomic_load(&c->unseen_tokens);
}

static void test_own_requests_are_not_laid_to_others(void)
{
    struct fleet_cell *c = fleet_cell_create();
    struct fleet_dispatch d[5];
    for (int i = 0; i < 5; i++)
        fleet_cell_take(c, &d[i], 100);
    EXPECT_INT(d[0].counter, 1);
    EXPECT_INT(d[4].counter, 5);
    struct fleet_own_report own = {.high = 0};
    struct agent_load load = load_of(3, 0); // of somebody else, made before ours came
    fleet_cell_report(c, &load, &own, 1);
    EXPECT_INT(fleet_cell_load(c), 8);
    EXPECT_INT(unseen(c), 500);
    own.high = 5;
    own.active = 5;
    load = load_of(6, 2);
    fleet_cell_report(c, &load, &own, 2);
    EXPECT_INT(fleet_cell_load(c), 8);
    EXPECT_INT(unseen(c), 0);
    for (int i = 0; i < 4; i++) // they end; the report says so later
        fleet_cell_release(c, &d[i]);
    EXPECT_INT(fleet_cell_load(c), 4);
    own.active = 1;
    load = load_of(4, 0);
    fleet_cell_report(c, &load, &own, 3);
    EXPECT_INT(fleet_cell_load(c), 4);
    own.active = 9; // nonsense does no harm
    fleet_cell_report(c, &load, &own, 4);
    EXPECT_INT(fleet_cell_load(c), 1);
    fleet_cell_release(c, &d[4]);
    fleet_cell_check(c);
    fleet_cell_unref(c);
}

static void test_gaps(void)
{
    struct fleet_cell *c = fleet_cell_create();
    struct fleet_dispatch d[4];
    for (int i = 0; i < 4; i++)
        fleet_cell_take(c, &d[i], 1 << i);
    uint64_t gaps[] = {3, 1};
    struct agent_load load = load_of(0, 0);
    struct fleet_own_report own = {.high = 4, .gaps = gaps, .gap_count = 2, .active = 2};
    fleet_cell_report(c, &load, &own, 1);
    EXPECT_INT(unseen(c), 1 + 4);
    own.gap_count = 1;
    fleet_cell_report(c, &load, &own, 2);
    EXPECT_INT(unseen(c), 4);
    fleet_cell_release(c, &d[2]); // never arrived
    EXPECT_INT(unseen(c), 0);
    fleet_cell_check(c);
    for (int i = 0; i < 4; i++)
        if (i != 2) fleet_cell_release(c, &d[i]);
    fleet_cell_unref(c);
}

/* An agent that doesn't count per proxy: everything sent is in its numbers. */
static void test_a_report_without_counters(void)
{
    struct fleet_cell *c = fleet_cell_create();
    struct fleet_dispatch d[3];
    for (int i = 0; i < 3; i++)
        fleet_cell_take(c, &d[i], 10);
    struct agent_load load = load_of(5, 0);
    fleet_cell_report(c, &load, NULL, 1);
    EXPECT_INT(fleet_cell_load(c), 5);
    EXPECT_INT(unseen(c), 0);
    EXPECT_INT(atomic_load(&c->unstarted_tokens), 30);
    for (int i = 0; i < 3; i++)
        fleet_cell_release(c, &d[i]);
    fleet_cell_unref(c);
}

static void test_started(void)
{
    struct fleet_cell *c = fleet_cell_create();
    struct fleet_dispatch d;
    fleet_cell_take(c, &d, 70);
    EXPECT_INT(atomic_load(&c->unstarted_tokens), 70);
    fleet_cell_note_started(c, &d);
    fleet_cell_note_started(c, &d);
    EXPECT_INT(atomic_load(&c->unstarted_tokens), 0);
    EXPECT_INT(unseen(c), 0);
    EXPECT_INT(fleet_cell_load(c), 1);
    fleet_cell_release(c, &d);
    fleet_cell_check(c);
    fleet_cell_unref(c);
}

static void test_odd_estimates(void)
{
    static const double odd[] = {-5, 0.0 / 1.0, 1e300, 0.4};
    struct fleet_cell *c = fleet_cell_create();
    for (int i = 0; i < 5; i++) {
        struct fleet_dispatch d;
        fleet_cell_take(c, &d, i < 4 ? odd[i] : (double)__builtin_nanf(""));
        EXPECT(unseen(c) >= 0 && unseen(c) <= 1000000000);
        fleet_cell_release(c, &d);
    }
    EXPECT_INT(unseen(c), 0);
    fleet_cell_unref(c);
}

static void test_another_process(void)
{
    struct fleet_cell *c = fleet_cell_create();
    struct agent_load load = load_of(5, 1);
    load.prefill_tokens_waiting = 900;
    load.prefill_tokens_per_s = 4000;
    fleet_cell_report(c, &load, NULL, 7);
    fleet_cell_forget_report(c);
    EXPECT_INT(fleet_cell_load(c), 0);
    EXPECT_INT(atomic_load(&c->waiting_tokens), 0);
    EXPECT_INT(atomic_load(&c->reported_ms), 0);
    EXPECT(atomic_load(&c->prefill_per_s) == 4000); // the machine is the same
    fleet_cell_unref(c);
}

static void test_latencies_are_the_last_ones(void)
{
    struct fleet_cell *c = fleet_cell_create();
    double kept[FLEET_LATENCY_MAX];
    EXPECT_INT(fleet_cell_latencies(c, kept), 0);
    fleet_cell_add_latency(c, 3, 10);
    EXPECT_INT(fleet_cell_latencies(c, kept), 1);
    EXPECT(atomic_load(&c->latency_mean_s) == 3);
    for (int i = 0; i < 100; i++)
        fleet_cell_add_latency(c, i, 20);
    EXPECT_INT(fleet_cell_latencies(c, kept), FLEET_LATENCY_MAX);
    for (int i = 0; i < FLEET_LATENCY_MAX; i++)
        EXPECT(kept[i] == 85 + i);
    EXPECT(atomic_load(&c->latency_mean_s) == (85 + 99) / 2.0);
    fleet_cell_unref(c);
}

static void test_failures_fade(void)
{
    struct fleet_cell *c = fleet_cell_create();
    fleet_cell_note_outcome(c, false, 1000);
    EXPECT(fleet_cell_failure_rate(c, 1000) == 0);
    for (int i = 0; i < 30; i++)
        fleet_cell_note_outcome(c, true, 1000);
    double high = fleet_cell_failure_rate(c, 1000);
    EXPECT(high > 0.99 && high <= 1);
    EXPECT(fleet_cell_failure_rate(c, 16000) < high * 0.51);
    EXPECT(fleet_cell_failure_rate(c, 31000) == 0);
    EXPECT(fleet_cell_failure_rate(c, 500) == high); // a clock that was read earlier
    for (int i = 0; i < 40; i++)
        fleet_cell_note_outcome(c, false, 1000);
    EXPECT(fleet_cell_failure_rate(c, 1000) == 0);
    EXPECT_INT(atomic_load(&c->failed_total), 30);
    fleet_cell_unref(c);
}

/* ---- exactness: random dispatches, arrivals out of order, losses, reports, releases ---- */

enum { SLOTS = 200, ROUNDS = 40000, GAPS = 32 };

/* What really is: of each dispatch whether the agent has it. */
struct truth {
    struct fleet_dispatch d;
    bool live, arrived;
};

static int compare_down(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return (left < right) - (left > right);
}

/* The agent's report by the rules of the protocol; older gaps than 32 count as accepted. */
static void report(struct fleet_cell *c, struct truth *t, const bool *accepted, uint64_t high,
                   uint64_t now_ms)
{
    uint64_t gaps[GAPS];
    int count = 0, active = 0;
    for (uint64_t n = high; n > 0 && count < GAPS; n--)
        if (!accepted[n]) gaps[count++] = n;
    for (int i = 0; i < SLOTS; i++)
        active += t[i].live && t[i].arrived;
    qsort(gaps, (size_t)count, sizeof gaps[0], compare_down);
    struct fleet_own_report own = {
        .high = high, .gaps = gaps, .gap_count = count, .active = active};
    struct agent_load load = load_of(active + 7, 0);
    fleet_cell_report(c, &load, &own, now_ms);
    EXPECT_INT(atomic_load(&c->others_in_flight), 7);
}

static void test_unseen_tokens_are_exact(void)
{
    static bool accepted[ROUNDS + 1], reported[ROUNDS + 1];
    static struct truth t[SLOTS];
    struct fleet_cell *c = fleet_cell_create();
    struct rng rng;
    rng_init(&rng, 77);
    uint64_t high = 0;
    for (int round = 0; round < ROUNDS; round++) {
        struct truth *one = &t[rng_below(&rng, SLOTS)];
        switch (rng_below(&rng, 8)) {
        case 0:
        case 1:
        case 2:
            if (one->live) break;
            fleet_cell_take(c, &one->d, rng_below(&rng, 5000));
            one->live = true;
            one->arrived = false;
            break;
        case 3:
        case 4: // it arrives, in whatever order
            if (!one->live || one->arrived) break;
            one->arrived = accepted[one->d.counter] = true;
            if (one->d.counter > high) high = one->d.counter;
            break;
        case 5:
        case 6: // it ends, or was lost on its way
            if (!one->live) break;
            fleet_cell_release(c, &one->d);
            one->live = false;
            break;
        default:
            if (rng_below(&rng, 4) != 0) break;
            report(c, t, accepted, high, (uint64_t)round);
            int gaps = 0;
            for (uint64_t n = high; n > 0; n--)
                if (accepted[n] || gaps++ >= GAPS) reported[n] = true;
        }
        long long want = 0;
        for (int i = 0; i < SLOTS; i++)
            if (t[i].live && !reported[t[i].d.counter]) want += t[i].d.tokens;
        if (want != unseen(c)) EXPECT_INT(unseen(c), want);
        if (round % 64 == 0) fleet_cell_check(c);
    }
    for (int i = 0; i < SLOTS; i++)
        if (t[i].live) fleet_cell_release(c, &t[i].d);
    EXPECT_INT(unseen(c), 0);
    EXPECT_INT(atomic_load(&c->unstarted_tokens), 0);
    EXPECT_INT(atomic_load(&c->in_flight), 0);
    fleet_cell_unref(c);
}

/* ---- several threads ---- */

enum { THREADS = 4, TURNS = 20000, HELD = 16 };

static void *hammer(void *arg)
{
    struct fleet_cell *c = arg;
    struct fleet_dispatch d[HELD];
    bool live[HELD] = {false};
    struct rng rng;
    rng_init(&rng, (uint64_t)(uintptr_t)&rng);
    for (int i = 0; i < TURNS; i++) {
        int at = (int)rng_below(&rng, HELD);
        if (live[at]) {
            if (rng_below(&rng, 2)) fleet_cell_note_started(c, &d[at]);
            fleet_cell_release(c, &d[at]);
            fleet_cell_note_outcome(c, rng_below(&rng, 4) == 0, (uint64_t)i);
            fleet_cell_add_latency(c, 1, (uint64_t)i);
        } else {
            fleet_cell_take(c, &d[at], rng_below(&rng, 100));
        }
        live[at] = !live[at];
    }
    for (int i = 0; i < HELD; i++)
        if (live[i]) fleet_cell_release(c, &d[i]);
    return NULL;
}

static void test_threads(void)
{
    struct fleet_cell *c = fleet_cell_create();
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        NEED(pthread_create(&threads[i], NULL, hammer, c) == 0);
    struct agent_load load = load_of(3, 3);
    for (uint64_t high = 0; high < 2000; high++) {
        struct fleet_own_report own = {.high = high * 10, .active = 2};
        fleet_cell_report(c, &load, &own, high);
        fleet_cell_check(c);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    fleet_cell_check(c);
    EXPECT_INT(unseen(c), 0);
    EXPECT_INT(atomic_load(&c->unstarted_tokens), 0);
    EXPECT_INT(fleet_cell_load(c), 4);
    fleet_cell_unref(c);
}

int main(void)
{
    RUN(test_own_requests_are_not_laid_to_others);
    RUN(test_gaps);
    RUN(test_a_report_without_counters);
    RUN(test_started);
    RUN(test_odd_estimates);
    RUN(test_another_process);
    RUN(test_latencies_are_the_last_ones);
    RUN(test_failures_fade);
    RUN(test_unseen_tokens_are_exact);
    RUN(test_threads);
    return TEST_END();
}
