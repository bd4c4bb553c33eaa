/* metrics.h - counters, gauges and histograms in Prometheus' text format.
 *
 * A daemon declares its metrics as one X-macro list and gets struct, exposition and docs from it:
 *
 *     #define AGENT_METRICS(X)                                        \
 *         X(COUNTER, requests_total, "requests accepted")             \
 *         X(GAUGE, running, "sequences in the batch")                 \
 *         X(HISTOGRAM, ttft_seconds, "time to first token")
 *     METRICS_DECLARE(agent_metrics, AGENT_METRICS);  // struct agent_metrics, a metric per line
 *
 *     #define ROW(kind, field, help) METRICS_ROW(agent_metrics, "lm_agent_", kind, field, help)
 *     static const struct metric_info table[] = {AGENT_METRICS(ROW)};
 *
 * Any thread may add; a read sees some recent state. Names end in their unit. */
#ifndef LM_BASE_METRICS_H
#define LM_BASE_METRICS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "shared/base/buf.h"

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

#define METRIC_BUCKETS 18 // 1 ms, 2 ms, 5 ms, 10 ms, ... 200 s, +Inf (1-2-5 steps); see metrics.c

struct metric {
    _Atomic int64_t value;                    // counter, gauge
    _Atomic uint64_t buckets[METRIC_BUCKETS]; // histogram, not cumulative
    _Atomic uint64_t sum_us;                  // histogram: sum in microseconds
};

struct metric_info {
    enum metric_kind kind;
    const char *name; // with prefix
    const char *help;
    size_t offset; // of the struct metric in its struct
};

#define METRICS_FIELD_(kind, field, help) struct metric field;
#define METRICS_DECLARE(type, LIST) \
    struct type {                   \
        LIST(METRICS_FIELD_)        \
    }
/* Expands inside a table's initializer. */
#define METRICS_ROW(type, prefix, kind, field, help) \
    {METRIC_##kind, prefix #field, help, offsetof(struct type, field)},

void metric_add(struct metric *m, int64_t n);
void metric_set(struct metric *m, int64_t value);
int64_t metric_get(const struct metric *m);
void metric_observe(struct metric *m, double seconds);
double
metric_bound_s(int bucket); // the largest value that counts there; the last has none: infinite

/* Append all of `table` for the struct at `base`, in the text format 0.0.4. */
void metrics_print(struct buf *out, const struct metric_info *table, size_t count,
                   const void *base);

#endif
