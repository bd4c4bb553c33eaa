/* admin.h - who may change the fleet, and the requests that do: LMDeploy's /nodes/remove,
 * /nodes/terminate and /nodes/terminate_all, for holders of the admin key and for this machine. */
#ifndef LM_PROXY_ADMIN_H
#define LM_PROXY_ADMIN_H

#include "shared/net/http_server.h"

struct proxy;

/* POST /nodes/add: by x-lm-join-key, where --join-key is set. Without it everybody may, unless
 * clients need keys: then whoever may change the fleet. */
bool admin_may_join(const struct proxy *p, const struct http_request *request);
/* The same on --admin-port, where without a join key whoever gets through may. */
bool admin_port_may_join(const struct proxy *p, const struct http_request *request);
/* By key (Authorization: Bearer, or x-lm-admin-key); else from loopback, unless a browser page or a
 * reverse proxy on this machine speaks there for somebody else. */
bool admin_is_allowed(const struct proxy *p, const struct http_request *request);

/* On the main port; the others on --admin-port, where whoever gets through may. */
void admin_remove(struct http_exchange *x, struct str param, void *worker);
void admin_terminate(struct http_exchange *x, struct str param, void *worker);
void admin_terminate_all(struct http_exchange *x, struct str param, void *worker);
void admin_port_remove(struct http_exchange *x, struct str param, void *worker);
void admin_port_terminate(struct http_exchange *x, struct str param, void *worker);
void admin_port_terminate_all(struct http_exchange *x, struct str param, void *worker);

#endif
