/* route_least_load.c - the agent with the least work per slot.
 *
 * score = (requests there + this one) / slots. Slots are what the agent says it runs at once, else
 * a nominal number times LMDeploy's relative speed, so that agents of unequal size fill alike. Ties
 * are broken at random: several proxies that see the same report must not all pick the same agent.
 */
#include "proxy/route.h"

#define NOMINAL_SLOTS 32

static double score_of(const struct fleet_agent *a)
{
    double slots = a->capacity > 0 ? a->capacity : NOMINAL_SLOTS * (a->speed > 0 ? a->speed : 1);
    return (fleet_cell_load(a->cell) + 1) / slots;
}

static int pick(struct route_state *s, const struct fleet *f, const uint16_t *candidates, int count)
{
    int best = 0;
    uint32_t ties = 0;
    double best_score = 0;
    for (int i = 0; i < count; i++) {
        double score = score_of(f->agents[candidates[i]]);
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

const struct route_policy route_least_load = {.name = "least_load", .pick = pick};
