/* str.h - borrowed slices of bytes (not NUL-terminated) and parsing of small things. */
#ifndef LM_BASE_STR_H
#define LM_BASE_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "shared/base/error.h"

struct str {
    const char *data; // borrowed; may be NULL when len is 0
    size_t len;
};

#define STR(literal) ((struct str){(literal), sizeof(literal) - 1})
#define STR_FMT      "%.*s"
#define STR_ARG(s)   (int)(s).len, (s).data

static inline struct str str_of(const char *text)
{
    return (struct str){text, text ? strlen(text) : 0};
}

bool str_equal(struct str a, struct str b);
bool str_equal_nocase(struct str a, struct str b); // ASCII
bool str_starts_with(struct str s, struct str prefix);
bool str_ends_with(struct str s, struct str suffix);
struct str str_trim(struct str s); // SP, HT, CR, LF at both ends
/* Split at the first `separator`: *head gets what is before it, s->data moves behind it.
 * False when *s is exhausted (and *head untouched). An empty *s gives false. */
bool str_split(struct str *s, char separator, struct str *head);

/* Whole slice must be the number; E_INVALID otherwise, E_LIMIT out of range. */
FALLIBLE int str_to_int(struct str s, int64_t *value);
FALLIBLE int str_to_hex64(struct str s, uint64_t *value); // exactly 16 hexadecimal digits
FALLIBLE int str_to_double(struct str s, double *value);  // finite only
/* Without printf, for what every request needs: written at `at`, the place behind it is returned.
 * Nothing is terminated. */
char *str_put(char *at, struct str s);
char *str_put_uint(char *at, uint64_t value);  // at most 20 digits
char *str_put_hex64(char *at, uint64_t value); // 16 digits
/* A terminated copy, cut to fit. */
void str_copy(char *out, size_t size, const char *text);
/* "4096", "64k", "8M", "2G" (powers of 1024, optional "iB" or "B"). */
FALLIBLE int str_to_bytes(struct str s, uint64_t *value);

#endif
