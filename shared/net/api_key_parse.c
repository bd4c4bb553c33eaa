#include "shared/net/api_key_parse.h"

#include "shared/base/check.h"
#include "shared/base/hash.h"
#include "shared/base/json.h"

#include <stdio.h>
#include <stdlib.h>

#define KEYS_OF_ONE_ID_MAX 16
#define LIMIT_MAX          (INT64_C(1) << 53)
#define PLAIN_KEY_BYTES    1024

void api_key_list_init(struct api_key_list *list, struct arena *arena)
{
    *list = (struct api_key_list){.arena = arena};
    hash_map_init(&list->ids);
}

void api_key_list_deinit(struct api_key_list *list)
{
    hash_map_deinit(&list->ids);
    free(list->items);
}

int api_key_list_add(struct api_key_list *list, const struct api_key *key, struct error *err)
{
    if (list->count == API_KEYS_MAX) {
        return error_set(err, E_LIMIT, "more than %d keys", API_KEYS_MAX);
    }
    if (list->count == list->cap) {
        list->cap = list->cap ? list->cap * 2 : 16;
        list->items = xrealloc_array(list->items, (size_t)list->cap, sizeof *list->items);
    }
    list->items[list->count++] = *key;
    return 0;
}

static void set_id(struct api_key *key, struct str id)
{
    snprintf(key->id, sizeof key->id, STR_FMT, STR_ARG(id));
    key->tenant = hash_bytes(id.data, id.len);
}

static void default_id(struct api_key *key)
{
    char hex[DIGEST_DIGITS + 1], id[32];
    digest_text(key->digest, hex);
    snprintf(id, sizeof id, "key-%.16s", hex);
    set_id(key, str_of(id));
}

void api_key_plain(struct str token, struct api_key *out)
{
    *out = (struct api_key){.class = ADMISSION_DEFAULT, .max_class = ADMISSION_INTERACTIVE};
    digest_sha256(token, out->digest);
    default_id(out);
}

/* ---- members ---- */

static int wrong_type(const char *name, const char *wanted, const struct json *v, struct error *err)
{
    return error_set(err, E_INVALID, "'%s' must be %s, not %s", name, wanted,
                     json_type_name(json_type(v)));
}

static int parse_text(const struct json *v, const char *name, struct str *out, struct error *err)
{
    if (json_type(v) != JSON_STRING) return wrong_type(name, "a string", v, err);
    out->data = json_string(v, &out->len);
    return 0;
}

static int parse_id(const struct json *v, struct api_key *key, struct error *err)
{
    struct str id;
    int rc = parse_text(v, "id", &id, err);
    if (rc < 0) return rc;
    bool plain = id.len > 0 && id.len < API_KEY_ID_BYTES;
    for (size_t i = 0; plain && i < id.len; i++)
        plain = id.data[i] > ' ' && id.data[i] < 0x7f && id.data[i] != '"' && id.data[i] != '\\';
    if (!plain) {
        return error_set(err, E_INVALID,
                         "'id' must have 1 to %d printable ASCII characters, without spaces, "
                         "quotes and backslashes",
                         API_KEY_ID_BYTES - 1);
    }
    set_id(key, id);
    return 0;
}

static int parse_class(const struct json *v, const char *name, enum admission_class *out,
                       struct error *err)
{
    struct str text;
    int rc = parse_text(v, name, &text, err);
    if (rc < 0) return rc;
    if (admission_class_parse(text, out) == 0) return 0;
    return error_set(err, E_INVALID, "'%s' must be system, interactive, default or bulk", name);
}

static int parse_limit(const struct json *v, const char *name, int64_t *out, struct error *err)
{
    if (!json_is_integer(v)) return error_set(err, E_INVALID, "'%s' must be an integer", name);
    double value = json_number(v);
    if (value < 0 || value > (double)LIMIT_MAX) {
        return error_set(err, E_INVALID, "'%s' must be at least 0 (no limit)", name);
    }
    *out = (int64_t)value;
    return 0;
}

static int parse_models(const struct json *v, struct arena *arena, struct api_key *key,
                        struct error *err)
{
    if (json_type(v) != JSON_ARRAY) return wrong_type("models", "a list of names", v, err);
    size_t count = json_len(v);
    if (count == 0 || count > API_KEY_MODELS_MAX) {
        return error_set(err, E_INVALID, "'models' must hold 1 to %d names; leave it out for all",
                         API_KEY_MODELS_MAX);
    }
    struct str *models = arena_alloc(arena, count * sizeof *models);
    key->models = models;
    for (v = json_first(v); v; v = json_next(v)) {
        struct str name;
        int rc = parse_text(v, "models", &name, err);
        if (rc < 0) return rc;
        models[key->model_count++] =
            (struct str){arena_strndup(arena, name.data, name.len), name.len};
    }
    return 0;
}

