/* quota_redis.h - what proxies share of keys and quotas, through Redis: the levels of limits.h, the
 * hash lm:keys, and how many proxies there are. On worker 0's loop; nobody waits for any of it.
 *
 *     lm:rl:<key id>   hash: r, t (levels), at (Redis' time), s:<proxy> (its streams); 2 min
 *     lm:proxies       sorted set: proxy -> expiry by Redis' clock
 *     lm:proxy:<id>    presence of a proxy, 6 s
 *     lm:keys          hash: SHA-256 of a key -> its record (api_keys.h) */
#ifndef LM_PROXY_QUOTA_REDIS_H
#define LM_PROXY_QUOTA_REDIS_H

#include <uv.h>

#include "proxy/api_key_ring.h"
#include "proxy/limits.h"

struct quota_redis;

struct quota_redis_options {
    const char *url;
    const char *proxy_id; // 16 hex digits, as in x-lm-dispatch; copied
    struct limits *limits;
    struct api_key_ring *keys; // NULL: lm:keys isn't read
};

FALLIBLE int quota_redis_start(uv_loop_t *loop, const struct quota_redis_options *options,
                               struct quota_redis **out, struct error *err);
void quota_redis_stop(struct quota_redis *q, void (*on_closed)(void *arg), void *arg);

#endif
