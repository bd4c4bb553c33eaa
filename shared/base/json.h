/* json.h - JSON in (strict; a tree over cJSON, which nobody else sees) and out (streaming).
 *
 * Reading is strict (RFC 8259) where cJSON is not: whole input valid UTF-8, no trailing text, no
 * byte order mark, no \u0000 and no raw control character in strings, nesting at most 64 levels,
 * names compared exactly, duplicate names refused, numbers finite and at most 63 characters. */
#ifndef LM_BASE_JSON_H
#define LM_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shared/base/buf.h"
#include "shared/base/error.h"

/* ---- reading: a value is a borrowed pointer into a document ---- */

struct json; // opaque (a cJSON node)

enum json_type { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

/* Values in one text that json_parse accepts: a tree takes 80 bytes for the 2 bytes of a "0,". */
#define JSON_VALUES_MAX ((size_t)1 << 20)

/* NULL and *err when the text is not strict JSON (E_FORMAT, with the byte offset) or has too many
 * values (E_LIMIT). `text` needs no terminator. Free with json_destroy. */
struct json *json_parse(const char *text, size_t len, struct error *err);
/* For files of our own choice (a tokenizer's vocabulary): another limit than JSON_VALUES_MAX. */
struct json *json_parse_limited(const char *text, size_t len, size_t values_max, struct error *err);
void json_destroy(struct json *root); // NULL is fine

enum json_type json_type(const struct json *v);
const char *json_type_name(enum json_type type); // "an object", "a string", ... for messages

/* Object member or NULL (also when v is NULL or not an object). */
const struct json *json_get(const struct json *v, const char *name);
/* Like json_get, but an explicit null counts as absent: OpenAI's optional fields. */
const struct json *json_get_set(const struct json *v, const char *name);
size_t json_len(const struct json *v);               // elements of array or object, else 0
const struct json *json_first(const struct json *v); // NULL: none
const struct json *json_next(const struct json *v);
const char *json_name(const struct json *v); // member name inside an object

bool json_is_true(const struct json *v);
double json_number(const struct json *v);                   // CHECKs the type
bool json_is_integer(const struct json *v);                 // integral and within +-2^53
const char *json_string(const struct json *v, size_t *len); // CHECKs the type; len may be NULL

/* Print a value compactly; non-ASCII characters stand as they are. python_style: ", " and ": "
 * separators, as Python's json.dumps(ensure_ascii=False), which chat templates' tojson means.
 * Numbers print as Python would after json.loads: integers digit for digit whatever their size, 1.0
 * as 1.0, 1e3 as 1000.0. Lost is only how a float was spelled. */
void json_print(const struct json *v, struct buf *out, bool python_style);

/* ---- writing: no tree, commas and nesting kept by the writer ---- */

struct json_writer {
    struct buf *out; // borrowed
    uint64_t comma;  // bit per depth: a comma is due
    int depth;       // at most 63
};

void json_writer_init(struct json_writer *w, struct buf *out);
void json_object_begin(struct json_writer *w);
void json_object_end(struct json_writer *w);
void json_array_begin(struct json_writer *w);
void json_array_end(struct json_writer *w);
void json_key(struct json_writer *w, const char *name); // then exactly one value
void json_put_null(struct json_writer *w);
void json_put_bool(struct json_writer *w, bool value);
void json_put_int(struct json_writer *w, int64_t value);
void json_put_uint(struct json_writer *w, uint64_t value);
void json_put_double(struct json_writer *w,
                     double value); // shortest that reads back; null if not finite
void json_put_str(struct json_writer *w, struct str value);       // invalid UTF-8 becomes U+FFFD
void json_put_text(struct json_writer *w, const char *value);     // NULL writes null
void json_put_raw(struct json_writer *w, struct str json);        // already JSON
void json_put_value(struct json_writer *w, const struct json *v); // a part of a tree, compactly

/* key + value in one call, for flat objects */
void json_field_null(struct json_writer *w, const char *name);
void json_field_bool(struct json_writer *w, const char *name, bool value);
void json_field_int(struct json_writer *w, const char *name, int64_t value);
void json_field_double(struct json_writer *w, const char *name, double value);
void json_field_str(struct json_writer *w, const char *name, struct str value);
void json_field_text(struct json_writer *w, const char *name, const char *value);
void json_field_raw(struct json_writer *w, const char *name, struct str json);

#endif
