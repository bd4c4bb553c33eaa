/* jinja_filters.c - filters on scalars and text, and the table of all. */
#include "engine/jinja_filters.h"

#include "engine/jinja_arith.h"
#include "engine/jinja_run.h"
#include "engine/jinja_text.h"
#include "shared/base/check.h"

#include <math.h>

#define INDENT_MAX 256

int64_t jinja_int_arg(struct jinja_run *run, struct jinja_value v, int64_t absent)
{
    if (!jinja_given(v) || v.type == JINJA_NONE) return absent;
    if (jinja_is_integral(v)) return jinja_integer(v);
    jinja_fail(run, E_INVALID, "expected an integer, not '%s'", jinja_type_name(v));
    return absent;
}

/* ---- text ---- */

static struct jinja_value change_case(struct jinja_run *run, struct jinja_value self,
                                      enum jinja_case how)
{
    struct jinja_value text = jinja_to_str(run, self);
    struct buf out;
    if (run->code || !jinja_step(run, text.len / JINJA_CHAR_STEP)) return text;
    jinja_buf_init(&out);
    jinja_change_case(jinja_text(text), how, &out);
    return jinja_buf_take(run, &out);
}

static struct jinja_value filter_upper(struct jinja_run *run, struct jinja_value self,
                                       const struct jinja_args *args)
{
    (void)args;
    return change_case(run, self, JINJA_UPPER);
}

static struct jinja_value filter_lower(struct jinja_run *run, struct jinja_value self,
                                       const struct jinja_args *args)
{
    (void)args;
    return change_case(run, self, JINJA_LOWER);
}

static struct jinja_value filter_capitalize(struct jinja_run *run, struct jinja_value self,
                                            const struct jinja_args *args)
{
    (void)args;
    return change_case(run, self, JINJA_CAPITALIZE);
}

/* Unlike str.title(), words only begin behind whitespace, '-' and opening brackets. */
static struct jinja_value filter_title(struct jinja_run *run, struct jinja_value self,
                                       const struct jinja_args *args)
{
    (void)args;
    struct jinja_value text = jinja_to_str(run, self);
    struct str rest = jinja_text(text);
    struct buf out;
    if (run->code || !jinja_step(run, rest.len)) return text;
    jinja_buf_init(&out);
    while (rest.len) {
        size_t word = 0, between = 0, n;
        while (word < rest.len && !strchr("-({[<", rest.data[word]) &&
               !jinja_space_len(rest.data + word, rest.len - word))
            word++;
        jinja_change_case((struct str){rest.data, word}, JINJA_CAPITALIZE, &out);
        rest.data += word, rest.len -= word;
        while (between < rest.len) {
            n = jinja_space_len(rest.data + between, rest.len - between);
            if (!n && strchr("-({[<", rest.data[between])) n = 1;
            if (!n) break;
            between += n;
        }
        buf_append(&out, rest.data, between);
        rest.data += between, rest.len -= between;
    }
    return jinja_buf_take(run, &out);
}

static struct jinja_value filter_trim(struct jinja_run *run, struct jinja_value self,
                                      const struct jinja_args *args)
{
    struct jinja_value text = jinja_to_str(run, self), chars = args->list[0];
    struct str set = {NULL, 0};
    if (run->code) return text;
    if (jinja_given(chars) && chars.type != JINJA_NONE) {
        if (chars.type != JINJA_STRING)
            return jinja_fail(run, E_INVALID, "trim needs a string of characters");
        set = jinja_text(chars);
        if (!set.data) set.data = "";
    }
    return jinja_str(jinja_strip(jinja_text(text), set, JINJA_STRIP_BOTH));
}

static struct jinja_value filter_string(struct jinja_run *run, struct jinja_value self,
                                        const struct jinja_args *args)
{
    (void)args;
    return jinja_to_str(run, self);
}

