/* exchange.h - one client request and its way to an agent and back. */
#ifndef LM_PROXY_EXCHANGE_H
#define LM_PROXY_EXCHANGE_H

#include "shared/net/http_server.h"

struct proxy;

/* A route's handler: forward by the body's model. Ends the http_exchange in any case. */
void exchange_handle(struct http_exchange *x, struct str param, void *proxy);

/* Take exchanges away from agents that have been silent too long, or that are gone. Called twice a
 * second or so. */
void exchange_sweep(struct proxy *p);
/* End all that run, with an error: the proxy closes. */
void exchange_cut_all(struct proxy *p);

#endif
