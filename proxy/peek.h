/* peek.h - what a router must know of a request body: found in one pass over the raw bytes, without
 * building a tree. The same pass decides whether the body is JSON at all (RFC 8259, valid UTF-8, no
 * \u0000, at most 64 levels), so that no agent is bothered with what it would refuse anyway. The
 * body itself is forwarded as it came. Any thread.
 *
 * The conversation in it (messages, or the prompt) is read as a canonical text and hashed on the
 * way: see canonical.h. Two bodies that spell the same conversation differently (escapes, blanks,
 * a string or a list of one text part, the order of members) have the same hashes. */
#ifndef LM_PROXY_PEEK_H
#define LM_PROXY_PEEK_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/arena.h"
#include "shared/base/str.h"
#include "shared/net/api_error.h"
#include "shared/net/prefix_chain.h"

enum peek_route {
    PEEK_CHAT,        // the conversation is in `messages`
    PEEK_COMPLETIONS, // `prompt`
    PEEK_INTERACTIVE, // `prompt`, a string or messages; `model` is optional
    PEEK_MESSAGES,    // `messages`, Anthropic's: the system's stands beside them
    PEEK_RESPONSES,   // `input`, a string or items: messages, calls, their outputs
    PEEK_OTHER,       // `input`: counted, but nobody caches its beginning
};

enum peek_route peek_route_of(struct str path);

struct peek_options {
    enum peek_route route;
    struct str default_model; // hashed where the body names none; may be empty
    struct str tenant;        // whose caches are kept apart; empty: prefixes are shared by all
};

struct peek {
    struct str model; // decoded; data NULL: none was named (interactive only)
    bool stream;      // "stream" is true; other types are the agent's to refuse

    /* How much is asked for. */
    int64_t choices;    // n, or best_of if that is more; at least 1
    int64_t max_tokens; // the last of max_tokens, max_completion_tokens, max_output_tokens
                        // and request_output_len; -1: not said

    /* Whose turn it is. Texts are decoded; data NULL: not said, or not a string. */
    bool has_session_id;
    int64_t session_id;      // -1: the server is to pick one
    struct str session_text; // given as a string
    struct str session_raw;  // its bytes in the body, without quotes, to put others in their place
    struct str conversation /* or its id */, previous_response_id, prompt_cache_key, user;
    bool interactive_mode, cancel;
    bool has_priority;
    int64_t priority;

    /* What is asked. */
    bool has_answer; // a message of the assistant is among them: it isn't the first question
    uint64_t bytes;  // canonical: texts and tools as the model will read them, images not counted
    int images;
    uint64_t tokens_given; // prompts that came as token ids: so many; they count no bytes
    uint64_t fingerprint;  // of model and all up to the end of the first user message, which
                           // stays the same while a conversation grows; 0: there is none
    const struct prefix_mark *marks; // in the arena; at most PREFIX_MARKS_MAX
    int mark_count;
};

/* 0, or -1 with *error: a 4xx that names the fault. Strings point into the body, or into the arena
 * if they held escapes. */
FALLIBLE int peek_body(struct arena *a, struct str body, const struct peek_options *options,
                       struct peek *out, struct api_error *error);

#endif
