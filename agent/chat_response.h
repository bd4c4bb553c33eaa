/* chat_response.h - the bodies and stream chunks of chats and of text completions. Shapes: OpenAI's, with
 * LMDeploy's and vLLM's reasoning_content, and vLLM's token ids on request. Pure printing. */
#ifndef LM_AGENT_CHAT_RESPONSE_H
#define LM_AGENT_CHAT_RESPONSE_H

#include "agent/response.h"

extern const struct response_printer chat_response_printer; // /v1/chat/completions
extern const struct response_printer text_response_printer; // /v1/completions

#endif
