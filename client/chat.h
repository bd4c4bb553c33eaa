/* chat.h - a conversation: its turns so far, and asking for the next answer.
 *
 * The server keeps nothing between turns; every request carries the whole conversation. A turn
 * becomes part of it only when its answer is complete: cancelled and failed ones leave no trace. */
#ifndef LM_CLIENT_CHAT_H
#define LM_CLIENT_CHAT_H

#include <stddef.h>

#include "client/api_client.h"
#include "client/client_config.h"
#include "shared/base/error.h"
#include "shared/base/str.h"

struct chat_turn {
    char *question, *answer; // owned
};

struct chat {
    struct api_client *api;             // borrowed
    const struct client_config *config; // borrowed
    char *model;                        // owned
    struct chat_turn *turns;            // owned
    size_t count, cap;
};

void chat_init(struct chat *chat, struct api_client *api, const struct client_config *config);
void chat_deinit(struct chat *chat);
void chat_reset(struct chat *chat); // forget all turns
void chat_set_model(struct chat *chat, const char *model);

typedef int chat_text_sink(void *arg, struct str text, struct error *err);

enum chat_end {
    CHAT_STOPPED,    // the model ended its answer
    CHAT_HIT_LENGTH, // max-tokens or the context ended it
};

/* Ask. on_text gets the answer piece by piece (whole characters), or once as a whole when not
 * streaming; a negative result of it ends the call with that code. 0 with *end, or as
 * api_client_call; E_UPSTREAM also for an error inside the stream, E_PROTOCOL for an answer that is
 * none. */
FALLIBLE int chat_ask(struct chat *chat, struct str question, chat_text_sink *on_text, void *arg,
                      enum chat_end *end, struct error *err);

/* The body of the next request; for chat_ask and its tests. */
void chat_print_request(const struct chat *chat, struct str question, struct buf *out);

#endif
