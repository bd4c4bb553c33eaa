/* engine_state.h - what the engine's figures mean to others: is it alive, how long is the wait, how
 * loaded is it. Pure. */
#ifndef LM_AGENT_ENGINE_STATE_H
#define LM_AGENT_ENGINE_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/engine.h"
#include "shared/net/agent_record.h"

/* Work without a finished step for that long: the engine hangs. A step is bounded by
 * --max-prefill-token-num, which the slowest machine we know does in a tenth of it. */
#define ENGINE_STALL_MS 60000

/* Time since the engine last moved, or had nothing to do. */
struct engine_progress {
    uint64_t steps;
    uint64_t moved_ms; // monotonic
};
/* Call regularly (the load report does): idle time must not count as a stall when work comes. */
void engine_progress_update(struct engine_progress *p, const struct engine_stats *stats,
                            uint64_t now_ms);
bool engine_progress_is_stalled(const struct engine_progress *p, uint64_t now_ms);

/* Seconds until a new request would begin, for Retry-After: 1..30. */
int engine_wait_s(const struct engine_stats *stats, int max_batch_size);

/* So many more prompt tokens wait than the last report said that proxies should hear it at once: a
 * tenth of a second's. Until the rate is known nothing is. */
bool engine_load_is_news(const struct engine_stats *stats, int64_t tokens_reported);

void engine_load(const struct engine_stats *stats,
                 struct agent_load *out); // the engine's part of it

#endif
