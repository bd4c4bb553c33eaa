/* stream_marks.h - lines that an answer's stream has for the proxy in front, which takes them out
 * again: what has to be known to go on with the answer elsewhere. docs/api.md, "The internal hop".
 *
 *     : lm seed=<u64> now=<s> id=<id> created=<s> [rope=<tokens>]   once, before all else
 *     : lm t=<id,id,...> b=<bytes> p=<phase>            before an event: how things stand with it
 *     : lm u=<prompt>,<completion>,<cached>             once, before the finish event
 *
 * A token's id is announced with the event that its text, or its own entry, is part of. Loop thread. */
#ifndef LM_AGENT_STREAM_MARKS_H
#define LM_AGENT_STREAM_MARKS_H

#include "agent/resume_record.h"
#include "engine/tokenizer.h"
#include "shared/base/buf.h"

struct stream_marks {
    bool is_on;        // somebody takes them out
    bool is_resumable; // else only `u` is told
    bool has_begun, has_usage;
    uint64_t seed;
    int64_t now_s, created_s;
    char id[RESUME_ID_BYTES];
    int rope;              // as in struct resume_record
    struct token_list ids; // sampled, not announced yet
    size_t known;          // the first tokens of the answer, which the proxy has announced to us
    uint64_t bytes;        // of text in events so far
    enum resume_phase phase;
};

void stream_marks_deinit(struct stream_marks *m); // zeroed is fine

/* Tokens number first.. of the answer were sampled. */
void stream_marks_sampled(struct stream_marks *m, size_t first, const int32_t *ids, size_t count);

/* An event follows in `out`, with so many bytes more of text; after it the client is in that phase.
 * stream_marks_announce: it tells of all tokens sampled so far. Nothing where marks are off. */
void stream_marks_event(struct stream_marks *m, struct buf *out, enum resume_phase phase);
void stream_marks_announce(struct stream_marks *m, struct buf *out, size_t text_len,
                           enum resume_phase phase);
void stream_marks_usage(struct stream_marks *m, struct buf *out, int64_t prompt, int64_t completion,
                        int64_t cached);

#endif
