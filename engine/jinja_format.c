/* jinja_format.c - Python's two ways to put values into a text: "%s" % x and "{}".format(x). Widths
 * and precisions are bounded; conversions that templates have no use for are refused. */
#include "engine/jinja_arith.h"
#include "engine/jinja_filters.h"
#include "engine/jinja_run.h"
#include "engine/jinja_text.h"

#include <math.h>

#define WIDTH_MAX 4096

struct field { // one conversion
    bool left, zero, plus, blank;
    int width, precision; // precision -1: none given
    char conversion;
};

/* ---- putting one value ---- */

static void pad(const struct field *f, struct str text, struct buf *out)
{
    int blanks = f->width - (int)(jinja_chars(text) < WIDTH_MAX ? jinja_chars(text) : WIDTH_MAX);
    size_t sign = f->zero && !f->left && text.len && strchr("+- ", *text.data) ? 1 : 0;
    buf_append(out, text.data, sign);
    for (int i = 0; i < blanks && !f->left; i++)
        buf_append_char(out, f->zero ? '0' : ' ');
    buf_append(out, text.data + sign, text.len - sign);
    for (int i = 0; i < blanks && f->left; i++)
        buf_append_char(out, ' ');
}

static void put_sign(const struct field *f, bool negative, struct buf *text)
{
    if (negative)
        buf_append_char(text, '-');
    else if (f->plus || f->blank)
        buf_append_char(text, f->plus ? '+' : ' ');
}

static void put_int(struct jinja_run *run, const struct field *f, struct jinja_value v,
                    struct buf *text)
{
    if (v.type == JINJA_FLOAT && f->conversion == 'd' && fabs(v.number) < 9e18)
        v = jinja_int((int64_t)v.number);
    if (!jinja_is_integral(v)) {
        jinja_fail(run, E_INVALID, "%%%c needs an integer, not '%s'", f->conversion,
                   jinja_type_name(v));
        return;
    }
    int64_t i = jinja_integer(v);
    unsigned long long size = i < 0 ? 0 - (unsigned long long)i : (unsigned long long)i;
    put_sign(f, i < 0, text);
    buf_printf(text,
               f->conversion == 'x'   ? "%llx"
               : f->conversion == 'X' ? "%llX"
               : f->conversion == 'o' ? "%llo"
                                      : "%llu",
               size);
}

static void put_float(struct jinja_run *run, const struct field *f, struct jinja_value v,
                      struct buf *text)
{
    if (!jinja_is_number(v)) {
        jinja_fail(run, E_INVALID, "%%%c needs a number, not '%s'", f->conversion,
                   jinja_type_name(v));
        return;
    }
    double d = jinja_number(v);
    int precision = f->precision < 0 ? 6 : f->precision;
    put_sign(f, signbit(d) && !isnan(d), text);
    buf_printf(text,
               f->conversion == 'e'   ? "%.*e"
               : f->conversion == 'g' ? "%.*g"
                                      : "%.*f",
               precision, fabs(d));
}

static void put_text(struct jinja_run *run, const struct field *f, struct jinja_value v,
                     struct buf *text)
{
    struct jinja_value s = jinja_to_str(run, v);
    if (f->conversion == 'r') { // repr of a list of one is that of the value in brackets
        struct jinja_value list = jinja_new_list(run, 1, JINJA_KIND_LIST);
        if (list.list->count) list.list->items[0] = v;
        s = jinja_to_str(run, list);
        if (run->code) return;
        s = jinja_str((struct str){s.text + 1, s.len - 2});
    }
    struct str part = jinja_text(s);
    if (f->precision >= 0) part.len = jinja_char_offset(part, (size_t)f->precision);
    buf_append(text, part.data, part.len);
}