static struct jinja_value filter_replace(struct jinja_run *run, struct jinja_value self,
                                         const struct jinja_args *args)
{
    struct jinja_value text = jinja_to_str(run, self);
    struct jinja_value old = jinja_to_str(run, args->list[0]);
    struct jinja_value new = jinja_to_str(run, args->list[1]);
    int64_t count = jinja_int_arg(run, args->list[2], -1);
    struct buf out;
    if (run->code || !jinja_step(run, text.len / JINJA_TEXT_STEP)) return text;
    jinja_buf_init(&out);
    jinja_replace(jinja_text(text), jinja_text(old), jinja_text(new), count, &out);
    return jinja_buf_take(run, &out);
}

/* The text that one level of indentation is. */
static struct jinja_value indentation(struct jinja_run *run, struct jinja_value width)
{
    if (jinja_given(width) && width.type == JINJA_STRING) return width;
    int64_t count = jinja_int_arg(run, width, 4);
    if (count > INDENT_MAX) return jinja_fail(run, E_LIMIT, "indentation is too wide");
    struct buf text;
    jinja_buf_init(&text);
    for (int64_t i = 0; i < count; i++)
        buf_append_char(&text, ' ');
    return jinja_buf_take(run, &text);
}

static struct jinja_value filter_indent(struct jinja_run *run, struct jinja_value self,
                                        const struct jinja_args *args)
{
    struct jinja_value text = jinja_to_str(run, self);
    struct jinja_value space = indentation(run, args->list[0]);
    bool first = jinja_truth(args->list[1]), blank = jinja_truth(args->list[2]);
    struct str rest = jinja_text(text), line;
    struct buf out;
    if (run->code) return text;
    jinja_buf_init(&out);
    bool begin = true, more = true; // an end of line is followed by a line, maybe an empty one
    for (; more && !run->code; begin = false) {
        size_t before = rest.len;
        line = (struct str){"", 0};
        more = jinja_next_line(&rest, &line) && before - rest.len > line.len;
        if (!begin) buf_append_char(&out, '\n');
        if (begin ? first : blank || line.len) buf_append(&out, space.text, space.len);
        buf_append(&out, line.data, line.len);
        jinja_step(run, 1 + (line.len + space.len) / JINJA_TEXT_STEP);
    }
    return jinja_buf_take(run, &out);
}

static struct jinja_value filter_escape(struct jinja_run *run, struct jinja_value self,
                                        const struct jinja_args *args)
{
    (void)args;
    static const char from[] = "&<>\"'";
    static const char *const to[] = {"&amp;", "&lt;", "&gt;", "&#34;", "&#39;"};
    struct jinja_value text = jinja_to_str(run, self);
    struct buf out;
    if (run->code || !jinja_step(run, text.len / JINJA_CHAR_STEP)) return text;
    jinja_buf_init(&out);
    for (uint32_t i = 0; i < text.len; i++) {
        const char *found = text.text[i] ? strchr(from, text.text[i]) : NULL;
        if (found)
            buf_append_str(&out, to[found - from]);
        else
            buf_append_char(&out, text.text[i]);
    }
    return jinja_buf_take(run, &out);
}

static struct jinja_value filter_wordcount(struct jinja_run *run, struct jinja_value self,
                                           const struct jinja_args *args)
{
    (void)args;
    struct jinja_value text = jinja_to_str(run, self);
    bool in_word = false;
    int64_t count = 0;
    if (!jinja_step(run, text.len / JINJA_CHAR_STEP)) return text;
    for (uint32_t i = 0; i < text.len; i++) {
        char c = text.text[i];
        bool word = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                    c == '_' || (unsigned char)c >= 0x80;
        count += word && !in_word;
        in_word = word;
    }
    return jinja_int(count);
}

static struct jinja_value filter_format(struct jinja_run *run, struct jinja_value self,
                                        const struct jinja_args *args)
{
    struct jinja_value text = jinja_to_str(run, self);
    return run->code ? text : jinja_format_percent(run, jinja_text(text), args);
}

/* ---- numbers ---- */

