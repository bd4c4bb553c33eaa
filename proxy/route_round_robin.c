/* route_round_robin.c - one after another. Turns count for all models together: with several models
 * a single one still sees a rotation, only not always the next neighbour. */
#include "proxy/route.h"

static int pick(struct route_state *s, const struct fleet *f, const uint16_t *candidates, int count)
{
    (void)f;
    (void)candidates;
    return (int)(s->turn++ % (uint64_t)count);
}

const struct route_policy route_round_robin = {.name = "round_robin", .pick = pick};
