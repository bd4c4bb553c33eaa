/* route_least_load.c - the agent with the least work per slot.
 *
 * score = (requests there + this one) / slots. Slots are what the agent says it runs at once, else
 * a nominal number times LMDeploy's relative speed, so that agents of unequal size fill alike. Ties
 * are broken at random: several proxies that see the same report must not all pick the same agent.
 */
#include "proxy/route.h"

static int pick(struct route_state *s, const struct route_request *r, struct route_candidate *c,
                int count)
{
    (void)r;
    int best = 0;
    uint32_t ties = 0;
    double best_score = 0;
    for (int i = 0; i < count; i++) {
        double score = (fleet_cell_load(c[i].agent->cell) + 1) / fleet_agent_slots(c[i].agent);
        if (i > 0 && score > best_score) continue;
        if (i == 0 || score < best_score) {
            best = i;
            best_score = score;
            ties = 1;
        } else if (rng_below(&s->rng, ++ties) == 0) { // reservoir of one over the tied
            best = i;
        }
    }
    return best;
}

const struct route_policy route_least_load = {.name = "least_load", .sees_all = true, .pick = pick};
