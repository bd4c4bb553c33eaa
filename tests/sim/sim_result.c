#include "tests/sim/sim_result.h"

#include <math.h>

#define BIN_FIRST 1e-4
#define BIN_RATIO 1.02

void sim_histogram_add(struct sim_histogram *h, double seconds)
{
    double at = seconds > BIN_FIRST ? log(seconds / BIN_FIRST) / log(BIN_RATIO) : 0;
    h->bins[at < SIM_BINS ? (int)at : SIM_BINS - 1]++;
    h->count++;
    h->sum += seconds;
}

double sim_histogram_quantile(const struct sim_histogram *h, double q)
{
    uint64_t below = (uint64_t)ceil(q * (double)h->count), seen = 0;
    for (int i = 0; i < SIM_BINS; i++) {
        seen += h->bins[i];
        if (seen >= below && seen > 0) return BIN_FIRST * pow(BIN_RATIO, i + 0.5);
    }
    return 0;
}

double sim_histogram_mean(const struct sim_histogram *h)
{
    return h->count ? h->sum / (double)h->count : 0;
}

static double share(uint64_t part, uint64_t whole)
{
    return whole ? (double)part / (double)whole : 0;
}

void sim_result_print_head(FILE *out)
{
    fprintf(out, "| scenario | policy | first token mean ms | / oracle | p50 ms | p99 ms | whole s "
                 "| hit %% | imbalance | errors %% | moved %% | us/decision |\n"
                 "|---|---|---|---|---|---|---|---|---|---|---|---|\n");
}

void sim_result_print(FILE *out, const struct sim_result *r, const struct sim_result *oracle)
{
    double mean = sim_histogram_mean(&r->first_token);
    char ratio[16] = "";
    if (oracle)
        snprintf(ratio, sizeof ratio, "%.2f", mean / sim_histogram_mean(&oracle->first_token));
    fprintf(out,
            "| %s | %s | %.1f | %s | %.1f | %.0f | %.2f | %.1f | %.2f | %.2f | %.1f | %.2f |\n",
            r->scenario, r->policy, 1e3 * mean, ratio,
            1e3 * sim_histogram_quantile(&r->first_token, 0.5),
            1e3 * sim_histogram_quantile(&r->first_token, 0.99), sim_histogram_mean(&r->whole),
            100 * share(r->cached_tokens, r->prompt_tokens),
            r->windows ? r->imbalance_sum / (double)r->windows : 0,
            100 * share(r->errors + r->abandoned, r->offered), 100 * share(r->moved, r->follow_ups),
            r->route_samples ? (double)r->route_ns / (double)r->route_samples / 1e3 : 0);
    fflush(out);
}
