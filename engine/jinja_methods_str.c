/* jinja_methods_str.c - methods of str. */
#include "engine/jinja_methods.h"

#include "engine/jinja_arith.h"
#include "engine/jinja_filters.h"
#include "engine/jinja_run.h"
#include "engine/jinja_text.h"
#include "shared/base/check.h"

#define METHOD(name)                                                               \
    static struct jinja_value name(struct jinja_run *run, struct jinja_value self, \
                                   const struct jinja_args *args)

/* ---- arguments ---- */

/* Steps of searching text for what; from the right every position may cost the whole of it. */
static bool search_step(struct jinja_run *run, struct str text, struct str what, bool right)
{
    uint64_t each = right ? 1 + what.len / 8 : 1;
    return jinja_step(run, text.len * each / JINJA_TEXT_STEP);
}

/* A string argument; fails the run for anything else. */
static struct str str_arg(struct jinja_run *run, struct jinja_value v)
{
    if (v.type == JINJA_STRING) return v.len ? jinja_text(v) : STR("");
    jinja_fail(run, E_INVALID, "expected a string, not '%s'", jinja_type_name(v));
    return STR("");
}

static bool absent(struct jinja_value v)
{
    return !jinja_given(v) || v.type == JINJA_NONE;
}

/* ---- ends ---- */

static struct jinja_value strip(struct jinja_run *run, struct jinja_value self,
                                const struct jinja_args *args, enum jinja_strip sides)
{
    struct str chars = {NULL, 0};
    if (!absent(args->list[0])) chars = str_arg(run, args->list[0]);
    if (!jinja_step(run, self.len * (uint64_t)(1 + chars.len) / JINJA_TEXT_STEP)) return self;
    return jinja_str(jinja_strip(jinja_text(self), chars, sides));
}

METHOD(text_strip)
{
    return strip(run, self, args, JINJA_STRIP_BOTH);
}

METHOD(text_lstrip)
{
    return strip(run, self, args, JINJA_STRIP_LEFT);
}

METHOD(text_rstrip)
{
    return strip(run, self, args, JINJA_STRIP_RIGHT);
}

static bool has_end(struct str text, struct str part, bool at_start)
{
    return text.len >= part.len &&
           !memcmp(at_start ? text.data : text.data + text.len - part.len, part.data, part.len);
}

/* The part may be a tuple of parts, any of which will do. */
static struct jinja_value test_end(struct jinja_run *run, struct jinja_value self,
                                   struct jinja_value part, bool at_start)
{
    struct str text = self.len ? jinja_text(self) : STR("");
    if (!jinja_step(run, text.len / JINJA_TEXT_STEP)) return self;
    if (part.type == JINJA_LIST && part.list->kind == JINJA_KIND_TUPLE) {
        for (uint32_t i = 0; i < part.list->count && jinja_step(run, 1); i++)
            if (has_end(text, str_arg(run, part.list->items[i]), at_start)) return jinja_bool(true);
        return jinja_bool(false);
    }
    return jinja_bool(has_end(text, str_arg(run, part), at_start));
}

METHOD(text_startswith)
{
    return test_end(run, self, args->list[0], true);
}

METHOD(text_endswith)
{
    return test_end(run, self, args->list[0], false);
}

METHOD(text_removeprefix)
{
    struct str part = str_arg(run, args->list[0]);
    if (!self.len || !has_end(jinja_text(self), part, true)) return self;
    return jinja_str((struct str){self.text + part.len, self.len - part.len});
}

METHOD(text_removesuffix)
{
    struct str part = str_arg(run, args->list[0]);
    if (!self.len || !has_end(jinja_text(self), part, false)) return self;
    return jinja_str((struct str){self.text, self.len - part.len});
}

/* ---- parts ---- */

/* A list whose length isn't known before. */
struct parts {
    struct jinja_value *items;
    uint32_t count, cap;
};

static void add_part(struct jinja_run *run, struct parts *p, struct str text)
{
    if (!jinja_step(run, 1)) return;
    if (p->count == p->cap) {
        uint32_t cap = p->cap ? p->cap * 2 : 8;
        struct jinja_value *items = jinja_alloc(run, cap, sizeof *items);
        if (!items) return;
        if (p->count) memcpy(items, p->items, p->count * sizeof *items);
        p->items = items;
        p->cap = cap;
    }
    p->items[p->count++] = jinja_str(text);
}

