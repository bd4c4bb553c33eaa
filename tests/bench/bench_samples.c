#include "tests/bench/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/check.h"

void bench_samples_add(struct bench_samples *s, double value)
{
    CHECK(s->count < BENCH_SAMPLES_MAX);
    s->value[s->count++] = value;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double sort_and_take(double *values, int count, double quantile)
{
    if (count == 0) return 0;
    qsort(values, (size_t)count, sizeof values[0], compare);
    double at = quantile * (count - 1);
    int below = (int)at;
    int above = below + 1 < count ? below + 1 : below;
    return values[below] + (values[above] - values[below]) * (at - below);
}

double bench_median(double *values, int count)
{
    return sort_and_take(values, count, 0.5);
}

double bench_samples_at(const struct bench_samples *s, double quantile)
{
    double sorted[BENCH_SAMPLES_MAX];

    memcpy(sorted, s->value, sizeof sorted[0] * (size_t)s->count);
    return sort_and_take(sorted, s->count, quantile);
}

double bench_samples_median(const struct bench_samples *s)
{
    return bench_samples_at(s, 0.5);
}

void bench_print_row(const char *name, const char *unit, const struct bench_samples *ours,
                     const struct bench_samples *peer)
{
    double mine = bench_samples_median(ours);

    printf("%-28s %10.1f %-6s (%.1f..%.1f)", name, mine, unit, bench_samples_at(ours, 0),
           bench_samples_at(ours, 1));
    if (peer && peer->count > 0) {
        double theirs = bench_samples_median(peer);
        printf("   peer %8.1f (%.1f..%.1f)   ratio %.2f", theirs, bench_samples_at(peer, 0),
               bench_samples_at(peer, 1), theirs > 0 ? mine / theirs : 0);
    }
    printf("\n");
    fflush(stdout);
}
