/* responses_response.h - answers of POST /v1/responses, whole and as named events. Not resumable: an event
 * repeats what was said before it. */
#ifndef LM_AGENT_RESPONSES_RESPONSE_H
#define LM_AGENT_RESPONSES_RESPONSE_H

#include "agent/response.h"

extern const struct response_printer responses_printer;

#endif
