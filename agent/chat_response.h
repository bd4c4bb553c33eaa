/* chat_response.h - the bodies and stream chunks of chat and text completions. Pure printing: the
 * order of chunks is completion.c's business. Shapes: OpenAI's, with vLLM's token ids on request.
 */
#ifndef LM_AGENT_CHAT_RESPONSE_H
#define LM_AGENT_CHAT_RESPONSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/chat_request.h"
#include "engine/engine.h"
#include "engine/tokenizer.h"
#include "shared/base/buf.h"

/* What every chunk of an answer repeats. */
struct response_head {
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

/* One choice: all of it in a body, a part of it in a chunk. */
struct response_choice {
    int index;
    struct str text;
    enum finish_reason finish; // FINISH_NONE prints null
    const int32_t *tokens;     // sampled ids that belong to this piece
    size_t token_count;
    const int32_t *prompt; // printed where not NULL and return_token_ids
    size_t prompt_count;
    struct response_scores echoed,
        scores; // of the prompt's tokens, where they stand in the text, and
                // of the sampled ones
};

struct response_usage {
    int64_t prompt_tokens, cached_tokens, completion_tokens;
};

/* The whole answer of a request that doesn't stream. */
void chat_response_print(struct buf *out, const struct response_head *head,
                         const struct response_choice *choices, size_t count,
                         const struct response_usage *usage);

/* Server-sent events. Role: chat only, the first of a choice. */
void chat_response_event_role(struct buf *out, const struct response_head *head,
                              const struct response_choice *choice);
void chat_response_event_text(struct buf *out, const struct response_head *head,
                              const struct response_choice *choice);
void chat_response_event_finish(struct buf *out, const struct response_head *head,
                                const struct response_choice *choice);
void chat_response_event_usage(struct buf *out, const struct response_head *head,
                               const struct response_usage *usage);
void chat_response_event_done(struct buf *out);

#endif
