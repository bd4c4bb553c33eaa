#include "engine/step_cost.h"

#include "tests/test.h"

#include <math.h>
#include <stdbool.h>

static bool is_near(double value, double want, double share)
{
    return fabs(value - want) <= share * want;
}

static void test_unknown(void)
{
    struct step_cost c = {0};
    step_cost_measure(&c, 1, 0, 0); // no time was measured
    step_cost_measure(&c, 0, 0, 1);
    EXPECT(c.prefill_tokens_per_s == 0 && c.inter_token_s == 0 && c.inter_token_slope_s == 0);
}

/* A machine on which a step takes 4 ms, 1 ms for each answer, 1/2000 s for each prompt token. */
static void step(struct step_cost *c, int answers, int prefill)
{
    step_cost_measure(c, answers, prefill, 0.004 + 0.001 * answers + prefill / 2000.0);
}

static void test_slope(void)
{
    struct step_cost c = {0};
    for (int i = 0; i < 200; i++)
        step(&c, 8, 0);
    EXPECT(is_near(c.inter_token_s, 0.012, 0.001));
    EXPECT(c.inter_token_slope_s == 0); // one number of answers says nothing of a slope
    for (int i = 0; i < 100; i++)
        step(&c, 1 + i % 16, 0);
    EXPECT(is_near(c.inter_token_slope_s, 0.001, 0.01));
    for (int i = 0; i < 10000; i++) // it is kept while nothing new is seen
        step(&c, 8, 0);
    EXPECT(is_near(c.inter_token_slope_s, 0.001, 0.05));
}

static void test_slope_is_never_negative(void)
{
    struct step_cost c = {0};
    for (int i = 0; i < 100; i++)
        step_cost_measure(&c, 1 + i % 8, 0, 0.02 - 0.001 * (i % 8));
    EXPECT(c.inter_token_slope_s == 0);
}

static void test_outlier(void)
{
    struct step_cost c = {0};
    for (int i = 0; i < 100; i++)
        step(&c, 1, 0);
    step_cost_measure(&c, 1, 0, 10);
    EXPECT(c.inter_token_s < 0.007);
}

static void test_prefill_rate(void)
{
    struct step_cost c = {0};
    for (int i = 0; i < 20; i++)
        step(&c, 0, 512);
    EXPECT(is_near(c.prefill_tokens_per_s, 512 / 0.260, 0.01));
    double alone = c.prefill_tokens_per_s;
    // remnants behind cached prompts leave it as it is
    for (int i = 0; i < 1000; i++)
        step(&c, 0, 3);
    EXPECT(c.prefill_tokens_per_s == alone);
    // beside answers a prompt gets on more slowly: that is the rate it can count on
    for (int i = 0; i < 2000; i++)
        step(&c, 16, 64);
    EXPECT(is_near(c.prefill_tokens_per_s, 64 / (0.004 + 0.016 + 0.032), 0.05));
    // a machine that became slower is known as such after some busy time
    for (int i = 0; i < 100; i++)
        step_cost_measure(&c, 0, 512, 1.024);
    EXPECT(is_near(c.prefill_tokens_per_s, 500, 0.02));
}

static void test_first_is_short(void)
{
    struct step_cost c = {0};
    step(&c, 0, 4); // better than nothing
    EXPECT(is_near(c.prefill_tokens_per_s, 4 / 0.006, 0.01));
}

int main(void)
{
    RUN(test_unknown);
    RUN(test_slope);
    RUN(test_slope_is_never_negative);
    RUN(test_outlier);
    RUN(test_prefill_rate);
    RUN(test_first_is_short);
    return TEST_END();
}
