/* chat_body.h - parts of a body of POST /v1/chat/completions, for what is turned into one. */
#ifndef LM_AGENT_CHAT_BODY_H
#define LM_AGENT_CHAT_BODY_H

#include "shared/base/json.h"

/* The member of that name, if it is set, under a name of the chat's. */
void chat_body_copy(struct json_writer *w, const struct json *body, const char *from,
                    const char *to);
void chat_body_put_message(struct json_writer *w, const char *role, struct str content);
/* An element of an assistant's `tool_calls`. */
void chat_body_put_call(struct json_writer *w, struct str id, struct str name,
                        struct str arguments);
/* `tool_choice`: that tool. */
void chat_body_put_named_choice(struct json_writer *w, struct str name);

#endif
