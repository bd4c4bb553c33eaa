/* text_exchange.h - an HTTP request that a text_request answers: off the loop, and back to it. Loop
 * thread only. */
#ifndef LM_AGENT_TEXT_EXCHANGE_H
#define LM_AGENT_TEXT_EXCHANGE_H

#include "agent/completion.h"
#include "agent/text_request.h"

/* Takes the exchange over: answers it now or later, or notices that the client left. Draining waits
 * for it as for a completion. */
void text_exchange_start(struct completion_service *s, struct http_exchange *x,
                         enum text_request_kind kind);

#endif
