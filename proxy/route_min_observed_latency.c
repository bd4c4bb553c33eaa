/* route_min_observed_latency.c - LMDeploy's: the smallest mean of the last 15 whole-request
 * durations. Its faults are not kept: a node that was never measured, or not in the last 30 s, is
 * measured next (LMDeploy takes it for infinitely slow for ever), one request at a time, and
 * failures are no durations, so failing fast doesn't look like speed. */
#include "proxy/route.h"

#define FORGET_MS 30000

/* Its mean; negative: measure it now. */
static double latency_of(const struct fleet_cell *cell, uint64_t now_ms)
{
    double mean = atomic_load_explicit(&cell->latency_mean_s, memory_order_relaxed);
    uint64_t then_ms = atomic_load_explicit(&cell->latency_ms, memory_order_relaxed);
    if (mean > 0 && now_ms < then_ms + FORGET_MS) return mean;
    if (atomic_load_explicit(&cell->in_flight, memory_order_relaxed) == 0) return -1;
    return mean > 0 ? mean : 1e9; // being measured: last, until it has answered
}

static int pick(struct route_state *s, const struct route_request *r, struct route_candidate *c,
                int count)
{
    int best = 0;
    uint32_t ties = 0;
    double least = 0;
    for (int i = 0; i < count; i++) {
        double latency = latency_of(c[i].agent->cell, r->now_ms);
        if (i > 0 && latency > least) continue;
        ties = i > 0 && latency == least ? ties + 1 : 1;
        least = latency;
        if (rng_below(&s->rng, ties) == 0) best = i;
    }
    return best;
}

const struct route_policy route_min_observed_latency = {
    .name = "min_observed_latency", .sees_all = true, .pick = pick};