static struct jinja_value parts_value(struct jinja_run *run, struct parts *p, bool reverse)
{
    struct jinja_value list = jinja_new_list(run, 0, JINJA_KIND_LIST);
    for (uint32_t i = 0; reverse && i < p->count / 2; i++) {
        struct jinja_value swap = p->items[i];
        p->items[i] = p->items[p->count - 1 - i];
        p->items[p->count - 1 - i] = swap;
    }
    list.list->items = p->items;
    list.list->count = p->count;
    return list;
}

/* Words between whitespace; what is left after `most` cuts stays whole. */
static void split_words(struct jinja_run *run, struct str text, int64_t most, struct parts *p)
{
    text = jinja_strip(text, (struct str){NULL, 0}, JINJA_STRIP_LEFT);
    while (text.len && !run->code) {
        size_t n = 0;
        while (n < text.len && !jinja_space_len(text.data + n, text.len - n))
            n++;
        if (most-- == 0) {
            add_part(run, p, text);
            return;
        }
        add_part(run, p, (struct str){text.data, n});
        text.data += n, text.len -= n;
        text = jinja_strip(text, (struct str){NULL, 0}, JINJA_STRIP_LEFT);
    }
}

static void split_words_right(struct jinja_run *run, struct str text, int64_t most, struct parts *p)
{
    text = jinja_strip(text, (struct str){NULL, 0}, JINJA_STRIP_RIGHT);
    while (text.len && !run->code) {
        struct str head = text; // up to and with the whitespace in front of the last word
        if (most-- == 0) {
            add_part(run, p, text);
            return;
        }
        while (head.len) {
            struct str bare = jinja_strip(head, (struct str){NULL, 0}, JINJA_STRIP_RIGHT);
            if (bare.len < head.len) break;
            head.len--;
            while (head.len && ((unsigned char)text.data[head.len] & 0xc0) == 0x80)
                head.len--;
        }
        add_part(run, p, (struct str){text.data + head.len, text.len - head.len});
        text = jinja_strip(head, (struct str){NULL, 0}, JINJA_STRIP_RIGHT);
    }
}

static struct jinja_value split(struct jinja_run *run, struct jinja_value self,
                                const struct jinja_args *args, bool right)
{
    struct str text = self.len ? jinja_text(self) : STR("");
    int64_t most = jinja_int_arg(run, args->list[1], -1), at;
    struct parts p = {0};
    if (!jinja_step(run, text.len / JINJA_TEXT_STEP)) return self;
    if (absent(args->list[0])) {
        if (right && most >= 0)
            split_words_right(run, text, most, &p);
        else
            split_words(run, text, most, &p);
        return parts_value(run, &p, right && most >= 0);
    }
    struct str by = str_arg(run, args->list[0]);
    if (!search_step(run, text, by, right)) return self;
    if (!by.len) return jinja_fail(run, E_INVALID, "split needs a separator that isn't empty");
    right = right && most >= 0; // without a limit both give the same
    while (most-- != 0 && !run->code) {
        at = right ? jinja_find_last(text, by) : jinja_find(text, by, 0);
        if (at < 0) break;
        size_t behind = (size_t)at + by.len;
        if (right) {
            add_part(run, &p, (struct str){text.data + behind, text.len - behind});
            text.len = (size_t)at;
        } else {
            add_part(run, &p, (struct str){text.data, (size_t)at});
            text.data += behind, text.len -= behind;
        }
    }
    add_part(run, &p, text);
    return parts_value(run, &p, right);
}

METHOD(text_split)
{
    return split(run, self, args, false);
}

METHOD(text_rsplit)
{
    return split(run, self, args, true);
}

METHOD(text_splitlines)
{
    struct str rest = jinja_text(self), line;
    bool keep = jinja_truth(args->list[0]);
    struct parts p = {0};
    while (!run->code) {
        const char *start = rest.data;
        if (!jinja_next_line(&rest, &line)) break;
        if (keep) line.len = (size_t)(rest.data - start);
        add_part(run, &p, line);
        jinja_step(run, line.len / JINJA_CHAR_STEP);
    }
    return parts_value(run, &p, false);
}

static struct jinja_value partition(struct jinja_run *run, struct jinja_value self,
                                    struct jinja_value separator, bool right)
{
    struct str text = self.len ? jinja_text(self) : STR(""), by = str_arg(run, separator);
    struct jinja_value out = jinja_new_list(run, 3, JINJA_KIND_TUPLE);
    if (!by.len) return jinja_fail(run, E_INVALID, "the separator is empty");
    if (!search_step(run, text, by, right)) return out;
    int64_t at = right ? jinja_find_last(text, by) : jinja_find(text, by, 0);
    struct jinja_value *items = out.list->items, empty = jinja_str(STR(""));
    if (at < 0) {
        items[0] = right ? empty : self;
        items[1] = empty;
        items[2] = right ? self : empty;
        return out;
    }
    size_t behind = (size_t)at + by.len;
    items[0] = jinja_str((struct str){text.data, (size_t)at});
    items[1] = jinja_str(by);
    items[2] = jinja_str((struct str){text.data + behind, text.len - behind});
    return out;
}

