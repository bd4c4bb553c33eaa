/* What docs/routing.md says of the policies, on a small fleet: the default beats every other one, and
 * comes near to an oracle that knows all. A run checks its own books (sim_run.c): every request
 * ends once, ledgers and caches are empty at the end. */
#include "tests/sim/sim_run.h"

#include "shared/base/check.h"
#include "tests/test.h"

static const struct sim_setup setup = {.agents = 32,
                                       .proxies = 4,
                                       .sessions = 10000,
                                       .systems = 500,
                                       .seed = 1,
                                       .kv_tokens = 400000,
                                       .batch = 64,
                                       .prefix_entries = 16384,
                                       .prefill_per_s = 8000,
                                       .base_ms = 15,
                                       .slope_ms = 0.25,
                                       .news_s = 0.1};

static const struct sim_row oracle = {"oracle", SIM_PICK_ORACLE, NULL},
                            sparing = {"oracle_sparing", SIM_PICK_SPARING, NULL},
                            by_hash = {"session_hash", SIM_PICK_SESSION_HASH, NULL},
                            by_default = {"affinity", SIM_PICK_POLICY, &route_affinity};

static const struct sim_scenario *scenario(const char *name)
{
    for (int i = 0; i < sim_scenario_count(); i++) {
        if (strcmp(sim_scenario_at(i)->name, name) == 0) return sim_scenario_at(i);
    }
    UNREACHABLE();
}

static double run(struct sim_workload *work, const char *name, const struct sim_row *row,
                  struct sim_result *out)
{
    sim_run(&setup, scenario(name), row, NULL, work, out);
    double mean = sim_histogram_mean(&out->first_token);
    printf("  %-7s %-21s first token %7.1f ms, p99 %6.0f ms, hits %.1f %%\n", name, row->name,
           1e3 * mean, 1e3 * sim_histogram_quantile(&out->first_token, 0.99),
           100 * (double)out->cached_tokens / (double)out->prompt_tokens);
    EXPECT(out->offered == out->served + out->errors + out->abandoned && out->served > 10000);
    return mean;
}

static void open_work(struct sim_workload *work, const char *name)
{
    sim_workload_init(work, (uint64_t)setup.seed, (uint32_t)setup.sessions, (uint32_t)setup.systems,
                      scenario(name)->hot_share);
}

static void test_default_beats_all_others(void)
{
    struct sim_workload work;
    struct sim_result mine, other;
    open_work(&work, "steady");
    double first = run(&work, "steady", &by_default, &mine);
    EXPECT(first < 1.1 * run(&work, "steady", &oracle, &other));
    EXPECT(first < 1.15 * run(&work, "steady", &sparing, &other));
    EXPECT(first < 0.7 * run(&work, "steady", &by_hash, &other));
    EXPECT(mine.cached_tokens * other.prompt_tokens >
           other.cached_tokens * mine.prompt_tokens * 95 / 100); // hits as a pure hash, or nearly
    for (int i = 1; i < 6; i++) {
        const struct route_policy *policy = route_policy_at(i);
        struct sim_row row = {policy->name, SIM_PICK_POLICY, policy};
        EXPECT(first < 0.3 * run(&work, "steady", &row, &other));
    }
    EXPECT(mine.errors == 0);
    sim_workload_deinit(&work);
}

static void test_near_the_oracle_everywhere(void)
{
    static const char *const names[] = {"light", "hot", "slow"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct sim_workload work;
        struct sim_result mine, best;
        open_work(&work, names[i]);
        double first = run(&work, names[i], &by_default, &mine);
        EXPECT(first < 1.12 * run(&work, names[i], &oracle, &best));
        EXPECT(mine.errors == 0);
        sim_workload_deinit(&work);
    }
}

static void test_loss_is_survived(void)
{
    struct sim_workload work;
    struct sim_result mine, best;
    open_work(&work, "loss");
    double first = run(&work, "loss", &by_default, &mine);
    EXPECT(first < 1.1 * run(&work, "loss", &oracle, &best));
    EXPECT(mine.retries > 0 && mine.resumed > 0);
    /* What remains are answers of the broken agent: 500 is never tried again. */
    EXPECT(mine.errors > 0 && mine.errors * 200 < mine.offered);
    EXPECT(best.errors == 0);
    sim_workload_deinit(&work);
}

static void test_same_seed_same_row(void)
{
    struct sim_workload work;
    struct sim_result a, b;
    open_work(&work, "hot");
    run(&work, "hot", &by_default, &a);
    run(&work, "hot", &by_default, &b);
    EXPECT(memcmp(&a.first_token, &b.first_token, sizeof a.first_token) == 0);
    EXPECT(memcmp(&a.whole, &b.whole, sizeof a.whole) == 0);
    EXPECT(a.cached_tokens == b.cached_tokens && a.moved == b.moved && a.offered == b.offered);
    sim_workload_deinit(&work);
}

int main(void)
{
    RUN(test_default_beats_all_others);
    RUN(test_near_the_oracle_everywhere);
    RUN(test_loss_is_survived);
    RUN(test_same_seed_same_row);
    return TEST_END();
}
