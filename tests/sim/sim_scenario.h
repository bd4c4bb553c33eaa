/* sim_scenario.h - what happens to the fleet while the sessions come: how fast they come, which
 * agents are slow, and who breaks when. Times are shares of all sessions, so that a scenario is the
 * same at every size. */
#ifndef LM_SIM_SCENARIO_H
#define LM_SIM_SCENARIO_H

#include <stdint.h>

struct sim_scenario {
    const char *name, *what;
    double load_from, load_to; // of what the fleet can do with warm caches
    double hot_share;          // of sessions with one and the same system prompt
    double slow_share;         // of agents, at half speed
    double lost_share;         // of agents, that die one by one and come back cold
    double broken_share;       // of agents, that answer all with errors for a while
};

#define SIM_LOST_AT        0.40 // the first is lost,
#define SIM_LOST_SPREAD    0.10 // the last of them so much later,
#define SIM_LOST_FOR       0.15 // and each comes back after that
#define SIM_BROKEN_AT      0.65
#define SIM_BROKEN_FOR     0.15

#define SIM_SCENARIO_NAMES "all|steady|light|hot|slow|loss|ramp"
int sim_scenario_count(void);
const struct sim_scenario *sim_scenario_at(int index);

/* Load at a share of the sessions. */
double sim_scenario_load(const struct sim_scenario *s, double progress);

#endif
