/* interactive_chat.h - a conversation that the server keeps (POST /v1/chat/interactive), typed as in
 * LMDeploy's api_client.
 *
 * Lines up to an empty one are a message. `end` as a message ends the conversation at the server and
 * the next message begins a new one; `exit` ends it and leaves, as does the end of the input. */
#ifndef LM_CLIENT_INTERACTIVE_CHAT_H
#define LM_CLIENT_INTERACTIVE_CHAT_H

#include "client/api_client.h"
#include "client/client_config.h"
#include "shared/base/error.h"

/* Reads standard input, whether it is a terminal or not; history_file as line_editor_create. At a
 * terminal failed turns are reported and the loop goes on; else the first one ends it. */
FALLIBLE int interactive_chat_run(struct api_client *api, const struct client_config *config,
                                  const char *history_file, struct error *err);

#endif