METHOD(text_partition)
{
    return partition(run, self, args->list[0], false);
}

METHOD(text_rpartition)
{
    return partition(run, self, args->list[0], true);
}

METHOD(text_join)
{
    const struct jinja_list *items = jinja_iterate(run, args->list[0]);
    struct buf text;
    jinja_buf_init(&text);
    for (uint32_t i = 0; i < items->count && jinja_step(run, 1); i++) {
        if (items->items[i].type != JINJA_STRING)
            jinja_fail(run, E_INVALID, "join: element %u is not a string but '%s'", i,
                       jinja_type_name(items->items[i]));
        if (i && !run->code) jinja_print(run, self, &text);
        if (!run->code) jinja_print(run, items->items[i], &text);
    }
    return jinja_buf_take(run, &text);
}

/* ---- search ---- */

/* Position in characters, or -1. */
static int64_t find(struct jinja_run *run, struct jinja_value self, struct jinja_value part,
                    bool right)
{
    struct str text = self.len ? jinja_text(self) : STR(""), what = str_arg(run, part);
    if (!search_step(run, text, what, right)) return -1;
    int64_t at = right ? jinja_find_last(text, what) : jinja_find(text, what, 0);
    return at < 0 ? -1 : (int64_t)jinja_chars((struct str){text.data, (size_t)at});
}

METHOD(text_find)
{
    return jinja_int(find(run, self, args->list[0], false));
}

METHOD(text_rfind)
{
    return jinja_int(find(run, self, args->list[0], true));
}

METHOD(text_index)
{
    int64_t at = find(run, self, args->list[0], false);
    return at < 0 ? jinja_fail(run, E_INVALID, "substring not found") : jinja_int(at);
}

METHOD(text_count)
{
    struct str text = self.len ? jinja_text(self) : STR(""), what = str_arg(run, args->list[0]);
    int64_t count = 0, at = 0;
    if (run->code || !jinja_step(run, text.len / JINJA_TEXT_STEP)) return self;
    if (!what.len) return jinja_int((int64_t)jinja_chars(text) + 1);
    for (; (at = jinja_find(text, what, (size_t)at)) >= 0; at += (int64_t)what.len)
        count++;
    return jinja_int(count);
}

/* ---- new texts ---- */

METHOD(text_replace)
{
    struct str old = str_arg(run, args->list[0]), new = str_arg(run, args->list[1]);
    int64_t count = jinja_int_arg(run, args->list[2], -1);
    struct buf out;
    if (run->code || !jinja_step(run, self.len / JINJA_TEXT_STEP)) return self;
    jinja_buf_init(&out);
    jinja_replace(self.len ? jinja_text(self) : STR(""), old, new, count, &out);
    return jinja_buf_take(run, &out);
}

static struct jinja_value change_case(struct jinja_run *run, struct jinja_value self,
                                      enum jinja_case how)
{
    struct buf out;
    if (!jinja_step(run, self.len / JINJA_CHAR_STEP)) return self;
    jinja_buf_init(&out);
    jinja_change_case(jinja_text(self), how, &out);
    return jinja_buf_take(run, &out);
}

METHOD(text_upper)
{
    (void)args;
    return change_case(run, self, JINJA_UPPER);
}

METHOD(text_lower)
{
    (void)args;
    return change_case(run, self, JINJA_LOWER);
}

METHOD(text_capitalize)
{
    (void)args;
    return change_case(run, self, JINJA_CAPITALIZE);
}

METHOD(text_title)
{
    (void)args;
    return change_case(run, self, JINJA_TITLE);
}

METHOD(text_swapcase)
{
    (void)args;
    return change_case(run, self, JINJA_SWAPCASE);
}

METHOD(text_format)
{
    return jinja_format_braces(run, jinja_text(self), args);
}

