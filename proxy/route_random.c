/* route_random.c - LMDeploy's `random`: weighted by speed. A node without a speed weighs as much as
 * the mean of those that have one; without any, all weigh the same. */
#include "proxy/route.h"

static int pick(struct route_state *s, const struct route_request *r, struct route_candidate *c,
                int count)
{
    (void)r;
    double sum = 0;
    int known = 0;
    for (int i = 0; i < count; i++) {
        double speed = c[i].agent->speed;
        if (speed <= 0) continue;
        sum += speed;
        known++;
    }
    double mean = known ? sum / known : 1;
    double left = rng_unit(&s->rng) * (sum + mean * (count - known));
    for (int i = 0; i < count; i++) {
        double speed = c[i].agent->speed;
        left -= speed > 0 ? speed : mean;
        if (left < 0) return i;
    }
    return count - 1; // rounding
}

const struct route_policy route_random = {.name = "random", .sees_all = true, .pick = pick};
