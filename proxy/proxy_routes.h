/* proxy_routes.h - which handler gets which path. */
#ifndef LM_PROXY_PROXY_ROUTES_H
#define LM_PROXY_PROXY_ROUTES_H

#include "shared/net/http_router.h"

struct worker;

void proxy_routes_init(struct http_router *router, struct worker *w);
void proxy_routes_init_admin(struct http_router *router, struct worker *w); // of --admin-port

#endif
