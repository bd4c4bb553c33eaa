/* json.c - reading: json_scan() decides what is JSON, cJSON builds the tree, and a walk over the
 * tree adds what cJSON dropped or let pass.
 *
 * Rules:
 *  1. A node is a cJSON node and nothing else; `struct json` is its opaque name.
 *  2. FLOAT_FLAG in a number's type: it was written as a float ("1.0", "1e3").
 *  3. A number's valuestring (which cJSON itself only frees) holds the text of an integer of 16 or
 *     more characters, that a double may not hold exactly.
 *  4. The walk recurses, at most JSON_DEPTH_MAX deep. */
#include "shared/base/json.h"

#include "shared/base/check.h"
#include "shared/base/hash.h"
#include "shared/base/json_scan.h"
#include "shared/base/json_text.h"
#include "shared/base/rng.h"

#include <cjson/cJSON.h>

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FLOAT_FLAG      (1 << 16) // beyond all bits that cJSON defines
#define INTEGER_MAX     0x1p53
#define FEW_MEMBERS     16
#define DUPLICATE_SHOWN 64 // bytes of a refused name in the error text

static const cJSON *node(const struct json *v)
{
    return (const cJSON *)v;
}

static const struct json *value(const cJSON *n)
{
    return (const struct json *)n;
}

/* ---- after cJSON ---- */

struct walk {
    const char *text;
    size_t len;
    struct json_marks marks;
    size_t numbers;   // seen so far
    size_t next_mark; // in marks.items
    struct error *err;
};

static int walk_number(struct walk *w, cJSON *n)
{
    size_t ordinal = w->numbers++;
    if (w->next_mark == w->marks.count || w->marks.items[w->next_mark].ordinal != ordinal) return 0;
    size_t offset = w->marks.items[w->next_mark++].offset;
    bool is_float;
    size_t len = json_scan_number(w->text + offset, w->len - offset, &is_float);
    if (!isfinite(n->valuedouble)) {
        return error_set(w->err, E_FORMAT, "invalid JSON: number out of range at byte %zu", offset);
    }
    if (is_float) {
        n->type |= FLOAT_FLAG;
    } else {
        n->valuestring = xstrndup(w->text + offset, len);
    }
    return 0;
}

static int refuse_duplicate(struct walk *w, const char *name)
{
    return error_set(w->err, E_FORMAT, "invalid JSON: duplicate member name '%.*s'",
                     DUPLICATE_SHOWN, name);
}

static int check_few_names(struct walk *w, const cJSON *object)
{
    for (const cJSON *a = object->child; a; a = a->next) {
        for (const cJSON *b = object->child; b != a; b = b->next) {
            if (strcmp(a->string, b->string) == 0) return refuse_duplicate(w, a->string);
        }
    }
    return 0;
}

/* A hash set of names under a random key: a peer can't choose names that all collide. */
static int check_many_names(struct walk *w, const cJSON *object, size_t count)
{
    uint8_t key[16];
    random_bytes(key, sizeof key);
    size_t cap = 64;
    while (cap < count * 2)
        cap *= 2;
    const char **slots = xcalloc(cap, sizeof *slots);
    int rc = 0;
    for (const cJSON *n = object->child; n && rc == 0; n = n->next) {
        size_t at = hash_sip24(key, n->string, strlen(n->string)) & (cap - 1);
        while (slots[at] && strcmp(slots[at], n->string) != 0)
            at = (at + 1) & (cap - 1);
        if (slots[at]) rc = refuse_duplicate(w, n->string);
        slots[at] = n->string;
    }
    free(slots);
    return rc;
}

static int walk_value(struct walk *w, cJSON *n)
{
    if (cJSON_IsNumber(n)) return walk_number(w, n);
    size_t count = 0;
    for (cJSON *child = n->child; child; child = child->next, count++) {
        int rc = walk_value(w, child);
        if (rc < 0) return rc;
    }
    if (!cJSON_IsObject(n)) return 0;
    return count <= FEW_MEMBERS ? check_few_names(w, n) : check_many_names(w, n, count);
}

struct json *json_parse_limited(const char *text, size_t len, size_t values_max, struct error *err)
{
    struct walk w = {.text = text, .len = len, .err = err};
    cJSON *root = NULL;
    int rc = json_scan(text, len, values_max, &w.marks, err);
    if (rc == 0) {
        root = cJSON_ParseWithLengthOpts(text, len, NULL, false);
        rc = root ? walk_value(&w, root) : error_set(err, E_FORMAT, "invalid JSON");
    }
    if (rc == 0) CHECK(w.next_mark == w.marks.count); // else scanner and cJSON saw different texts
    free(w.marks.items);
    if (rc < 0) {
        cJSON_Delete(root);
        return NULL;
    }
    return (struct json *)root;
}

