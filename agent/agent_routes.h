/* agent_routes.h - URL to handler. */
#ifndef LM_AGENT_AGENT_ROUTES_H
#define LM_AGENT_AGENT_ROUTES_H

#include "shared/net/http_router.h"

struct agent;

/* The routes of `a`, who must outlive the router. */
void agent_routes_init(struct http_router *router, struct agent *a);

#endif
