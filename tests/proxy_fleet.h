/* proxy_fleet.h - fleets for tests of the proxy: agents "a0", "a1", ... that all serve model "m".
 */
#ifndef LM_TESTS_PROXY_FLEET_H
#define LM_TESTS_PROXY_FLEET_H

#include "proxy/fleet.h"

#include <stdio.h>

static inline struct fleet_agent *proxy_fleet_agent(const char *id, const char *const *models,
                                                    int model_count)
{
    struct fleet_cell *cell = fleet_cell_create();
    struct fleet_agent facts = {
        .id = id,
        .url = "http://127.0.0.1:1",
        .host = "127.0.0.1",
        .path = "",
        .port = 1,
        .state = FLEET_UP,
        .cell = cell,
        .model_count = model_count,
    };
    struct fleet_agent *a = fleet_agent_create(&facts, models);
    fleet_cell_unref(cell); // the agent has its own
    return a;
}

static inline struct fleet *proxy_fleet_make(int count)
{
    static const char *const models[] = {"m"};
    struct fleet_agent *agents[FLEET_AGENTS_MAX];
    for (int i = 0; i < count; i++) {
        char id[16];
        snprintf(id, sizeof id, "a%d", i);
        agents[i] = proxy_fleet_agent(id, models, 1);
        agents[i]->cell->column = i;
    }
    return fleet_create_take(agents, count);
}

/* Opens the agent's breaker, half-open from now_ms + 1 s on. */
static inline void proxy_fleet_break(struct fleet *f, int index, uint64_t now_ms)
{
    for (int i = 0; i < BREAKER_STREAK; i++)
        (void)breaker_failure(&f->agents[index]->cell->breaker, false, true, 0, now_ms);
}

/* Loads that a test has set by hand are not the ledger's: cleared first. */
static inline void proxy_fleet_free(struct fleet *f)
{
    for (int i = 0; i < f->count; i++)
        atomic_store(&f->agents[i]->cell->in_flight, 0);
    fleet_unref(f);
}

#endif
