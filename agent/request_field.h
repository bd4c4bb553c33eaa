/* request_field.h - typed members of a JSON request, with OpenAI's error for each way to be wrong.
 *
 * Every getter leaves *value as it is and returns 0 where the member is absent or null (OpenAI:
 * null means the default). On a bad value it fills *e (status 400, param = the path) and returns
 * -1. `path` is what the error calls the field; NULL: its name. */
#ifndef LM_AGENT_REQUEST_FIELD_H
#define LM_AGENT_REQUEST_FIELD_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/api/field_range.h"
#include "shared/base/json.h"
#include "shared/base/str.h"
#include "shared/net/api_error.h"

FALLIBLE int field_number(const struct json *object, const char *name,
                          const struct field_range *range, double *value, struct api_error *e);
/* Whole numbers, 5.0 too. */
FALLIBLE int field_integer(const struct json *object, const char *name,
                           const struct field_range *range, int64_t *value, struct api_error *e);
FALLIBLE int field_bool(const struct json *object, const char *name, bool *value,
                        struct api_error *e);
/* Any 64-bit integer, signed or not, digit for digit; *is_set tells whether there was one. */
FALLIBLE int field_seed(const struct json *object, const char *name, uint64_t *value, bool *is_set,
                        struct api_error *e);
/* The string, borrowed from the document; value->data stays NULL where there is none. */
FALLIBLE int field_string(const struct json *object, const char *name, const char *path,
                          struct str *value, struct api_error *e);
/* NULL in *value when absent or null; else the member, which has that type. */
FALLIBLE int field_typed(const struct json *object, const char *name, enum json_type type,
                         const struct json **value, struct api_error *e);

/* Is v, element `index` of `list`, a token id below vocab_size? */
FALLIBLE int field_token(const struct json *v, const char *list, size_t index, int vocab_size,
                         struct api_error *e);

/* "Invalid type for 'x': expected a string, but got an object instead." */
int field_type_error(struct api_error *e, const char *path, const char *expected,
                     const struct json *got);
/* "Missing required parameter: 'messages'." */
int field_missing_error(struct api_error *e, const char *path);
/* A feature that is not built: "'tools' is not supported by this server." */
int field_unsupported_error(struct api_error *e, const char *path);

struct str field_str(const struct json *string); // CHECKs the type

#endif
