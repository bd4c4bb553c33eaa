#include "engine/jinja_lexer.h"

#include "engine/jinja_text.h"
#include "shared/base/check.h"
#include "shared/base/utf8.h"

#include <stdlib.h>

#define NESTING_MAX 200 // open brackets

struct lexer {
    const char *text; // newlines normalised
    size_t len, at;
    uint32_t line;
    size_t line_start;
    struct arena *arena;
    struct jinja_tokens *out;
    struct error *err;
    char brackets[NESTING_MAX]; // the closing ones that are due
    int depth;
};

static int lex_fail(struct lexer *l, size_t at, const char *what)
{
    return error_set(l->err, E_FORMAT, "chat template %u:%zu: %s", l->line, at - l->line_start + 1,
                     what);
}

/* Move to `to`, counting lines. */
static void advance(struct lexer *l, size_t to)
{
    const char *newline;
    while (l->at < to && (newline = memchr(l->text + l->at, '\n', to - l->at)) != NULL) {
        l->at = (size_t)(newline - l->text) + 1;
        l->line++;
        l->line_start = l->at;
    }
    l->at = to;
}

static struct jinja_token *push(struct lexer *l, enum jinja_token_kind kind, struct str text)
{
    struct jinja_tokens *out = l->out;
    if (out->count == out->cap) {
        out->cap = out->cap ? out->cap * 2 : 256;
        out->list = xrealloc_array(out->list, out->cap, sizeof *out->list);
    }
    struct jinja_token *token = &out->list[out->count++];
    *token = (struct jinja_token){.kind = kind,
                                  .line = l->line,
                                  .column = (uint32_t)(l->at - l->line_start + 1),
                                  .text = text};
    return token;
}

static bool looking_at(const struct lexer *l, size_t at, const char *what)
{
    size_t len = strlen(what);
    return l->len - at >= len && !memcmp(l->text + at, what, len);
}

static size_t skip_space(const struct lexer *l, size_t at)
{
    size_t n;
    while (at < l->len && (n = jinja_space_len(l->text + at, l->len - at)) != 0)
        at += n;
    return at;
}

/* ---- text between tags ---- */

/* The next "{%", "{{" or "{#" at or behind `at`, or the end. */
static size_t find_tag(const struct lexer *l, size_t at)
{
    const char *brace;
    while (at < l->len && (brace = memchr(l->text + at, '{', l->len - at)) != NULL) {
        at = (size_t)(brace - l->text);
        if (at + 1 < l->len && strchr("%{#", l->text[at + 1]) && l->text[at + 1]) return at;
        at++;
    }
    return l->len;
}

/* Emit text[l->at .. end) as it remains in front of a tag with the given sign. */
static void push_text(struct lexer *l, size_t end, char sign, bool is_block)
{
    struct str text = {l->text + l->at, end - l->at};
    if (sign == '-') {
        text = jinja_strip(text, (struct str){NULL, 0}, JINJA_STRIP_RIGHT);
    } else if (sign != '+' && is_block) {
        size_t line = end; // start of the line that the tag is in
        while (line > l->at && l->text[line - 1] != '\n')
            line--;
        bool starts_line = line > l->at || line == 0 || l->text[line - 1] == '\n';
        if (starts_line && skip_space(l, line) >= end) text.len = line - l->at;
    }
    if (text.len) push(l, JINJA_TOKEN_TEXT, text);
    advance(l, end);
}

/* Behind a tag's end: "-" takes all whitespace, a block's plain end takes one newline. */
static size_t trim_behind(const struct lexer *l, size_t at, char sign, bool is_block)
{
    if (sign == '-') return skip_space(l, at);
    return is_block && sign != '+' && at < l->len && l->text[at] == '\n' ? at + 1 : at;
}

static char sign_at(const struct lexer *l, size_t at)
{
    return at < l->len && (l->text[at] == '-' || l->text[at] == '+') ? l->text[at] : 0;
}

/* l->at stands behind "{#" and its sign. */
static int lex_comment(struct lexer *l)
{
    for (size_t at = l->at; at + 1 < l->len; at++) {
        if (l->text[at] != '#' || l->text[at + 1] != '}') continue;
        char sign = at > l->at ? sign_at(l, at - 1) : 0;
        advance(l, trim_behind(l, at + 2, sign, true));
        return 0;
    }
    return lex_fail(l, l->at, "missing end of comment");
}

