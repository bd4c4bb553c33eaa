#include "shared/net/peer_trust.h"

#include "shared/base/hash.h"

bool peer_secret_equals(struct str given, struct str secret)
{
    if (given.len != secret.len) return false;
    volatile unsigned char differs = 0;
    for (size_t i = 0; i < secret.len; i++)
        differs |= (unsigned char)(given.data[i] ^ secret.data[i]);
    return differs == 0;
}

bool peer_is_fleet(const struct http_request *request, const char *join_key)
{
    if (!join_key) return request->peer_is_loopback;
    struct str given = http_headers_get(&request->headers, "x-lm-join-key");
    return given.data && peer_secret_equals(given, str_of(join_key));
}

struct str peer_bearer_token(const struct http_request *request)
{
    struct str value = http_headers_get(&request->headers, "authorization"),
               scheme = STR("Bearer ");
    if (value.len < scheme.len || !str_equal_nocase((struct str){value.data, scheme.len}, scheme)) {
        return (struct str){0};
    }
    return str_trim((struct str){value.data + scheme.len, value.len - scheme.len});
}

struct str peer_api_key(const struct http_request *request)
{
    struct str token = peer_bearer_token(request);
    if (token.len > 0) return token;
    struct str key = http_headers_get(&request->headers, "x-api-key");
    return key.data ? str_trim(key) : token;
}

uint64_t peer_tenant(const struct http_request *request, const char *join_key)
{
    struct str tenant = {0};
    if (peer_is_fleet(request, join_key)) {
        tenant = http_headers_get(&request->headers, "x-lm-tenant");
    }
    if (!tenant.data) tenant = peer_api_key(request);
    return tenant.len > 0 ? hash_bytes(tenant.data, tenant.len) : 0;
}
