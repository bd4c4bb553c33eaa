/* proxy_metrics.h - what lm-proxy counts, and GET /metrics. Counters may be added to on any thread.
 */
#ifndef LM_PROXY_PROXY_METRICS_H
#define LM_PROXY_PROXY_METRICS_H

#include "shared/base/metrics.h"
#include "shared/net/http_server.h"

struct proxy;

#define PROXY_METRICS(X)                                                                         \
    X(COUNTER, requests_total, "inference requests that reached the proxy")                      \
    X(COUNTER, requests_invalid_total, "of those, refused here: malformed or unknown model")     \
    X(COUNTER, requests_no_agent_total, "of those, refused here: no agent could take them")      \
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
    X(COUNTER, client_pauses_total, "times that a slow client made the proxy stop reading")      \
    X(COUNTER, sent_bytes_total, "bytes of answers passed on")                                   \
    X(COUNTER, beats_heard_total, "agents' heartbeats heard by HTTP")                            \
    X(COUNTER, beats_refused_total, "heartbeats refused: bad key, malformed, duplicate id")      \
    X(COUNTER, probes_total, "direct health probes")                                             \
    X(COUNTER, probes_failed_total, "of those, failed")                                          \
    X(COUNTER, redis_scans_total, "complete readings of the registry in Redis")                  \
    X(COUNTER, redis_failures_total, "commands to Redis that failed or timed out")               \
    X(GAUGE, requests_running, "requests being served")                                          \
    X(GAUGE, connections, "client connections")                                                  \
    X(GAUGE, agents_up, "agents that get requests")                                              \
    X(GAUGE, agents_suspect, "agents in doubt")                                                  \
    X(GAUGE, agents_down, "agents known but not reachable, or removed")                          \
    X(GAUGE, redis_connected, "1 while Redis answers; 0 also when none is configured")           \
    X(HISTOGRAM, first_byte_seconds, "from a request's arrival to the first byte of its answer") \
    X(HISTOGRAM, request_seconds, "from a request's arrival to the last byte of its answer")     \
    X(HISTOGRAM, overhead_seconds, "from a request's arrival to its dispatch")

METRICS_DECLARE(proxy_metrics, PROXY_METRICS);

extern struct proxy_metrics proxy_metrics;

void proxy_metrics_handle(struct http_exchange *x, struct str param, void *proxy); // GET /metrics

#endif
