#define LOG_MODULE "keys"
#include "shared/net/api_keys.h"

#include "shared/base/check.h"
#include "shared/base/log.h"
#include "shared/net/api_key_parse.h"
#include "shared/net/peer_trust.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define SCANNED_BODY_BYTES ((size_t)64 << 10) // for a key that stands there

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

static int load_options(const struct option_list *keys, struct api_key_list *list,
                        struct error *err)
{
    for (size_t i = 0; i < keys->count; i++) {
        struct api_key key;
        if (keys->items[i][0] == 0) {
            return error_set(err, E_INVALID, "--api-keys: a key is empty");
        }
        api_key_plain(str_of(keys->items[i]), &key);
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

int api_keys_load(const struct api_key_source *source, struct api_keys **out, struct error *err)
{
    struct api_keys *k = create();
    struct api_key_list list;
    api_key_list_init(&list, &k->arena);
    int rc = load_options(source->keys, &list, err);
    int from_file = list.count;
    if (rc == 0 && source->file) rc = load_file(source->file, &list, err);
    if (rc == 0) rc = add_all(k, &list, from_file, source->file, err);
    if (rc == 0 && source->file && list.count == from_file) {
        rc = error_set(err, E_INVALID, "--api-key-file '%s' holds no keys", source->file);
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

/* ---- refusing ---- */

static bool query_has_key(struct str query)
{
    static const char *const names[] = {"api_key", "api-key", "apikey", "key", "access_token"};
    struct str field, name;
    while (str_split(&query, '&', &field)) {
        if (!memchr(field.data, '=', field.len) || !str_split(&field, '=', &name)) continue;
        for (size_t i = 0; i < ARRAY_LEN(names); i++)
            if (str_equal_nocase(name, str_of(names[i]))) return true;
    }
    return false;
}

static bool body_has_key(struct str body)
{
    static const char member[] = "\"api_key\"";
    size_t len = body.len < SCANNED_BODY_BYTES ? body.len : SCANNED_BODY_BYTES;
    return len > 0 && memmem(body.data, len, member, sizeof member - 1);
}

/* What went wrong, for somebody who thinks that a key was sent. */
static const char *explain(const struct http_request *request)
{
    struct str authorization = http_headers_get(&request->headers, "authorization");
    if (peer_api_key(request).len > 0) return "Incorrect API key provided.";
    if (authorization.len >= 5 &&
        str_equal_nocase((struct str){authorization.data, 5}, STR("Basic")))
        return "Basic authorization isn't read here.";
    if (authorization.len > 0) return "The Authorization header has no 'Bearer ' before a key.";
    if (http_headers_get(&request->headers, "api-key").data)
        return "The header 'api-key' isn't read here.";
    if (query_has_key(request->query))
        return "A key in the URL isn't read, and may end up in logs.";
    if (body_has_key(request->body)) return "A key in the body isn't read.";
    return "You didn't provide an API key.";
}

int api_key_error(const struct http_request *request, struct api_error *error)
{
    /* The last sentence is LMDeploy's, word for word. */
    return api_error_set(
        error, 401, "invalid_api_key", NULL,
        "%s Send it in the header 'Authorization: Bearer KEY'. Please request with "
        "valid api key!",
        explain(request));
}

void api_key_refuse(struct http_exchange *x, const struct api_error *error)
{
    if (error->status == 401) {
        http_exchange_add_header(x, STR("www-authenticate"), STR("Bearer"));
    }
    api_error_respond(x, error);
}
