/* safetensors.c - reading safetensors files and their index.
 *
 *     u64 header bytes | header: {"name": {"dtype", "shape", "data_offsets": [begin, end]}, ...} | data
 *     index:             {"weight_map": {"name": "file", ...}}
 *
 * Rules
 *  1. The header has at most HEADER_BYTES_MAX bytes and lies in the file before it is parsed; what
 *     we allocate is bounded by it.
 *  2. A tensor's range has exactly the bytes of its type and shape. The ranges of a file follow each
 *     other without overlap or hole and end with the file, as the format demands: a file that was
 *     cut off, or in which two tensors share bytes, is damaged.
 *  3. Names are unique over all shards, and a tensor is in the shard that the index says.
 *  4. After open nothing changes: tensors are sorted by name once. */
#include "engine/safetensors.h"

#include "engine/mapped_file.h"
#include "shared/base/arena.h"
#include "shared/base/check.h"
#include "shared/base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HEADER_BYTES_MAX ((uint64_t)100 << 20) // as the format's own reader
#define VALUES_MAX       ((size_t)4 << 20)     // JSON values of a header or an index
#define SHARDS_MAX       4096
#define ELEMENTS_MAX     ((int64_t)1 << 48)

static const struct {
    const char *name;
    int bytes;
} types[SAFETENSORS_TYPE_COUNT] = {
#define X(name, bytes) {#name, bytes},
    SAFETENSORS_TYPES(X)
#undef X
};

struct shard {
    const char *name; // file name, for messages
    struct mapped_file file;
};

struct safetensors {
    struct arena arena; // names
    struct shard *shards;
    int shard_count;
    struct safetensors_tensor *tensors; // sorted by name
    size_t count, cap;
};

/* A name for a message: bounded, and only printable ASCII. */
struct shown {
    char text[96];
};

static struct shown shown(struct str name)
{
    struct shown s;
    size_t n = name.len < sizeof s.text - 1 ? name.len : sizeof s.text - 1;
    for (size_t i = 0; i < n; i++)
        s.text[i] = name.data[i] >= 0x20 && name.data[i] < 0x7f ? name.data[i] : '?';
    s.text[n] = 0;
    return s;
}

const char *safetensors_type_name(enum safetensors_type type)
{
    CHECK((unsigned)type < SAFETENSORS_TYPE_COUNT);
    return types[type].name;
}

/* ---- one tensor of a header ---- */

static int read_type(const struct json *v, struct safetensors_tensor *t, struct error *err)
{
    if (!v || json_type(v) != JSON_STRING)
        return error_set(err, E_FORMAT, "tensor '%s' has no dtype", shown(t->name).text);
    struct str name = str_of(json_string(v, NULL));
    for (int i = 0; i < SAFETENSORS_TYPE_COUNT; i++) {
        if (!str_equal(name, str_of(types[i].name))) continue;
        t->type = (enum safetensors_type)i;
        return 0;
    }
    return error_set(err, E_UNSUPPORTED, "tensor '%s' has type '%s', which is not supported",
                     shown(t->name).text, shown(name).text);
}

static bool read_count(const struct json *v, int64_t max, int64_t *out)
{
    if (json_type(v) != JSON_NUMBER || !json_is_integer(v)) return false;
    double value = json_number(v);
    if (value < 0 || value > (double)max) return false;
    *out = (int64_t)value;
    return true;
}

static int read_shape(const struct json *v, struct safetensors_tensor *t, struct error *err)
{
    int64_t elements = 1;
    if (!v || json_type(v) != JSON_ARRAY || json_len(v) > SAFETENSORS_DIMS_MAX)
        return error_set(err, E_FORMAT, "tensor '%s' has no shape of at most %d dimensions",
                         shown(t->name).text, SAFETENSORS_DIMS_MAX);
    for (int i = 0; i < SAFETENSORS_DIMS_MAX; i++)
        t->dim[i] = 1;
    for (const struct json *d = json_first(v); d; d = json_next(d)) {
        int64_t size;
        if (!read_count(d, ELEMENTS_MAX, &size) || (size > 0 && elements > ELEMENTS_MAX / size))
            return error_set(err, E_FORMAT, "tensor '%s' has a dimension that can't be",
                             shown(t->name).text);
        t->dim[t->dims++] = size;
        elements *= size;
    }
    t->bytes = (size_t)elements * (size_t)types[t->type].bytes;
    return 0;
}

