/* json_scan.h - one pass over a text that decides whether it is JSON as RFC 8259 and json.h want
 * it. json.c hands a text to cJSON only after this, so cJSON never sees what it would be lenient
 * about. */
#ifndef LM_BASE_JSON_SCAN_H
#define LM_BASE_JSON_SCAN_H

#include <stdbool.h>
#include <stddef.h>

#include "shared/base/error.h"

#define JSON_DEPTH_MAX  64
#define JSON_NUMBER_MAX 63 // characters; cJSON copies a number into 64 bytes

/* A number that a double alone doesn't describe: written as a float, or an integer of 16 or more
 * characters. */
struct json_mark {
    size_t ordinal; // which number of the document, from 0 in document order
    size_t offset;  // of its first character
};

struct json_marks {
    struct json_mark *items; // owned; in document order
    size_t count;
    size_t cap;
};

/* 0, or E_FORMAT / E_LIMIT with *err. Fills *marks (zeroed by the caller, who frees marks->items in
 * either case). */
FALLIBLE int json_scan(const char *text, size_t len, size_t values_max, struct json_marks *marks,
                       struct error *err);

/* Length of the number at text (which json_scan accepted) and whether it is written as a float. */
size_t json_scan_number(const char *text, size_t len, bool *is_float);

#endif
