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

/* A machine whose step takes decode_s, and with prompt tokens chunk_s and token_s for each more;
 * with noise, and now and then a step that was descheduled. What prompts add stays below one decode
 * step, and most of what they may add is used. */
static void run_machine(double decode_s, double chunk_s, double token_s, uint64_t seed)
{
    struct prefill_pacer p = {.pace = 2};
    struct rng rng;
    rng_init(&rng, seed);
    prefill_pacer_measure(&p, 0, 512, 512 * token_s);
    double sum = 0;
    int tokens = 0, steps = 0, over = 0;
    for (int i = 0; i < 900; i++) {
        int budget = prefill_pacer_budget(&p, 4, 1, 2048);
        double s = decode_s + (budget > 0 ? chunk_s + budget * token_s : 0);
        double noise = 1 + 0.1 * ((double)rng_below(&rng, 1000) / 1000 - 0.5);
        prefill_pacer_measure(&p, 4, budget, rng_below(&rng, 50) ? s * noise : s * 10);
        if (i < 300 || budget == 0) continue;
        over += budget > PREFILL_PACE_MIN && s > 2.1 * decode_s;
        sum += s;
        tokens += budget;
        steps++;
    }
    double least = decode_s + chunk_s + PREFILL_PACE_MIN * token_s;
    EXPECT(steps > 500);
    EXPECT(over <= steps / 50);
    EXPECT(sum / steps <= (least > 1.8 * decode_s ? 1.01 * least : 1.8 * decode_s));
    double room = (0.6 * decode_s - chunk_s) / token_s;
    if (room > 2 * PREFILL_PACE_MIN && room < 2048) EXPECT(tokens > 0.6 * room * steps);
}

static void test_machines(void)
{
    run_machine(0.0025, 0, 0.0008, 1);       // two cores
    run_machine(0.0150, 0, 0.0004, 2);       // the same, busy
    run_machine(0.0150, 0.0050, 0.0005, 3);  // behind a long prompt
    run_machine(0.0120, 0.0001, 0.00003, 4); // a GPU
    run_machine(0.0010, 0, 0.01, 5);         // a prompt token costs more than the step
}

/* As a prompt gets longer its chunks cost more; the pace is kept all the way. */
static void test_growing_cost(void)
{
    struct prefill_pacer p = {.pace = 2};
    prefill_pacer_measure(&p, 0, 512, 512 * 0.0004);
    int steps = 0, over = 0;
    for (int done = 0; done < 4000; steps++) {
        int budget = prefill_pacer_budget(&p, 4, 1, 2048);
        double s = 0.012 + (budget > 0 ? 0.004 * done / 4000 + budget * 0.0005 : 0);
        over += s > 2 * 0.012;
        prefill_pacer_measure(&p, 4, budget, s);
        done += budget;
    }
    EXPECT(over <= 3);
    EXPECT(steps < 700);
}

int main(void)
{
    RUN(test_alone);
    RUN(test_machines);
    RUN(test_growing_cost);
    return TEST_END();
}
