/* api_keys.h - who may use the proxy: keys of --api-keys, of --api-key-file and of the Redis hash
 * lm:keys, known here by their SHA-256 only.
 *
 * A set is immutable and reference-counted. The ring holds the current one; a reload builds a new
 * set and swaps it in, a reload that fails changes nothing. Each loop thread keeps a reference of
 * its own, which api_key_ring_current() renews when the set has changed (one atomic load when it
 * hasn't): a key that it finds is valid until the thread's next call. What outlives that is copied:
 * id, class, and the account in limits.h.
 *
 * File (--api-key-file): a JSON array of objects, or one object a line (blank lines and lines that
 * begin with # are skipped):
 *     {"id":"team-a", "sha256":"<64 hex>" or "key":"sk-...", "models":["m","llama-*"],
 *      "class":"default", "max_class":"interactive", "rpm":600, "tpm":200000, "streams":32}
 * id and one of sha256 and key are required; either may be a list, so that an old key and a new one
 * work side by side. class: of requests that ask for none; max_class: the best they may ask for
 * (the same as class where only that is given, else interactive). "disabled":true shuts a key out.
 * Redis: HSET lm:keys <sha256 hex> '<the same object without sha256 and key>'. A digest of the file
 * is the file's also where Redis knows it, but Redis can disable it. */
#ifndef LM_PROXY_API_KEYS_H
#define LM_PROXY_API_KEYS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "proxy/admission.h"
#include "proxy/proxy_config.h"
#include "shared/base/arena.h"
#include "shared/net/api_error.h"
#include "shared/net/digest.h"

#define API_KEYS_MAX       16384
#define API_KEY_ID_BYTES   64 // with terminator
#define API_KEY_MODELS_MAX 256
#define API_KEY_FILE_BYTES ((size_t)16 << 20)

struct api_key {
    char id[API_KEY_ID_BYTES]; // names the tenant (x-lm-tenant), never secret
    uint64_t tenant;           // hash of id, for admission
    uint8_t digest[DIGEST_BYTES];
    const struct str *models; // names, or beginnings that end in '*'
    int model_count;          // 0: every model
    enum admission_class class, max_class;
    int64_t rpm, tpm, streams; // 0: no limit
    bool disabled;
};

struct api_keys {
    _Atomic int refs;
    struct arena arena;
    struct api_keys *parts[2]; // of a combined set: whose strings its keys use
    struct api_key *items;
    int count;
    uint32_t *slots; // by digest: index + 1, 0 is free
    size_t slot_count;
};

/* From --api-keys and --api-key-file. E_INVALID, E_FORMAT, E_LIMIT or -errno, *err says where. */
FALLIBLE int api_keys_load(const struct proxy_config *config, struct api_keys **out,
                           struct error *err);
/* From rows of lm:keys. A malformed row is skipped and counted, *why is about the first. */
struct api_key_row {
    struct str digest, json;
};
struct api_keys *api_keys_from_rows(const struct api_key_row *rows, size_t count, int *skipped,
                                    struct error *why);
struct api_keys *api_keys_combine(struct api_keys *base, struct api_keys *redis);
struct api_keys *api_keys_ref(struct api_keys *k);
void api_keys_unref(struct api_keys *k); // NULL is fine

/* NULL: no such key. */
const struct api_key *api_keys_find(const struct api_keys *k, struct str token);
bool api_key_allows_model(const struct api_key *key, struct str model);

/* Class of a request. key NULL: keys are off, and nobody is better than interactive. asked: value
 * of the priority header, a class's name, or an integer as in the body (others are ignored); data
 * NULL: none. number: the body's `priority`, as for the agents: below 0 is more urgent, above 0
 * can wait. A request never gets a better class than its key's max_class. */
enum admission_class api_key_class(const struct api_key *key, struct str asked, bool has_number,
                                   int64_t number);

/* ---- the current set ---- */

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
/* 0, or -1 and *error: 404 model_not_found in OpenAI's words, whether or not there is such a model. */
FALLIBLE int api_key_check_model(const struct api_key *key, struct str model,
                                 struct api_error *error);
/* The answer to an error of the above: a 401 gets its WWW-Authenticate. */
void api_key_refuse(struct http_exchange *x, const struct api_error *error);

#endif
