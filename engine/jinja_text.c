#include "engine/jinja_text.h"

#include "shared/base/utf8.h"

#include <locale.h>
#include <wctype.h>

/* ---- whitespace ---- */

static bool is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

size_t jinja_space_len(const char *data, size_t len)
{
    if (!len) return 0;
    unsigned char first = (unsigned char)*data;
    if (first < 0x80) return is_space(first) ? 1 : 0;
    uint32_t c;
    size_t n = utf8_decode(data, len, &c);
    return n && is_space(c) ? n : 0;
}

/* Bytes of the last character. */
static size_t last_char_len(struct str text)
{
    size_t n = 1;
    while (n < text.len && ((unsigned char)text.data[text.len - n] & 0xc0) == 0x80)
        n++;
    return n;
}

static size_t first_char_len(struct str text)
{
    size_t n = 1;
    while (n < text.len && ((unsigned char)text.data[n] & 0xc0) == 0x80)
        n++;
    return n;
}

static bool strips(const char *character, size_t len, struct str chars)
{
    if (!chars.data) return jinja_space_len(character, len) == len;
    return jinja_find(chars, (struct str){character, len}, 0) >= 0;
}

struct str jinja_strip(struct str text, struct str chars, enum jinja_strip sides)
{
    while ((sides & JINJA_STRIP_LEFT) && text.len) {
        size_t n = first_char_len(text);
        if (!strips(text.data, n, chars)) break;
        text.data += n, text.len -= n;
    }
    while ((sides & JINJA_STRIP_RIGHT) && text.len) {
        size_t n = last_char_len(text);
        if (!strips(text.data + text.len - n, n, chars)) break;
        text.len -= n;
    }
    return text;
}

/* ---- literals ---- */

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* `digits` hexadecimal digits at text; false if there are fewer. */
static bool read_hex(struct str text, size_t digits, uint32_t *value)
{
    *value = 0;
    if (text.len < digits) return false;
    for (size_t i = 0; i < digits; i++) {
        int digit = hex_value(text.data[i]);
        if (digit < 0) return false;
        *value = *value << 4 | (uint32_t)digit;
    }
    return true;
}

static char simple_escape(char c) // 0: not one of them
{
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    const char *found = c ? strchr(from, c) : NULL;
    return found ? to[found - from] : 0;
}

/* One escape; text starts behind its backslash. Returns how much of it was used, 0 if malformed. */
static size_t unescape_one(struct str text, char *out, size_t *written)
{
    char c = text.data[0], simple = simple_escape(c);
    uint32_t value = 0;
    size_t used;
    *written = 0;
    if (simple) {
        out[(*written)++] = simple;
        return 1;
    }
    if (c == '\n') return 1; // a line goes on
    if (c == 'x' || c == 'u' || c == 'U') {
        size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        if (!read_hex((struct str){text.data + 1, text.len - 1}, digits, &value)) return 0;
        used = 1 + digits;
    } else if (c >= '0' && c <= '7') {
        for (used = 0;
             used < 3 && used < text.len && text.data[used] >= '0' && text.data[used] <= '7';
             used++)
            value = value * 8 + (uint32_t)(text.data[used] - '0');
    } else {
        out[(*written)++] = '\\'; // Python keeps what it doesn't know
        out[(*written)++] = c;
        return 1;
    }
    *written = utf8_encode(value, out);
    return *written ? used : 0;
}

bool jinja_unescape(struct arena *arena, struct str text, struct str *out)
{
    if (!text.len || !memchr(text.data, '\\', text.len)) {
        *out = text;
        return true;
    }
    char *to = arena_alloc(arena, text.len + 1); // no escape is shorter than what it means
    size_t len = 0;
    for (size_t i = 0; i < text.len;) {
        if (text.data[i] != '\\') {
            to[len++] = text.data[i++];
            continue;
        }
        size_t written;
        if (++i == text.len) return false;
        size_t used = unescape_one((struct str){text.data + i, text.len - i}, to + len, &written);
        if (!used) return false;
        i += used;
        len += written;
    }
    *out = (struct str){to, len};
    return true;
}

/* ---- characters ---- */

size_t jinja_chars(struct str text)
{
    size_t count = 0;
    for (size_t i = 0; i < text.len; i++)
        count += ((unsigned char)text.data[i] & 0xc0) != 0x80;
    return count;
}

size_t jinja_char_offset(struct str text, size_t index)
{
    size_t i = 0;
    for (; i < text.len; i++)
        if (((unsigned char)text.data[i] & 0xc0) != 0x80 && index-- == 0) break;
    return i;
}

struct str jinja_char_at(struct str text, size_t index)
{
    size_t at = jinja_char_offset(text, index);
    struct str rest = {text.data + at, text.len - at};
    rest.len = first_char_len(rest);
    return rest;
}

int64_t jinja_find(struct str text, struct str part, size_t from)
{
    if (from > text.len) return -1;
    if (!part.len) return (int64_t)from;
    const char *found = memmem(text.data + from, text.len - from, part.data, part.len);
    return found ? found - text.data : -1;
}

