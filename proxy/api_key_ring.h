/* api_key_ring.h - the keys that count now, for all loop threads of the proxy: those of its options
 * and file, and of the Redis hash lm:keys.
 *
 * The ring holds the current set; a reload builds a new one and swaps it in, a reload that fails
 * changes nothing. Each loop thread keeps a reference of its own, which api_key_ring_current() renews
 * when the set has changed (one atomic load when it hasn't): a key that it finds is valid until the
 * thread's next call. What outlives that is copied: id, class, and the account in limits.h. */
#ifndef LM_PROXY_API_KEY_RING_H
#define LM_PROXY_API_KEY_RING_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "proxy/proxy_config.h"
#include "shared/net/api_keys.h"

struct api_key_ring {
    _Atomic bool required; // an option of keys is set, or was before a reload
    pthread_mutex_t lock;
    _Atomic uint64_t generation;
    _Atomic bool awaits_redis;     // keys may be in Redis, and it hasn't been read yet
    struct api_keys *base, *redis; // of options and file; of lm:keys
    struct api_keys *current;      // both
};

/* A thread's reference. Zeroed before the first use. */
struct api_key_view {
    uint64_t generation;
    struct api_keys *keys;
};

FALLIBLE int api_key_ring_init(struct api_key_ring *r, const struct proxy_config *config,
                               struct error *err);
void api_key_ring_deinit(struct api_key_ring *r);
/* SIGHUP, on worker 0: read the file again. On failure the old keys stay. */
FALLIBLE int api_key_ring_reload(struct api_key_ring *r, const struct proxy_config *config,
                                 struct error *err);
/* What lm:keys holds now; worker 0. An empty hash after one with rows is a flush, and changes
 * nothing: to shut the last key out, disable it. */
void api_key_ring_set_rows(struct api_key_ring *r, const struct api_key_row *rows, size_t count);

const struct api_keys *api_key_ring_current(struct api_key_ring *r, struct api_key_view *view);
void api_key_view_deinit(struct api_key_view *view);

/* Who asks? 0 and *key (NULL where keys are off), or -1 and *error: 401 invalid_api_key, or 503
 * while the keys in Redis haven't been read. *key is valid until the thread's next call. */
FALLIBLE int api_key_ring_authorize(struct api_key_ring *r, struct api_key_view *view,
                                    const struct http_request *request, const struct api_key **key,
                                    struct api_error *error);

#endif
