/* session_routes.h - GET /v1/sessions, GET and DELETE /v1/sessions/{id}: conversations of whoever
 * asks, at all agents. */
#ifndef LM_PROXY_SESSION_ROUTES_H
#define LM_PROXY_SESSION_ROUTES_H

#include "shared/net/http_server.h"

void session_routes_list(struct http_exchange *x, struct str param, void *worker);
void session_routes_one(struct http_exchange *x, struct str id, void *worker);

#endif