/* ---- a record ---- */

struct record {
    struct api_key key; // all but the digest
    const struct json *secret;
    bool secret_is_digest, has_class, has_max_class;
};

/* 0, or negative; E_NOT_FOUND: no member of a record. */
static int parse_member(struct record *r, struct arena *arena, const struct json *v,
                        struct error *err)
{
    static const struct {
        const char *name;
        size_t offset;
    } limits[] = {
        {"rpm", offsetof(struct api_key, rpm)},
        {"tpm", offsetof(struct api_key, tpm)},
        {"streams", offsetof(struct api_key, streams)},
    };
    const char *name = json_name(v);
    struct api_key *key = &r->key;
    for (size_t i = 0; i < ARRAY_LEN(limits); i++) {
        if (strcmp(name, limits[i].name) != 0) continue;
        return parse_limit(v, name, (int64_t *)((char *)key + limits[i].offset), err);
    }
    if (strcmp(name, "id") == 0) return parse_id(v, key, err);
    if (strcmp(name, "models") == 0) return parse_models(v, arena, key, err);
    if (strcmp(name, "class") == 0) {
        r->has_class = true;
        return parse_class(v, name, &key->class, err);
    }
    if (strcmp(name, "max_class") == 0) {
        r->has_max_class = true;
        return parse_class(v, name, &key->max_class, err);
    }
    if (strcmp(name, "disabled") == 0) {
        if (json_type(v) != JSON_BOOL) return wrong_type(name, "true or false", v, err);
        key->disabled = json_is_true(v);
        return 0;
    }
    if (strcmp(name, "sha256") == 0 || strcmp(name, "key") == 0) {
        if (r->secret) return error_set(err, E_INVALID, "'key' and 'sha256' exclude each other");
        r->secret = v;
        r->secret_is_digest = name[0] == 's';
        return 0;
    }
    return error_set(err, E_NOT_FOUND, "unknown member '%s'", name);
}

static int parse_record(struct record *r, struct arena *arena, const struct json *v, bool strict,
                        struct error *err)
{
    *r = (struct record){.key = {.class = ADMISSION_DEFAULT, .max_class = ADMISSION_INTERACTIVE}};
    if (json_type(v) != JSON_OBJECT) {
        return error_set(err, E_INVALID, "a key must be an object, not %s",
                         json_type_name(json_type(v)));
    }
    for (v = json_first(v); v; v = json_next(v)) {
        int rc = parse_member(r, arena, v, err);
        if (rc == E_NOT_FOUND && !strict) continue;
        if (rc < 0) return rc;
    }
    struct api_key *key = &r->key;
    if (r->has_class && !r->has_max_class) key->max_class = key->class;
    if (!r->has_class && key->class < key->max_class) key->class = key->max_class;
    if (key->class < key->max_class) {
        return error_set(err, E_INVALID, "'class' %s is better than 'max_class' %s",
                         admission_class_names[key->class], admission_class_names[key->max_class]);
    }
    return 0;
}

static int add_secret(struct api_key_list *list, struct record *r, const struct json *v,
                      struct error *err)
{
    struct str text;
    int rc = parse_text(v, r->secret_is_digest ? "sha256" : "key", &text, err);
    if (rc < 0) return rc;
    if (!r->secret_is_digest) {
        if (text.len == 0) return error_set(err, E_INVALID, "'key' is empty");
        list->has_plain_keys = true;
        digest_sha256(text, r->key.digest);
    } else if (digest_parse(text, r->key.digest) < 0) {
        return error_set(err, E_INVALID, "'sha256' must have %d hex digits", DIGEST_DIGITS);
    }
    return api_key_list_add(list, &r->key, err);
}