int64_t jinja_find_last(struct str text, struct str part)
{
    for (size_t at = text.len + 1; at-- > 0;)
        if (text.len - at >= part.len && !memcmp(text.data + at, part.data, part.len))
            return (int64_t)at;
    return -1;
}

/* Bytes of the line end at data, 0 if there is none. */
static size_t line_end_len(const char *data, size_t len)
{
    unsigned char c = (unsigned char)data[0];
    if (c == '\r') return len > 1 && data[1] == '\n' ? 2 : 1;
    if ((c >= '\n' && c <= '\f') || (c >= 0x1c && c <= 0x1e)) return 1;
    if (len >= 2 && c == 0xc2 && (unsigned char)data[1] == 0x85) return 2;
    if (len >= 3 && c == 0xe2 && (unsigned char)data[1] == 0x80 &&
        ((unsigned char)data[2] | 1) == 0xa9)
        return 3;
    return 0;
}

bool jinja_next_line(struct str *rest, struct str *line)
{
    size_t at = 0, end = 0;
    if (!rest->len) return false;
    while (at < rest->len && !(end = line_end_len(rest->data + at, rest->len - at)))
        at++;
    *line = (struct str){rest->data, at};
    rest->data += at + end;
    rest->len -= at + end;
    return true;
}

void jinja_replace(struct str text, struct str old, struct str new, int64_t count, struct buf *out)
{
    size_t at = 0;
    for (; count != 0; count--) {
        if (!old.len) { // between all characters
            buf_append(out, new.data, new.len);
            if (at == text.len) break;
            struct str rest = {text.data + at, text.len - at};
            size_t n = first_char_len(rest);
            buf_append(out, rest.data, n);
            at += n;
            continue;
        }
        int64_t found = jinja_find(text, old, at);
        if (found < 0) break;
        buf_append(out, text.data + at, (size_t)found - at);
        buf_append(out, new.data, new.len);
        at = (size_t)found + old.len;
    }
    buf_append(out, text.data + at, text.len - at);
}

/* ---- case ----
 *
 * ASCII by itself; other characters by the C library's Unicode tables, whose locale is opened only
 * when such a character turns up. Where that locale is missing they keep their case. */

struct letters {
    locale_t locale;
    bool opened;
};

static locale_t letters_open(struct letters *l)
{
    if (!l->opened) {
        l->locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
        l->opened = true;
    }
    return l->locale;
}

static void letters_close(struct letters *l)
{
    if (l->locale) freelocale(l->locale);
}

static uint32_t upper(struct letters *l, uint32_t c)
{
    if (c < 0x80) return c >= 'a' && c <= 'z' ? c - 32 : c;
    locale_t locale = letters_open(l);
    return locale ? (uint32_t)towupper_l((wint_t)c, locale) : c;
}

static uint32_t lower(struct letters *l, uint32_t c)
{
    if (c < 0x80) return c >= 'A' && c <= 'Z' ? c + 32 : c;
    locale_t locale = letters_open(l);
    return locale ? (uint32_t)towlower_l((wint_t)c, locale) : c;
}

void jinja_change_case(struct str text, enum jinja_case how, struct buf *out)
{
    struct letters l = {0};
    bool first = true; // of the text, or of a word for TITLE
    for (size_t i = 0; i < text.len;) {
        uint32_t c, to;
        char bytes[4];
        size_t n = utf8_decode(text.data + i, text.len - i, &c);
        if (!n) break; // strings are valid UTF-8
        bool up = how == JINJA_UPPER || ((how == JINJA_TITLE || how == JINJA_CAPITALIZE) && first);
        if (how == JINJA_SWAPCASE) up = lower(&l, c) == c;
        to = up ? upper(&l, c) : lower(&l, c);
        if (c == 0xdf && up) // the one common letter that grows
            buf_append_str(out, how == JINJA_UPPER || how == JINJA_SWAPCASE ? "SS" : "Ss");
        else
            buf_append(out, bytes, utf8_encode(to, bytes));
        first = how == JINJA_TITLE && upper(&l, c) == lower(&l, c) && c != 0xdf;
        i += n;
    }
    letters_close(&l);
}

static bool is_of(struct letters *l, uint32_t c, enum jinja_class class)
{
    bool digit = c >= '0' && c <= '9';
    if (class == JINJA_SPACE) return is_space(c);
    if (class == JINJA_DIGIT || (class == JINJA_ALNUM && digit)) return digit;
    if (c < 0x80) return (c | 32) >= 'a' && (c | 32) <= 'z';
    locale_t locale = letters_open(l);
    return locale && iswalpha_l((wint_t)c, locale);
}

bool jinja_all_of(struct str text, enum jinja_class class)
{
    struct letters l = {0};
    bool all = text.len > 0;
    for (size_t i = 0; i < text.len && all;) {
        uint32_t c;
        size_t n = utf8_decode(text.data + i, text.len - i, &c);
        all = n && is_of(&l, c, class);
        i += n ? n : 1;
    }
    letters_close(&l);
    return all;
}
