/* anthropic_response.h - answers of POST /v1/messages in the shape of Anthropic's Messages API, whole and as
 * named events. Not resumable. */
#ifndef LM_AGENT_ANTHROPIC_RESPONSE_H
#define LM_AGENT_ANTHROPIC_RESPONSE_H

#include "agent/response.h"

extern const struct response_printer anthropic_printer;

#endif
