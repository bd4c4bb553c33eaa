/* tenant.h - in whose name a request is served: the API key's id, else a hash of the bearer token,
 * else nobody's. As it goes to agents in x-lm-tenant. Pure. */
#ifndef LM_PROXY_TENANT_H
#define LM_PROXY_TENANT_H

#include "shared/net/http_server.h"
#include "shared/net/session_key.h"

/* key_id: "" where keys are off. */
void tenant_name(const struct http_request *request, const char *key_id,
                 char out[SESSION_TENANT_BYTES]);

#endif