/* Whether `at` continues with whitespace, the word, whitespace and a block's end; then *end is
 * behind all that. Opening raw tags leave a newline behind them, closing ones don't. */
static bool raw_tag(const struct lexer *l, size_t at, const char *word, bool closing, size_t *end)
{
    at = skip_space(l, at);
    if (!looking_at(l, at, word)) return false;
    at = skip_space(l, at + strlen(word));
    char sign = sign_at(l, at);
    if (sign == '+' && !closing) return false;
    if (!looking_at(l, at + (sign != 0), "%}")) return false;
    *end = trim_behind(l, at + (sign != 0) + 2, sign, closing);
    return true;
}

/* l->at stands behind an opening raw tag. */
static int lex_raw(struct lexer *l)
{
    size_t end;
    for (size_t at = l->at; at + 1 < l->len; at++) {
        if (l->text[at] != '{' || l->text[at + 1] != '%') continue;
        char sign = sign_at(l, at + 2);
        if (!raw_tag(l, at + 2 + (sign != 0), "endraw", true, &end)) continue;
        push_text(l, at, sign, true);
        advance(l, end);
        return 0;
    }
    return lex_fail(l, l->at, "missing end of raw block");
}

/* ---- inside tags ---- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_name_char(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           (unsigned char)c >= 0x80;
}

static size_t skip_digits(const struct lexer *l, size_t at) // digits, '_' between them
{
    while (at < l->len && (is_digit(l->text[at]) ||
                           (l->text[at] == '_' && at + 1 < l->len && is_digit(l->text[at + 1]))))
        at++;
    return at;
}

static int lex_number(struct lexer *l)
{
    size_t start = l->at, end = skip_digits(l, start);
    bool is_float = false, member = start > 0 && l->text[start - 1] == '.';
    if (!member && end + 1 < l->len && l->text[end] == '.' && is_digit(l->text[end + 1])) {
        end = skip_digits(l, end + 1);
        is_float = true;
    }
    if (!member && end < l->len && (l->text[end] == 'e' || l->text[end] == 'E')) {
        size_t exponent = end + 1 + (sign_at(l, end + 1) != 0);
        if (exponent < l->len && is_digit(l->text[exponent])) {
            end = skip_digits(l, exponent);
            is_float = true;
        }
    }
    if (end < l->len && is_name_char(l->text[end])) return lex_fail(l, start, "malformed number");
    char digits[64];
    size_t count = 0;
    for (size_t i = start; i < end; i++) {
        if (l->text[i] == '_') continue;
        if (count == sizeof digits - 1) return lex_fail(l, start, "number is too long");
        digits[count++] = l->text[i];
    }
    struct str text = {digits, count};
    struct jinja_token *token = push(l, is_float ? JINJA_TOKEN_FLOAT : JINJA_TOKEN_INT,
                                     (struct str){l->text + start, end - start});
    int rc = is_float ? str_to_double(text, &token->number) : str_to_int(text, &token->integer);
    if (rc) return lex_fail(l, start, "number is out of range");
    advance(l, end);
    return 0;
}

static int lex_string(struct lexer *l)
{
    char quote = l->text[l->at];
    size_t start = l->at + 1, end = start;
    while (end < l->len && l->text[end] != quote)
        end += l->text[end] == '\\' ? 2 : 1;
    if (end >= l->len) return lex_fail(l, l->at, "string has no end");
    struct str text;
    if (!jinja_unescape(l->arena, (struct str){l->text + start, end - start}, &text))
        return lex_fail(l, l->at, "string has a malformed escape");
    push(l, JINJA_TOKEN_STRING, text);
    advance(l, end + 1);
    return 0;
}

static int lex_operator(struct lexer *l)
{
    static const char *const operators[] = {"**", "//", "==", "!=", ">=", "<=", "+", "-", "*",
                                            "/",  "%",  "~",  ">",  "<",  "=",  ".", ":", "|",
                                            ",",  "(",  ")",  "[",  "]",  "{",  "}"};
    for (size_t i = 0; i < ARRAY_LEN(operators); i++) {
        if (!looking_at(l, l->at, operators[i])) continue;
        const char *op = operators[i];
        if (strchr("([{", *op)) {
            if (l->depth == NESTING_MAX) return lex_fail(l, l->at, "brackets nest too deeply");
            l->brackets[l->depth++] = *op == '(' ? ')' : *op == '[' ? ']' : '}';
        } else if (strchr(")]}", *op) && (!l->depth || l->brackets[--l->depth] != *op)) {
            return lex_fail(l, l->at, "closing bracket doesn't match");
        }
        push(l, JINJA_TOKEN_OP, str_of(op));
        advance(l, l->at + strlen(op));
        return 0;
    }
    return lex_fail(l, l->at, "unexpected character");
}

/* Tokens up to and with the end of a tag; l->at stands behind its beginning and sign. */
static int lex_tag(struct lexer *l, bool is_block)
{
    const char *end = is_block ? "%}" : "}}";
    l->depth = 0;
    for (;;) {
        advance(l, skip_space(l, l->at));
        if (l->at >= l->len) return lex_fail(l, l->at, "tag has no end");
        char c = l->text[l->at], sign = sign_at(l, l->at);
        if (sign == '+' && !is_block) sign = 0;
        if (!l->depth && looking_at(l, l->at + (sign != 0), end)) {
            push(l, is_block ? JINJA_TOKEN_BLOCK_END : JINJA_TOKEN_PRINT_END, STR(""));
            advance(l, trim_behind(l, l->at + (sign != 0) + 2, sign, is_block));
            return 0;
        }
        int rc = 0;
        if (is_digit(c)) {
            rc = lex_number(l);
        } else if (is_name_char(c)) {
            size_t to = l->at;
            while (to < l->len && is_name_char(l->text[to]))
                to++;
            push(l, JINJA_TOKEN_NAME, (struct str){l->text + l->at, to - l->at});
            advance(l, to);
        } else if (c == '"' || c == '\'') {
            rc = lex_string(l);
        } else {
            rc = lex_operator(l);
        }
        if (rc) return rc;
    }
}

