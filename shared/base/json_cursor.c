#include "shared/base/json_cursor.h"

#include "shared/base/utf8.h"

#define DEPTH_MAX 64

static int refuse(struct json_cursor *c, const char *wanted)
{
    return error_set(c->err, E_FORMAT, "invalid JSON: %s expected at byte %zu", wanted, c->at);
}

int json_cursor_init(struct json_cursor *c, struct str text, struct buf *words, struct error *err)
{
    *c = (struct json_cursor){.text = text, .words = words, .err = err};
    if (utf8_is_valid(text.data, text.len)) return 0;
    return error_set(err, E_FORMAT, "invalid JSON: not UTF-8 at byte %zu",
                     utf8_valid_prefix(text.data, text.len));
}

char json_cursor_peek(struct json_cursor *c)
{
    while (c->at < c->text.len) {
        char letter = c->text.data[c->at];
        if (letter != ' ' && letter != '\n' && letter != '\t' && letter != '\r') return letter;
        c->at++;
    }
    return 0;
}

static bool take(struct json_cursor *c, char wanted)
{
    if (json_cursor_peek(c) != wanted) return false;
    c->at++;
    return true;
}

int json_cursor_open_object(struct json_cursor *c)
{
    if (!take(c, '{')) return refuse(c, "an object");
    c->fresh = true;
    return 0;
}

int json_cursor_open_array(struct json_cursor *c)
{
    if (!take(c, '[')) return refuse(c, "an array");
    c->fresh = true;
    return 0;
}

/* Up to the next member or element: 1, 0 behind `close`. */
static int next(struct json_cursor *c, char close)
{
    bool fresh = c->fresh;
    c->fresh = false;
    if (take(c, close)) return 0;
    if (!fresh && !take(c, ',')) return refuse(c, "a comma");
    return 1;
}

int json_cursor_next_item(struct json_cursor *c)
{
    return next(c, ']');
}

int json_cursor_next_name(struct json_cursor *c, struct str *name)
{
    int rc = next(c, '}');
    if (rc <= 0) return rc;
    buf_clear(c->words);
    rc = json_cursor_string(c, c->words);
    if (rc) return rc;
    if (!take(c, ':')) return refuse(c, "a colon");
    *name = buf_str(c->words);
    return 1;
}

/* ---- strings ---- */

static int hex4(struct json_cursor *c, uint32_t *value)
{
    *value = 0;
    for (int i = 0; i < 4; i++, c->at++) {
        char d = c->at < c->text.len ? c->text.data[c->at] : 0;
        if (d >= '0' && d <= '9')
            *value = *value * 16 + (uint32_t)(d - '0');
        else if ((d | 32) >= 'a' && (d | 32) <= 'f')
            *value = *value * 16 + (uint32_t)((d | 32) - 'a' + 10);
        else
            return refuse(c, "a hexadecimal digit");
    }
    return 0;
}

static int unescape_unicode(struct json_cursor *c, struct buf *out)
{
    uint32_t code, low;
    char bytes[4];
    int rc = hex4(c, &code);
    if (!rc && code >= 0xd800 && code < 0xdc00) {
        struct str rest = {c->text.data + c->at, c->text.len - c->at};
        if (!str_starts_with(rest, STR("\\u"))) return refuse(c, "a low surrogate");
        c->at += 2;
        rc = hex4(c, &low);
        if (!rc && (low < 0xdc00 || low > 0xdfff)) return refuse(c, "a low surrogate");
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    if (rc) return rc;
    size_t n = utf8_encode(code, bytes);
    if (!n) return refuse(c, "a high surrogate");
    return buf_append(out, bytes, n);
}

static int unescape(struct json_cursor *c, struct buf *out)
{
    static const char letters[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    char letter = c->at < c->text.len ? c->text.data[c->at] : 0;
    const char *known = letter ? strchr(letters, letter) : NULL;
    if (!known && letter != 'u') return refuse(c, "an escape");
    c->at++;
    return known ? buf_append_char(out, values[known - letters]) : unescape_unicode(c, out);
}

int json_cursor_string(struct json_cursor *c, struct buf *out)
{
    if (!take(c, '"')) return refuse(c, "a string");
    for (;;) {
        size_t from = c->at;
        unsigned char letter = 0;
        while (c->at < c->text.len && (letter = (unsigned char)c->text.data[c->at]) != '"' &&
               letter != '\\' && letter >= 0x20)
            c->at++;
        int rc = buf_append(out, c->text.data + from, c->at - from);
        if (c->at == c->text.len || letter < 0x20) return refuse(c, "the end of a string");
        c->at++;
        if (rc || letter == '"') return rc;
        if ((rc = unescape(c, out)) != 0) return rc;
    }
}

static int skip_string(struct json_cursor *c)
{
    for (c->at++; c->at < c->text.len; c->at++) {
        if (c->text.data[c->at] == '\\') {
            c->at++;
        } else if (c->text.data[c->at] == '"') {
            c->at++;
            return 0;
        }
    }
    c->at = c->text.len;
    return refuse(c, "the end of a string");
}

/* ---- other values ---- */

static bool is_word_char(char letter)
{
    return (letter >= '0' && letter <= '9') || ((letter | 32) >= 'a' && (letter | 32) <= 'z') ||
           letter == '-' || letter == '+' || letter == '.';
}

static struct str take_word(struct json_cursor *c)
{
    json_cursor_peek(c);
    size_t from = c->at;
    while (c->at < c->text.len && is_word_char(c->text.data[c->at]))
        c->at++;
    return (struct str){c->text.data + from, c->at - from};
}

int json_cursor_int(struct json_cursor *c, int64_t *value)
{
    struct str word = take_word(c);
    if (str_to_int(word, value) == 0) return 0;
    c->at -= word.len;
    return refuse(c, "an integer");
}

int json_cursor_skip(struct json_cursor *c, struct str *raw)
{
    uint64_t objects = 0; // bit per depth
    int depth = 0;
    json_cursor_peek(c);
    size_t from = c->at;
    do {
        char letter = json_cursor_peek(c);
        int rc = 0;
        if (letter == '{' || letter == '[') {
            if (depth == DEPTH_MAX) return refuse(c, "less nesting");
            objects = (objects << 1) | (letter == '{');
            depth++;
            c->at++;
        } else if (depth && letter == (objects & 1 ? '}' : ']')) {
            objects >>= 1;
            depth--;
            c->at++;
        } else if (letter == '"') {
            rc = skip_string(c);
        } else if (depth && (letter == ',' || letter == ':')) {
            c->at++;
        } else if (take_word(c).len == 0) {
            rc = refuse(c, "a value");
        }
        if (rc) return rc;
    } while (depth);
    if (raw) *raw = (struct str){c->text.data + from, c->at - from};
    return 0;
}

int json_cursor_end(struct json_cursor *c)
{
    return json_cursor_peek(c) == 0 && c->at == c->text.len ? 0 : refuse(c, "the end");
}
