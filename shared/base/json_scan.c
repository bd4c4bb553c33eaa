/* json_scan.c - a loop, not a recursion: nesting costs one bit a level.
 *
 *     value ──scalar──────────────► after ──','──► value (in an object: key ':' first)
 *       │ '{' or '[' (one level down)   │ '}' or ']' (one level up): after again
 *       └──► value, or after if empty   └ at level 0: done, only blanks may follow */
#include "shared/base/json_scan.h"

#include "shared/base/check.h"
#include "shared/base/str.h"
#include "shared/base/utf8.h"

#include <stdint.h>
#include <string.h>

struct scanner {
    const char *text;
    size_t len;
    size_t at;
    int depth;
    uint64_t object_levels; // bit depth-1: that level is an object
    size_t values;
    size_t values_max;
    size_t numbers;
    struct json_marks *marks;
    struct error *err;
};

enum { SCAN_DONE = 0, SCAN_VALUE = 1, SCAN_AFTER = 2 };

static int fail(struct scanner *s, const char *what)
{
    if (s->at >= s->len) {
        return error_set(s->err, E_FORMAT, "invalid JSON: %s, but the text ends at byte %zu", what,
                         s->len);
    }
    return error_set(s->err, E_FORMAT, "invalid JSON: %s at byte %zu", what, s->at);
}

static int peek(const struct scanner *s)
{
    return s->at < s->len ? (unsigned char)s->text[s->at] : -1;
}

static void skip_blanks(struct scanner *s)
{
    while (s->at < s->len) {
        char c = s->text[s->at];
        if (c != ' ' && c != '\t' && c != '\n' && c != '\r') break;
        s->at++;
    }
}

/* Value of the four hex digits after "\u" at s->at, or -1. */
static int scan_hex4(const struct scanner *s, size_t at)
{
    if (s->len - at < 6 || s->text[at] != '\\' || s->text[at + 1] != 'u') return -1;
    int value = 0;
    for (size_t i = at + 2; i < at + 6; i++) {
        char c = s->text[i];
        int digit;
        if (c >= '0' && c <= '9') {
            digit = c - '0';
        } else if (c >= 'a' && c <= 'f') {
            digit = c - 'a' + 10;
        } else if (c >= 'A' && c <= 'F') {
            digit = c - 'A' + 10;
        } else {
            return -1;
        }
        value = value * 16 + digit;
    }
    return value;
}

static int scan_escape(struct scanner *s)
{
    if (s->at + 1 >= s->len) return fail(s, "unfinished escape");
    char c = s->text[s->at + 1];
    if (c != 'u') {
        if (c == 0 || !strchr("\"\\/bfnrt", c)) return fail(s, "unknown escape");
        s->at += 2;
        return 0;
    }
    int unit = scan_hex4(s, s->at);
    if (unit < 0) return fail(s, "\\u needs four hexadecimal digits");
    if (unit == 0) return fail(s, "\\u0000 is not accepted");
    if (unit >= 0xdc00 && unit <= 0xdfff) return fail(s, "unpaired surrogate");
    if (unit >= 0xd800 && unit <= 0xdbff) {
        int low = scan_hex4(s, s->at + 6);
        if (low < 0xdc00 || low > 0xdfff) return fail(s, "unpaired surrogate");
        s->at += 6;
    }
    s->at += 6;
    return 0;
}

static bool is_plain(char c)
{
    return c != '"' && c != '\\' && (unsigned char)c >= 0x20;
}

/* Pass eight bytes at a time while none of them is a quote, a backslash or a control character:
 * prompts are long. */
static void skip_plain(struct scanner *s)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), high = ones << 7;
    for (; s->len - s->at >= 8; s->at += 8) {
        uint64_t x;
        memcpy(&x, s->text + s->at, 8);
        uint64_t quote = x ^ ones * '"', escape = x ^ ones * '\\';
        uint64_t found =
            ((x - ones * 0x20) & ~x) | ((quote - ones) & ~quote) | ((escape - ones) & ~escape);
        if (found & high) return;
    }
}

static int scan_string(struct scanner *s)
{
    s->at++; // the opening quote
    while (s->at < s->len) {
        skip_plain(s);
        if (s->at == s->len) break;
        unsigned char c = (unsigned char)s->text[s->at];
        if (c == '"') {
            s->at++;
            return 0;
        }
        if (c < 0x20) return fail(s, "control character in a string");
        if (c == '\\') {
            int rc = scan_escape(s);
            if (rc < 0) return rc;
        } else { // one of the next seven bytes isn't plain, or there are no more
            do {
                s->at++;
            } while (s->at < s->len && is_plain(s->text[s->at]));
        }
    }
    return fail(s, "a string wants its closing quote");
}

static size_t count_digits(const char *text, size_t len)
{
    size_t n = 0;
    while (n < len && text[n] >= '0' && text[n] <= '9')
        n++;
    return n;
}