static void put_field(struct jinja_run *run, struct field *f, struct jinja_value v, struct buf *out)
{
    struct buf text;
    if (run->code || !jinja_step(run, 1 + (uint64_t)f->width / JINJA_TEXT_STEP)) return;
    jinja_buf_init(&text);
    if (strchr("sra", f->conversion)) {
        put_text(run, f, v, &text);
        f->zero = false;
    } else if (strchr("dixXo", f->conversion)) {
        put_int(run, f, v, &text);
    } else {
        put_float(run, f, v, &text);
    }
    pad(f, text.len ? buf_str(&text) : STR(""), out);
    buf_deinit(&text);
}

/* ---- reading a field ---- */

/* Digits at the front of *s; -1: too large. */
static int take_number(struct str *s)
{
    int number = 0;
    for (; s->len && *s->data >= '0' && *s->data <= '9'; s->data++, s->len--) {
        number = number * 10 + (*s->data - '0');
        if (number > WIDTH_MAX) return -1;
    }
    return number;
}

/* Flags, width and precision; false: refused. */
static bool take_layout(struct str *s, struct field *f)
{
    for (; s->len && strchr("-+ 0#", *s->data) && *s->data; s->data++, s->len--) {
        f->left |= *s->data == '-';
        f->plus |= *s->data == '+';
        f->blank |= *s->data == ' ';
        f->zero |= *s->data == '0';
    }
    f->width = take_number(s);
    f->precision = -1;
    if (s->len && *s->data == '.') {
        s->data++, s->len--;
        if ((f->precision = take_number(s)) < 0) return false;
    }
    return f->width >= 0;
}

/* ---- "%" ---- */

/* The value of "%(name)s": from keyword arguments, or from the one argument that is a mapping. */
static const struct jinja_value *percent_named(struct jinja_run *run, const struct jinja_args *args,
                                               struct str name)
{
    for (uint32_t i = 0; i < args->named_count; i++)
        if (str_equal(args->named[i].name, name)) return &args->named[i].value;
    if (args->count == 1 && args->list[0].type == JINJA_DICT)
        return jinja_dict_get(run, args->list[0].dict, jinja_str(name));
    return NULL;
}

/* One conversion; *s starts behind its "%". */
static void percent_field(struct jinja_run *run, struct str *s, const struct jinja_args *args,
                          uint32_t *next, struct buf *out)
{
    struct field f = {0};
    const struct jinja_value *value = NULL;
    bool named = s->len && *s->data == '(';
    if (named) {
        int64_t end = jinja_find(*s, STR(")"), 0);
        if (end < 0) end = (int64_t)s->len - 1;
        value = percent_named(run, args, (struct str){s->data + 1, (size_t)end - 1});
        s->data += end + 1, s->len -= (size_t)end + 1;
    }
    if (!take_layout(s, &f) || !s->len || !strchr("sradiuxXofFeEgG", *s->data) || !*s->data) {
        jinja_fail(run, E_INVALID, "unsupported conversion in a format string");
        return;
    }
    f.conversion = *s->data++;
    s->len--;
    if (f.conversion == 'u') f.conversion = 'd';
    if (!named && *next < args->count) value = &args->list[(*next)++];
    if (!value) {
        jinja_fail(run, E_INVALID, "not enough arguments for the format string");
        return;
    }
    put_field(run, &f, *value, out);
}

struct jinja_value jinja_format_percent(struct jinja_run *run, struct str format,
                                        const struct jinja_args *args)
{
    struct buf out;
    uint32_t next = 0;
    bool mapping = args->named_count || (args->count == 1 && args->list[0].type == JINJA_DICT);
    jinja_buf_init(&out);
    while (format.len && !run->code) {
        int64_t at = jinja_find(format, STR("%"), 0);
        size_t plain = at < 0 ? format.len : (size_t)at;
        buf_append(&out, format.data, plain);
        format.data += plain, format.len -= plain;
        if (!format.len) break;
        format.data++, format.len--;
        if (format.len && *format.data == '%') {
            buf_append_char(&out, '%');
            format.data++, format.len--;
        } else {
            percent_field(run, &format, args, &next, &out);
        }
    }
    if (next < args->count && !mapping)
        jinja_fail(run, E_INVALID, "not all arguments were used by the format string");
    return jinja_buf_take(run, &out);
}

