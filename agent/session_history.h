/* session_history.h - a conversation as token ids: what its turns added, and how a turn is written
 * down. Pure; one owner at a time.
 *
 * A record is one turn: what of the history before it stays, and what it adds. Replaying the
 * records of a session from the first to the last gives its history, rewinds included. The bytes
 * are little-endian and versioned; Redis and files hold the same. */
#ifndef LM_AGENT_SESSION_HISTORY_H
#define LM_AGENT_SESSION_HISTORY_H

#include <stdint.h>

#include "engine/tokenizer.h"
#include "shared/base/buf.h"
#include "shared/base/error.h"

#define SESSION_TURNS_MAX  (1 << 20)           // of one conversation; each has a token at least
#define SESSION_SERIAL_MAX (UINT64_C(1) << 53) // exact as Lua's numbers

struct session_turn {
    int end;        // tokens of the history when it ended
    char *messages; // owned: members of a JSON array, or NULL: the template doesn't need them
};

struct session_history {
    struct token_list ids; // all that was prompt or sampled, closing tokens too
    struct session_turn *turns;
    int turn_count, turn_cap;
    uint64_t seed;        // of its random numbers, from the first turn on
    uint64_t serial;      // turns ever recorded, those that were rewound too
    size_t bytes_owned;   // memory that it takes
    size_t message_bytes; // of those, for messages
};

void session_history_deinit(struct session_history *h); // and back to {0}
void session_history_copy(struct session_history *to, const struct session_history *from);
void session_history_check(const struct session_history *h); // CHECKs what must hold

/* What a turn does to a history. Arrays are borrowed. */
struct session_step {
    int base;       // tokens of the history that stay
    int keep_turns; // turns that stay; the last of them may be cut to `base`
    const int32_t *ids;
    int count;
    uint64_t seed;
    uint64_t serial;     // of the history after it
    struct str messages; // data NULL: none
};

/* Turns that stay when only the first `tokens` ids do. */
int session_history_turns_within(const struct session_history *h, int tokens);
/* True where a turn ended with that many tokens, or at 0. */
bool session_history_is_boundary(const struct session_history *h, int tokens);

/* The step must fit: CHECKs. */
void session_history_apply(struct session_history *h, const struct session_step *step);

/* What a record is checked against. */
struct session_limits {
    int vocab_size;
    int tokens_max;
};

void session_record_print(struct buf *out, const struct session_step *step);
/* One record per turn that there is, for a rewrite: calls put() with each. */
void session_history_print(const struct session_history *h,
                           void (*put)(void *arg, struct str record), void *arg);
/* E_FORMAT: it isn't what a record of ours can be, or doesn't fit behind `h`; h is as before. */
FALLIBLE int session_record_apply(struct session_history *h, struct str record,
                                  const struct session_limits *limits, struct error *err);

#endif
