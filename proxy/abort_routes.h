/* abort_routes.h - POST /abort_request at the proxy: all agents of ours are asked, as only they know
 * whose request it is, and the best of their answers is passed on. Nodes that aren't ours are not
 * asked. */
#ifndef LM_PROXY_ABORT_ROUTES_H
#define LM_PROXY_ABORT_ROUTES_H

#include "shared/net/http_server.h"

void abort_routes_handle(struct http_exchange *x, struct str param, void *worker);

#endif
