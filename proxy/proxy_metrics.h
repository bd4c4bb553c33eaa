/* proxy_metrics.h - what lm-proxy counts, and GET /metrics. Counters may be added to on any thread.
 */
#ifndef LM_PROXY_PROXY_METRICS_H
#define LM_PROXY_PROXY_METRICS_H

#include "shared/base/metrics.h"
#include "shared/net/http_server.h"

#define PROXY_METRICS(X)                                                                         \
    X(COUNTER, requests_total, "inference requests that reached the proxy")                      \
    X(COUNTER, requests_invalid_total, "of those, refused here: malformed or unknown model")     \
    X(COUNTER, requests_no_agent_total, "of those, refused here: no agent could take them")      \
    X(COUNTER, requests_refused_total, "of those, refused here with 429")                        \
    X(COUNTER, requests_unauthorized_total, "requests refused here: no key, or a wrong one")     \
    X(COUNTER, requests_limited_total, "requests refused here: their key's limits")              \
    X(COUNTER, queue_entered_total, "requests that had to wait for an agent with room")          \
    X(COUNTER, queue_refused_total, "requests refused here: the queue was full")                 \
    X(COUNTER, queue_expired_total, "requests refused here: no agent had room in time")          \
    X(COUNTER, responses_passed_total, "answers passed on to their end")                         \
    X(COUNTER, responses_passed_5xx_total, "of those, with a status from 500 on")                \
    X(COUNTER, clients_gone_total, "clients that left before their answer was complete")         \
    X(COUNTER, upstream_failures_total, "requests answered with an error because agents failed") \
    X(COUNTER, upstream_lost_total, "answers cut: the agent was lost after the first byte")      \
    X(COUNTER, dispatches_total, "requests sent to agents, retries among them")                  \
    X(COUNTER, retries_connect_total, "retries because an agent couldn't be connected")          \
    X(COUNTER, retries_stale_total, "retries because a pooled connection had gone stale")        \
    X(COUNTER, retries_busy_total, "retries because an agent said 429 or 503")                   \
    X(COUNTER, retries_lost_total, "retries because an agent was lost before its first byte")    \
    X(COUNTER, retries_denied_total, "retries not made: the budget of 10 % was used up")         \
    X(COUNTER, resumes_total, "streams whose agent was lost and that went to another one")       \
    X(COUNTER, resume_over_budget_total, "streams not resumable for want of --resume-bytes")     \
    X(COUNTER, prefix_routed_total, "requests sent where a part of their prompt was cached")     \
    X(COUNTER, prompt_tokens_total, "prompt tokens, as agents counted them")                     \
    X(COUNTER, completion_tokens_total, "tokens of answers, as agents counted them")             \
    X(COUNTER, cached_tokens_total, "of the prompt tokens, found in agents' caches")             \
    X(COUNTER, cached_tokens_expected_total, "of the prompt tokens, expected in agents' caches") \
    X(COUNTER, access_log_dropped_total, "lines of the access log lost to a slow or full disk")  \
    X(COUNTER, client_pauses_total, "times that a slow client made the proxy stop reading")      \
    X(COUNTER, sent_bytes_total, "bytes of answers passed on")                                   \
    X(COUNTER, beats_heard_total, "agents' heartbeats heard by HTTP")                            \
    X(COUNTER, beats_refused_total, "heartbeats refused: bad key, malformed, duplicate id")      \
    X(COUNTER, probes_total, "direct health probes")                                             \
    X(COUNTER, probes_failed_total, "of those, failed")                                          \
    X(COUNTER, redis_scans_total, "complete readings of the registry in Redis")                  \
    X(COUNTER, redis_failures_total, "commands to Redis that failed or timed out")               \
    X(COUNTER, session_hits_total, "requests of a session served where it was")                  \
    X(COUNTER, session_moves_total, "requests of a session served elsewhere")                    \
    X(COUNTER, session_lost_total, "conversations whose history is gone: 410")                   \
    X(COUNTER, session_claims_lost_total, "sessions that another proxy claimed first")           \
    X(COUNTER, session_asks_total, "times that agents were asked who has a conversation")        \
    X(COUNTER, session_looks_late_total, "sessions that Redis told too late to wait for")        \
    X(COUNTER, prefix_pulls_total, "times that an agent was asked what prompts it has cached")   \
    X(COUNTER, prefix_pulls_failed_total, "of those, failed or not understood")                  \
    X(GAUGE, queue_waiting, "requests that wait for an agent with room")                         \
    X(GAUGE, queue_bytes, "their bodies")                                                        \
    X(GAUGE, requests_running, "requests being served")                                          \
    X(GAUGE, ledger_entries, "requests at agents, by the ledgers; as many as agent_in_flight")   \
    X(GAUGE, resume_bytes, "kept so that streams can go on elsewhere")                           \
    X(GAUGE, prefix_table_entries, "beginnings of prompts whose place is known")                 \
    X(GAUGE, prefix_table_bytes, "memory of the table of prefixes")                              \
    X(GAUGE, connections, "client connections")                                                  \
    X(GAUGE, agents_up, "agents that get requests")                                              \
    X(GAUGE, agents_suspect, "agents in doubt")                                                  \
    X(GAUGE, agents_down, "agents known but not reachable, or removed")                          \
    X(GAUGE, redis_connected, "1 while Redis answers; 0 also when none is configured")           \
    X(HISTOGRAM, queue_seconds, "how long requests waited that were served in the end")          \
    X(HISTOGRAM, first_byte_seconds, "from a request's arrival to the first byte of its answer") \
    X(HISTOGRAM, request_seconds, "from a request's arrival to the last byte of its answer")     \
    X(HISTOGRAM, overhead_seconds, "from a request's arrival to its dispatch")

METRICS_DECLARE(proxy_metrics, PROXY_METRICS);

extern struct proxy_metrics proxy_metrics;

void proxy_metrics_handle(struct http_exchange *x, struct str param, void *worker); // GET /metrics

#endif
