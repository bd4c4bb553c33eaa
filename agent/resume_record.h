/* resume_record.h - what a proxy knows of an answer whose agent was lost, so that another one can go
 * on with it: the header x-lm-resume and the record that stands before the request's body.
 * docs/api.md, "The internal hop". Pure: any thread. */
#ifndef LM_AGENT_RESUME_RECORD_H
#define LM_AGENT_RESUME_RECORD_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/tokenizer.h"
#include "shared/base/str.h"
#include "shared/net/api_error.h"
#include "shared/net/http_server.h"

#define RESUME_ID_BYTES 48 // of an answer's id, with the terminator

/* What the client has had. */
enum resume_phase {
    RESUME_NOTHING,
    RESUME_BEGUN,    // the first event: a chat's role, else text
    RESUME_FINISHED, // the event with the finish reason
    RESUME_USAGE,    // the event with the token counts
    RESUME_COMPLETE, // all
};

struct resume_record {
    uint64_t seed;
    int64_t now_s, created_s; // created_s -1: not said
    char id[RESUME_ID_BYTES]; // "": not said
    struct token_list ids;    // sampled, and accounted for by what the client has had
    int rope;                 // prompt tokens that its rope tables are for; 0: not said
    size_t bytes;             // of the answer's text that the client has had
    enum resume_phase phase;  // never RESUME_COMPLETE
};

/* 0 and *out (resume_record_deinit it), or -1 and *e. */
FALLIBLE int resume_record_parse(struct str text, int vocab_size, struct resume_record *out,
                                 struct api_error *e);
void resume_record_deinit(struct resume_record *r); // zeroed is fine

/* What the fleet itself may ask of an answer. From anybody else these headers are noise. */
struct resume_headers {
    bool wants_marks;  // x-lm-hop: 1
    bool is_resume;    // x-lm-resume
    size_t record_len; // the first bytes of the body
};
FALLIBLE int resume_headers_read(const struct http_request *request, const char *join_key,
                                 struct resume_headers *out, struct api_error *e);

/* The record at the front of the body, if there is one; *body is the request afterwards. */
FALLIBLE int resume_body_split(const struct resume_headers *headers, int vocab_size,
                               struct str *body, struct resume_record *out, struct api_error *e);

/* 422: this answer can't be gone on with. */
int resume_unsupported_error(struct api_error *e, const char *what);
/* 400: no answer to this request is as the record says. */
int resume_contradiction_error(struct api_error *e);

#endif
