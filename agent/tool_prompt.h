/* tool_prompt.h - tools, calls and their results as plain messages, for chat templates that know none of
 * them: what models without a form of their own are told, and understand best, in Hermes' tags. Pure;
 * any thread. */
#ifndef LM_AGENT_TOOL_PROMPT_H
#define LM_AGENT_TOOL_PROMPT_H

#include <stdbool.h>

#include "shared/base/json.h"

/* Whether those messages have calls or results in them. */
bool tool_prompt_is_needed(const struct json *messages);

/* A new document: the tools (NULL: none) and, with explains, how to call them stand in the system message,
 * the first one; calls stand in their assistant's content, results in a user's message. NULL: too large. */
struct json *tool_prompt_rewrite(const struct json *messages, const struct json *tools,
                                 bool explains, struct error *err);

#endif