static int read_range(const struct json *v, const struct mapped_file *data,
                      struct safetensors_tensor *t, struct error *err)
{
    int64_t begin, end;
    const struct json *first = v ? json_first(v) : NULL;
    if (!v || json_type(v) != JSON_ARRAY || json_len(v) != 2 ||
        !read_count(first, INT64_C(1) << 53, &begin) ||
        !read_count(json_next(first), INT64_C(1) << 53, &end) || end < begin)
        return error_set(err, E_FORMAT, "tensor '%s' has no data_offsets [begin, end]",
                         shown(t->name).text);
    if ((uint64_t)end > data->size)
        return error_set(err, E_FORMAT, "tensor '%s' ends beyond the file: truncated or damaged",
                         shown(t->name).text);
    if ((size_t)(end - begin) != t->bytes)
        return error_set(err, E_FORMAT, "tensor '%s' has %lld bytes, its type and shape need %zu",
                         shown(t->name).text, (long long)(end - begin), t->bytes);
    t->data = data->data + begin;
    return 0;
}

static int read_tensor(struct safetensors *s, const struct json *v, const struct mapped_file *data,
                       struct error *err)
{
    struct safetensors_tensor t = {.shard = s->shard_count - 1};
    const char *name = json_name(v);
    int rc;
    t.name = (struct str){arena_strndup(&s->arena, name, strlen(name)), strlen(name)};
    if (json_type(v) != JSON_OBJECT)
        return error_set(err, E_FORMAT, "tensor '%s' is not an object", shown(t.name).text);
    if ((rc = read_type(json_get(v, "dtype"), &t, err)) < 0 ||
        (rc = read_shape(json_get(v, "shape"), &t, err)) < 0 ||
        (rc = read_range(json_get(v, "data_offsets"), data, &t, err)) < 0)
        return rc;
    if (s->count == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 64;
        s->tensors = xrealloc_array(s->tensors, s->cap, sizeof *s->tensors);
    }
    s->tensors[s->count++] = t;
    return 0;
}

/* ---- one file ---- */

