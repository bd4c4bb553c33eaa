/* route.h - which agent gets a request. A policy is one file and one row in route.c.
 *
 * Pure: no loop, no clock, no allocation. The same fleet, loads, exclusions and state give the same
 * answer, so that tests and a simulator can replay traffic from one seed with the very code that
 * routes. Nothing is counted here: the caller takes a ledger entry when it dispatches, so a policy
 * that is asked twice for a retry doesn't see its own first guess as load. */
#ifndef LM_PROXY_ROUTE_H
#define LM_PROXY_ROUTE_H

#include "proxy/fleet.h"
#include "shared/base/rng.h"

#define ROUTE_EXCLUDED_MAX 16

/* Agents that failed this request already, by cell: facts may change between attempts, cells don't.
 */
struct route_excluded {
    const struct fleet_cell *cells[ROUTE_EXCLUDED_MAX];
    int count;
};

/* What policies remember from one request to the next; one per loop thread. */
struct route_state {
    struct rng rng;
    uint64_t turn;
    uint16_t candidates[FLEET_AGENTS_MAX]; // scratch
};

void route_state_init(struct route_state *s, uint64_t seed);

struct route_policy {
    const char *name;
    /* Pick one of `count` > 0 candidates; returns an index into `candidates`. */
    int (*pick)(struct route_state *s, const struct fleet *f, const uint16_t *candidates,
                int count);
};

/* Order of --routing-strategy's choices. */
#define ROUTE_POLICY_NAMES "least_load|round_robin|random"
const struct route_policy *route_policy_at(int index);

extern const struct route_policy route_least_load, route_round_robin, route_random;

/* Hard filters, then the policy. Agents that are up and not draining come first; suspects are asked
 * only when there is no such agent, since a suspect may well be alive. NULL: nobody is left. */
struct fleet_agent *route_choose(const struct route_policy *policy, struct route_state *s,
                                 const struct fleet *f, const struct fleet_model *model,
                                 const struct route_excluded *excluded);
void route_exclude(struct route_excluded *e, const struct fleet_cell *cell);

#endif
