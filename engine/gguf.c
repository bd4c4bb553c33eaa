/* gguf.c - reading the GGUF container.
 *
 *     header | metadata (key, type, value) ... | tensor infos ... | padding | tensor data
 *
 * Rules
 *  1. The file is hostile until shown otherwise: the reader hands out only bytes that it has
 *     checked to lie inside the file, and every product of counts is formed after its factors were
 *     bounded.
 *  2. What we allocate is bounded by the size of the file, not by a number written in it.
 *  3. After open nothing changes: keys and tensors are sorted once, so look-ups are binary searches
 *     and any thread may read.
 *  4. Metadata values have no alignment; they are copied out. Tensor data is aligned by the format.
 */
#include "engine/gguf.h"

#include "engine/mapped_file.h"
#include "shared/base/check.h"

#include <stdlib.h>
#include <string.h>

#define KEYS_MAX         (1u << 16)
#define TENSORS_MAX      (1u << 17)
#define ALIGNMENT_MAX    (1u << 20)
#define NAME_BYTES_MAX   65535

/* The smallest things that fit between header and data: an empty string, a type, a value. */
#define KEY_BYTES_MIN    13
#define TENSOR_BYTES_MIN 24

enum value_type {
    VALUE_U8,
    VALUE_I8,
    VALUE_U16,
    VALUE_I16,
    VALUE_U32,
    VALUE_I32,
    VALUE_F32,
    VALUE_BOOL,
    VALUE_STRING,
    VALUE_ARRAY,
    VALUE_U64,
    VALUE_I64,
    VALUE_F64,
    VALUE_TYPES
};

