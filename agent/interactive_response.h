/* interactive_response.h - LMDeploy's answer to a turn, and what a turn says in headers. Pure
 * printing. */
#ifndef LM_AGENT_INTERACTIVE_RESPONSE_H
#define LM_AGENT_INTERACTIVE_RESPONSE_H

#include <stdint.h>

#include "engine/engine.h"
#include "shared/base/buf.h"
#include "shared/net/api_error.h"

struct interactive_reply {
    struct str text;
    int64_t tokens; // sampled so far, a closing token too
    int64_t input_tokens, history_tokens;
    enum finish_reason finish; // FINISH_NONE: null
};

/* {"text","tokens","input_tokens","history_tokens","finish_reason"}, in this order on one line. */
void interactive_reply_print(struct buf *out, const struct interactive_reply *reply);
/* For streams whose head is out: finish_reason "error", and what it was beside it. */
void interactive_reply_print_error(struct buf *out, const struct interactive_reply *reply,
                                   const struct api_error *e);

#endif
