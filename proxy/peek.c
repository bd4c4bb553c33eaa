/* peek.c - a loop, not a recursion: nesting costs one bit a level.
 *
 *     value ──scalar──────────────► after ──','──► value (in an object: name ':' first)
 *       │ '{' or '[' (one level down)   │ '}' or ']' (one level up): after again
 *       └──► value, or after if empty   └ at level 0: only blanks may follow
 *
 * Only members of the outermost object are looked at: a "model" inside "metadata" is not the model.
 * A name that is spelled with escapes ("\u006dodel") counts as what it spells, and a member that we
 * read may stand there once only, since the agent might take the other one. */
#include "proxy/peek.h"

#include "shared/base/utf8.h"

#define DEPTH_MAX 64

enum field { FIELD_OTHER, FIELD_MODEL, FIELD_STREAM };

struct scan {
    const char *at, *end, *start;
    uint64_t objects; // bit depth-1: that level is an object
    int depth;
    enum field field; // of the value that comes next, if it is a member of the outermost object
    unsigned seen;    // bit per enum field
    struct arena *arena;
    struct peek *out;
    struct api_error *error;
};

enum step { STEP_FAILED = -1, STEP_DONE, STEP_VALUE, STEP_AFTER };

static int fail(struct scan *s, const char *what)
{
    return api_error_set(s->error, 400, NULL, NULL,
                         "We could not parse the JSON body of your request: %s at byte %zu%s.",
                         what, (size_t)(s->at - s->start),
                         s->at == s->end ? ", where the body ends" : "");
}

static void skip_blanks(struct scan *s)
{
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\n' || *s->at == '\r' || *s->at == '\t'))
        s->at++;
}

static int next_char(const struct scan *s)
{
    return s->at < s->end ? (unsigned char)*s->at : -1;
}

/* ---- strings ---- */

/* The four digits of "\uXXXX" at `at`, or -1. */
static int hex4(const char *at, const char *end)
{
    if (end - at < 6 || at[0] != '\\' || at[1] != 'u') return -1;
    int value = 0;
    for (int i = 2; i < 6; i++) {
        char c = at[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) return -1;
        value = value << 4 | digit;
    }
    return value;
}

static int skip_escape(struct scan *s)
{
    char c = s->end - s->at > 1 ? s->at[1] : 0;
    if (c == 0 || !strchr("\"\\/bfnrtu", c)) return fail(s, "unknown escape");
    if (c != 'u') {
        s->at += 2;
        return 0;
    }
    int unit = hex4(s->at, s->end);
    if (unit < 0) return fail(s, "\\u without four hexadecimal digits");
    if (unit == 0) return fail(s, "\\u0000, which no string may hold,");
    if (unit >= 0xdc00 && unit <= 0xdfff) return fail(s, "unpaired surrogate");
    if (unit >= 0xd800 && unit <= 0xdbff) {
        int low = hex4(s->at + 6, s->end);
        if (low < 0xdc00 || low > 0xdfff) return fail(s, "unpaired surrogate");
        s->at += 6;
    }
    s->at += 6;
    return 0;
}

/* True if one of the eight bytes ends the plain run: a quote, a backslash, a control character or
 * anything beyond ASCII. Classic SWAR: a byte below n gives x - n its high bit. May also be true
 * for a byte behind such a one, never false for one that is there. */
static bool has_special(uint64_t x)
{
    const uint64_t ones = 0x0101010101010101ull, highs = 0x8080808080808080ull;
    uint64_t quote = x ^ (ones * '"'), backslash = x ^ (ones * '\\');
    return ((x | (x - ones * 0x20) | (quote - ones) | (backslash - ones)) & highs) != 0;
}

static void skip_plain(struct scan *s)
{
    uint64_t word;
    while (s->end - s->at >= 8) {
        memcpy(&word, s->at, 8);
        if (has_special(word)) break;
        s->at += 8;
    }
}

