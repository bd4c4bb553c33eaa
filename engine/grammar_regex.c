/* grammar_regex.c - recursive descent that emits as it reads, without a tree:
 *
 *     alternatives := sequence { '|' sequence }
 *     sequence     := { atom [ quantifier [ '?' ] ] }
 *     quantifier   := '*' | '+' | '?' | '{' n [ ',' [ m ] ] '}'
 *     atom         := '(' [ '?:' | '?<name>' ] alternatives ')' | '[' class ']' | escape | '.' | character
 *
 * A quantified atom is read once for each of its copies. An expression that is searched for has
 * anything before and behind it, but where an anchor stands; anchors may stand where an alternative
 * of the outermost level, or of a group that begins or ends one, begins or ends. */
#include "engine/grammar_regex.h"

#include "shared/base/utf8.h"

#include <stdlib.h>

#define DEPTH_MAX   64
#define REPEAT_MAX  65535
#define SHOWN_BYTES 80
#define UNBOUNDED   -1

struct regex {
    struct grammar_nfa *n;
    struct str source;
    size_t at;
    enum grammar_spelling spelling;
    int loose; // texts that a searched match begins in; -1: it begins where the text does
    int tail;  // what a searched match may be followed by; -1: nothing
    int final;
    int depth;
    struct error *err;
};

/* Where a part stands: whether the text can begin before it, or end behind it, and nothing is between. */
struct place {
    bool is_first, is_last;
};

static int emit_alternatives(struct regex *r, int from, struct place place, int *end);

static int refuse(struct regex *r, int code, const char *what)
{
    bool is_cut = r->source.len > SHOWN_BYTES;
    return error_set(r->err, code, "regular expression '%.*s%s': %s at offset %zu",
                     (int)(is_cut ? SHOWN_BYTES : r->source.len), r->source.data,
                     is_cut ? "..." : "", what, r->at);
}

static int peek(const struct regex *r)
{
    return r->at < r->source.len ? (uint8_t)r->source.data[r->at] : -1;
}

static bool take(struct regex *r, const char *text)
{
    struct str rest = {r->source.data + r->at, r->source.len - r->at};
    if (!str_starts_with(rest, str_of(text))) return false;
    r->at += strlen(text);
    return true;
}

static int take_char(struct regex *r, uint32_t *c)
{
    size_t len = utf8_decode(r->source.data + r->at, r->source.len - r->at, c);
    if (len == 0) return refuse(r, E_INVALID, "it ends too soon");
    r->at += len;
    return 0;
}

/* ---- classes ---- */

static void add_class(struct char_set *s, char name)
{
    struct char_set negative = {0};
    switch (name) {
    case 'd':
        char_set_add(s, '0', '9');
        break;
    case 'w':
        char_set_add(s, '0', '9');
        char_set_add(s, 'A', 'Z');
        char_set_add(s, '_', '_');
        char_set_add(s, 'a', 'z');
        break;
    case 's':
        char_set_add(s, '\t', '\r');
        char_set_add(s, ' ', ' ');
        break;
    case 'D':
        char_set_add_category(&negative, STR("Nd"));
        break;
    case 'W':
        char_set_add(&negative, '_', '_');
        for (const char *c = "LMN"; *c; c++)
            char_set_add_category(&negative, (struct str){c, 1});
        break;
    case 'S':
        char_set_add(&negative, 0, ' ');
        char_set_add(&negative, 0x85, 0x85);
        char_set_add(&negative, 0xfeff, 0xfeff);
        char_set_add_category(&negative, STR("Z"));
        break;
    }
    if (!negative.count) return;
    char_set_negate(&negative);
    for (int i = 0; i < negative.count; i++)
        char_set_add(s, negative.range[i].low, negative.range[i].high);
    char_set_deinit(&negative);
}

static int take_hex(struct regex *r, int digits, uint32_t *value)
{
    *value = 0;
    for (int i = 0; i < digits; i++) {
        int c = peek(r);
        int digit = c >= '0' && c <= '9'                 ? c - '0'
                    : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                         : -1;
        if (digit < 0) return refuse(r, E_INVALID, "hexadecimal digits are missing");
        *value = *value << 4 | (uint32_t)digit;
        r->at++;
    }
    return 0;
}

