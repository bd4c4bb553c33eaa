/* api_schema.h - the objects that the API takes and gives, as tables. They are what /openapi.json,
 * /redoc and docs/api-reference.md are printed from; validation takes its bounds from the same
 * constants (field_range.h), and tests hold tables and programs against each other.
 *
 * Texts of JSON in these tables are written with ' for ", so that they can be read; no string in
 * them has an apostrophe. "$MODEL" in an example becomes the name of the served model. Descriptions
 * are plain text with `code` in backticks. To add an object: a struct api_schema in
 * api_requests.c, api_answers.c or api_dialects.c, and a row in the list at the file's end. */
#ifndef LM_API_API_SCHEMA_H
#define LM_API_API_SCHEMA_H

#include <stdbool.h>
#include <stddef.h>

#include "shared/api/field_range.h"
#include "shared/base/json.h"
#include "shared/base/str.h"

enum api_type {
    API_BOOLEAN,
    API_INTEGER,
    API_NUMBER,
    API_STRING,
    API_OBJECT, // with any members, or as `schema` says
    API_ARRAY,  // of `of`, or as `schema` says
    API_REF,    // the object named by `of`
    API_UNION,  // `schema` says all; `shown` is its type in words
};

/* One member of an object. */
struct api_field {
    const char *name;
    enum api_type type;
    const char *of;                  // name of a struct api_schema, with API_ARRAY and API_REF
    const struct field_range *range; // of a number
    const char *schema;              // JSON: more members of its JSON Schema
    const char *shown;               // its type in words, where what is derived says too little
    const char *def;                 // JSON: the default; or words, if they don't parse as JSON
    const char *doc;
    bool required;
    bool nullable; // null is a value of its own (of answers; see null_is_absent)
};

struct api_fields {
    const struct api_field *items;
    size_t count;
};

#define API_PARTS_MAX 4

struct api_schema {
    const char *name; // "ChatCompletionRequest"
    const char *doc;
    const struct api_fields *parts[API_PARTS_MAX]; // the members, in this order; NULL ends them
    const char *schema;  // JSON: more of its JSON Schema, or all of it when there are no parts
    const char *example; // JSON
    bool null_is_absent; // of requests: null stands for the default of any member that has one
};

/* All of them. */
extern const struct api_schema *const api_request_schemas[];
extern const size_t api_request_schema_count;
extern const struct api_schema *const api_answer_schemas[];
extern const size_t api_answer_schema_count;
/* Of other APIs than the chat's. */
extern const struct api_schema *const api_dialect_requests[];
extern const size_t api_dialect_request_count;
extern const struct api_schema *const api_dialect_answers[];
extern const size_t api_dialect_answer_count;

/* By name; CHECKs that there is one. */
const struct api_schema *api_schema_find(const char *name);
size_t api_schema_count(void);
const struct api_schema *api_schema_at(size_t index); // requests first

/* Parse a text of these tables; CHECKs that it is JSON. Free with json_destroy. */
struct json *api_schema_text(const char *text);
/* Put a text of these tables into `out` as JSON, the model's name where it belongs. */
void api_schema_example(const char *text, struct str model, struct buf *out);

#endif