/* From the opening quote to behind the closing one. *raw: what stands between them. */
static int scan_string(struct scan *s, struct str *raw, bool *escaped)
{
    const char *first = ++s->at;
    *escaped = false;
    for (;;) {
        skip_plain(s);
        if (s->at >= s->end) return fail(s, "unfinished string");
        unsigned char c = (unsigned char)*s->at;
        if (c == '"') break;
        if (c == '\\') {
            *escaped = true;
            if (skip_escape(s) < 0) return -1;
        } else if (c < 0x20) {
            return fail(s, "control character inside a string");
        } else if (c < 0x80) {
            s->at++;
        } else {
            uint32_t code_point;
            size_t len = utf8_decode(s->at, (size_t)(s->end - s->at), &code_point);
            if (len == 0) return fail(s, "malformed UTF-8");
            s->at += len;
        }
    }
    *raw = (struct str){first, (size_t)(s->at - first)};
    s->at++;
    return 0;
}

/* What a scanned string spells. `out` holds raw.len bytes: decoding never grows. */
static size_t decode(struct str raw, char *out)
{
    static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
    const char *at = raw.data, *end = raw.data + raw.len;
    size_t len = 0;
    while (at < end) {
        if (*at != '\\') {
            out[len++] = *at++;
        } else if (at[1] != 'u') {
            const char *named = strchr(from, at[1]);
            out[len++] = named ? to[named - from] : at[1];
            at += 2;
        } else {
            uint32_t code_point = (uint32_t)hex4(at, end);
            at += 6;
            if (code_point >= 0xd800 && code_point <= 0xdbff) {
                uint32_t low = (uint32_t)hex4(at, end);
                code_point = 0x10000 + ((code_point - 0xd800) << 10) + (low - 0xdc00);
                at += 6;
            }
            len += utf8_encode(code_point, out + len);
        }
    }
    return len;
}

/* ---- members that we read ---- */

static enum field field_of(struct str name, bool escaped)
{
    char text[64]; // no name of ours is longer when every character is an escape
    if (name.len > sizeof text) return FIELD_OTHER;
    if (escaped) name = (struct str){text, decode(name, text)};
    if (str_equal(name, STR("model"))) return FIELD_MODEL;
    if (str_equal(name, STR("stream"))) return FIELD_STREAM;
    return FIELD_OTHER;
}

/* "name" : */
static enum step scan_name(struct scan *s)
{
    struct str name;
    bool escaped;
    skip_blanks(s);
    if (next_char(s) != '"') return (enum step)fail(s, "expected a member name in quotes");
    if (scan_string(s, &name, &escaped) < 0) return STEP_FAILED;
    s->field = s->depth == 1 ? field_of(name, escaped) : FIELD_OTHER;
    if (s->field != FIELD_OTHER) {
        if (s->seen >> s->field & 1) return (enum step)fail(s, "a member stands there twice");
        s->seen |= 1u << s->field;
    }
    skip_blanks(s);
    if (next_char(s) != ':') return (enum step)fail(s, "expected ':'");
    s->at++;
    return STEP_VALUE;
}

static int refuse_model(struct scan *s, const char *got)
{
    return api_error_set(s->error, 400, "invalid_type", "model",
                         "Invalid type for 'model': expected a string, but got %s instead.", got);
}

static enum step scan_text(struct scan *s, enum field field)
{
    struct str raw;
    bool escaped;
    if (scan_string(s, &raw, &escaped) < 0) return STEP_FAILED;
    if (field != FIELD_MODEL) return STEP_AFTER;
    if (escaped) {
        char *text = arena_alloc(s->arena, raw.len + 1);
        raw = (struct str){text, decode(raw, text)};
    }
    s->out->model = raw;
    return STEP_AFTER;
}

/* ---- the other values ---- */

static bool skip_digits(struct scan *s)
{
    const char *first = s->at;
    while (s->at < s->end && *s->at >= '0' && *s->at <= '9')
        s->at++;
    return s->at > first;
}

