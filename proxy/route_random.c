/* route_random.c - LMDeploy's `random`: weighted by speed. A node without a speed weighs as much as
 * the mean of those that have one; without any, all weigh the same. */
#include "proxy/route.h"

static int pick(struct route_state *s, const struct fleet *f, const uint16_t *candidates, int count)
{
    double sum = 0;
    int known = 0;
    for (int i = 0; i < count; i++) {
        double speed = f->agents[candidates[i]]->speed;
        if (speed <= 0) continue;
        sum += speed;
        known++;
    }
    double mean = known ? sum / known : 1;
    double left = rng_unit(&s->rng) * (sum + mean * (count - known));
    for (int i = 0; i < count; i++) {
        double speed = f->agents[candidates[i]]->speed;
        left -= speed > 0 ? speed : mean;
        if (left < 0) return i;
    }
    return count - 1; // rounding
}

const struct route_policy route_random = {.name = "random", .pick = pick};
