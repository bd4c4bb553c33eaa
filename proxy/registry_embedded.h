/* registry_embedded.h - the registry without Redis: agents post their beats to POST /nodes/add,
 * which is LMDeploy's, so that its api_server registers too; GET /nodes/status shows the table in
 * its shape. */
#ifndef LM_PROXY_REGISTRY_EMBEDDED_H
#define LM_PROXY_REGISTRY_EMBEDDED_H

#include "shared/net/http_server.h"

void registry_embedded_add(struct http_exchange *x, struct str param, void *worker);
void registry_embedded_add_admin(struct http_exchange *x, struct str param, void *worker);
void registry_embedded_status(struct http_exchange *x, struct str param, void *worker);

#endif