/* Python's int(text, base): blanks around it, a sign, '_' between digits, 0x and its kin. */
static bool parse_int(struct str text, int64_t base, int64_t *out)
{
    text = jinja_strip(text, (struct str){NULL, 0}, JINJA_STRIP_BOTH);
    bool negative = text.len && *text.data == '-', any = false;
    if (text.len && (*text.data == '-' || *text.data == '+')) text.data++, text.len--;
    if (text.len > 2 && text.data[0] == '0') {
        char mark = (char)(text.data[1] | 32);
        if ((base == 16 && mark == 'x') || (base == 8 && mark == 'o') || (base == 2 && mark == 'b'))
            text.data += 2, text.len -= 2;
    }
    *out = 0;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.data[i];
        int digit = c >= '0' && c <= '9'                 ? c - '0'
                    : (c | 32) >= 'a' && (c | 32) <= 'z' ? (c | 32) - 'a' + 10
                                                         : 99;
        if (c == '_' && any && i + 1 < text.len) continue;
        if (digit >= base || __builtin_mul_overflow(*out, base, out) ||
            __builtin_sub_overflow(*out, digit, out)) // downwards: there is one more negative
            return false;
        any = true;
    }
    if (!any || (!negative && *out == INT64_MIN)) return false;
    if (!negative) *out = -*out;
    return true;
}

static bool parse_float(struct str text, double *out)
{
    text = jinja_strip(text, (struct str){NULL, 0}, JINJA_STRIP_BOTH);
    if (text.len && *text.data == '+') text.data++, text.len--;
    return str_to_double(text, out) == 0;
}

static struct jinja_value truncated(double d, struct jinja_value otherwise)
{
    return isfinite(d) && fabs(d) < 9.2e18 ? jinja_int((int64_t)d) : otherwise;
}

static struct jinja_value filter_int(struct jinja_run *run, struct jinja_value self,
                                     const struct jinja_args *args)
{
    struct jinja_value otherwise = jinja_given(args->list[0]) ? args->list[0] : jinja_int(0);
    int64_t base = jinja_int_arg(run, args->list[1], 10), i;
    double d;
    if (self.type == JINJA_UNDEFINED) return jinja_fail_undefined(run, self);
    if (base < 2 || base > 36) return jinja_fail(run, E_INVALID, "int() base must be 2 to 36");
    if (jinja_is_integral(self)) return jinja_int(jinja_integer(self));
    if (self.type == JINJA_FLOAT) return truncated(self.number, otherwise);
    if (self.type != JINJA_STRING) return otherwise;
    if (parse_int(jinja_text(self), base, &i)) return jinja_int(i);
    return parse_float(jinja_text(self), &d) ? truncated(d, otherwise) : otherwise;
}

static struct jinja_value filter_float(struct jinja_run *run, struct jinja_value self,
                                       const struct jinja_args *args)
{
    struct jinja_value otherwise = jinja_given(args->list[0]) ? args->list[0] : jinja_float(0);
    double d;
    if (self.type == JINJA_UNDEFINED) return jinja_fail_undefined(run, self);
    if (jinja_is_number(self)) return jinja_float(jinja_number(self));
    if (self.type == JINJA_STRING && parse_float(jinja_text(self), &d)) return jinja_float(d);
    return otherwise;
}

static struct jinja_value filter_abs(struct jinja_run *run, struct jinja_value self,
                                     const struct jinja_args *args)
{
    (void)args;
    return jinja_sign(run, self, jinja_is_number(self) && jinja_number(self) < 0);
}

static struct jinja_value filter_round(struct jinja_run *run, struct jinja_value self,
                                       const struct jinja_args *args)
{
    int64_t precision = jinja_int_arg(run, args->list[0], 0);
    struct str how = args->list[1].type == JINJA_STRING ? jinja_text(args->list[1]) : STR("common");
    if (!jinja_is_number(self))
        return jinja_fail(run, E_INVALID, "round needs a number, not '%s'", jinja_type_name(self));
    if (jinja_is_integral(self) && str_equal(how, STR("common")) && precision >= 0)
        return jinja_int(jinja_integer(self));
    if (precision < -15 || precision > 15) return jinja_float(jinja_number(self));
    double scale = pow(10, (double)precision), scaled = jinja_number(self) * scale;
    if (str_equal(how, STR("ceil")))
        scaled = ceil(scaled);
    else if (str_equal(how, STR("floor")))
        scaled = floor(scaled);
    else if (str_equal(how, STR("common")))
        scaled = nearbyint(scaled);
    else
        return jinja_fail(run, E_INVALID, "method must be common, ceil or floor");
    return jinja_float(scaled / scale);
}

