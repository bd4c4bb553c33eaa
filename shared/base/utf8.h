/* utf8.h - strict UTF-8 (RFC 3629: no overlong forms, no surrogates, at most U+10FFFF). */
#ifndef LM_BASE_UTF8_H
#define LM_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool utf8_is_valid(const void *data, size_t len);
/* Bytes at the end that begin a character but don't complete it (0..3). The rest may still be
 * invalid. */
size_t utf8_incomplete_tail(const void *data, size_t len);
/* Decode one code point at data; returns its length, or 0 where the bytes are invalid or cut. */
size_t utf8_decode(const void *data, size_t len, uint32_t *code_point);
/* Where utf8_decode gave 0: how many bytes one U+FFFD stands for (>= 1 if len > 0). Unicode's
 * "maximal subpart" practice, which Python's errors="replace" and Rust's from_utf8_lossy follow. */
size_t utf8_invalid_len(const void *data, size_t len);
/* Encode; returns 1..4, or 0 for surrogates and beyond U+10FFFF. */
size_t utf8_encode(uint32_t code_point, char out[4]);
/* How many bytes from the front make whole valid characters (stops at the first invalid or cut
 * one). */
size_t utf8_valid_prefix(const void *data, size_t len);

#endif
