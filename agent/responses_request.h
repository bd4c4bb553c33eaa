/* responses_request.h - the body of POST /v1/responses as one of POST /v1/chat/completions, which the
 * same code then checks and answers (OpenAI's API description 2.3.0, createResponse).
 *
 * Nothing is stored here: what goes on from something stored (previous_response_id, conversation,
 * item_reference, prompt) or runs in the background is refused by name. Pure; any thread. */
#ifndef LM_AGENT_RESPONSES_REQUEST_H
#define LM_AGENT_RESPONSES_REQUEST_H

#include "shared/base/buf.h"
#include "shared/base/json.h"
#include "shared/net/api_error.h"

/* chat: the body for the chat. repeats: what the answer repeats of the request, as members of an object
 * without its braces, each followed by a comma. Both init'ed, empty. -1 and *e: paths are those of this
 * body. */
FALLIBLE int responses_request_to_chat(const struct json *body, struct buf *chat,
                                       struct buf *repeats, struct api_error *e);

#endif