/* ---- anything ---- */

static struct jinja_value filter_default(struct jinja_run *run, struct jinja_value self,
                                         const struct jinja_args *args)
{
    (void)run;
    bool boolean = jinja_truth(args->list[1]);
    if (self.type != JINJA_UNDEFINED && !(boolean && !jinja_truth(self))) return self;
    return jinja_given(args->list[0]) ? args->list[0] : jinja_str(STR(""));
}

static struct jinja_value filter_length(struct jinja_run *run, struct jinja_value self,
                                        const struct jinja_args *args)
{
    (void)args;
    int64_t length = jinja_length(self);
    if (self.type == JINJA_STRING) jinja_step(run, self.len / JINJA_TEXT_STEP);
    if (length < 0)
        return jinja_fail(run, E_INVALID, "object of type '%s' has no length",
                          jinja_type_name(self));
    return jinja_int(length);
}

static struct jinja_value filter_attr(struct jinja_run *run, struct jinja_value self,
                                      const struct jinja_args *args)
{
    struct jinja_value name = jinja_to_str(run, args->list[0]);
    if (run->code) return name;
    if (self.type == JINJA_DICT && !jinja_method(self, jinja_text(name)))
        return jinja_undefined(JINJA_UNDEFINED_NAME, jinja_text(name)); // keys aren't attributes
    return jinja_attribute(run, self, jinja_text(name));
}

static struct jinja_value filter_tojson(struct jinja_run *run, struct jinja_value self,
                                        const struct jinja_args *args)
{
    struct jinja_value indent = args->list[1], separators = args->list[2];
    struct jinja_json_style style = {-1, STR(", "), STR(": "), jinja_truth(args->list[0]),
                                     jinja_truth(args->list[3])};
    if (jinja_given(indent) && indent.type != JINJA_NONE) {
        int64_t width = jinja_int_arg(run, indent, 0);
        if (width > INDENT_MAX) return jinja_fail(run, E_LIMIT, "indentation is too wide");
        style.indent = width < 0 ? 0 : (int)width;
        style.item = STR(",");
    }
    if (separators.type == JINJA_LIST && separators.list->count == 2) {
        style.item = jinja_text(jinja_to_str(run, separators.list->items[0]));
        style.member = jinja_text(jinja_to_str(run, separators.list->items[1]));
    }
    struct buf out;
    if (run->code) return self;
    jinja_buf_init(&out);
    jinja_print_json(run, self, &style, &out);
    return jinja_buf_take(run, &out);
}

/* ---- the table ---- */

static const struct jinja_builtin scalar_filters[] = {
    {"abs", filter_abs, "", 0},
    {"attr", filter_attr, "name", 1},
    {"capitalize", filter_capitalize, "", 0},
    {"count", filter_length, "", 0},
    {"d", filter_default, "default_value boolean", 0},
    {"default", filter_default, "default_value boolean", 0},
    {"e", filter_escape, "", 0},
    {"escape", filter_escape, "", 0},
    {"float", filter_float, "default", 0},
    {"forceescape", filter_escape, "", 0},
    {"format", filter_format, NULL, 0},
    {"indent", filter_indent, "width first blank", 0},
    {"int", filter_int, "default base", 0},
    {"length", filter_length, "", 0},
    {"lower", filter_lower, "", 0},
    {"replace", filter_replace, "old new count", 2},
    {"round", filter_round, "precision method", 0},
    {"safe", filter_string, "", 0}, // nothing is escaped here
    {"string", filter_string, "", 0},
    {"title", filter_title, "", 0},
    {"tojson", filter_tojson, "ensure_ascii indent separators sort_keys", 0},
    {"trim", filter_trim, "chars", 0},
    {"upper", filter_upper, "", 0},
    {"wordcount", filter_wordcount, "", 0},
};

const struct jinja_builtin *jinja_filter(struct str name)
{
    const struct jinja_builtin *found =
        jinja_builtin_find(scalar_filters, ARRAY_LEN(scalar_filters), name);
    return found ? found
                 : jinja_builtin_find(jinja_sequence_filters, jinja_sequence_filter_count, name);
}
