#include "proxy/tenant.h"

#include "shared/net/peer_trust.h"

void tenant_name(const struct http_request *request, const char *key_id,
                 char out[SESSION_TENANT_BYTES])
{
    bool has_key = key_id[0] != 0;
    struct str none = {0};
    session_tenant(has_key ? str_of(key_id) : none, has_key ? none : peer_api_key(request), out);
}
