/* response.h - what is printed of an answer, and who prints it.
 *
 *     engine events ─► answer.c ─► reply.c: parts of each choice ─► a response_printer: bytes
 *
 * An answer knows what is new in which choice, and in which order clients hear of it; a printer knows
 * the shapes of one route, and there is a table of its functions for each. */
#ifndef LM_AGENT_RESPONSE_H
#define LM_AGENT_RESPONSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/chat_request.h"
#include "agent/reply.h"
#include "engine/engine.h"
#include "engine/tokenizer.h"
#include "shared/base/buf.h"

struct response_printer;

/* What every event of an answer may repeat. */
struct response_head {
    const struct response_printer *printer;
    void *state; // the printer's own, of an answer; NULL where its state_size is 0
    enum completion_kind kind;
    const char *id;          // "chatcmpl-..." or "cmpl-..."
    int64_t created;         // seconds since 1970
    struct str model;        // as asked for
    const char *fingerprint; // names weights and build
    bool include_usage;      // streams: "usage": null in each chunk, totals in one more
    bool is_stream;
    bool return_token_ids;
    bool logprobs;                     // were asked for: choices have `scores`
    const struct tokenizer *tokenizer; // for them
    bool service_tier;                 // "service_tier": "default"
    bool must_call;                    // choices are calls, without content
    bool is_named;                     // of the one tool that the client named
    char *
        repeats; // what the answer repeats of its request (responses_request.h); owned by the answer
};

/* How likely tokens were. Of each, a row: the token itself, then the likeliest. */
struct response_scores {
    const struct token_logprob *rows; // [count][width]
    size_t count;
    int width;         // >= 1
    bool keep_special; // special tokens are in the text
    size_t invisible;  // tokens at the front that are not in the text
    int64_t offset;    // characters of prompt and text before the first token
};

/* One choice: all of it in a body, what is new of it in an event. */
struct response_choice {
    int index;
    const struct reply *reply; // bodies: all its parts; events: what it has had, the parts are gone
    enum finish_reason finish; // FINISH_NONE prints null
    const int32_t *tokens;     // sampled ids that belong here
    size_t token_count;
    const int32_t *prompt; // printed where not NULL and return_token_ids
    size_t prompt_count;
    struct response_scores echoed,
        scores; // of the prompt's tokens, where they stand in the text, and
                // of the sampled ones
};

struct response_usage {
    int64_t prompt_tokens, cached_tokens, completion_tokens;
    int64_t reasoning_tokens; // of completion_tokens
};

/* All append to `out`. Of each choice of a stream: begin, pieces, finish; choices may run side by
 * side, but begin in the order of their indexes. Then usage, if it was asked for, and done. A stream
 * that goes on from elsewhere begins behind what its client has had. */
struct response_printer {
    /* The whole answer of a request that doesn't stream. */
    void (*whole)(struct buf *out, const struct response_head *head,
                  const struct response_choice *choices, size_t count,
                  const struct response_usage *usage);
    /* NULL: nothing is said before there is a piece. The usage is what is known by then. */
    void (*begin)(struct buf *out, const struct response_head *head,
                  const struct response_choice *choice, const struct response_usage *usage);
    /* The first piece of several at once has the choice's tokens and scores. Empty content: it is
     * there for them. */
    void (*piece)(struct buf *out, const struct response_head *head,
                  const struct response_choice *choice, const struct reply_piece *piece);
    void (*finish)(struct buf *out, const struct response_head *head,
                   const struct response_choice *choice, const struct response_usage *usage);
    /* Either may be NULL: what `finish` said is enough. */
    void (*usage)(struct buf *out, const struct response_head *head,
                  const struct response_usage *usage);
    void (*done)(struct buf *out, const struct response_head *head);
    /* The stream ends with an error; NULL: as the chat's do. */
    void (*error)(struct buf *out, const struct response_head *head, const struct api_error *e);
    size_t state_size;                 // of head->state, zeroed at first
    void (*state_deinit)(void *state); // NULL: it owns nothing
    bool is_resumable;                 // events say nothing but what the rest of the tokens is
};

#endif
