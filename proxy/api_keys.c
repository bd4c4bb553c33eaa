#define LOG_MODULE "keys"
#include "proxy/api_keys.h"

#include "proxy/api_key_parse.h"
#include "proxy/proxy_metrics.h"
#include "shared/base/check.h"
#include "shared/base/log.h"
#include "shared/net/peer_trust.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define RETRY_AFTER_S 1

/* ---- a set ---- */

static struct api_keys *create(void)
{
    struct api_keys *k = xcalloc(1, sizeof *k);
    atomic_init(&k->refs, 1);
    arena_init(&k->arena);
    return k;
}

struct api_keys *api_keys_ref(struct api_keys *k)
{
    atomic_fetch_add(&k->refs, 1);
    return k;
}

void api_keys_unref(struct api_keys *k)
{
    if (!k || atomic_fetch_sub(&k->refs, 1) > 1) return;
    for (size_t i = 0; i < ARRAY_LEN(k->parts); i++)
        api_keys_unref(k->parts[i]);
    arena_deinit(&k->arena);
    free(k->items);
    free(k->slots);
    free(k);
}

static size_t slot_of(const struct api_keys *k, const uint8_t digest[DIGEST_BYTES])
{
    uint64_t word;
    memcpy(&word, digest, sizeof word);
    return (size_t)word & (k->slot_count - 1);
}

static struct api_key *find_digest(const struct api_keys *k, const uint8_t digest[DIGEST_BYTES])
{
    if (k->slot_count == 0) return NULL;
    struct api_key *found = NULL;
    for (size_t at = slot_of(k, digest); k->slots[at]; at = (at + 1) & (k->slot_count - 1)) {
        struct api_key *key = &k->items[k->slots[at] - 1];
        struct str have = {(const char *)key->digest, DIGEST_BYTES};
        if (peer_secret_equals((struct str){(const char *)digest, DIGEST_BYTES}, have)) found = key;
    }
    return found;
}

/* Room for so many keys. */
static void reserve(struct api_keys *k, int count)
{
    k->items = xcalloc((size_t)count + 1, sizeof *k->items);
    k->slot_count = 16;
    while (k->slot_count < 2 * (size_t)count)
        k->slot_count *= 2;
    k->slots = xcalloc(k->slot_count, sizeof *k->slots);
}

static void add(struct api_keys *k, const struct api_key *key)
{
    size_t at = slot_of(k, key->digest);
    while (k->slots[at])
        at = (at + 1) & (k->slot_count - 1);
    k->items[k->count++] = *key;
    k->slots[at] = (uint32_t)k->count;
}

const struct api_key *api_keys_find(const struct api_keys *k, struct str token)
{
    if (token.len == 0) return NULL;
    uint8_t digest[DIGEST_BYTES];
    digest_sha256(token, digest);
    const struct api_key *key = find_digest(k, digest);
    return key && !key->disabled ? key : NULL;
}

/* ---- where they come from ---- */

static int read_all(int fd, struct buf *out, struct error *err)
{
    for (;;) {
        char *room = buf_reserve(out, 65536);
        if (!room) {
            return error_set(err, E_LIMIT, "more than %zu MiB", API_KEY_FILE_BYTES >> 20);
        }
        ssize_t got = read(fd, room, 65536);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return error_set(err, -errno, "%s", error_text(-errno));
        if (got == 0) return 0;
        buf_commit(out, (size_t)got);
    }
}

static void warn_if_readable(const char *path, int fd)
{
    struct stat status;
    if (fstat(fd, &status) != 0 || !(status.st_mode & (S_IRGRP | S_IROTH))) return;
    log_warn("key file holds keys in clear and others may read it",
             "path=%s mode=%03o: use sha256, or chmod 600", path, status.st_mode & 0777);
}

static int load_file(const char *path, struct api_key_list *list, struct error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        int rc = -errno;
        return error_set(err, rc, "--api-key-file '%s': %s", path, error_text(rc));
    }
    struct buf text;
    buf_init(&text, API_KEY_FILE_BYTES);
    int rc = read_all(fd, &text, err);
    if (rc == 0) rc = api_key_parse_file(list, buf_str(&text), err);
    if (rc == 0 && list->has_plain_keys) warn_if_readable(path, fd);
    if (text.data) explicit_bzero(text.data, text.cap);
    buf_deinit(&text);
    close(fd);
    return rc < 0 ? error_prefix(err, rc, "--api-key-file '%s'", path) : 0;
}

static int load_options(const struct proxy_config *config, struct api_key_list *list,
                        struct error *err)
{
    for (size_t i = 0; i < config->api_keys.count; i++) {
        struct api_key key;
        api_key_plain(str_of(config->api_keys.items[i]), &key);
        int rc = api_key_list_add(list, &key, err);
        if (rc < 0) return error_prefix(err, rc, "--api-keys");
    }
    return 0;
}

/* from_file: index of the first key that is the file's. */
static int add_all(struct api_keys *k, const struct api_key_list *list, int from_file,
                   const char *path, struct error *err)
{
    reserve(k, list->count);
    for (int i = 0; i < list->count; i++) {
        const struct api_key *other = find_digest(k, list->items[i].digest);
        if (!other) {
            add(k, &list->items[i]);
        } else if (i >= from_file) {
            return error_set(err, E_INVALID,
                             "--api-key-file '%s': the keys of '%s' and '%s' are the same", path,
                             other->id, list->items[i].id);
        }
    }
    return 0;
}