/* ---- "{}" ---- */

/* The value that "0", "name" or "" stands for, before any .attribute or [index]. */
static struct jinja_value brace_root(struct jinja_run *run, struct str name,
                                     const struct jinja_args *args, uint32_t *next)
{
    int64_t index;
    if (!name.len) {
        index = (*next)++;
    } else if (str_to_int(name, &index) != 0) {
        for (uint32_t i = 0; i < args->named_count; i++)
            if (str_equal(args->named[i].name, name)) return args->named[i].value;
        index = -1;
    }
    if (index >= 0 && index < args->count) return args->list[index];
    return jinja_fail(run, E_INVALID, "format() lacks the argument '%.*s'",
                      (int)(name.len < 40 ? name.len : 40), name.data);
}

static struct jinja_value brace_value(struct jinja_run *run, struct str path,
                                      const struct jinja_args *args, uint32_t *next)
{
    size_t root = 0;
    while (root < path.len && path.data[root] != '.' && path.data[root] != '[')
        root++;
    struct jinja_value v = brace_root(run, (struct str){path.data, root}, args, next);
    path.data += root, path.len -= root;
    while (path.len && !run->code) {
        bool item = *path.data == '[';
        size_t end = 1;
        while (end < path.len && !strchr(item ? "]" : ".[", path.data[end]))
            end++;
        struct str name = {path.data + 1, end - 1};
        int64_t index;
        if (item && str_to_int(name, &index) == 0)
            v = jinja_item(run, v, jinja_int(index));
        else
            v = jinja_item(run, v, jinja_str(name));
        if (item && end < path.len) end++;
        path.data += end, path.len -= end;
    }
    return v;
}

/* "[[fill]align][sign][0][width][.precision][type]"; fill other than blank and 0 isn't known. */
static void brace_field(struct jinja_run *run, struct str spec, struct jinja_value v,
                        struct buf *out)
{
    struct field f = {0};
    bool number = jinja_is_number(v) && v.type != JINJA_BOOL;
    f.left = !number;
    if (spec.len && strchr("<>", *spec.data) && *spec.data) {
        f.left = *spec.data == '<';
        spec.data++, spec.len--;
    }
    bool left = f.left;
    bool ok = take_layout(&spec, &f);
    f.left = left;
    f.conversion = v.type == JINJA_FLOAT && f.precision >= 0 ? 'g' : 's';
    if (spec.len == 1 && strchr("sdxXofeg", *spec.data) && *spec.data) {
        f.conversion = *spec.data;
        spec.len = 0;
    } else if (v.type == JINJA_INT) {
        f.conversion = 'd';
    }
    if (!ok || spec.len) {
        jinja_fail(run, E_INVALID, "unsupported format specification");
        return;
    }
    put_field(run, &f, v, out);
}

struct jinja_value jinja_format_braces(struct jinja_run *run, struct str format,
                                       const struct jinja_args *args)
{
    struct buf out;
    uint32_t next = 0;
    jinja_buf_init(&out);
    for (size_t i = 0; i < format.len && jinja_step(run, 1); i++) {
        char c = format.data[i];
        bool doubled = i + 1 < format.len && format.data[i + 1] == c;
        if ((c != '{' && c != '}') || doubled) {
            buf_append_char(&out, c);
            i += (c == '{' || c == '}') && doubled;
            continue;
        }
        int64_t end = jinja_find(format, STR("}"), i);
        if (c == '}' || end < 0) {
            jinja_fail(run, E_INVALID, "single '%c' in a format string", c);
            break;
        }
        struct str field = {format.data + i + 1, (size_t)end - i - 1}, path = field;
        (void)str_split(&field, ':', &path); // field keeps what is behind ':'
        struct jinja_value v = brace_value(run, path, args, &next);
        if (!run->code) brace_field(run, field, v, &out);
        i = (size_t)end;
    }
    return jinja_buf_take(run, &out);
}
