#include "proxy/session_routes.h"

#include "proxy/conversation_routes.h"
#include "proxy/proxy.h"
#include "proxy/tenant.h"
#include "shared/net/api_error.h"

/* False: refused and answered. */
static bool identify(struct worker *w, struct http_exchange *x, char tenant[SESSION_TENANT_BYTES])
{
    const struct http_request *request = http_exchange_request(x);
    const struct api_key *key;
    struct api_error error;
    if (api_key_ring_authorize(&w->proxy->keys, &w->keys, request, &key, &error) < 0) {
        api_key_refuse(x, &error);
        return false;
    }
    tenant_name(request, key ? key->id : "", tenant);
    return true;
}

void session_routes_list(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    struct worker *w = arg;
    char tenant[SESSION_TENANT_BYTES];
    if (identify(w, x, tenant)) conversation_list(w->affinity, x, str_of(tenant));
}

void session_routes_one(struct http_exchange *x, struct str id, void *arg)
{
    struct worker *w = arg;
    char tenant[SESSION_TENANT_BYTES];
    if (identify(w, x, tenant)) conversation_one(w->affinity, x, id, str_of(tenant));
}
