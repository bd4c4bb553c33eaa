/* anthropic_request.h - the body of POST /v1/messages (Anthropic's Messages API) as one of POST
 * /v1/chat/completions, which the same code then checks and answers. Pure; any thread. */
#ifndef LM_AGENT_ANTHROPIC_REQUEST_H
#define LM_AGENT_ANTHROPIC_REQUEST_H

#include "shared/base/buf.h"
#include "shared/base/json.h"
#include "shared/net/api_error.h"

/* chat: init'ed, empty. -1 and *e. is_count: for /v1/messages/count_tokens, where max_tokens isn't
 * needed. */
FALLIBLE int anthropic_request_to_chat(const struct json *body, bool is_count, struct buf *chat,
                                       struct api_error *e);

#endif
