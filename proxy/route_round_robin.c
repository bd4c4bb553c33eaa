/* route_round_robin.c - one after another. Turns count for all models together: with several models
 * a single one still sees a rotation, only not always the next neighbour. */
#include "proxy/route.h"

static int pick(struct route_state *s, const struct route_request *r, struct route_candidate *c,
                int count)
{
    (void)r;
    (void)c;
    return (int)(s->turn++ % (uint64_t)count);
}

const struct route_policy route_round_robin = {
    .name = "round_robin", .sees_all = true, .pick = pick};