/* One tag; the text in front of it has been found to end at `at`. */
static int lex_one(struct lexer *l, size_t at)
{
    char type = l->text[at + 1], sign = sign_at(l, at + 2);
    size_t behind = at + 2 + (sign != 0), end;
    push_text(l, at, sign, type != '{');
    if (type == '#') {
        advance(l, behind);
        return lex_comment(l);
    }
    if (type == '%' && raw_tag(l, behind, "raw", false, &end)) {
        advance(l, end);
        return lex_raw(l);
    }
    push(l, type == '%' ? JINJA_TOKEN_BLOCK_BEGIN : JINJA_TOKEN_PRINT_BEGIN, STR(""));
    advance(l, behind);
    return lex_tag(l, type == '%');
}

/* "\r\n" and "\r" become "\n"; one newline at the end goes. */
static struct str normalise(struct arena *arena, struct str source)
{
    char *text = arena_alloc(arena, source.len + 1);
    size_t len = 0;
    for (size_t i = 0; i < source.len; i++) {
        if (source.data[i] == '\r') {
            text[len++] = '\n';
            if (i + 1 < source.len && source.data[i + 1] == '\n') i++;
        } else {
            text[len++] = source.data[i];
        }
    }
    if (len && text[len - 1] == '\n') len--;
    return (struct str){text, len};
}

int jinja_lex(struct str source, struct arena *arena, struct jinja_tokens *out, struct error *err)
{
    *out = (struct jinja_tokens){NULL, 0, 0};
    if (!utf8_is_valid(source.data, source.len))
        return error_set(err, E_FORMAT, "chat template is not valid UTF-8 at byte %zu",
                         utf8_valid_prefix(source.data, source.len));
    struct str text = normalise(arena, source);
    struct lexer l = {
        .text = text.data, .len = text.len, .line = 1, .arena = arena, .out = out, .err = err};
    int rc = 0;
    while (!rc && l.at < l.len) {
        size_t tag = find_tag(&l, l.at);
        if (tag < l.len)
            rc = lex_one(&l, tag);
        else
            push_text(&l, l.len, '+', false);
    }
    push(&l, JINJA_TOKEN_END, STR(""));
    return rc;
}
