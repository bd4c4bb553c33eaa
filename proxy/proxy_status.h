/* proxy_status.h - GET /lm/status: what this proxy and its fleet look like now, for people and for
 * `lm-client status` and `top`. GET /nodes/status stays what LMDeploy has. */
#ifndef LM_PROXY_PROXY_STATUS_H
#define LM_PROXY_PROXY_STATUS_H

#include "proxy/proxy.h"

/* "starting", "ready" or "draining". */
const char *proxy_phase_name(enum proxy_phase phase);

/* docs/operations.md names the members. Scores are seconds for a request of
 * PROXY_STATUS_PROMPT_TOKENS, none of them cached, and PROXY_STATUS_OUTPUT_TOKENS. */
#define PROXY_STATUS_PROMPT_TOKENS 512
#define PROXY_STATUS_OUTPUT_TOKENS 128
void proxy_status_handle(struct http_exchange *x, struct str param, void *worker);

#endif
