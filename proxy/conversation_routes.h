/* conversation_routes.h - looking at conversations over all agents: GET /v1/sessions, GET and DELETE
 * /v1/sessions/{id}. Each sees those of whoever asks. Loop thread only. */
#ifndef LM_PROXY_CONVERSATION_ROUTES_H
#define LM_PROXY_CONVERSATION_ROUTES_H

#include "proxy/affinity.h"

#define CONVERSATION_LIST_MAX 10000

/* tenant: as in struct session_ident_input. These end the exchange. */
void conversation_list(struct affinity_service *s, struct http_exchange *x, struct str tenant);
/* GET or DELETE, by the request's method; param: the id. */
void conversation_one(struct affinity_service *s, struct http_exchange *x, struct str param,
                      struct str tenant);

#endif
