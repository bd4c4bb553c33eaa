/* abort_request.h - POST /abort_request ends requests that run, with what they have so far.
 *
 * With keys, nobody ends what others have begun: only requests of the same tenant are found. Loop
 * thread only. */
#ifndef LM_AGENT_ABORT_REQUEST_H
#define LM_AGENT_ABORT_REQUEST_H

#include "shared/net/http_server.h"

struct agent;

/* Answers. */
void abort_request_handle(struct agent *a, struct http_exchange *x);

#endif
