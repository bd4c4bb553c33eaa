/* reply.h - what a model has said in one answer, in parts: content, reasoning, calls of tools. Text
 * goes in as the engine releases it, parts gather until they are printed. One thread at a time. */
#ifndef LM_AGENT_REPLY_H
#define LM_AGENT_REPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/reply_plan.h"
#include "shared/base/buf.h"
#include "shared/base/str.h"

#define REPLY_CALL_ID_BYTES 30 // "call_" and 24 characters, terminated

struct reply_part {
    enum reply_piece_kind kind;
    int call;
    size_t at, len; // in reply.text
};

struct reply {
    struct reply_parser *parser;  // NULL: all is content
    struct reply_parser *counter; // of reasoning, fed token by token; NULL: there is none
    int calls_max;
    bool drops_content;       // what is no call is the beginning of one that was cut
    struct buf text;          // of the parts, one after the other
    struct reply_part *parts; // neighbours differ in kind or call
    size_t count, cap;
    int calls;                       // begun so far, those that were printed too
    bool has_content, has_reasoning; // so far
    int64_t reasoning_tokens;
    size_t skip_bytes;    // of parts to come that the client has had
    bool is_contradicted; // it can't have had that
};

/* plan NULL: all is content. Else it outlives the reply. */
void reply_init(struct reply *r, const struct reply_plan *plan);
void reply_deinit(struct reply *r); // zeroed is fine

void reply_feed(struct reply *r, struct str text);
void reply_finish(struct reply *r); // nothing follows
/* A token was sampled that stands for these bytes. */
void reply_count_token(struct reply *r, struct str bytes);
/* Content that the model didn't say. */
void reply_append_content(struct reply *r, struct str text);
void reply_clear(struct reply *r); // the parts were printed

struct reply_piece reply_piece_at(const struct reply *r, size_t part);
/* Append the text of all parts of a kind. */
void reply_join(const struct reply *r, enum reply_piece_kind kind, struct buf *out);
/* Append the arguments of the call that begins with that part. */
void reply_join_arguments(const struct reply *r, size_t part, struct buf *out);
/* Fed text of which no part has come out yet. */
size_t reply_held(const struct reply *r);

/* The id of a call: the same wherever the answer is made, another one for every call of any answer. */
void reply_call_id(const char *answer_id, int choice, int call, char out[REPLY_CALL_ID_BYTES]);

#endif
