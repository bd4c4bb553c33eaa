/* chat_repl.h - the two ways to chat: a person at a terminal, and a message through a pipe. */
#ifndef LM_CLIENT_CHAT_REPL_H
#define LM_CLIENT_CHAT_REPL_H

#include "client/chat.h"

/* Read, ask, show, until /exit, Ctrl-D or Ctrl-C at the prompt. Failed turns are reported and the
 * loop goes on. */
FALLIBLE int chat_repl_run(struct chat *chat, const char *history_file, struct error *err);

/* All of standard input as one message; the answer alone on standard output. E_INVALID: there is no
 * message, or it isn't text. */
FALLIBLE int chat_repl_pipe(struct chat *chat, struct error *err);

#endif
