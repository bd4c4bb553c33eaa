/* interactive_request.h - the body of POST /v1/chat/interactive as checked parameters: LMDeploy's
 * fields and defaults, and our fork_of and rewind_to; docs/api.md lists them. Unknown members are
 * ignored. Pure: any thread. */
#ifndef LM_AGENT_INTERACTIVE_REQUEST_H
#define LM_AGENT_INTERACTIVE_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/chat_request.h"
#include "agent/sampling_fields.h"
#include "shared/base/json.h"
#include "shared/base/str.h"
#include "shared/net/api_error.h"

#define SESSION_ID_MAX FIELD_SESSION_ID_MAX

struct interactive_request {
    struct json *document; // owned; stop strings point into it
    char *messages;        // owned: the turn's messages as members of a JSON array; NULL: none
    int64_t session_id;    // -1: make one up
    bool interactive_mode, stream, cancel;
    int64_t rewind_to; // -1: not asked for
    int64_t fork_of;   // likewise

    struct sampling_fields fields;
    int max_tokens;     // 0: what the context leaves
    bool wants_nothing; // a prompt without an answer
};

/* An empty prompt outside interactive mode: nothing to answer, the session ends. */
static inline bool interactive_request_is_end(const struct interactive_request *r)
{
    return !r->messages && !r->interactive_mode && !r->cancel;
}

/* A look at a body that nobody has parsed: does it ask to stop a turn? Any true value counts; what isn't
 * JSON doesn't. */
bool interactive_request_is_cancel(struct str body);

/* 0 and *out (interactive_request_deinit it), or -1 and *e. */
FALLIBLE int interactive_request_parse(struct str body, const struct request_limits *limits,
                                       struct interactive_request *out, struct api_error *e);
void interactive_request_deinit(struct interactive_request *r); // zeroed is fine

#endif
