/* route_min_expected_latency.c - LMDeploy's default: fewest of our own unfinished requests per
 * speed, ties at random. Its faults are not kept: a node without a speed counts as the mean of
 * those that have one (LMDeploy divides by a speed of 0, and takes negative ones), the count is the
 * ledger's (it can't be reset by registering again while requests run, nor go below 0), and a node
 * that fails fast is stopped by its breaker instead of being the least busy one. */
#include "proxy/route.h"

static double mean_speed(const struct route_candidate *c, int count)
{
    double sum = 0;
    int known = 0;
    for (int i = 0; i < count; i++) {
        if (c[i].agent->speed <= 0) continue;
        sum += c[i].agent->speed;
        known++;
    }
    return known ? sum / known : 1;
}

static int pick(struct route_state *s, const struct route_request *r, struct route_candidate *c,
                int count)
{
    (void)r;
    double mean = mean_speed(c, count), best_score = 0;
    int best = 0;
    uint32_t ties = 0;
    for (int i = 0; i < count; i++) {
        const struct fleet_agent *a = c[i].agent;
        int unfinished = atomic_load_explicit(&a->cell->in_flight, memory_order_relaxed);
        double score = unfinished / (a->speed > 0 ? a->speed : mean);
        if (i > 0 && score > best_score) continue;
        ties = i > 0 && score == best_score ? ties + 1 : 1;
        best_score = score;
        if (rng_below(&s->rng, ties) == 0) best = i;
    }
    return best;
}

const struct route_policy route_min_expected_latency = {
    .name = "min_expected_latency", .sees_all = true, .pick = pick};
