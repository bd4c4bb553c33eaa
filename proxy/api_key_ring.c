#define LOG_MODULE "keys"
#include "proxy/api_key_ring.h"

#include "proxy/proxy_metrics.h"
#include "shared/base/check.h"
#include "shared/base/log.h"
#include "shared/net/peer_trust.h"

#define RETRY_AFTER_S 1

static bool wants_keys(const struct api_keys *base, const struct proxy_config *config)
{
    return base->count > 0 || config->api_key_file || config->api_keys_redis;
}

static int load(const struct proxy_config *config, struct api_keys **out, struct error *err)
{
    struct api_key_source source = {&config->api_keys, config->api_key_file};
    return api_keys_load(&source, out, err);
}

int api_key_ring_init(struct api_key_ring *r, const struct proxy_config *config, struct error *err)
{
    struct api_keys *base;
    int rc = load(config, &base, err);
    if (rc < 0) return rc;
    *r = (struct api_key_ring){
        .base = base,
        .current = api_keys_ref(base),
    };
    atomic_init(&r->required, wants_keys(base, config));
    atomic_init(&r->generation, 1);
    atomic_init(&r->awaits_redis, config->api_keys_redis);
    CHECK(pthread_mutex_init(&r->lock, NULL) == 0);
    if (r->required) log_info("keys are required", "known=%d", base->count);
    return 0;
}

void api_key_ring_deinit(struct api_key_ring *r)
{
    api_keys_unref(r->current);
    api_keys_unref(r->base);
    api_keys_unref(r->redis);
    pthread_mutex_destroy(&r->lock);
}

/* Threads take the new set with their next request. */
static void swap(struct api_key_ring *r)
{
    struct api_keys *next = r->redis ? api_keys_combine(r->base, r->redis) : api_keys_ref(r->base);
    pthread_mutex_lock(&r->lock);
    struct api_keys *old = r->current;
    r->current = next;
    atomic_fetch_add(&r->generation, 1);
    pthread_mutex_unlock(&r->lock);
    api_keys_unref(old);
}

int api_key_ring_reload(struct api_key_ring *r, const struct proxy_config *config,
                        struct error *err)
{
    struct api_keys *base;
    int rc = load(config, &base, err);
    if (rc < 0) return rc;
    api_keys_unref(r->base);
    r->base = base;
    swap(r);
    if (wants_keys(base, config)) atomic_store(&r->required, true);
    log_info("keys loaded", "known=%d", r->current->count);
    return 0;
}

void api_key_ring_set_rows(struct api_key_ring *r, const struct api_key_row *rows, size_t count)
{
    if (count == 0 && r->redis && r->redis->count > 0) {
        log_warn("lm:keys is empty", "known=%d: going on with what is known", r->redis->count);
        return;
    }
    int skipped;
    struct error why = {0};
    struct api_keys *redis = api_keys_from_rows(rows, count, &skipped, &why);
    if (skipped > 0) log_warn("keys ignored", "rows=%d first=\"%s\"", skipped, why.text);
    api_keys_unref(r->redis);
    r->redis = redis;
    swap(r);
    atomic_store(&r->awaits_redis, false);
    log_info("keys read from Redis", "rows=%zu known=%d", count, r->current->count);
}

const struct api_keys *api_key_ring_current(struct api_key_ring *r, struct api_key_view *view)
{
    uint64_t generation = atomic_load_explicit(&r->generation, memory_order_acquire);
    if (view->generation == generation) return view->keys;
    pthread_mutex_lock(&r->lock);
    struct api_keys *keys = api_keys_ref(r->current);
    view->generation = atomic_load(&r->generation);
    pthread_mutex_unlock(&r->lock);
    api_keys_unref(view->keys);
    view->keys = keys;
    return keys;
}

void api_key_view_deinit(struct api_key_view *view)
{
    api_keys_unref(view->keys);
    *view = (struct api_key_view){0};
}

int api_key_ring_authorize(struct api_key_ring *r, struct api_key_view *view,
                           const struct http_request *request, const struct api_key **key,
                           struct api_error *error)
{
    *key = NULL;
    if (!r->required) return 0;
    struct str token = peer_api_key(request);
    *key = api_keys_find(api_key_ring_current(r, view), token);
    if (*key) return 0;
    if (token.len > 0 && atomic_load(&r->awaits_redis)) {
        api_error_set(error, 503, "service_unavailable", NULL,
                      "The keys haven't been read yet. Please retry shortly.");
        error->retry_after_s = RETRY_AFTER_S;
        return -1;
    }
    metric_add(&proxy_metrics.requests_unauthorized_total, 1);
    return api_key_error(request, error);
}
