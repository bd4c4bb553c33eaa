#include "agent/agent_metrics.h"

#include "shared/base/check.h"

struct agent_metrics agent_metrics;

static const struct metric_info table[] = {
#define ROW(kind, field, help) METRICS_ROW(agent_metrics, "lm_agent_", kind, field, help)
    AGENT_METRICS(ROW)
#undef ROW
};

void agent_metrics_take(const struct engine_stats *stats)
{
    struct agent_metrics *m = &agent_metrics;
    metric_set(&m->running, stats->running);
    metric_set(&m->waiting, stats->waiting);
    metric_set(&m->prefill_tokens_waiting, stats->prefill_tokens_waiting);
    metric_set(&m->kv_blocks_used, stats->kv_blocks_used);
    metric_set(&m->kv_blocks_pinned, stats->kv_blocks_pinned);
    metric_set(&m->kv_blocks_cached, stats->kv_blocks_cached);
    metric_set(&m->kv_blocks_free, stats->kv_blocks_total - stats->kv_blocks_used -
                                       stats->kv_blocks_pinned - stats->kv_blocks_cached);
    metric_set(&m->kv_blocks_total, stats->kv_blocks_total);
    metric_set(&m->kv_host_bytes, stats->kv_host_bytes);
    metric_set(&m->sessions_hot, stats->sessions[SESSION_HOT]);
    metric_set(&m->sessions_cached, stats->sessions[SESSION_CACHED]);
    metric_set(&m->sessions_host, stats->sessions[SESSION_HOST]);
    metric_set(&m->sessions_tokens, stats->sessions[SESSION_TOKENS]);
    metric_set(&m->engine_steps_total, (int64_t)stats->steps);
    metric_set(&m->engine_steps_ahead_total, (int64_t)stats->steps_ahead);
    metric_set(&m->engine_preemptions_total, (int64_t)stats->preemptions_total);
}

void agent_metrics_print(struct buf *out)
{
    metrics_print(out, table, ARRAY_LEN(table), &agent_metrics);
}
