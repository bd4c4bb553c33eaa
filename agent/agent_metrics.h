/* agent_metrics.h - what GET /metrics shows: one list, from which struct, exposition and docs come.
 */
#ifndef LM_AGENT_AGENT_METRICS_H
#define LM_AGENT_AGENT_METRICS_H

#include "engine/engine.h"
#include "shared/base/buf.h"
#include "shared/base/metrics.h"

#define AGENT_METRICS(X)                                                                      \
    X(COUNTER, requests_total, "completion requests received")                                \
    X(COUNTER, requests_done_total, "completion requests answered in full")                   \
    X(COUNTER, requests_invalid_total, "completion requests refused with a 4xx")              \
    X(COUNTER, requests_queue_full_total, "completion requests refused with 429")             \
    X(COUNTER, requests_unavailable_total, "completion requests refused with 503")            \
    X(COUNTER, requests_failed_total, "completion requests that the engine could not finish") \
    X(COUNTER, requests_gone_total, "completion requests whose client left early")            \
    X(COUNTER, requests_unauthorized_total, "requests refused: no key, or a wrong one")       \
    X(COUNTER, requests_duplicate_total, "requests refused because an attempt of them runs")  \
    X(COUNTER, prompt_tokens_total, "prompt tokens of accepted requests")                     \
    X(COUNTER, cached_tokens_total, "prompt tokens found in the prefix cache")                \
    X(COUNTER, completion_tokens_total, "tokens sampled for answers")                         \
    X(COUNTER, engine_steps_total, "forward passes of the engine")                            \
    X(COUNTER, engine_steps_ahead_total, "of them, begun while another one ran")              \
    X(COUNTER, engine_preemptions_total, "sequences put back into the queue for want of KV")  \
    X(COUNTER, session_turns_total, "turns of conversations answered in full")                \
    X(COUNTER, sessions_repaired_total,                                                       \
      "conversations written to Redis again after it was away or flushed")                    \
    X(COUNTER, session_turns_undurable_total, "of those, not written down as they should be") \
    X(COUNTER, sessions_adopted_total, "conversations taken over from other agents")          \
    X(COUNTER, registration_failures_total, "heartbeats that a proxy or Redis did not take")  \
    X(GAUGE, requests_held, "requests that --max-concurrent-requests lets wait")              \
    X(GAUGE, completions_live, "HTTP requests being worked on")                               \
    X(GAUGE, running, "sequences in the batch")                                               \
    X(GAUGE, waiting, "sequences that wait for the batch")                                    \
    X(GAUGE, prefill_tokens_waiting, "prompt tokens not computed yet")                        \
    X(GAUGE, kv_blocks_used, "KV blocks held by sequences")                                   \
    X(GAUGE, kv_blocks_pinned, "KV blocks kept for hot sessions")                             \
    X(GAUGE, kv_blocks_cached, "KV blocks in the prefix cache only")                          \
    X(GAUGE, kv_blocks_free, "KV blocks that hold nothing")                                   \
    X(GAUGE, kv_blocks_total, "KV blocks there are")                                          \
    X(GAUGE, kv_host_bytes, "bytes of host memory with copies of sessions' KV blocks")        \
    X(GAUGE, sessions_hot, "sessions whose KV blocks are kept from eviction")                 \
    X(GAUGE, sessions_cached, "sessions with KV blocks in the prefix cache")                  \
    X(GAUGE, sessions_host, "sessions with KV blocks in host memory")                         \
    X(GAUGE, sessions_tokens, "sessions whose KV blocks are gone")                            \
    X(GAUGE, connections, "client connections")                                               \
    X(GAUGE, ready, "1 while new requests are taken")                                         \
    X(HISTOGRAM, prepare_seconds, "request received to prompt tokenised")                     \
    X(HISTOGRAM, first_token_seconds, "request received to first token")                      \
    X(HISTOGRAM, inter_token_seconds, "mean time between tokens of an answer")                \
    X(HISTOGRAM, request_seconds, "request received to answer complete")

METRICS_DECLARE(agent_metrics, AGENT_METRICS);

extern struct agent_metrics agent_metrics; // the process's

void agent_metrics_take(const struct engine_stats *stats); // copy what the engine counts
void agent_metrics_print(struct buf *out);

#endif