/* Behind \u. A surrogate must be the first of a pair. */
static int take_unicode(struct regex *r, uint32_t *c)
{
    if (take(r, "{")) {
        size_t digits = 0;
        while (r->at + digits < r->source.len && r->source.data[r->at + digits] != '}')
            digits++;
        if (digits < 1 || digits > 6) return refuse(r, E_INVALID, "\\u{...} has 1 to 6 digits");
        if (take_hex(r, (int)digits, c) < 0) return -1;
        if (!take(r, "}")) return refuse(r, E_INVALID, "a '}' is missing");
        if (*c > 0x10ffff) return refuse(r, E_INVALID, "there is no such code point");
    } else if (take_hex(r, 4, c) < 0) {
        return -1;
    }
    if (*c < 0xd800 || *c > 0xdfff) return 0;
    uint32_t low;
    if (*c > 0xdbff || !take(r, "\\u") || take_hex(r, 4, &low) < 0 || low < 0xdc00 || low > 0xdfff)
        return refuse(r, E_INVALID, "half a surrogate pair");
    *c = 0x10000 + ((*c - 0xd800) << 10) + (low - 0xdc00);
    return 0;
}

static int take_category(struct regex *r, bool negative, struct char_set *s)
{
    if (!take(r, "{")) return refuse(r, E_INVALID, "\\p needs a category in braces");
    struct str name = {r->source.data + r->at, 0};
    while (r->at < r->source.len && peek(r) != '}') {
        r->at++;
        name.len++;
    }
    struct char_set chars = {0};
    if (!take(r, "}") || !char_set_add_category(&chars, name))
        return refuse(r, E_UNSUPPORTED,
                      "only general categories such as \\p{L} and \\p{Lu} are known");
    if (negative) {
        char_set_negate(&chars);
    }
    for (int i = 0; i < chars.count; i++)
        char_set_add(s, chars.range[i].low, chars.range[i].high);
    char_set_deinit(&chars);
    return 0;
}