static int compare_places(const void *a, const void *b)
{
    const struct safetensors_tensor *x = a, *y = b;
    if (x->data != y->data) return (const uint8_t *)x->data < (const uint8_t *)y->data ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* Rule 2. */
static int check_ranges(struct safetensors *s, size_t first, const struct mapped_file *data,
                        struct error *err)
{
    const uint8_t *at = data->data;
    if (s->count > first)
        qsort(s->tensors + first, s->count - first, sizeof *s->tensors, compare_places);
    for (size_t i = first; i < s->count; i++) {
        const struct safetensors_tensor *t = &s->tensors[i];
        if ((const uint8_t *)t->data < at)
            return error_set(err, E_FORMAT, "tensor '%s' overlaps '%s'", shown(t->name).text,
                             shown(s->tensors[i - 1].name).text);
        if ((const uint8_t *)t->data > at)
            return error_set(err, E_FORMAT, "there are %zu bytes of no tensor before '%s'",
                             (size_t)((const uint8_t *)t->data - at), shown(t->name).text);
        at += t->bytes;
    }
    size_t left = data->size - (size_t)(at - data->data);
    if (left > 0) return error_set(err, E_FORMAT, "there are %zu bytes behind the tensors", left);
    return 0;
}

static int read_header(struct safetensors *s, struct str text, const struct mapped_file *data,
                       struct error *err)
{
    size_t first = s->count;
    int rc = 0;
    struct json *root = json_parse_limited(text.data, text.len, VALUES_MAX, err);
    if (!root) return error_prefix(err, E_FORMAT, "header");
    if (json_type(root) != JSON_OBJECT)
        rc = error_set(err, E_FORMAT, "header is %s, expected an object",
                       json_type_name(json_type(root)));
    for (const struct json *v = json_first(root); rc == 0 && v; v = json_next(v))
        if (strcmp(json_name(v), "__metadata__") != 0) rc = read_tensor(s, v, data, err);
    json_destroy(root);
    return rc < 0 ? rc : check_ranges(s, first, data, err);
}

static int read_shard(struct safetensors *s, struct error *err)
{
    const struct mapped_file *f = &s->shards[s->shard_count - 1].file;
    uint64_t header = 0;
    if (f->size < sizeof header)
        return error_set(err, E_FORMAT, "%zu bytes: not a safetensors file", f->size);
    memcpy(&header, f->data, sizeof header); // little-endian, as is every machine that we run on
    if (header > HEADER_BYTES_MAX)
        return error_set(err, E_FORMAT, "header of %llu bytes: not a safetensors file, or damaged",
                         (unsigned long long)header);
    if (header > f->size - sizeof header)
        return error_set(err, E_FORMAT, "file ends in its header: truncated");
    const uint8_t *begin = f->data + sizeof header;
    struct mapped_file data = {begin + header, f->size - sizeof header - (size_t)header};
    return read_header(s, (struct str){(const char *)begin, (size_t)header}, &data, err);
}

static struct shard *add_shard(struct safetensors *s, const char *name)
{
    s->shards = xrealloc_array(s->shards, (size_t)s->shard_count + 1, sizeof *s->shards);
    struct shard *shard = &s->shards[s->shard_count++];
    *shard = (struct shard){.name = arena_strndup(&s->arena, name, strlen(name))};
    return shard;
}

static int open_shard(struct safetensors *s, const char *folder, const char *name,
                      struct error *err)
{
    struct shard *shard = add_shard(s, name);
    char *path = xasprintf("%s/%s", folder, name);
    int rc = mapped_file_open(path, &shard->file, err);
    if (rc == 0) rc = read_shard(s, err);
    free(path);
    return rc < 0 ? error_prefix(err, rc, "'%s'", shown(str_of(name)).text) : 0;
}

/* ---- all files ---- */

static int compare_names(const void *a, const void *b)
{
    struct str x = ((const struct safetensors_tensor *)a)->name;
    struct str y = ((const struct safetensors_tensor *)b)->name;
    int order = memcmp(x.data, y.data, x.len < y.len ? x.len : y.len);
    return order ? order : (x.len > y.len) - (x.len < y.len);
}

static int sort_tensors(struct safetensors *s, struct error *err)
{
    if (s->count > 0) qsort(s->tensors, s->count, sizeof *s->tensors, compare_names);
    for (size_t i = 1; i < s->count; i++) {
        const struct safetensors_tensor *a = &s->tensors[i - 1], *b = &s->tensors[i];
        if (compare_names(a, b) == 0)
            return error_set(err, E_FORMAT, "tensor '%s' stands in '%s' and in '%s'",
                             shown(a->name).text, s->shards[a->shard].name,
                             s->shards[b->shard].name);
    }
    return 0;
}

static bool is_plain_name(const char *name)
{
    return name[0] && name[0] != '.' && !strchr(name, '/') && strlen(name) < 256;
}

static int shard_of(const struct safetensors *s, const char *name)
{
    for (int i = s->shard_count - 1; i >= 0; i--) // entries of a shard mostly stand together
        if (strcmp(s->shards[i].name, name) == 0) return i;
    return -1;
}

static int open_listed(struct safetensors *s, const char *folder, const struct json *map,
                       struct error *err)
{
    if (!map || json_type(map) != JSON_OBJECT)
        return error_set(err, E_FORMAT, "'weight_map' is missing");
    for (const struct json *v = json_first(map); v; v = json_next(v)) {
        const char *file = json_type(v) == JSON_STRING ? json_string(v, NULL) : "";
        if (!is_plain_name(file))
            return error_set(err, E_FORMAT, "tensor '%s' is not in a file of this folder",
                             shown(str_of(json_name(v))).text);
        if (shard_of(s, file) >= 0) continue;
        if (s->shard_count == SHARDS_MAX)
            return error_set(err, E_LIMIT, "more than %d shards", SHARDS_MAX);
        int rc = open_shard(s, folder, file, err);
        if (rc < 0) return rc;
    }
    return sort_tensors(s, err);
}

/* Rule 3. */
static int check_index(const struct safetensors *s, const struct json *map, struct error *err)
{
    for (const struct json *v = json_first(map); v; v = json_next(v)) {
        const struct safetensors_tensor *t = safetensors_find(s, json_name(v), NULL);
        if (!t || strcmp(s->shards[t->shard].name, json_string(v, NULL)) != 0)
            return error_set(err, E_FORMAT, "tensor '%s' is not in '%s'",
                             shown(str_of(json_name(v))).text,
                             shown(str_of(json_string(v, NULL))).text);
    }
    return 0;
}

static int open_index(struct safetensors *s, const char *folder, const char *path,
                      struct error *err)
{
    struct mapped_file file;
    int rc = mapped_file_open(path, &file, err);
    if (rc < 0) return rc;
    if (file.size > HEADER_BYTES_MAX) {
        mapped_file_close(&file);
        return error_set(err, E_LIMIT, "%zu bytes are too many", file.size);
    }
    struct json *root = json_parse_limited((const char *)file.data, file.size, VALUES_MAX, err);
    mapped_file_close(&file);
    if (!root) return error_prefix(err, E_FORMAT, "contents");
    const struct json *map = json_get(root, "weight_map");
    rc = open_listed(s, folder, map, err);
    if (rc == 0) rc = check_index(s, map, err);
    json_destroy(root);
    return rc;
}

static int open_folder(struct safetensors *s, const char *folder, struct error *err)
{
    char *one = xasprintf("%s/model.safetensors", folder);
    char *index = xasprintf("%s/model.safetensors.index.json", folder);
    int rc;
    if (access(one, F_OK) == 0) {
        rc = open_shard(s, folder, "model.safetensors", err);
        if (rc == 0) rc = sort_tensors(s, err);
    } else if (access(index, F_OK) == 0) {
        rc = open_index(s, folder, index, err);
        if (rc < 0) rc = error_prefix(err, rc, "'model.safetensors.index.json'");
    } else {
        rc = error_set(err, E_NOT_FOUND,
                       "there is no model.safetensors and no model.safetensors.index.json");
    }
    free(one);
    free(index);
    return rc;
}

static int finish_open(struct safetensors *s, int rc, struct safetensors **out)
{
    if (rc < 0)
        safetensors_close(s);
    else
        *out = s;
    return rc;
}

int safetensors_open(const char *folder, struct safetensors **out, struct error *err)
{
    struct safetensors *s = xcalloc(1, sizeof *s);
    arena_init(&s->arena);
    return finish_open(s, open_folder(s, folder, err), out);
}

int safetensors_open_memory(const void *data, size_t size, struct safetensors **out,
                            struct error *err)
{
    struct safetensors *s = xcalloc(1, sizeof *s);
    arena_init(&s->arena);
    struct shard *shard = add_shard(s, "memory");
    shard->file = (struct mapped_file){data, size};
    int rc = read_shard(s, err);
    if (rc == 0) rc = sort_tensors(s, err);
    s->shards[0].file = (struct mapped_file){0}; // borrowed, not ours to unmap
    return finish_open(s, rc, out);
}

void safetensors_close(struct safetensors *s)
{
    if (!s) return;
    for (int i = 0; i < s->shard_count; i++)
        mapped_file_close(&s->shards[i].file);
    free(s->shards);
    free(s->tensors);
    arena_deinit(&s->arena);
    free(s);
}

/* ---- look-ups ---- */

size_t safetensors_count(const struct safetensors *s)
{
    return s->count;
}

const struct safetensors_tensor *safetensors_at(const struct safetensors *s, size_t index)
{
    CHECK(index < s->count);
    return &s->tensors[index];
}

const struct safetensors_tensor *safetensors_find(const struct safetensors *s, const char *name,
                                                  size_t *index)
{
    struct safetensors_tensor wanted = {.name = str_of(name)};
    if (s->count == 0) return NULL;
    const struct safetensors_tensor *t =
        bsearch(&wanted, s->tensors, s->count, sizeof *s->tensors, compare_names);
    if (t && index) *index = (size_t)(t - s->tensors);
    return t;
}

bool safetensors_drop_pages(const struct safetensors *s, const void *data, size_t bytes)
{
    for (int i = 0; i < s->shard_count; i++)
        if (mapped_file_drop_pages(&s->shards[i].file, data, bytes)) return true;
    return false;
}
