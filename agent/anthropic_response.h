/* anthropic_response.h - answers of POST /v1/messages in the shape of Anthropic's Messages API, whole and as
 * named events, and its errors. Not resumable. */
#ifndef LM_AGENT_ANTHROPIC_RESPONSE_H
#define LM_AGENT_ANTHROPIC_RESPONSE_H

#include "agent/response.h"
#include "shared/net/api_error.h"

extern const struct response_printer anthropic_printer;

/* {"type": "error", "error": {"type", "message"}} with the status and headers of `e`. */
void anthropic_respond_error(struct http_exchange *x, const struct api_error *e);

#endif