struct json *json_parse(const char *text, size_t len, struct error *err)
{
    return json_parse_limited(text, len, JSON_VALUES_MAX, err);
}

void json_destroy(struct json *root)
{
    cJSON_Delete((cJSON *)root);
}

/* ---- looking at values ---- */

enum json_type json_type(const struct json *v)
{
    switch (node(v)->type & 0xff) {
    case cJSON_False:
    case cJSON_True:
        return JSON_BOOL;
    case cJSON_NULL:
        return JSON_NULL;
    case cJSON_Number:
        return JSON_NUMBER;
    case cJSON_String:
        return JSON_STRING;
    case cJSON_Array:
        return JSON_ARRAY;
    case cJSON_Object:
        return JSON_OBJECT;
    default:
        UNREACHABLE();
    }
}

const char *json_type_name(enum json_type type)
{
    static const char *const names[] = {
        [JSON_NULL] = "null",       [JSON_BOOL] = "a boolean", [JSON_NUMBER] = "a number",
        [JSON_STRING] = "a string", [JSON_ARRAY] = "an array", [JSON_OBJECT] = "an object",
    };
    CHECK((size_t)type < ARRAY_LEN(names));
    return names[type];
}

const struct json *json_get(const struct json *v, const char *name)
{
    if (!v || !cJSON_IsObject(node(v))) return NULL;
    const cJSON *n = node(v)->child;
    while (n && strcmp(n->string, name) != 0)
        n = n->next;
    return value(n);
}

const struct json *json_get_set(const struct json *v, const char *name)
{
    const struct json *member = json_get(v, name);
    return member && cJSON_IsNull(node(member)) ? NULL : member;
}

size_t json_len(const struct json *v)
{
    size_t count = 0;
    for (const struct json *item = json_first(v); item; item = json_next(item))
        count++;
    return count;
}

const struct json *json_first(const struct json *v)
{
    return v ? value(node(v)->child) : NULL;
}

const struct json *json_next(const struct json *v)
{
    return value(node(v)->next);
}

const char *json_name(const struct json *v)
{
    return node(v)->string;
}

bool json_is_true(const struct json *v)
{
    return v && cJSON_IsTrue(node(v));
}

double json_number(const struct json *v)
{
    CHECK(cJSON_IsNumber(node(v)));
    return node(v)->valuedouble;
}

bool json_is_integer(const struct json *v)
{
    if (!v || !cJSON_IsNumber(node(v))) return false;
    double number = node(v)->valuedouble;
    return trunc(number) == number && fabs(number) <= INTEGER_MAX;
}

const char *json_string(const struct json *v, size_t *len)
{
    CHECK(cJSON_IsString(node(v)));
    const char *text = node(v)->valuestring;
    if (len) *len = strlen(text);
    return text;
}

/* ---- printing a tree ---- */

static void print_number(const cJSON *n, struct buf *out)
{
    char text[JSON_DOUBLE_SIZE];
    if (n->valuestring) {
        buf_append_str(out, n->valuestring);
    } else if (n->type & FLOAT_FLAG) {
        json_text_double(n->valuedouble, true, text);
        buf_append_str(out, text);
    } else {
        buf_printf(out, "%" PRId64, (int64_t)n->valuedouble); // at most 15 digits
    }
}

static void print_items(const struct json *v, struct buf *out, bool python_style)
{
    for (const struct json *item = json_first(v); item; item = json_next(item)) {
        if (item != json_first(v)) buf_append_str(out, python_style ? ", " : ",");
        if (json_name(item)) {
            json_text_string(out, str_of(json_name(item)));
            buf_append_str(out, python_style ? ": " : ":");
        }
        json_print(item, out, python_style);
    }
}

void json_print(const struct json *v, struct buf *out, bool python_style)
{
    switch (json_type(v)) {
    case JSON_NULL:
        buf_append_str(out, "null");
        break;
    case JSON_BOOL:
        buf_append_str(out, json_is_true(v) ? "true" : "false");
        break;
    case JSON_NUMBER:
        print_number(node(v), out);
        break;
    case JSON_STRING:
        json_text_string(out, str_of(node(v)->valuestring));
        break;
    case JSON_ARRAY:
        buf_append_char(out, '[');
        print_items(v, out, python_style);
        buf_append_char(out, ']');
        break;
    case JSON_OBJECT:
        buf_append_char(out, '{');
        print_items(v, out, python_style);
        buf_append_char(out, '}');
        break;
    }
}
