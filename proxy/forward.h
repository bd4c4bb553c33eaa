/* forward.h - which headers cross the proxy, in both directions.
 *
 * Hop-by-hop headers, those that Connection names, Host and Content-Length stay behind. x-lm-* is
 * what our own hops say to each other, so a client's is dropped, and an agent's doesn't reach the
 * client. Everything else passes as it came, in its order. Results live in the arena; their texts
 * are the arguments' own unless said otherwise. */
#ifndef LM_PROXY_FORWARD_H
#define LM_PROXY_FORWARD_H

#include "shared/base/arena.h"
#include "shared/net/http_server.h"
#include "shared/net/trace.h"

#define FORWARD_EXTRA 10 // headers for which the result has room

/* For the agent: x-request-id is ours, x-forwarded-for gets the client's address appended, `via`
 * stands beside what earlier hops put there. keeps_authorization: the client's key is for the agent,
 * not for us. A trace that we began replaces what the client said of its own. */
struct http_headers forward_request(struct arena *a, const struct http_request *request,
                                    bool keeps_authorization, struct str request_id, struct str via,
                                    const struct trace *trace);

/* For the client, texts copied: without CORS headers and x-request-id, which the router has written
 * already. is_ours: an agent of ours, whose word on the client's session passes. */
struct http_headers forward_response(struct arena *a, const struct http_headers *headers,
                                     bool is_ours);

/* -1: absent or not a number. */
int64_t forward_content_length(const struct http_headers *headers);

#endif