size_t json_scan_number(const char *text, size_t len, bool *is_float)
{
    size_t at = len > 0 && text[0] == '-' ? 1 : 0;
    *is_float = false;
    size_t whole = count_digits(text + at, len - at);
    if (whole == 0 || (whole > 1 && text[at] == '0')) return 0;
    at += whole;
    if (at < len && text[at] == '.') {
        size_t digits = count_digits(text + at + 1, len - at - 1);
        if (digits == 0) return 0;
        at += 1 + digits;
        *is_float = true;
    }
    if (at < len && (text[at] == 'e' || text[at] == 'E')) {
        size_t sign = at + 1 < len && (text[at + 1] == '+' || text[at + 1] == '-') ? 1 : 0;
        size_t digits = count_digits(text + at + 1 + sign, len - at - 1 - sign);
        if (digits == 0) return 0;
        at += 1 + sign + digits;
        *is_float = true;
    }
    return at;
}

static int scan_number(struct scanner *s)
{
    bool is_float;
    size_t len = json_scan_number(s->text + s->at, s->len - s->at, &is_float);
    if (len == 0) return fail(s, "malformed number");
    if (len > JSON_NUMBER_MAX) return fail(s, "number of more than 63 characters");
    if (is_float || len > 15) {
        struct json_marks *marks = s->marks;
        if (marks->count == marks->cap) {
            marks->cap = marks->cap ? marks->cap * 2 : 16;
            marks->items = xrealloc_array(marks->items, marks->cap, sizeof *marks->items);
        }
        marks->items[marks->count++] = (struct json_mark){s->numbers, s->at};
    }
    s->numbers++;
    s->at += len;
    return 0;
}

static int scan_word(struct scanner *s, struct str word)
{
    if (!str_starts_with((struct str){s->text + s->at, s->len - s->at}, word)) {
        return fail(s, "expected a value");
    }
    s->at += word.len;
    return 0;
}

/* "name" : */
static int scan_key(struct scanner *s)
{
    skip_blanks(s);
    if (peek(s) != '"') return fail(s, "expected a member name in quotes");
    int rc = scan_string(s);
    if (rc < 0) return rc;
    skip_blanks(s);
    if (peek(s) != ':') return fail(s, "expected ':'");
    s->at++;
    return SCAN_VALUE;
}

static int open_level(struct scanner *s, bool is_object)
{
    if (s->depth == JSON_DEPTH_MAX) return fail(s, "nesting of more than 64 levels");
    uint64_t bit = (uint64_t)1 << s->depth++;
    s->object_levels = is_object ? s->object_levels | bit : s->object_levels & ~bit;
    s->at++;
    skip_blanks(s);
    if (peek(s) == (is_object ? '}' : ']')) return SCAN_AFTER; // which closes the level
    return is_object ? scan_key(s) : SCAN_VALUE;
}

static int scan_value(struct scanner *s)
{
    if (++s->values > s->values_max) {
        return error_set(s->err, E_LIMIT, "JSON with more than %zu values", s->values_max);
    }
    skip_blanks(s);
    int rc, c = peek(s);
    switch (c) {
    case '{':
        return open_level(s, true);
    case '[':
        return open_level(s, false);
    case '"':
        rc = scan_string(s);
        break;
    case 't':
        rc = scan_word(s, STR("true"));
        break;
    case 'f':
        rc = scan_word(s, STR("false"));
        break;
    case 'n':
        rc = scan_word(s, STR("null"));
        break;
    default:
        rc = c == '-' || (c >= '0' && c <= '9') ? scan_number(s) : fail(s, "expected a value");
    }
    return rc < 0 ? rc : SCAN_AFTER;
}

static int scan_after(struct scanner *s)
{
    skip_blanks(s);
    if (s->depth == 0) return s->at == s->len ? SCAN_DONE : fail(s, "text after the value");
    bool is_object = s->object_levels >> (s->depth - 1) & 1;
    int c = peek(s);
    if (c == ',') {
        s->at++;
        return is_object ? scan_key(s) : SCAN_VALUE;
    }
    if (c == (is_object ? '}' : ']')) {
        s->at++;
        s->depth--;
        return SCAN_AFTER;
    }
    return fail(s, is_object ? "expected ',' or '}'" : "expected ',' or ']'");
}

int json_scan(const char *text, size_t len, size_t values_max, struct json_marks *marks,
              struct error *err)
{
    struct scanner s = {
        .text = text, .len = len, .values_max = values_max, .marks = marks, .err = err};
    s.at = utf8_valid_prefix(text, len);
    if (s.at < len) return fail(&s, "malformed UTF-8");
    s.at = 0;
    int state = SCAN_VALUE;
    while (state > SCAN_DONE)
        state = state == SCAN_VALUE ? scan_value(&s) : scan_after(&s);
    return state;
}
