#include "agent/engine_state.h"

#include <math.h>

/* Tokens of an answer whose length nobody knows yet. */
#define ANSWER_TOKENS_GUESS 128

#define NEWS_S              0.1

void engine_progress_update(struct engine_progress *p, const struct engine_stats *stats,
                            uint64_t now_ms)
{
    bool is_idle = stats->running == 0 && stats->waiting == 0;
    if (is_idle || stats->steps != p->steps || p->moved_ms == 0) {
        p->steps = stats->steps;
        p->moved_ms = now_ms;
    }
}

bool engine_progress_is_stalled(const struct engine_progress *p, uint64_t now_ms)
{
    return now_ms > p->moved_ms && now_ms - p->moved_ms > ENGINE_STALL_MS;
}

int engine_wait_s(const struct engine_stats *stats, int max_batch_size)
{
    double prefill_s = stats->prefill_tokens_per_s > 0
                           ? (double)stats->prefill_tokens_waiting / stats->prefill_tokens_per_s
                           : 0;
    /* Those who wait go in groups of a batch, each as long as an answer takes. */
    double groups = (double)stats->waiting / (max_batch_size > 0 ? max_batch_size : 1);
    double wait_s = prefill_s + groups * stats->inter_token_s * ANSWER_TOKENS_GUESS;
    if (!(wait_s > 1)) return 1;
    return wait_s < 30 ? (int)ceil(wait_s) : 30;
}

bool engine_load_is_news(const struct engine_stats *stats, int64_t tokens_reported)
{
    double more = (double)(stats->prefill_tokens_waiting - tokens_reported);
    return stats->prefill_tokens_per_s > 0 && more > NEWS_S * stats->prefill_tokens_per_s;
}

void engine_load(const struct engine_stats *stats, struct agent_load *out)
{
    out->running = stats->running;
    out->waiting = stats->waiting;
    out->prefill_tokens_waiting = stats->prefill_tokens_waiting;
    out->kv_used_share =
        stats->kv_blocks_total > 0 ? (double)stats->kv_blocks_used / stats->kv_blocks_total : 0;
    out->prefill_tokens_per_s = stats->prefill_tokens_per_s;
    out->inter_token_s = stats->inter_token_s;
    out->inter_token_slope_s = stats->inter_token_slope_s;
}
