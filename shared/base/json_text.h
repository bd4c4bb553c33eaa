/* json_text.h - how strings and numbers are spelled; shared by json.c and json_writer.c. */
#ifndef LM_BASE_JSON_TEXT_H
#define LM_BASE_JSON_TEXT_H

#include <stdbool.h>

#include "shared/base/buf.h"
#include "shared/base/str.h"

#define JSON_DOUBLE_SIZE 32

/* With quotes. Escapes ", \ and control characters; invalid UTF-8 becomes U+FFFD. */
void json_text_string(struct buf *out, struct str value);

/* Fewest digits (15, 16 or 17) that read back as the same double, laid out as Python's repr() does:
 * plain from 1e-4 to 1e16, else with exponent. keep_point: 1 is "1.0". `value` must be finite. */
void json_text_double(double value, bool keep_point, char out[JSON_DOUBLE_SIZE]);

#endif
