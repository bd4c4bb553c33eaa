/* jinja_print.c - Python's str(), repr() and json.dumps() of values. */
#include "engine/jinja_run.h"
#include "engine/jinja_value.h"

#include "shared/base/utf8.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- numbers ---- */

/* The shortest digits that read back as the same number, in repr's choice of notation. */
static void print_float(double d, const char *infinity, const char *nan, struct buf *out)
{
    if (isnan(d)) {
        buf_append_str(out, nan);
        return;
    }
    if (isinf(d)) {
        if (d < 0) buf_append_char(out, '-');
        buf_append_str(out, infinity);
        return;
    }
    char digits[40];
    int precision = 1;
    do {
        snprintf(digits, sizeof digits, "%.*e", precision - 1, d);
    } while (strtod(digits, NULL) != d && precision++ < 17);
    int exponent = (int)strtol(strchr(digits, 'e') + 1, NULL, 10);
    if (exponent < -4 || exponent >= 16) {
        char *e = strchr(digits, 'e');
        buf_append(out, digits, (size_t)(e - digits));
        buf_printf(out, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
        return;
    }
    int decimals = precision - 1 - exponent;
    buf_printf(out, "%.*f", decimals > 1 ? decimals : 1, d);
}

/* ---- repr of strings ---- */

static bool is_printable(uint32_t c)
{
    return c >= 0x20 && c != 0x7f && !(c >= 0x80 && c <= 0xa0) && c != 0xad &&
           !(c >= 0x2000 && c <= 0x200f) && !(c >= 0x2028 && c <= 0x202f) &&
           !(c >= 0x205f && c <= 0x206f) && c != 0x3000 && c != 0xfeff &&
           !(c >= 0xe000 && c <= 0xf8ff);
}

static void print_repr_char(const char *data, size_t len, uint32_t c, char quote, struct buf *out)
{
    if (c == '\\' || c == (unsigned char)quote)
        buf_printf(out, "\\%c", (int)c);
    else if (c == '\n')
        buf_append_str(out, "\\n");
    else if (c == '\r')
        buf_append_str(out, "\\r");
    else if (c == '\t')
        buf_append_str(out, "\\t");
    else if (is_printable(c))
        buf_append(out, data, len);
    else
        buf_printf(out, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c);
}

static void print_repr(struct str text, struct buf *out)
{
    bool single = text.len && memchr(text.data, '\'', text.len);
    bool both = single && memchr(text.data, '"', text.len);
    char quote = single && !both ? '"' : '\'';
    buf_append_char(out, quote);
    for (size_t i = 0; i < text.len;) {
        uint32_t c;
        size_t n = utf8_decode(text.data + i, text.len - i, &c);
        if (!n) break; // strings are valid UTF-8
        print_repr_char(text.data + i, n, c, quote, out);
        i += n;
    }
    buf_append_char(out, quote);
}

/* ---- str() ---- */

static void print_nested(struct jinja_run *run, struct jinja_value v, struct buf *out)
{
    if (v.type == JINJA_STRING && jinja_step(run, v.len / JINJA_CHAR_STEP))
        print_repr(jinja_text(v), out);
    else if (v.type == JINJA_UNDEFINED)
        buf_append_str(out, "Undefined");
    else
        jinja_print(run, v, out);
}

static void print_list(struct jinja_run *run, const struct jinja_list *list, struct buf *out)
{
    static const char *const open[] = {"[", "(", "[", "dict_items([", "["};
    static const char *const close[] = {"]", ")", "]", "])", "]"};
    if (list->kind == JINJA_KIND_GENERATOR) {
        jinja_fail(run, E_INVALID, "a generator can't be printed; add '| list'");
        return;
    }
    buf_append_str(out, open[list->kind]);
    for (uint32_t i = 0; i < list->count && jinja_step(run, 1); i++) {
        if (i) buf_append_str(out, ", ");
        print_nested(run, list->items[i], out);
    }
    if (list->kind == JINJA_KIND_TUPLE && list->count == 1) buf_append_char(out, ',');
    buf_append_str(out, close[list->kind]);
}

static void print_dict(struct jinja_run *run, const struct jinja_dict *dict, struct buf *out)
{
    buf_append_char(out, '{');
    for (uint32_t i = 0; i < dict->count && jinja_step(run, 1); i++) {
        if (i) buf_append_str(out, ", ");
        print_nested(run, dict->pairs[i].key, out);
        buf_append_str(out, ": ");
        print_nested(run, dict->pairs[i].value, out);
    }
    buf_append_char(out, '}');
}

static void print_value(struct jinja_run *run, struct jinja_value v, struct buf *out)
{
    switch ((enum jinja_type)v.type) {
    case JINJA_UNDEFINED:
        if (v.why == JINJA_UNDEFINED_UNSAFE) jinja_fail_undefined(run, v);
        return;
    case JINJA_NONE:
        buf_append_str(out, "None");
        return;
    case JINJA_BOOL:
        buf_append_str(out, v.boolean ? "True" : "False");
        return;
    case JINJA_INT:
        buf_printf(out, "%lld", (long long)v.integer);
        return;
    case JINJA_FLOAT:
        print_float(v.number, "inf", "nan", out);
        return;
    case JINJA_STRING:
        buf_append(out, v.text, v.len);
        return;
    case JINJA_LIST:
        print_list(run, v.list, out);
        return;
    case JINJA_DICT:
        print_dict(run, v.dict, out);
        return;
    case JINJA_NAMESPACE:
        buf_append_str(out, "<Namespace ");
        print_dict(run, v.dict, out);
        buf_append_char(out, '>');
        return;
    case JINJA_LOOP:
        buf_printf(out, "<LoopContext %u/%u>", v.loop->index + 1, v.loop->items->count);
        return;
    case JINJA_FUNCTION:
    case JINJA_MACRO:
        jinja_fail(run, E_INVALID, "a %s can't be printed", jinja_type_name(v));
    }
}

void jinja_print(struct jinja_run *run, struct jinja_value v, struct buf *out)
{
    if (jinja_enter(run)) print_value(run, v, out);
    jinja_leave(run);
    if (v.type == JINJA_STRING) jinja_step(run, v.len / JINJA_TEXT_STEP);
    if (out->overflow) jinja_fail(run, E_LIMIT, "the prompt is longer than %zu bytes", out->max);
}

struct jinja_value jinja_to_str(struct jinja_run *run, struct jinja_value v)
{
    struct buf text;
    if (v.type == JINJA_STRING) return v;
    jinja_buf_init(&text);
    jinja_print(run, v, &text);
    return jinja_buf_take(run, &text);
}

/* ---- JSON ---- */

struct json_printer {
    struct jinja_run *run;
    const struct jinja_json_style *style;
    struct buf *out;
    int level;
};

static void json_value(struct json_printer *p, struct jinja_value v);

static void json_escape(struct json_printer *p, uint32_t c)
{
    if (c >= 0x10000) { // two surrogates
        c -= 0x10000;
        buf_printf(p->out, "\\u%04x\\u%04x", 0xd800 + (c >> 10), 0xdc00 + (c & 0x3ff));
    } else {
        buf_printf(p->out, "\\u%04x", c);
    }
}

static void json_char(struct json_printer *p, const char *data, size_t len, uint32_t c)
{
    static const char plain[] = "\"\\\n\r\t\b\f", letters[] = "\"\\nrtbf";
    const char *found = c && c < 0x80 ? strchr(plain, (int)c) : NULL;
    if (found)
        buf_printf(p->out, "\\%c", letters[found - plain]);
    else if (c < 0x20 || (c > 0x7e && p->style->ascii))
        json_escape(p, c);
    else
        buf_append(p->out, data, len);
}

static void json_string_value(struct json_printer *p, struct str text)
{
    buf_append_char(p->out, '"');
    for (size_t i = 0; i < text.len;) {
        uint32_t c;
        size_t n = utf8_decode(text.data + i, text.len - i, &c);
        if (!n) break;
        json_char(p, text.data + i, n, c);
        i += n;
    }
    buf_append_char(p->out, '"');
}

static void json_newline(struct json_printer *p)
{
    if (p->style->indent < 0) return;
    buf_append_char(p->out, '\n');
    for (int i = 0; i < p->level * p->style->indent; i++)
        buf_append_char(p->out, ' ');
}

static void json_between(struct json_printer *p, bool first)
{
    if (!first) buf_append(p->out, p->style->item.data, p->style->item.len);
    json_newline(p);
    jinja_step(p->run, 1 + (uint64_t)(p->level * (p->style->indent + 1)) / JINJA_TEXT_STEP);
    if (p->out->overflow) jinja_fail(p->run, E_LIMIT, "JSON text is too long");
}

static void json_list(struct json_printer *p, const struct jinja_list *list)
{
    if (!list->count) {
        buf_append_str(p->out, "[]");
        return;
    }
    buf_append_char(p->out, '[');
    p->level++;
    for (uint32_t i = 0; i < list->count && !p->run->code; i++) {
        json_between(p, i == 0);
        json_value(p, list->items[i]);
    }
    p->level--;
    json_newline(p);
    buf_append_char(p->out, ']');
}

static void json_key_text(struct json_printer *p, struct jinja_value key)
{
    if (key.type == JINJA_STRING) {
        json_string_value(p, jinja_text(key));
        return;
    }
    buf_append_char(p->out, '"');
    json_value(p, key);
    buf_append_char(p->out, '"');
}

static int order_pairs(const void *left, const void *right)
{
    const struct jinja_pair *a = left, *b = right;
    struct str x = jinja_text(a->key), y = jinja_text(b->key);
    size_t shorter = x.len < y.len ? x.len : y.len;
    int order = shorter ? memcmp(x.data, y.data, shorter) : 0;
    return order ? order : (x.len > y.len) - (x.len < y.len);
}

/* The pairs in order of keys; only text keys have one here. */
static const struct jinja_pair *sorted_pairs(struct json_printer *p, const struct jinja_dict *dict)
{
    for (uint32_t i = 0; i < dict->count; i++)
        if (dict->pairs[i].key.type != JINJA_STRING) {
            jinja_fail(p->run, E_INVALID, "sort_keys needs keys that are strings");
            return dict->pairs;
        }
    struct jinja_pair *pairs = jinja_alloc(p->run, dict->count, sizeof *pairs);
    if (!pairs) return dict->pairs;
    memcpy(pairs, dict->pairs, dict->count * sizeof *pairs);
    qsort(pairs, dict->count, sizeof *pairs, order_pairs);
    return pairs;
}

static void json_dict(struct json_printer *p, const struct jinja_dict *dict)
{
    if (!dict->count) {
        buf_append_str(p->out, "{}");
        return;
    }
    const struct jinja_pair *pairs = p->style->sort_keys ? sorted_pairs(p, dict) : dict->pairs;
    buf_append_char(p->out, '{');
    p->level++;
    for (uint32_t i = 0; i < dict->count && !p->run->code; i++) {
        json_between(p, i == 0);
        json_key_text(p, pairs[i].key);
        buf_append(p->out, p->style->member.data, p->style->member.len);
        json_value(p, pairs[i].value);
    }
    p->level--;
    json_newline(p);
    buf_append_char(p->out, '}');
}

static void json_any(struct json_printer *p, struct jinja_value v)
{
    switch ((enum jinja_type)v.type) {
    case JINJA_NONE:
        buf_append_str(p->out, "null");
        return;
    case JINJA_BOOL:
        buf_append_str(p->out, v.boolean ? "true" : "false");
        return;
    case JINJA_INT:
        buf_printf(p->out, "%lld", (long long)v.integer);
        return;
    case JINJA_FLOAT:
        print_float(v.number, "Infinity", "NaN", p->out);
        return;
    case JINJA_STRING:
        json_string_value(p, jinja_text(v));
        jinja_step(p->run, v.len / JINJA_CHAR_STEP);
        return;
    case JINJA_LIST:
        if (v.list->kind <= JINJA_KIND_TUPLE) {
            json_list(p, v.list);
            return;
        }
        break;
    case JINJA_DICT:
        json_dict(p, v.dict);
        return;
    default:
        break;
    }
    jinja_fail(p->run, E_INVALID, "object of type %s is not JSON serializable", jinja_type_name(v));
}

static void json_value(struct json_printer *p, struct jinja_value v)
{
    if (jinja_enter(p->run) && jinja_step(p->run, 1)) json_any(p, v);
    jinja_leave(p->run);
}

void jinja_print_json(struct jinja_run *run, struct jinja_value v,
                      const struct jinja_json_style *style, struct buf *out)
{
    struct json_printer p = {.run = run, .style = style, .out = out};
    json_value(&p, v);
}
