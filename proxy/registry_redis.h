/* registry_redis.h - the registry that several proxies share. Reads all agents every second (and
 * when a hint on lm:ev says that somebody came or went), their loads every 250 ms; writes what this
 * proxy alone has heard by HTTP. No request ever waits for it. Main thread. */
#ifndef LM_PROXY_REGISTRY_REDIS_H
#define LM_PROXY_REGISTRY_REDIS_H

#include <uv.h>

#include "proxy/registry.h"

struct registry_redis;

/* E_INVALID: bad URL. Connects by itself; an absent Redis is no failure. */
FALLIBLE int registry_redis_start(uv_loop_t *loop, const char *url, struct registry *registry,
                                  struct registry_redis **out, struct error *err);
/* Leases that were heard by HTTP since the last call. Ten times a second or so. */
void registry_redis_write_leases(struct registry_redis *r);
void registry_redis_stop(struct registry_redis *r, void (*on_closed)(void *arg), void *arg);

bool registry_redis_is_connected(const struct registry_redis *r);
bool registry_redis_has_scanned(const struct registry_redis *r); // completely, at least once

#endif
