/* exchange.h - one client request and its way to an agent and back. */
#ifndef LM_PROXY_EXCHANGE_H
#define LM_PROXY_EXCHANGE_H

#include "shared/net/http_server.h"

#include "proxy/admission.h"

struct exchange_spares;
struct worker;

/* A route's handler: forward by the body's model. Ends the http_exchange in any case. */
void exchange_handle(struct http_exchange *x, struct str param, void *worker);

/* Take exchanges away from agents that have been silent too long, or that are gone. Called twice a
 * second or so. */
void exchange_sweep(struct worker *w);
/* What a worker keeps for its exchanges: made and freed by the worker. */
struct exchange_spares *exchange_spares_create(void);
void exchange_spares_destroy(struct exchange_spares *s);

/* A slot is offered to one that waits (admission_pump); it has waited too long, or was pushed out. */
enum admission_try exchange_try_slot(void *worker, struct admission_ticket *t);
void exchange_on_expired(void *worker, struct admission_ticket *t);
void exchange_on_evicted(void *worker, struct admission_ticket *t);
/* End all that run, with an error: the proxy closes. */
void exchange_cut_all(struct worker *w);

#endif
