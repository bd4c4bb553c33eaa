#include "shared/base/metrics.h"

#include <inttypes.h>
#include <math.h>

/* Upper bounds in 1-2-5 steps, as Prometheus wants to read them (`le` is compared as text by some
 * readers, so the texts never change). The last bucket is +Inf. */
static const struct {
    double seconds;
    const char *text;
} bounds[METRIC_BUCKETS - 1] = {
    {0.001, "0.001"}, {0.002, "0.002"}, {0.005, "0.005"}, {0.01, "0.01"}, {0.02, "0.02"},
    {0.05, "0.05"},   {0.1, "0.1"},     {0.2, "0.2"},     {0.5, "0.5"},   {1, "1"},
    {2, "2"},         {5, "5"},         {10, "10"},       {20, "20"},     {50, "50"},
    {100, "100"},     {200, "200"},
};

void metric_add(struct metric *m, int64_t n)
{
    atomic_fetch_add_explicit(&m->value, n, memory_order_relaxed);
}

void metric_set(struct metric *m, int64_t value)
{
    atomic_store_explicit(&m->value, value, memory_order_relaxed);
}

int64_t metric_get(const struct metric *m)
{
    return atomic_load_explicit(&m->value, memory_order_relaxed);
}

void metric_observe(struct metric *m, double seconds)
{
    if (isnan(seconds)) return;
    if (seconds < 0) seconds = 0;
    size_t i = 0;
    while (i < METRIC_BUCKETS - 1 && seconds > bounds[i].seconds)
        i++;
    atomic_fetch_add_explicit(&m->buckets[i], 1, memory_order_relaxed);
    double us = fmin(seconds * 1e6, 1e15); // 31 years: an infinite wait must not wrap the sum
    atomic_fetch_add_explicit(&m->sum_us, (uint64_t)llround(us), memory_order_relaxed);
}

double metric_bound_s(int bucket)
{
    return bucket < METRIC_BUCKETS - 1 ? bounds[bucket].seconds : INFINITY;
}

/* Help texts: Prometheus wants \ and newline escaped. */
static void print_help(struct buf *out, const struct metric_info *info)
{
    static const char *const type_names[] = {"counter", "gauge", "histogram"};
    buf_printf(out, "# HELP %s ", info->name);
    for (const char *c = info->help; *c; c++) {
        if (*c == '\\') {
            buf_append_str(out, "\\\\");
        } else if (*c == '\n') {
            buf_append_str(out, "\\n");
        } else {
            buf_append_char(out, *c);
        }
    }
    buf_printf(out, "\n# TYPE %s %s\n", info->name, type_names[info->kind]);
}

static void print_histogram(struct buf *out, const char *name, const struct metric *m)
{
    /* Each bucket is read once and _count is their sum, so the lines agree with each other even
     * while other threads add. */
    uint64_t count = 0;
    for (size_t i = 0; i < METRIC_BUCKETS; i++) {
        count += atomic_load_explicit(&m->buckets[i], memory_order_relaxed);
        const char *bound = i < METRIC_BUCKETS - 1 ? bounds[i].text : "+Inf";
        buf_printf(out, "%s_bucket{le=\"%s\"} %" PRIu64 "\n", name, bound, count);
    }
    uint64_t sum_us = atomic_load_explicit(&m->sum_us, memory_order_relaxed);
    buf_printf(out, "%s_sum %" PRIu64 ".%06" PRIu64 "\n", name, sum_us / 1000000, sum_us % 1000000);
    buf_printf(out, "%s_count %" PRIu64 "\n", name, count);
}

void metrics_print(struct buf *out, const struct metric_info *table, size_t count, const void *base)
{
    for (size_t i = 0; i < count; i++) {
        const struct metric_info *info = &table[i];
        const struct metric *m = (const struct metric *)((const char *)base + info->offset);
        print_help(out, info);
        if (info->kind == METRIC_HISTOGRAM) {
            print_histogram(out, info->name, m);
        } else {
            buf_printf(out, "%s %" PRId64 "\n", info->name, metric_get(m));
        }
    }
}