/* ljust, rjust, center and zfill. */
static struct jinja_value justify(struct jinja_run *run, struct jinja_value self,
                                  const struct jinja_args *args, int left, int right)
{
    int64_t width = jinja_int_arg(run, args->list[0], 0);
    struct str fill = jinja_given(args->list[1]) ? str_arg(run, args->list[1]) : STR(" ");
    int64_t missing = width - (int64_t)jinja_chars(jinja_text(self));
    struct buf out;
    if (run->code || missing <= 0) return self;
    if (missing > 100000) return jinja_fail(run, E_LIMIT, "text is too wide");
    if (jinja_chars(fill) != 1) return jinja_fail(run, E_INVALID, "fill must be one character");
    int64_t before = left && right ? missing / 2 + (missing & width & 1) : left ? missing : 0;
    jinja_step(run, (uint64_t)width / JINJA_TEXT_STEP);
    jinja_buf_init(&out);
    for (int64_t i = 0; i < before; i++)
        buf_append(&out, fill.data, fill.len);
    buf_append(&out, self.text, self.len);
    for (int64_t i = before; i < missing; i++)
        buf_append(&out, fill.data, fill.len);
    return jinja_buf_take(run, &out);
}

METHOD(text_ljust)
{
    return justify(run, self, args, 0, 1);
}

METHOD(text_rjust)
{
    return justify(run, self, args, 1, 0);
}

METHOD(text_center)
{
    return justify(run, self, args, 1, 1);
}

METHOD(text_zfill)
{
    struct jinja_value list[2] = {args->list[0], jinja_str(STR("0"))};
    struct jinja_args zero = {list, 2, NULL, 0};
    return justify(run, self, &zero, 1, 0);
}

/* ---- classes ---- */

static struct jinja_value all_of(struct jinja_run *run, struct jinja_value self,
                                 enum jinja_class class)
{
    return jinja_bool(jinja_step(run, self.len / JINJA_CHAR_STEP) &&
                      jinja_all_of(jinja_text(self), class));
}

METHOD(text_isalpha)
{
    (void)args;
    return all_of(run, self, JINJA_ALPHA);
}

METHOD(text_isdigit)
{
    (void)args;
    return all_of(run, self, JINJA_DIGIT);
}

METHOD(text_isalnum)
{
    (void)args;
    return all_of(run, self, JINJA_ALNUM);
}

METHOD(text_isspace)
{
    (void)args;
    return all_of(run, self, JINJA_SPACE);
}

METHOD(text_islower)
{
    return jinja_call_builtin(run, jinja_test(STR("lower")), self, args);
}

METHOD(text_isupper)
{
    return jinja_call_builtin(run, jinja_test(STR("upper")), self, args);
}

const struct jinja_builtin jinja_str_methods[] = {
    {"capitalize", text_capitalize, "", 0},
    {"casefold", text_lower, "", 0},
    {"center", text_center, "width fillchar", 1},
    {"count", text_count, "sub", 1},
    {"endswith", text_endswith, "suffix", 1},
    {"find", text_find, "sub", 1},
    {"format", text_format, NULL, 0},
    {"index", text_index, "sub", 1},
    {"isalnum", text_isalnum, "", 0},
    {"isalpha", text_isalpha, "", 0},
    {"isdecimal", text_isdigit, "", 0},
    {"isdigit", text_isdigit, "", 0},
    {"islower", text_islower, "", 0},
    {"isnumeric", text_isdigit, "", 0},
    {"isspace", text_isspace, "", 0},
    {"isupper", text_isupper, "", 0},
    {"join", text_join, "iterable", 1},
    {"ljust", text_ljust, "width fillchar", 1},
    {"lower", text_lower, "", 0},
    {"lstrip", text_lstrip, "chars", 0},
    {"partition", text_partition, "sep", 1},
    {"removeprefix", text_removeprefix, "prefix", 1},
    {"removesuffix", text_removesuffix, "suffix", 1},
    {"replace", text_replace, "old new count", 2},
    {"rfind", text_rfind, "sub", 1},
    {"rjust", text_rjust, "width fillchar", 1},
    {"rpartition", text_rpartition, "sep", 1},
    {"rsplit", text_rsplit, "sep maxsplit", 0},
    {"rstrip", text_rstrip, "chars", 0},
    {"split", text_split, "sep maxsplit", 0},
    {"splitlines", text_splitlines, "keepends", 0},
    {"startswith", text_startswith, "prefix", 1},
    {"strip", text_strip, "chars", 0},
    {"swapcase", text_swapcase, "", 0},
    {"title", text_title, "", 0},
    {"upper", text_upper, "", 0},
    {"zfill", text_zfill, "width", 1},
};
const size_t jinja_str_method_count = ARRAY_LEN(jinja_str_methods);
