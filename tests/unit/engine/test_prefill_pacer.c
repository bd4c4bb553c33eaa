#include "engine/prefill_pacer.h"

#include "shared/base/rng.h"
#include "tests/test.h"

static void test_alone(void)
{
    struct prefill_pacer p = {.pace = 2};
    EXPECT_INT(prefill_pacer_budget(&p, 0, 1, 512), 512);
    EXPECT_INT(prefill_pacer_budget(&p, 4, 1, 512), 512); // nothing known yet
    prefill_pacer_measure(&p, 0, 512, 0.2);
    EXPECT_INT(prefill_pacer_budget(&p, 4, 1, 512), 0); // answers alone are measured first
    prefill_pacer_measure(&p, 4, 0, 0.005);
    EXPECT_INT(prefill_pacer_budget(&p, 0, 1, 512), 512);
    EXPECT(prefill_pacer_budget(&p, 4, 1, 512) < 512);
    EXPECT_INT(prefill_pacer_budget(&p, 4, 1, 2), 2);
    int few = prefill_pacer_budget(&p, 4, 16, 512), many = prefill_pacer_budget(&p, 4, 160, 512);
    EXPECT_INT(few, prefill_pacer_budget(&p, 4, 1, 512));
    EXPECT(many >= 9 * few && many <= 11 * few); // 40 for each answer wait instead of four
    for (int i = 0; i < PREFILL_PACE_RUN; i++)
        prefill_pacer_measure(&p, 4, 8, 0.009);
    EXPECT_INT(prefill_pacer_budget(&p, 4, 1, 512), 0); // what runs may have changed
    p.pace = 0;
    EXPECT_INT(prefill_pacer_budget(&p, 4, 1, 512), 512);
}

/* A machine whose step takes fixed_s + answers * answer_s + tokens * token_s, with noise and now
 * and then a step that was descheduled: the share that prompts add settles below one decode step. */
static void run_machine(double fixed_s, double answer_s, double token_s, int answers, uint64_t seed)
{
    struct prefill_pacer p = {.pace = 2};
    struct rng rng;
    rng_init(&rng, seed);
    double decode_s = fixed_s + answers * answer_s, worst = 0, sum = 0;
    int tokens = 0;
    for (int i = 0; i < 600; i++) {
        int budget = i % 8 == 0 ? 0 : prefill_pacer_budget(&p, answers, 1, 2048);
        double s = decode_s + budget * token_s;
        double noise = 1 + 0.1 * ((double)rng_below(&rng, 1000) / 1000 - 0.5);
        prefill_pacer_measure(&p, answers, budget, rng_below(&rng, 50) ? s * noise : s * 10);
        if (i < 300 || budget == 0) continue;
        worst = s > worst ? s : worst;
        sum += s;
        tokens += budget;
    }
    double least = token_s * PREFILL_PACE_MIN + decode_s;
    EXPECT(worst <= (2.1 * decode_s > least ? 2.1 * decode_s : least));
    EXPECT(tokens >= 262 * PREFILL_PACE_MIN);
    double expected = 0.8 * decode_s / token_s; // a token that is cheap isn't given away
    if (expected > 2 * PREFILL_PACE_MIN && expected < 2048) EXPECT(tokens / 262.0 > 0.5 * expected);
}

static void test_machines(void)
{
    run_machine(0.002, 0.0005, 0.0008, 1, 1);     // two cores
    run_machine(0.002, 0.0008, 0.0004, 16, 2);    // the same, busy
    run_machine(0.010, 0.00001, 0.00003, 200, 3); // a GPU
    run_machine(0.001, 0, 0.01, 1, 4);            // a prompt token costs more than the step
}

int main(void)
{
    RUN(test_alone);
    RUN(test_machines);
    return TEST_END();
}