/* Behind a backslash: a class into *s (and *is_class), or one character. */
static int take_escape(struct regex *r, bool in_class, struct char_set *s, bool *is_class,
                       uint32_t *c)
{
    static const char named[] = "tnvfr", named_value[] = "\t\n\v\f\r";
    *is_class = false;
    if (take_char(r, c) < 0) return -1;
    if (*c >= 0x80) return 0;
    char letter = (char)*c;
    const char *known = letter ? strchr(named, letter) : NULL;
    if (known) {
        *c = (uint32_t)named_value[known - named];
        return 0;
    }
    if (letter && strchr("dDwWsS", letter)) {
        *is_class = true;
        add_class(s, letter);
        return 0;
    }
    if (letter == 'p' || letter == 'P') {
        *is_class = true;
        return take_category(r, letter == 'P', s);
    }
    if (letter == 'x') return take_hex(r, 2, c);
    if (letter == 'u') return take_unicode(r, c);
    if (letter == '0') {
        *c = 0;
        return 0;
    }
    if (letter == 'b' && in_class) {
        *c = '\b';
        return 0;
    }
    if (letter == 'b' || letter == 'B') return refuse(r, E_UNSUPPORTED, "\\b is not supported");
    if (letter >= '1' && letter <= '9')
        return refuse(r, E_UNSUPPORTED, "back references are not supported");
    if (letter == 'k') return refuse(r, E_UNSUPPORTED, "back references are not supported");
    if ((letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z'))
        return refuse(r, E_UNSUPPORTED, "unknown escape");
    return 0;
}

static int take_class_member(struct regex *r, struct char_set *s, bool *is_class, uint32_t *c)
{
    *is_class = false;
    return take(r, "\\") ? take_escape(r, true, s, is_class, c) : take_char(r, c);
}

/* Behind the '['. */
static int take_class(struct regex *r, struct char_set *s)
{
    bool negative = take(r, "^"), is_class, is_class_high;
    uint32_t low, high;
    while (!take(r, "]")) {
        if (take_class_member(r, s, &is_class, &low) < 0) return -1;
        if (is_class) continue;
        high = low;
        bool is_range =
            peek(r) == '-' && r->at + 1 < r->source.len && r->source.data[r->at + 1] != ']';
        if (is_range) {
            r->at++;
            if (take_class_member(r, s, &is_class_high, &high) < 0) return -1;
            if (is_class_high || high < low)
                return refuse(r, E_INVALID, "the range is out of order");
        }
        char_set_add(s, low, high);
        if (s->count > CHAR_RANGES_MAX) return refuse(r, E_LIMIT, "the class is too large");
    }
    if (negative) char_set_negate(s);
    return 0;
}

static void add_any_but_newlines(struct char_set *s)
{
    char_set_add(s, '\n', '\n');
    char_set_add(s, '\r', '\r');
    char_set_add(s, 0x2028, 0x2029);
    char_set_negate(s);
}

/* ---- atoms ---- */

static int emit_set(struct regex *r, int from, struct char_set *s)
{
    int to = nfa_add_state(r->n);
    char_set_normalise(s);
    nfa_add_chars(r->n, from, s, r->spelling, to);
    char_set_deinit(s);
    return to;
}

static int emit_group(struct regex *r, int from, struct place place, int *end)
{
    if (take(r, "?")) {
        if (take(r, "<") && peek(r) != '=' && peek(r) != '!') {
            while (peek(r) >= 0 && peek(r) != '>')
                r->at++;
            if (!take(r, ">")) return refuse(r, E_INVALID, "the group's name has no end");
        } else if (!take(r, ":")) {
            return refuse(r, E_UNSUPPORTED, "lookaround and flags are not supported");
        }
    }
    if (++r->depth > DEPTH_MAX) return refuse(r, E_LIMIT, "groups are nested too deeply");
    if (emit_alternatives(r, from, place, end) < 0) return -1;
    r->depth--;
    if (!take(r, ")")) return refuse(r, E_INVALID, "a ')' is missing");
    return 0;
}

static int emit_atom(struct regex *r, int from, struct place place, int *end)
{
    struct char_set s = {0};
    bool is_class = true;
    uint32_t c = 0;
    int rc = 0;
    if (r->n->overflow) return refuse(r, E_LIMIT, "it is too large");
    if (take(r, "(")) return emit_group(r, from, place, end);
    int first = peek(r);
    if (first == '*' || first == '+' || first == '?' || first == '{')
        return refuse(r, E_INVALID, "there is nothing to repeat");
    if (take(r, "[")) {
        rc = take_class(r, &s);
    } else if (take(r, ".")) {
        add_any_but_newlines(&s);
    } else if (take(r, "\\")) {
        rc = take_escape(r, false, &s, &is_class, &c);
    } else {
        is_class = false;
        rc = take_char(r, &c);
    }
    if (rc < 0) {
        char_set_deinit(&s);
        return -1;
    }
    if (!is_class) char_set_add(&s, c, c);
    *end = emit_set(r, from, &s);
    return 0;
}

/* What stands behind the group that begins here: its first byte, or -1. */
static int peek_behind_group(const struct regex *r)
{
    int depth = 0;
    bool in_class = false;
    for (size_t i = r->at; i < r->source.len; i++) {
        char c = r->source.data[i];
        if (c == '\\')
            i++;
        else if (in_class)
            in_class = c != ']';
        else if (c == '[')
            in_class = true;
        else if (c == '(')
            depth++;
        else if (c == ')' && --depth == 0)
            return i + 1 < r->source.len ? (uint8_t)r->source.data[i + 1] : -1;
    }
    return -1;
}

/* ---- quantifiers ---- */

struct repeat {
    int min, max; // UNBOUNDED
};

static int take_number(struct regex *r, int *value)
{
    int begin = (int)r->at;
    for (*value = 0; peek(r) >= '0' && peek(r) <= '9'; r->at++) {
        *value = *value * 10 + (peek(r) - '0');
        if (*value > REPEAT_MAX) return refuse(r, E_LIMIT, "a repeat count is above 65535");
    }
    return (int)r->at > begin ? 0 : refuse(r, E_INVALID, "a repeat count is missing");
}

static int take_repeat(struct regex *r, struct repeat *out)
{
    *out = (struct repeat){1, 1};
    if (take(r, "*")) {
        *out = (struct repeat){0, UNBOUNDED};
    } else if (take(r, "+")) {
        *out = (struct repeat){1, UNBOUNDED};
    } else if (take(r, "?")) {
        *out = (struct repeat){0, 1};
    } else if (take(r, "{")) {
        if (take_number(r, &out->min) < 0) return -1;
        out->max = out->min;
        if (take(r, ",")) {
            out->max = UNBOUNDED;
            if (peek(r) != '}' && take_number(r, &out->max) < 0) return -1;
        }
        if (!take(r, "}")) return refuse(r, E_INVALID, "a '}' is missing");
        if (out->max != UNBOUNDED && out->max < out->min)
            return refuse(r, E_INVALID, "a repeat's bounds are out of order");
    } else {
        return 0;
    }
    take(r, "?"); // which match is found first makes no difference
    return 0;
}

/* The atom at `atom`, whose first copy leads from `begin` to *end, as often as `repeat` says. The
 * reading goes on where it was. */
static int emit_copies(struct regex *r, size_t atom, struct repeat repeat, int from, int begin,
                       int *end)
{
    static const struct place inside = {false, false};
    size_t behind = r->at;
    int done = nfa_add_state(r->n), at = *end;
    bool is_bounded = repeat.max != UNBOUNDED;
    if (repeat.min == 0) nfa_add_epsilon(r->n, from, done);
    if (repeat.max != 0) nfa_add_epsilon(r->n, from, begin);
    for (int i = 1; i < (is_bounded ? repeat.max : repeat.min); i++) {
        if (i >= repeat.min) nfa_add_epsilon(r->n, at, done);
        begin = nfa_add_state(r->n);
        nfa_add_epsilon(r->n, at, begin);
        r->at = atom;
        if (emit_atom(r, begin, inside, &at) < 0) return -1;
    }
    if (!is_bounded) nfa_add_epsilon(r->n, at, begin);
    nfa_add_epsilon(r->n, at, done);
    r->at = behind;
    *end = done;
    return 0;
}

/* ---- sequences ---- */

static bool at_end_of_sequence(const struct regex *r)
{
    return peek(r) < 0 || peek(r) == '|' || peek(r) == ')';
}

/* One atom and its quantifier. */
static int emit_repeated(struct regex *r, int from, struct place place, int *end)
{
    size_t atom = r->at;
    struct repeat repeat;
    int begin = nfa_add_state(r->n);
    if (emit_atom(r, begin, place, end) < 0) return -1;
    size_t behind = r->at;
    if (take_repeat(r, &repeat) < 0) return -1;
    if (r->at > behind) return emit_copies(r, atom, repeat, from, begin, end);
    nfa_add_epsilon(r->n, from, begin);
    return 0;
}

static int refuse_anchor(struct regex *r)
{
    return refuse(r, E_UNSUPPORTED, "an anchor amid a pattern is not supported");
}

/* With is_first `from` is the beginning of the text, with is_last *end is its end. */
static int emit_sequence(struct regex *r, int from, struct place place, int *end)
{
    bool is_loose = place.is_first && r->loose >= 0, is_closed = false;
    while (!at_end_of_sequence(r)) {
        if (is_closed) return refuse_anchor(r);
        if (take(r, "^")) {
            if (!place.is_first) return refuse_anchor(r);
            place.is_first = is_loose = false;
            continue;
        }
        if (take(r, "$")) {
            if (!place.is_last) return refuse_anchor(r);
            is_closed = true;
            continue;
        }
        /* A group at a border looks after its own anchors. */
        int behind = peek(r) == '(' ? peek_behind_group(r) : '*';
        bool is_single = behind < 0 || !strchr("*+?{", behind);
        struct place of_atom = {.is_first = place.is_first && is_single,
                                .is_last = place.is_last && is_single &&
                                           (behind < 0 || behind == '|' || behind == ')')};
        if (is_loose && !of_atom.is_first) from = r->loose;
        if (emit_repeated(r, from, of_atom, &from) < 0) return -1;
        place.is_first = is_loose = false;
    }
    if (is_loose) from = r->loose;
    *end = from;
    if (!place.is_last || from == r->final) return 0;
    nfa_add_epsilon(r->n, from, is_closed || r->tail < 0 ? r->final : r->tail);
    *end = r->final;
    return 0;
}

static int emit_alternatives(struct regex *r, int from, struct place place, int *end)
{
    int join = place.is_last ? r->final : nfa_add_state(r->n);
    do {
        int last;
        if (emit_sequence(r, from, place, &last) < 0) return -1;
        if (last != join) nfa_add_epsilon(r->n, last, join);
    } while (take(r, "|"));
    *end = join;
    return 0;
}

/* ---- whole ---- */

/* A state that any text leads back to. */
static int add_anything(struct regex *r)
{
    struct char_set all = {0};
    int state = nfa_add_state(r->n);
    char_set_negate(&all);
    nfa_add_chars(r->n, state, &all, r->spelling, state);
    char_set_deinit(&all);
    return state;
}

int regex_emit(struct grammar_nfa *n, int from, struct str source, enum regex_scope scope,
               enum grammar_spelling spelling, int *end, struct error *err)
{
    struct regex r = {
        .n = n, .source = source, .spelling = spelling, .err = err, .loose = -1, .tail = -1};
    struct error own = {0};
    if (!err) r.err = &own;
    int start = nfa_add_state(n); // so that nothing loops into `from`
    nfa_add_epsilon(n, from, start);
    r.final = nfa_add_state(n);
    if (scope == REGEX_SEARCH) {
        r.loose = add_anything(&r);
        r.tail = add_anything(&r);
        nfa_add_epsilon(n, start, r.loose);
        nfa_add_epsilon(n, r.tail, r.final);
    }
    r.err->code = 0;
    int last;
    if (emit_alternatives(&r, start, (struct place){true, true}, &last) < 0) return r.err->code;
    if (n->overflow) return error_set(err, E_LIMIT, "the regular expression is too large");
    if (r.at < source.len) return refuse(&r, E_INVALID, "a ')' has no '('");
    *end = r.final;
    return 0;
}
