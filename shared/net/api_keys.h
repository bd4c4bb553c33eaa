/* api_keys.h - who may use a program: keys of --api-keys, of --api-key-file and of the proxies' Redis
 * hash lm:keys, known here by their SHA-256 only.
 *
 * A set is immutable and reference-counted: whoever reads keys again builds a new one and swaps it in,
 * and a mistake in what was read changes nothing.
 *
 * File (--api-key-file): a JSON array of objects, or one object a line, or one key a line, plain or as
 * sha256:<64 hex>. Blank lines and lines that begin with # are skipped.
 *     {"id":"team-a", "sha256":"<64 hex>" or "key":"sk-...", "models":["m","llama-*"],
 *      "class":"default", "max_class":"interactive", "rpm":600, "tpm":200000, "streams":32}
 * id and one of sha256 and key are required; either may be a list, so that an old key and a new one
 * work side by side. class: of requests that ask for none; max_class: the best they may ask for
 * (the same as class where only that is given, else interactive). "disabled":true shuts a key out.
 * Classes and limits are the proxy's to keep; an agent looks at key, models and disabled.
 * Redis: HSET lm:keys <sha256 hex> '<the same object without sha256 and key>'. A digest of the file
 * is the file's also where Redis knows it, but Redis can disable it.
 *
 * A request shows its key as `Authorization: Bearer KEY` or, as Anthropic's clients do, `x-api-key:
 * KEY` (peer_trust.h). */
#ifndef LM_NET_API_KEYS_H
#define LM_NET_API_KEYS_H

#include <stdatomic.h>
#include <stdbool.h>

#include "shared/base/arena.h"
#include "shared/base/config.h"
#include "shared/net/admission_class.h"
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

struct api_key_source {
    const struct option_list *keys; // --api-keys
    const char *file;               // --api-key-file; NULL: none
};

/* E_INVALID, E_FORMAT, E_LIMIT or -errno, *err says where. Blocks for the file. */
FALLIBLE int api_keys_load(const struct api_key_source *source, struct api_keys **out,
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

/* 0, or -1 and *error: 404 model_not_found in OpenAI's words, whether or not there is such a model. */
FALLIBLE int api_key_check_model(const struct api_key *key, struct str model,
                                 struct api_error *error);
/* 401 invalid_api_key for a request whose key is wrong, missing or in a place where none is read; the
 * message says which, never what was sent. Returns -1. */
int api_key_error(const struct http_request *request, struct api_error *error);
/* The answer to an error of the above: a 401 gets its WWW-Authenticate. */
void api_key_refuse(struct http_exchange *x, const struct api_error *error);

#endif