static enum step scan_number(struct scan *s, enum field field)
{
    if (*s->at == '-') s->at++;
    bool zero = next_char(s) == '0';
    const char *first = s->at;
    bool ok = skip_digits(s) && !(zero && s->at - first > 1);
    if (ok && next_char(s) == '.') {
        s->at++;
        ok = skip_digits(s);
    }
    if (ok && (next_char(s) == 'e' || next_char(s) == 'E')) {
        s->at++;
        if (next_char(s) == '+' || next_char(s) == '-') s->at++;
        ok = skip_digits(s);
    }
    if (!ok) return (enum step)fail(s, "malformed number");
    return field == FIELD_MODEL ? (enum step)refuse_model(s, "a number") : STEP_AFTER;
}

static enum step scan_word(struct scan *s, enum field field, struct str word)
{
    struct str rest = {s->at, (size_t)(s->end - s->at)};
    if (!str_starts_with(rest, word)) return (enum step)fail(s, "expected a value");
    s->at += word.len;
    bool is_null = word.data[0] == 'n', is_true = word.data[0] == 't';
    if (field == FIELD_MODEL && !is_null) return (enum step)refuse_model(s, "a boolean");
    if (field == FIELD_STREAM) s->out->stream = is_true;
    return STEP_AFTER;
}

static enum step open_level(struct scan *s, bool is_object)
{
    if (s->depth == DEPTH_MAX) return (enum step)fail(s, "nesting of more than 64 levels");
    uint64_t bit = (uint64_t)1 << s->depth++;
    s->objects = is_object ? s->objects | bit : s->objects & ~bit;
    s->at++;
    skip_blanks(s);
    if (next_char(s) == (is_object ? '}' : ']')) return STEP_AFTER; // which closes the level
    return is_object ? scan_name(s) : STEP_VALUE;
}

static enum step scan_value(struct scan *s)
{
    enum field field = s->field;
    s->field = FIELD_OTHER;
    skip_blanks(s);
    int c = next_char(s);
    switch (c) {
    case '"':
        return scan_text(s, field);
    case '{':
    case '[':
        if (field == FIELD_MODEL) {
            return (enum step)refuse_model(s, c == '{' ? "an object" : "an array");
        }
        return open_level(s, c == '{');
    case 't':
        return scan_word(s, field, STR("true"));
    case 'f':
        return scan_word(s, field, STR("false"));
    case 'n':
        return scan_word(s, field, STR("null"));
    default:
        if (c == '-' || (c >= '0' && c <= '9')) return scan_number(s, field);
        return (enum step)fail(s, "expected a value");
    }
}

static enum step scan_after(struct scan *s)
{
    skip_blanks(s);
    int c = next_char(s);
    if (s->depth == 0) return c < 0 ? STEP_DONE : (enum step)fail(s, "text behind the object");
    bool is_object = s->objects >> (s->depth - 1) & 1;
    if (c == ',') {
        s->at++;
        return is_object ? scan_name(s) : STEP_VALUE;
    }
    if (c == (is_object ? '}' : ']')) {
        s->at++;
        s->depth--;
        return STEP_AFTER;
    }
    return (enum step)fail(s, is_object ? "expected ',' or '}'" : "expected ',' or ']'");
}

int peek_body(struct arena *a, struct str body, struct peek *out, struct api_error *error)
{
    *out = (struct peek){.stream = false};
    if (!body.data) body = STR("");
    struct scan s = {.at = body.data,
                     .start = body.data,
                     .end = body.data + body.len,
                     .arena = a,
                     .out = out,
                     .error = error};
    skip_blanks(&s);
    bool is_object = next_char(&s) == '{';
    enum step step = STEP_VALUE;
    while (step > STEP_DONE)
        step = step == STEP_VALUE ? scan_value(&s) : scan_after(&s);
    if (step == STEP_FAILED) return -1;
    if (!is_object) {
        return api_error_set(error, 400, "invalid_type", NULL,
                             "The request body must be a JSON object.");
    }
    if (!out->model.data) {
        return api_error_set(error, 400, NULL, NULL, "you must provide a model parameter");
    }
    return 0;
}
