/* json_cursor.h - JSON value by value, without a tree: for files with a million small values, such
 * as a tokenizer's vocabulary, and for strings that hold U+0000, which json.h refuses.
 *
 *     int rc = json_cursor_open_object(&c);
 *     while (!rc && (rc = json_cursor_next_name(&c, &name)) > 0)
 *         rc = ... exactly one value: json_cursor_string, _int, _skip, or a nested object or array
 *
 * Results are 0, for json_cursor_next_* 1 while there is one, or E_FORMAT with the byte offset. */
#ifndef LM_BASE_JSON_CURSOR_H
#define LM_BASE_JSON_CURSOR_H

#include <stdint.h>

#include "shared/base/buf.h"
#include "shared/base/error.h"

struct json_cursor {
    struct str text; // borrowed
    size_t at;
    bool fresh;        // no value of the innermost object or array was taken yet
    struct buf *words; // borrowed; holds the last name
    struct error *err; // borrowed, may be NULL
};

/* E_FORMAT: not valid UTF-8. words: scratch of the caller. */
FALLIBLE int json_cursor_init(struct json_cursor *c, struct str text, struct buf *words,
                              struct error *err);

/* First character of the next value: one of {["tfn- or a digit; 0 at the end. */
char json_cursor_peek(struct json_cursor *c);

FALLIBLE int json_cursor_open_object(struct json_cursor *c);
FALLIBLE int json_cursor_open_array(struct json_cursor *c);
/* The name is valid until the next call. 0: the object is closed. */
FALLIBLE int json_cursor_next_name(struct json_cursor *c, struct str *name);
FALLIBLE int json_cursor_next_item(struct json_cursor *c);               // 0: the array is closed
FALLIBLE int json_cursor_string(struct json_cursor *c, struct buf *out); // appends
FALLIBLE int json_cursor_int(struct json_cursor *c, int64_t *value);
/* Any value; *raw (may be NULL) is its text. Only its brackets and strings are checked. */
FALLIBLE int json_cursor_skip(struct json_cursor *c, struct str *raw);
FALLIBLE int json_cursor_end(struct json_cursor *c); // nothing but space is left

#endif
