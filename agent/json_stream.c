#include "agent/json_stream.h"

#include "shared/base/utf8.h"

static bool is_word(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '+' ||
           c == '-' || c == '.';
}

static bool is_structure(char c)
{
    return c == '{' || c == '}' || c == '[' || c == ']' || c == ',' || c == ':' || c == '"';
}

static void read_string(struct json_stream *s, char c)
{
    if (s->is_escaped)
        s->is_escaped = false;
    else if (c == '\\')
        s->is_escaped = true;
    else if (c == '"') {
        s->in_string = false;
        s->is_over = s->depth == 0;
    }
}

/* False: the byte isn't of the value any more. */
static bool read_byte(struct json_stream *s, char c)
{
    if (s->in_string) {
        read_string(s, c);
        return true;
    }
    bool is_first = s->first == 0;
    if (is_first) s->first = c;
    if (!is_first && s->depth == 0) { // a number or a word
        s->is_over = !is_word(c);
        return !s->is_over;
    }
    if (c == '"')
        s->in_string = true;
    else if (c == '{' || c == '[')
        s->depth++;
    else if ((c == '}' || c == ']') && s->depth > 0)
        s->is_over = --s->depth == 0;
    else if (!is_word(c) && (s->depth == 0 || !(is_structure(c) || json_is_space(c))))
        s->is_over = s->is_broken = true;
    return !s->is_broken;
}

size_t json_stream_read(struct json_stream *s, struct str text)
{
    size_t at = 0;
    while (at < text.len && !s->is_over)
        if (read_byte(s, text.data[at])) at++;
    return at;
}

static size_t put_code(uint32_t code, char *out)
{
    size_t len = utf8_encode(code, out);
    return len > 0 ? len : utf8_encode(0xFFFD, out);
}

static size_t put_waiting(struct json_text *t, char *out)
{
    if (t->high == 0) return 0;
    t->high = 0;
    return put_code(0xFFFD, out);
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

static size_t read_hex(struct json_text *t, char byte, char *out)
{
    int value = hex_value(byte);
    if (value < 0) { // an escape that breaks off
        t->digits = 0;
        size_t len = put_waiting(t, out);
        len += put_code(0xFFFD, out + len);
        return len + json_text_read(t, byte, out + len);
    }
    t->code = t->code * 16 + (uint32_t)value;
    if (--t->digits > 0) return 0;
    if (t->high != 0 && t->code >= 0xDC00 && t->code <= 0xDFFF) {
        uint32_t code = 0x10000 + ((t->high - 0xD800) << 10) + (t->code - 0xDC00);
        t->high = 0;
        return put_code(code, out);
    }
    size_t len = put_waiting(t, out);
    if (t->code >= 0xD800 && t->code <= 0xDBFF) {
        t->high = t->code;
        return len;
    }
    return len + put_code(t->code, out + len);
}

static size_t read_escape(struct json_text *t, char byte, char *out)
{
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    t->is_escaped = false;
    if (byte == 'u') {
        t->digits = 4;
        t->code = 0;
        return 0;
    }
    size_t len = put_waiting(t, out);
    const char *name = byte ? strchr(names, byte) : NULL;
    if (!name) out[len++] = '\\';
    out[len++] = name ? values[name - names] : byte;
    return len;
}

size_t json_text_read(struct json_text *t, char byte, char out[JSON_TEXT_BYTES])
{
    if (t->digits > 0) return read_hex(t, byte, out);
    if (t->is_escaped) return read_escape(t, byte, out);
    if (byte == '\\') {
        t->is_escaped = true;
        return 0;
    }
    size_t len = put_waiting(t, out);
    if (byte == '"')
        t->is_over = true;
    else
        out[len++] = byte;
    return len;
}
