/* conversation.h - what a body of POST /v1/chat/interactive means for routing: which session, which
 * model, and an id for one that has none yet. Pure; any thread. */
#ifndef LM_PROXY_CONVERSATION_H
#define LM_PROXY_CONVERSATION_H

#include <stdbool.h>
#include <stdint.h>

#include "proxy/fleet.h"
#include "proxy/peek.h"
#include "shared/base/arena.h"
#include "shared/net/api_error.h"

#define CONVERSATION_ID_MAX INT64_C(9007199254740991) // 2^53 - 1

/* What was found in the body. */
struct conversation_fields {
    struct str body;
    struct str session_id; // its value, text decoded; data NULL: no such member
    struct str place;      // that value's bytes, a slice of `body`
    struct str model;      // data NULL: none
    bool interactive_mode, cancel;
    bool is_empty; // it asks nothing
};

void conversation_fields_of(const struct peek *peek, struct str body,
                            struct conversation_fields *out);

struct conversation {
    int64_t id;       // -1: no session (or a value that the agent will refuse)
    bool is_allotted; // made up here: tell the client by x-lm-session-id
    bool is_cancel;
    bool is_end;      // the session is over when this is answered
    bool is_bare_end; // and there is nothing to answer
    struct str model;
    struct str body; // to forward: the client's, or a copy in the arena with the id in it
};

/* random: any 64 random bits, for an id. 0, or -1 with *e: no model is named and the fleet has
 * several, or none. */
FALLIBLE int conversation_prepare(struct arena *arena, const struct conversation_fields *fields,
                                  const struct fleet *fleet, uint64_t random,
                                  struct conversation *out, struct api_error *e);

/* "77" out of /v1/sessions/77: E_INVALID. */
FALLIBLE int conversation_parse_id(struct str text, int64_t *id);

#endif
