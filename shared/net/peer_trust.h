/* peer_trust.h - which requests come from the fleet itself, and on whose behalf.
 *
 * Headers that programs of the fleet add for each other (x-lm-tenant, ...) are believed from a peer
 * that shows the join key, or from loopback where no key is set. From anybody else they are noise. */
#ifndef LM_NET_PEER_TRUST_H
#define LM_NET_PEER_TRUST_H

#include "shared/net/http_server.h"

/* Compares in a time that depends on the lengths only. */
bool peer_secret_equals(struct str given, struct str secret);

/* join_key: what this program was started with, or NULL. */
bool peer_is_fleet(const struct http_request *request, const char *join_key);

/* What follows "Bearer " in the Authorization header, or data NULL. */
struct str peer_bearer_token(const struct http_request *request);

/* The client's key: the bearer token or, as Anthropic's clients send it, x-api-key; data NULL: none. */
struct str peer_api_key(const struct http_request *request);

/* Whose turn it is when requests wait: a hash of x-lm-tenant from the fleet, else of the client's key,
 * else 0. The name itself is not kept. */
uint64_t peer_tenant(const struct http_request *request, const char *join_key);

#endif
