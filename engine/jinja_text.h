/* jinja_text.h - Python's notions of text over valid UTF-8: characters, whitespace, case, slices.
 */
#ifndef LM_ENGINE_JINJA_TEXT_H
#define LM_ENGINE_JINJA_TEXT_H

#include "shared/base/arena.h"
#include "shared/base/buf.h"
#include "shared/base/str.h"

/* Bytes of the whitespace character (str.isspace) at data, 0 if there is none. */
size_t jinja_space_len(const char *data, size_t len);

enum jinja_strip { JINJA_STRIP_LEFT = 1, JINJA_STRIP_RIGHT = 2, JINJA_STRIP_BOTH = 3 };
/* Without whitespace at the ends, or without any of `chars` if its data isn't NULL. */
struct str jinja_strip(struct str text, struct str chars, enum jinja_strip sides);

/* A string literal's contents: Python's escapes undone. False: malformed or not a character. */
bool jinja_unescape(struct arena *arena, struct str text, struct str *out);

size_t jinja_chars(struct str text); // how many
size_t jinja_char_offset(struct str text,
                         size_t index); // byte offset of a character; len at the end
struct str jinja_char_at(struct str text, size_t index); // index < jinja_chars(text)

/* Position of the first (last) `part` at or behind byte `from`, or -1. */
int64_t jinja_find(struct str text, struct str part, size_t from);
int64_t jinja_find_last(struct str text, struct str part);

/* str.splitlines(): takes one line off *rest, without its end. False: *rest was empty. */
bool jinja_next_line(struct str *rest, struct str *line);
/* `text` with `old` replaced by `new`, at most `count` times (-1: all). */
void jinja_replace(struct str text, struct str old, struct str new, int64_t count, struct buf *out);

enum jinja_case {
    JINJA_LOWER,
    JINJA_UPPER,
    JINJA_CAPITALIZE, // first character upper, others lower
    JINJA_TITLE,      // str.title(): upper behind anything that has no case
    JINJA_SWAPCASE,
};
void jinja_change_case(struct str text, enum jinja_case how, struct buf *out);

enum jinja_class { JINJA_ALPHA, JINJA_DIGIT, JINJA_ALNUM, JINJA_SPACE };
/* str.isalpha() and its kin: not empty, and every character is of that class. */
bool jinja_all_of(struct str text, enum jinja_class class);

#endif