int api_keys_load(const struct proxy_config *config, struct api_keys **out, struct error *err)
{
    struct api_keys *k = create();
    struct api_key_list list;
    api_key_list_init(&list, &k->arena);
    int rc = load_options(config, &list, err);
    int from_file = list.count;
    if (rc == 0 && config->api_key_file) rc = load_file(config->api_key_file, &list, err);
    if (rc == 0) rc = add_all(k, &list, from_file, config->api_key_file, err);
    if (rc == 0 && config->api_key_file && list.count == from_file) {
        rc = error_set(err, E_INVALID, "--api-key-file '%s' holds no keys", config->api_key_file);
    }
    api_key_list_deinit(&list);
    if (rc < 0) {
        api_keys_unref(k);
        return rc;
    }
    *out = k;
    return 0;
}

struct api_keys *api_keys_from_rows(const struct api_key_row *rows, size_t count, int *skipped,
                                    struct error *why)
{
    struct api_keys *k = create();
    struct api_key_list list;
    api_key_list_init(&list, &k->arena);
    *skipped = 0;
    for (size_t i = 0; i < count; i++) {
        struct error err = {0};
        if (api_key_parse_row(&list, &rows[i], &err) == 0) continue;
        if ((*skipped)++ == 0 && why) *why = err;
    }
    reserve(k, list.count);
    for (int i = 0; i < list.count; i++) {
        /* Hex in another case is another field, but the same key. */
        if (!find_digest(k, list.items[i].digest)) add(k, &list.items[i]);
    }
    api_key_list_deinit(&list);
    return k;
}

struct api_keys *api_keys_combine(struct api_keys *base, struct api_keys *redis)
{
    struct api_keys *k = create();
    k->parts[0] = api_keys_ref(base);
    k->parts[1] = api_keys_ref(redis);
    reserve(k, base->count + redis->count);
    for (int i = 0; i < base->count; i++)
        add(k, &base->items[i]);
    for (int i = 0; i < redis->count; i++) {
        struct api_key *known = find_digest(k, redis->items[i].digest);
        if (!known) {
            add(k, &redis->items[i]);
        } else if (redis->items[i].disabled) {
            known->disabled = true;
        }
    }
    return k;
}

/* ---- what a key may ---- */

bool api_key_allows_model(const struct api_key *key, struct str model)
{
    for (int i = 0; i < key->model_count; i++) {
        struct str name = key->models[i];
        if (name.len > 0 && name.data[name.len - 1] == '*') {
            name.len--;
            if (str_starts_with(model, name)) return true;
        } else if (str_equal(model, name)) {
            return true;
        }
    }
    return key->model_count == 0;
}

static enum admission_class class_of_number(int64_t number, enum admission_class class)
{
    return number < 0 ? ADMISSION_INTERACTIVE : number > 0 ? ADMISSION_BULK : class;
}

enum admission_class api_key_class(const struct api_key *key, struct str asked, bool has_number,
                                   int64_t number)
{
    enum admission_class class = key ? key->class : ADMISSION_DEFAULT;
    enum admission_class best = key ? key->max_class : ADMISSION_INTERACTIVE;
    int64_t value;
    asked = str_trim(asked);
    if (asked.len == 0 || admission_class_parse(asked, &class) < 0) {
        if (asked.len > 0 && str_to_int(asked, &value) == 0) {
            class = class_of_number(value, class);
        } else if (has_number) {
            class = class_of_number(number, class);
        }
    }
    return class < best ? best : class;
}

int api_key_check_model(const struct api_key *key, struct str model, struct api_error *error)
{
    if (!key || api_key_allows_model(key, model)) return 0;
    int shown = model.len > 256 ? 256 : (int)model.len;
    return api_error_set(error, 404, "model_not_found", "model",
                         "The model `%.*s` does not exist or you do not have access to it.", shown,
                         model.data);
}

void api_key_refuse(struct http_exchange *x, const struct api_error *error)
{
    if (error->status == 401) {
        http_exchange_add_header(x, STR("www-authenticate"), STR("Bearer"));
    }
    api_error_respond(x, error);
}

/* ---- the current set ---- */

static bool wants_keys(const struct api_keys *base, const struct proxy_config *config)
{
    return base->count > 0 || config->api_key_file || config->api_keys_redis;
}

int api_key_ring_init(struct api_key_ring *r, const struct proxy_config *config, struct error *err)
{
    struct api_keys *base;
    int rc = api_keys_load(config, &base, err);
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
    int rc = api_keys_load(config, &base, err);
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
    struct str token = peer_bearer_token(request);
    *key = api_keys_find(api_key_ring_current(r, view), token);
    if (*key) return 0;
    if (token.len > 0 && atomic_load(&r->awaits_redis)) {
        api_error_set(error, 503, "service_unavailable", NULL,
                      "The keys haven't been read yet. Please retry shortly.");
        error->retry_after_s = RETRY_AFTER_S;
        return -1;
    }
    metric_add(&proxy_metrics.requests_unauthorized_total, 1);
    /* The last sentence is LMDeploy's, word for word. */
    return api_error_set(
        error, 401, "invalid_api_key", NULL, "%s Please request with valid api key!",
        token.len > 0 ? "Incorrect API key provided." : "You didn't provide an API key.");
}
