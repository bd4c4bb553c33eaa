/* retry.h - what may be tried again, and where. Pure: facts in, verdict out. Asked only while no
 * byte of an answer has gone to the client; afterwards another agent would continue it in other
 * words. */
#ifndef LM_PROXY_RETRY_H
#define LM_PROXY_RETRY_H

#include <stdbool.h>

#include "shared/net/http_client.h"

enum retry_verdict {
    RETRY_NEVER,   // the client gets this answer, or an error
    RETRY_FREE,    // nothing was begun there: ask another agent, at no cost
    RETRY_FRESH,   // a pooled connection had gone stale: ask again on a new one, the same agent too
    RETRY_COUNTED, // something may have been begun: ask another agent, within the limit
};

enum retry_verdict retry_after_failure(const struct http_failure *failure);

/* An answer that says "not here, not now". not_started: it carries `x-lm-not-started: 1`. */
enum retry_verdict retry_after_status(int status, bool not_started);

#endif