static const uint8_t value_bytes[VALUE_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

struct gguf_key {
    struct str name;
    uint32_t type; // of the value, or of the elements of an array
    bool is_array;
    uint64_t count;          // elements; 1 when not an array
    const uint8_t *data;     // first element
    const uint8_t **strings; // arrays of strings: where each begins (its length word); owned
};

struct gguf {
    const uint8_t *data;
    size_t size;
    struct mapped_file file; // empty: the bytes are borrowed
    struct gguf_key *keys;   // sorted by name
    size_t key_count;
    struct gguf_tensor *tensors; // in file order
    size_t tensor_count;
    const struct gguf_tensor **by_name; // the same, sorted by name
    struct gguf *joined;                // NULL, or the next file whose tensors are among ours
};

/* ---- reading within bounds ---- */

struct reader {
    const uint8_t *at, *end;
    const uint8_t *begin;
};

static size_t reader_left(const struct reader *r)
{
    return (size_t)(r->end - r->at);
}

static int cut_off(const struct reader *r, const char *what, struct error *err)
{
    return error_set(err, E_FORMAT, "file ends inside %s, at byte %zu: truncated or damaged", what,
                     (size_t)(r->at - r->begin));
}

static bool read_bytes(struct reader *r, void *out, size_t len)
{
    if (reader_left(r) < len) return false;
    memcpy(out, r->at, len);
    r->at += len;
    return true;
}

static bool read_u32(struct reader *r, uint32_t *value)
{
    return read_bytes(r, value, sizeof *value);
}

static bool read_u64(struct reader *r, uint64_t *value)
{
    return read_bytes(r, value, sizeof *value);
}

static bool read_str(struct reader *r, struct str *value)
{
    uint64_t len;
    if (!read_u64(r, &len) || len > reader_left(r)) return false;
    *value = (struct str){(const char *)r->at, (size_t)len};
    r->at += len;
    return true;
}

/* For names in error texts: the first bytes, with what isn't printable ASCII shown as '?'. */
struct shown {
    char text[65];
};

static struct shown shown(struct str s)
{
    struct shown out;
    size_t len = s.len < sizeof out.text - 1 ? s.len : sizeof out.text - 1;
    for (size_t i = 0; i < len; i++)
        out.text[i] = s.data[i] >= 0x20 && s.data[i] < 0x7f ? s.data[i] : '?';
    out.text[len] = 0;
    return out;
}

/* ---- metadata ---- */

static int read_string_array(struct reader *r, struct gguf_key *key, struct error *err)
{
    if (key->count > reader_left(r) / 8) return cut_off(r, "an array of strings", err);
    key->strings = xcalloc(key->count ? (size_t)key->count : 1, sizeof *key->strings);
    for (uint64_t i = 0; i < key->count; i++) {
        struct str ignored;
        key->strings[i] = r->at;
        if (!read_str(r, &ignored)) return cut_off(r, "an array of strings", err);
    }
    return 0;
}

static int read_value(struct reader *r, struct gguf_key *key, struct error *err)
{
    struct str ignored;
    key->count = 1;
    if (!read_u32(r, &key->type)) return cut_off(r, "a metadata type", err);
    if (key->type == VALUE_ARRAY) {
        key->is_array = true;
        if (!read_u32(r, &key->type) || !read_u64(r, &key->count))
            return cut_off(r, "an array's header", err);
    }
    if (key->type >= VALUE_TYPES || key->type == VALUE_ARRAY)
        return error_set(err, E_FORMAT, "metadata key '%s' has %s type %u", shown(key->name).text,
                         key->type == VALUE_ARRAY ? "the nested array" : "the unknown", key->type);
    key->data = r->at;
    if (key->type == VALUE_STRING) {
        if (key->is_array) return read_string_array(r, key, err);
        return read_str(r, &ignored) ? 0 : cut_off(r, "a string value", err);
    }
    size_t element = value_bytes[key->type];
    if (key->count > reader_left(r) / element) return cut_off(r, "a metadata value", err);
    r->at += key->count * element;
    return 0;
}

static int str_compare(struct str a, struct str b)
{
    int order = memcmp(a.data, b.data, a.len < b.len ? a.len : b.len);
    if (order) return order;
    return a.len < b.len ? -1 : a.len > b.len;
}

static int compare_keys(const void *a, const void *b)
{
    return str_compare(((const struct gguf_key *)a)->name, ((const struct gguf_key *)b)->name);
}

static int read_keys(struct gguf *g, struct reader *r, uint64_t count, struct error *err)
{
    if (count > KEYS_MAX || count > reader_left(r) / KEY_BYTES_MIN)
        return error_set(err, E_FORMAT, "header declares %llu metadata keys: damaged",
                         (unsigned long long)count);
    g->keys = xcalloc(count ? (size_t)count : 1, sizeof *g->keys);
    for (; g->key_count < count; g->key_count++) {
        struct gguf_key *key = &g->keys[g->key_count];
        if (!read_str(r, &key->name)) return cut_off(r, "a metadata key", err);
        if (key->name.len == 0 || key->name.len > NAME_BYTES_MAX)
            return error_set(err, E_FORMAT, "metadata key %zu has a name of %zu bytes",
                             g->key_count, key->name.len);
        int rc = read_value(r, key, err);
        if (rc < 0) {
            g->key_count++; // its strings are freed by close
            return rc;
        }
    }
    qsort(g->keys, g->key_count, sizeof *g->keys, compare_keys);
    for (size_t i = 1; i < g->key_count; i++)
        if (compare_keys(&g->keys[i - 1], &g->keys[i]) == 0)
            return error_set(err, E_FORMAT, "metadata key '%s' stands twice",
                             shown(g->keys[i].name).text);
    return 0;
}

/* ---- tensors ---- */

static int read_dims(struct reader *r, struct gguf_tensor *t, struct error *err)
{
    uint32_t dims;
    if (!read_u32(r, &dims)) return cut_off(r, "a tensor's description", err);
    if (dims < 1 || dims > 4)
        return error_set(err, E_FORMAT, "tensor '%s' has %u dimensions", shown(t->name).text, dims);
    t->dims = (int)dims;
    int64_t elements = 1;
    for (int d = 0; d < 4; d++) {
        uint64_t size = 1;
        if (d < t->dims && !read_u64(r, &size)) return cut_off(r, "a tensor's dimensions", err);
        if (size == 0 || size > (uint64_t)(INT64_MAX / 16 / elements))
            return error_set(err, E_FORMAT, "tensor '%s': dimension %d is %llu",
                             shown(t->name).text, d, (unsigned long long)size);
        t->dim[d] = (int64_t)size;
        elements *= t->dim[d];
    }
    return 0;
}

/* `offset` (relative to the data section) is kept in t->bytes until the section's start is known.
 */
static int read_tensor(struct reader *r, struct gguf_tensor *t, struct error *err)
{
    uint64_t offset;
    if (!read_str(r, &t->name)) return cut_off(r, "a tensor's name", err);
    if (t->name.len == 0 || t->name.len > NAME_BYTES_MAX)
        return error_set(err, E_FORMAT, "a tensor has a name of %zu bytes", t->name.len);
    int rc = read_dims(r, t, err);
    if (rc < 0) return rc;
    if (!read_u32(r, &t->gguf_type) || !read_u64(r, &offset))
        return cut_off(r, "a tensor's description", err);
    if (offset > SIZE_MAX)
        return error_set(err, E_FORMAT, "tensor '%s' begins beyond the file", shown(t->name).text);
    t->bytes = (size_t)offset;
    return 0;
}

static int place_tensor(struct gguf *g, struct gguf_tensor *t, size_t data_start, size_t alignment,
                        struct error *err)
{
    size_t offset = t->bytes, room = g->size - data_start;
    enum dtype type;
    if (offset % alignment)
        return error_set(err, E_FORMAT, "tensor '%s' is not aligned to %zu bytes",
                         shown(t->name).text, alignment);
    if (offset > room)
        return error_set(err, E_FORMAT, "tensor '%s' begins beyond the file: truncated or damaged",
                         shown(t->name).text);
    t->data = g->data + data_start + offset;
    t->bytes = 0;
    if (!dtype_from_gguf(t->gguf_type, &type)) {
        /* Size unknown; the loader names the type. No format takes less than a bit for an element.
         */
        if (t->dim[0] * t->dim[1] * t->dim[2] * t->dim[3] / 8 <= (int64_t)(room - offset)) return 0;
        return error_set(err, E_FORMAT, "tensor '%s' ends beyond the file: truncated or damaged",
                         shown(t->name).text);
    }
    if (t->dim[0] % dtype_block_elements(type))
        return error_set(err, E_FORMAT,
                         "tensor '%s' has rows of %lld elements, %s needs blocks of %d",
                         shown(t->name).text, (long long)t->dim[0], dtype_name(type),
                         dtype_block_elements(type));
    /* Elements are below 2^59 and no type takes more than 4 bytes for one: no overflow. */
    size_t rows = (size_t)(t->dim[1] * t->dim[2] * t->dim[3]);
    size_t bytes =
        (size_t)(t->dim[0] / dtype_block_elements(type)) * (size_t)dtype_block_bytes(type) * rows;
    if (bytes > room - offset)
        return error_set(err, E_FORMAT, "tensor '%s' ends beyond the file: truncated or damaged",
                         shown(t->name).text);
    t->bytes = bytes;
    return 0;
}

static int compare_tensors(const void *a, const void *b)
{
    return str_compare((*(const struct gguf_tensor *const *)a)->name,
                       (*(const struct gguf_tensor *const *)b)->name);
}

static int sort_tensors(struct gguf *g, struct error *err)
{
    free(g->by_name);
    g->by_name = xcalloc(g->tensor_count ? g->tensor_count : 1, sizeof *g->by_name);
    for (size_t i = 0; i < g->tensor_count; i++)
        g->by_name[i] = &g->tensors[i];
    qsort(g->by_name, g->tensor_count, sizeof *g->by_name, compare_tensors);
    for (size_t i = 1; i < g->tensor_count; i++)
        if (compare_tensors(&g->by_name[i - 1], &g->by_name[i]) == 0)
            return error_set(err, E_FORMAT, "tensor '%s' stands twice",
                             shown(g->by_name[i]->name).text);
    return 0;
}

static int read_alignment(const struct gguf *g, size_t *alignment, struct error *err)
{
    int64_t value = 32;
    if (gguf_has(g, "general.alignment") && !gguf_get_int(g, "general.alignment", &value))
        value = 0;
    if (value < 8 || value > ALIGNMENT_MAX || (value & (value - 1)))
        return error_set(err, E_FORMAT, "general.alignment is %lld", (long long)value);
    *alignment = (size_t)value;
    return 0;
}

static int read_tensors(struct gguf *g, struct reader *r, uint64_t count, struct error *err)
{
    size_t alignment = 0;
    int rc = read_alignment(g, &alignment, err);
    if (rc < 0) return rc;
    if (count > TENSORS_MAX || count > reader_left(r) / TENSOR_BYTES_MIN)
        return error_set(err, E_FORMAT, "header declares %llu tensors: damaged",
                         (unsigned long long)count);
    g->tensors = xcalloc(count ? (size_t)count : 1, sizeof *g->tensors);
    for (; g->tensor_count < count; g->tensor_count++)
        if ((rc = read_tensor(r, &g->tensors[g->tensor_count], err)) < 0) return rc;
    size_t end = (size_t)(r->at - r->begin);
    size_t data_start = (end + alignment - 1) / alignment * alignment;
    if (data_start > g->size) {
        if (count > 0) return cut_off(r, "the padding before the tensors", err);
        data_start = g->size;
    }
    for (size_t i = 0; i < g->tensor_count; i++)
        if ((rc = place_tensor(g, &g->tensors[i], data_start, alignment, err)) < 0) return rc;
    return sort_tensors(g, err);
}

/* ---- open and close ---- */

static int parse(struct gguf *g, struct error *err)
{
    struct reader r = {g->data, g->data + g->size, g->data};
    uint32_t version;
    uint64_t tensors, keys;
    char magic[4];
    if (!read_bytes(&r, magic, sizeof magic) || memcmp(magic, "GGUF", 4) != 0)
        return error_set(err, E_FORMAT, "not a GGUF file");
    if (!read_u32(&r, &version) || !read_u64(&r, &tensors) || !read_u64(&r, &keys))
        return cut_off(&r, "the header", err);
    if ((version & 0xffff) == 0)
        return error_set(err, E_UNSUPPORTED, "GGUF file in big-endian byte order: convert it");
    if (version != 2 && version != 3)
        return error_set(err, E_UNSUPPORTED, "GGUF version %u is not supported (2 and 3 are)",
                         version);
    int rc = read_keys(g, &r, keys, err);
    return rc < 0 ? rc : read_tensors(g, &r, tensors, err);
}

static int open_parsed(struct gguf *g, struct gguf **out, struct error *err)
{
    int rc = parse(g, err);
    if (rc < 0) {
        gguf_close(g);
        return rc;
    }
    *out = g;
    return 0;
}

int gguf_open_memory(const void *data, size_t size, struct gguf **out, struct error *err)
{
    struct gguf *g = xcalloc(1, sizeof *g);
    g->data = data;
    g->size = size;
    return open_parsed(g, out, err);
}

int gguf_open(const char *path, struct gguf **out, struct error *err)
{
    struct mapped_file file;
    int rc = mapped_file_open(path, &file, err);
    if (rc == 0) {
        struct gguf *g = xcalloc(1, sizeof *g);
        g->data = file.data;
        g->size = file.size;
        g->file = file;
        rc = open_parsed(g, out, err);
    }
    return rc < 0 ? error_prefix(err, rc, "'%s'", path) : 0;
}

int gguf_join_take(struct gguf *g, struct gguf *part, struct error *err)
{
    CHECK(!part->joined);
    part->joined = g->joined;
    g->joined = part;
    if (part->tensor_count > TENSORS_MAX - g->tensor_count)
        return error_set(err, E_FORMAT, "more than %u tensors", TENSORS_MAX);
    g->tensors =
        xrealloc_array(g->tensors, g->tensor_count + part->tensor_count + 1, sizeof *g->tensors);
    memcpy(g->tensors + g->tensor_count, part->tensors, part->tensor_count * sizeof *g->tensors);
    g->tensor_count += part->tensor_count;
    return sort_tensors(g, err);
}

void gguf_close(struct gguf *g)
{
    if (!g) return;
    gguf_close(g->joined);
    for (size_t i = 0; i < g->key_count; i++)
        free(g->keys[i].strings);
    free(g->keys);
    free(g->tensors);
    free(g->by_name);
    mapped_file_close(&g->file);
    free(g);
}

void gguf_drop_pages(const struct gguf *g, const void *data, size_t bytes)
{
    for (; g && bytes > 0; g = g->joined)
        if (mapped_file_drop_pages(&g->file, data, bytes)) return;
}

/* ---- metadata look-ups ---- */

static const struct gguf_key *find_key(const struct gguf *g, const char *name)
{
    struct gguf_key wanted = {.name = str_of(name)};
    return bsearch(&wanted, g->keys, g->key_count, sizeof *g->keys, compare_keys);
}

static const struct gguf_key *find_scalar(const struct gguf *g, const char *name)
{
    const struct gguf_key *key = find_key(g, name);
    return key && !key->is_array ? key : NULL;
}

static bool load_int(const struct gguf_key *key, uint64_t index, int64_t *value)
{
    const uint8_t *at = key->data + index * value_bytes[key->type];
    uint16_t u16;
    uint32_t u32;
    uint64_t u64;
    switch ((enum value_type)key->type) {
    case VALUE_U8:
        *value = *at;
        return true;
    case VALUE_BOOL:
        *value = *at != 0;
        return true;
    case VALUE_I8:
        *value = (int8_t)*at;
        return true;
    case VALUE_U16:
    case VALUE_I16:
        memcpy(&u16, at, sizeof u16);
        *value = key->type == VALUE_U16 ? u16 : (int16_t)u16;
        return true;
    case VALUE_U32:
    case VALUE_I32:
        memcpy(&u32, at, sizeof u32);
        *value = key->type == VALUE_U32 ? (int64_t)u32 : (int32_t)u32;
        return true;
    case VALUE_U64:
    case VALUE_I64:
        memcpy(&u64, at, sizeof u64);
        if (key->type == VALUE_U64 && u64 > INT64_MAX) return false;
        *value = (int64_t)u64;
        return true;
    default:
        return false;
    }
}

static bool load_float(const struct gguf_key *key, uint64_t index, double *value)
{
    const uint8_t *at = key->data + index * value_bytes[key->type];
    float f32;
    int64_t integer;
    switch ((enum value_type)key->type) {
    case VALUE_F32:
        memcpy(&f32, at, sizeof f32);
        *value = (double)f32;
        return true;
    case VALUE_F64:
        memcpy(value, at, sizeof *value);
        return true;
    default:
        if (!load_int(key, index, &integer)) return false;
        *value = (double)integer;
        return true;
    }
}

static void load_str(const uint8_t *at, struct str *value)
{
    uint64_t len;
    memcpy(&len, at, sizeof len);
    *value = (struct str){(const char *)at + sizeof len, (size_t)len};
}

bool gguf_has(const struct gguf *g, const char *key)
{
    return find_key(g, key) != NULL;
}

size_t gguf_key_count(const struct gguf *g)
{
    return g->key_count;
}

struct str gguf_key_at(const struct gguf *g, size_t index)
{
    CHECK(index < g->key_count);
    return g->keys[index].name;
}

bool gguf_get_int(const struct gguf *g, const char *key, int64_t *value)
{
    const struct gguf_key *k = find_scalar(g, key);
    return k && load_int(k, 0, value);
}

bool gguf_get_float(const struct gguf *g, const char *key, double *value)
{
    const struct gguf_key *k = find_scalar(g, key);
    return k && load_float(k, 0, value);
}

bool gguf_get_bool(const struct gguf *g, const char *key, bool *value)
{
    const struct gguf_key *k = find_scalar(g, key);
    if (!k || k->type != VALUE_BOOL) return false;
    *value = *k->data != 0;
    return true;
}

bool gguf_get_str(const struct gguf *g, const char *key, struct str *value)
{
    const struct gguf_key *k = find_scalar(g, key);
    if (!k || k->type != VALUE_STRING) return false;
    load_str(k->data, value);
    return true;
}

static const struct gguf_key *find_element(const struct gguf *g, const char *name, size_t index)
{
    const struct gguf_key *key = find_key(g, name);
    return key && key->is_array && index < key->count ? key : NULL;
}

bool gguf_array_len(const struct gguf *g, const char *key, size_t *len)
{
    const struct gguf_key *k = find_key(g, key);
    if (!k || !k->is_array) return false;
    *len = (size_t)k->count;
    return true;
}

bool gguf_array_str(const struct gguf *g, const char *key, size_t index, struct str *value)
{
    const struct gguf_key *k = find_element(g, key, index);
    if (!k || k->type != VALUE_STRING) return false;
    load_str(k->strings[index], value);
    return true;
}

bool gguf_array_int(const struct gguf *g, const char *key, size_t index, int64_t *value)
{
    const struct gguf_key *k = find_element(g, key, index);
    return k && load_int(k, index, value);
}

bool gguf_array_float(const struct gguf *g, const char *key, size_t index, double *value)
{
    const struct gguf_key *k = find_element(g, key, index);
    return k && load_float(k, index, value);
}

/* ---- tensors ---- */

size_t gguf_tensor_count(const struct gguf *g)
{
    return g->tensor_count;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t index)
{
    CHECK(index < g->tensor_count);
    return &g->tensors[index];
}

const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name)
{
    struct gguf_tensor wanted = {.name = str_of(name)};
    const struct gguf_tensor *key = &wanted, *const * found;
    found = bsearch(&key, g->by_name, g->tensor_count, sizeof *g->by_name, compare_tensors);
    return found ? *found : NULL;
}

struct matrix gguf_tensor_matrix(const struct gguf_tensor *t, int64_t index)
{
    struct matrix m = {.rows = t->dim[1], .cols = t->dim[0]};

    CHECK(dtype_from_gguf(t->gguf_type, &m.type));
    CHECK(index >= 0 && index < t->dim[2] * t->dim[3]);
    m.data = (const uint8_t *)t->data + (size_t)index * matrix_bytes(&m);
    return m;
}
