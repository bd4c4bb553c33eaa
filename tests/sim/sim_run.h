/* sim_run.h - one row of the table: a scenario under a policy, from the first session to the last
 * answer. The same options give the same row, wall times apart. */
#ifndef LM_SIM_RUN_H
#define LM_SIM_RUN_H

#include "tests/sim/sim_proxy.h"
#include "tests/sim/sim_scenario.h"

struct sim_setup {
    int64_t agents, proxies, sessions, systems, seed;
    int64_t kv_tokens, batch, prefix_entries;
    double prefill_per_s, base_ms, slope_ms, news_s;
    double load; // 0: the scenario's
};

/* A row of the table: a policy of the proxy by name, or "oracle" or "session_hash". */
struct sim_row {
    const char *name;
    enum sim_picker picker;
    const struct route_policy *policy; // NULL unless SIM_PICK_POLICY
};

/* work: made for this scenario's hot_share; used up, and reset. weights: NULL, the default's. */
void sim_run(const struct sim_setup *setup, const struct sim_scenario *scenario,
             const struct sim_row *row, const struct route_weights *weights,
             struct sim_workload *work, struct sim_result *out);

#endif
