/* sim_result.h - what a run measured, and its row in the table. */
#ifndef LM_SIM_RESULT_H
#define LM_SIM_RESULT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* Seconds from 0.1 ms up, in bins of 2 %. */
#define SIM_BINS 900

struct sim_histogram {
    uint64_t bins[SIM_BINS];
    uint64_t count;
    double sum;
};

void sim_histogram_add(struct sim_histogram *h, double seconds);
double sim_histogram_quantile(const struct sim_histogram *h, double q);
double sim_histogram_mean(const struct sim_histogram *h);

struct sim_result {
    const char *scenario, *policy;
    struct sim_histogram first_token, whole, queue; // seconds, of requests that are counted
    uint64_t prompt_tokens, cached_tokens;          // of requests that are counted
    double expected_error;                          // sum of |expected - found| cached tokens
    uint64_t follow_ups, moved;                     // turns but the first; at another agent
    double imbalance_sum;                           // of windows: busiest agent / mean
    uint64_t windows;
    uint64_t route_ns, route_samples; // wall time of decisions that were timed
    /* Of the whole run: offered = served + errors + abandoned. */
    uint64_t offered, served, errors, abandoned, retries, resumed, expired;
    double simulated_s, wall_s;
    uint64_t memory_bytes; // peak of the process
};

void sim_result_print_head(FILE *out);
/* oracle: the better oracle's run of the scenario, for the ratio; NULL: none. */
void sim_result_print(FILE *out, const struct sim_result *r, const struct sim_result *oracle);

#endif