static int add_record(struct api_key_list *list, const struct json *v, struct error *err)
{
    struct record r;
    int rc = parse_record(&r, list->arena, v, true, err);
    if (rc < 0) return rc;
    if (!r.key.id[0]) return error_set(err, E_INVALID, "'id' is missing");
    if (!r.secret) return error_set(err, E_INVALID, "'sha256' or 'key' is missing");
    if (hash_map_put(&list->ids, str_of(r.key.id), list)) {
        return error_set(err, E_INVALID,
                         "the id '%s' is taken; give several keys of one id as a list", r.key.id);
    }
    if (json_type(r.secret) != JSON_ARRAY) return add_secret(list, &r, r.secret, err);
    size_t count = json_len(r.secret);
    if (count == 0 || count > KEYS_OF_ONE_ID_MAX) {
        return error_set(err, E_INVALID, "'%s' must hold 1 to %d keys", json_name(r.secret),
                         KEYS_OF_ONE_ID_MAX);
    }
    for (v = json_first(r.secret); v && rc == 0; v = json_next(v))
        rc = add_secret(list, &r, v, err);
    return rc;
}

static int parse_array(struct api_key_list *list, struct str text, struct error *err)
{
    struct json *root = json_parse(text.data, text.len, err);
    if (!root) return E_FORMAT;
    int rc = 0, entry = 0;
    for (const struct json *v = json_first(root); v && rc == 0; v = json_next(v)) {
        entry++;
        rc = add_record(list, v, err);
    }
    if (rc < 0) error_prefix(err, rc, "entry %d", entry);
    json_destroy(root);
    return rc;
}

/* A key, or "sha256:" and its digest. What a header can't carry, or a person mistyped, is no key. */
static int add_plain_line(struct api_key_list *list, struct str line, struct error *err)
{
    struct api_key key;
    struct str digest = STR("sha256:");
    if (str_starts_with(line, digest)) {
        key = (struct api_key){.class = ADMISSION_DEFAULT, .max_class = ADMISSION_INTERACTIVE};
        line = (struct str){line.data + digest.len, line.len - digest.len};
        if (digest_parse(str_trim(line), key.digest) < 0) {
            return error_set(err, E_INVALID, "'sha256:' wants %d hex digits", DIGEST_DIGITS);
        }
        default_id(&key);
        return api_key_list_add(list, &key, err);
    }
    bool is_plain = line.len <= PLAIN_KEY_BYTES;
    for (size_t i = 0; is_plain && i < line.len; i++)
        is_plain = line.data[i] > ' ' && line.data[i] < 0x7f;
    if (!is_plain) {
        return error_set(err, E_INVALID,
                         "a key has at most %d printable ASCII characters and no spaces",
                         PLAIN_KEY_BYTES);
    }
    api_key_plain(line, &key);
    list->has_plain_keys = true;
    return api_key_list_add(list, &key, err);
}

static int add_json_line(struct api_key_list *list, struct str line, struct error *err)
{
    struct json *v = json_parse(line.data, line.len, err);
    int rc = v ? add_record(list, v, err) : E_FORMAT;
    json_destroy(v);
    return rc;
}

/* The first line decides for all: a damaged record among others must not become a key. */
static int parse_lines(struct api_key_list *list, struct str text, struct error *err)
{
    int (*add)(struct api_key_list *, struct str, struct error *) = NULL;
    struct str line;
    for (int number = 1; str_split(&text, '\n', &line); number++) {
        line = str_trim(line);
        if (line.len == 0 || line.data[0] == '#') continue;
        if (!add) add = line.data[0] == '{' ? add_json_line : add_plain_line;
        int rc = add(list, line, err);
        if (rc < 0) return error_prefix(err, rc, "line %d", number);
    }
    return 0;
}

int api_key_parse_file(struct api_key_list *list, struct str text, struct error *err)
{
    struct str trimmed = str_trim(text);
    bool is_array = trimmed.len > 0 && trimmed.data[0] == '[';
    return is_array ? parse_array(list, text, err) : parse_lines(list, text, err);
}

int api_key_parse_row(struct api_key_list *list, const struct api_key_row *row, struct error *err)
{
    uint8_t digest[DIGEST_BYTES];
    if (digest_parse(row->digest, digest) < 0) {
        return error_set(err, E_INVALID, "field '%.*s' is no SHA-256 in hex",
                         (int)(row->digest.len > 80 ? 80 : row->digest.len), row->digest.data);
    }
    struct json *v = json_parse(row->json.data, row->json.len, err);
    if (!v) return E_FORMAT;
    struct record r;
    int rc = parse_record(&r, list->arena, v, false, err);
    json_destroy(v);
    if (rc < 0) return rc;
    memcpy(r.key.digest, digest, DIGEST_BYTES);
    if (!r.key.id[0]) default_id(&r.key);
    return api_key_list_add(list, &r.key, err);
}
