#include "tests/sim/sim_scenario.h"

#include "shared/base/check.h"

static const struct sim_scenario scenarios[] = {
    {.name = "steady", .what = "even load, equal agents", .load_from = 0.7, .load_to = 0.7},
    {.name = "light", .what = "even load, half idle", .load_from = 0.35, .load_to = 0.35},
    {.name = "hot",
     .what = "half of the sessions share one system prompt",
     .load_from = 0.7,
     .load_to = 0.7,
     .hot_share = 0.5},
    {.name = "slow",
     .what = "one agent in ten at half speed",
     .load_from = 0.7,
     .load_to = 0.7,
     .slow_share = 0.1},
    {.name = "loss",
     .what = "one in twenty dies and returns, one in a hundred breaks",
     .load_from = 0.7,
     .load_to = 0.7,
     .lost_share = 0.05,
     .broken_share = 0.01},
    {.name = "ramp", .what = "from a third to saturation", .load_from = 0.3, .load_to = 1.1},
};

int sim_scenario_count(void)
{
    return (int)ARRAY_LEN(scenarios);
}

const struct sim_scenario *sim_scenario_at(int index)
{
    CHECK(index >= 0 && index < sim_scenario_count());
    return &scenarios[index];
}

double sim_scenario_load(const struct sim_scenario *s, double progress)
{
    return s->load_from + (s->load_to - s->load_from) * progress;
}
