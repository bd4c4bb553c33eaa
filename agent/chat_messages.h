/* chat_messages.h - the `messages` of a chat request: checked, and brought into the one shape that
 * chat templates of text models know: role, string content, everything else as the client sent it.
 * Pure; any thread. */
#ifndef LM_AGENT_CHAT_MESSAGES_H
#define LM_AGENT_CHAT_MESSAGES_H

#include <stdbool.h>

#include "shared/base/json.h"
#include "shared/net/api_error.h"

/* Roles, contents, content parts. *must_rewrite: some message isn't in the templates' shape yet. */
FALLIBLE int chat_messages_check(const struct json *messages, bool *must_rewrite,
                                 struct api_error *e);

/* A new document of messages that passed the check: `developer` becomes `system`, text parts are
 * joined with nothing between them, an assistant without content gets null, arguments of tool calls
 * that came as JSON in a string become the object they spell (templates take them apart). */
struct json *chat_messages_rewrite(const struct json *messages, struct api_error *e);

/* Both in turn. *out is `messages` as sent, or *rewritten, which the caller destroys. */
FALLIBLE int chat_messages_prepare(const struct json *messages, struct json **rewritten,
                                   const struct json **out, struct api_error *e);

#endif
