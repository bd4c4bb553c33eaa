#include "proxy/retry.h"

#define STALE_MS 1000 // a peer that had closed before says so within a round trip

enum retry_verdict retry_after_failure(const struct http_failure *failure)
{
    if (!failure->connected) return RETRY_FREE;
    if (failure->code == E_TIMEOUT || failure->code == UV_ETIMEDOUT) {
        return RETRY_NEVER; // it had all the time there is
    }
    /* An idle connection that the agent closed while our request was on its way: it never read it.
     * One that breaks later has carried the request to somebody who worked on it. */
    bool stale = failure->reused && !failure->head_received && failure->waited_ms < STALE_MS;
    if (stale) return RETRY_FRESH;
    return RETRY_COUNTED;
}

enum retry_verdict retry_after_status(int status, bool not_started)
{
    switch (status) {
    case 429: // queue full
    case 503: // draining, loading, overloaded
        return RETRY_FREE;
    case 409: // an earlier attempt runs there
    case 502:
    case 504: // somebody in between: only if it says so
        return not_started ? RETRY_FREE : RETRY_NEVER;
    default:
        return RETRY_NEVER;
    }
}
