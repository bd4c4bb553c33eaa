#include "proxy/peek_scan.h"

#include "shared/base/utf8.h"

#define RUN_MAX ((size_t)16 << 10) // hashed while it is still in the nearest cache

int peek_scan_fail(struct peek_scan *s, const char *what)
{
    return api_error_set(s->error, 400, NULL, NULL,
                         "We could not parse the JSON body of your request: %s at byte %zu%s.",
                         what, (size_t)(s->at - s->start),
                         s->at == s->end ? ", where the body ends" : "");
}

/* ---- escapes ---- */

/* Value of a hexadecimal digit plus 1; 0: it isn't one. */
static const unsigned char hex_digits[256] = {
    ['0'] = 1,  ['1'] = 2,  ['2'] = 3,  ['3'] = 4,  ['4'] = 5,  ['5'] = 6,  ['6'] = 7,  ['7'] = 8,
    ['8'] = 9,  ['9'] = 10, ['a'] = 11, ['b'] = 12, ['c'] = 13, ['d'] = 14, ['e'] = 15, ['f'] = 16,
    ['A'] = 11, ['B'] = 12, ['C'] = 13, ['D'] = 14, ['E'] = 15, ['F'] = 16,
};

/* The four digits of "\uXXXX" at `at`, or -1. */
static int hex4(const char *at, const char *end)
{
    if (end - at < 6 || at[0] != '\\' || at[1] != 'u') return -1;
    int value = 0;
    for (int i = 2; i < 6; i++) {
        int digit = hex_digits[(unsigned char)at[i]];
        if (digit == 0) return -1;
        value = value << 4 | (digit - 1);
    }
    return value;
}

/* The code point, or -1. */
static int scan_unicode(struct peek_scan *s)
{
    int unit = hex4(s->at, s->end);
    if (unit < 0) return peek_scan_fail(s, "\\u without four hexadecimal digits");
    if (unit == 0) return peek_scan_fail(s, "\\u0000, which no string may hold,");
    if (unit >= 0xdc00 && unit <= 0xdfff) return peek_scan_fail(s, "unpaired surrogate");
    if (unit >= 0xd800 && unit <= 0xdbff) {
        int low = hex4(s->at + 6, s->end);
        if (low < 0xdc00 || low > 0xdfff) return peek_scan_fail(s, "unpaired surrogate");
        unit = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
        s->at += 6;
    }
    s->at += 6;
    return unit;
}

/* What stands behind the backslash and what it spells; 0: nothing. */
static const char escapes[256] = {
    ['"'] = '"',  ['\\'] = '\\', ['/'] = '/',  ['b'] = '\b',
    ['f'] = '\f', ['n'] = '\n',  ['r'] = '\r', ['t'] = '\t',
};

/* One escape; how many bytes of UTF-8 it stands for, or -1. */
static inline int scan_escape(struct peek_scan *s, char out[4])
{
    char c = s->end - s->at > 1 ? s->at[1] : 0;
    if (c == 'u') {
        int code_point = scan_unicode(s);
        return code_point < 0 ? -1 : (int)utf8_encode((uint32_t)code_point, out);
    }
    out[0] = escapes[(unsigned char)c];
    if (out[0] == 0) return peek_scan_fail(s, "unknown escape");
    s->at += 2;
    return 1;
}

size_t peek_decode(struct str raw, char *out)
{
    struct peek_scan s = {raw.data, raw.data + raw.len, raw.data, NULL};
    size_t len = 0;
    while (s.at < s.end) {
        if (*s.at != '\\') {
            out[len++] = *s.at++;
            continue;
        }
        char text[4]; // an escape is longer than what it spells, so `out` has room
        int n = scan_escape(&s, text);
        if (n < 0) break; // never: it was scanned before
        memcpy(out + len, text, (size_t)n);
        len += (size_t)n;
    }
    return len;
}

/* ---- runs of plain text ---- */

/* The high bit of each byte that isn't plain ASCII of a string: quote, backslash, control character,
 * or beyond ASCII. Classic SWAR: a byte below n gives x - n its high bit. Bytes above such a one may
 * be marked for nothing; the lowest mark is always right. */
static inline uint64_t special_bytes(uint64_t x)
{
    const uint64_t ones = 0x0101010101010101ull, highs = 0x8080808080808080ull;
    uint64_t quote = x ^ (ones * '"'), backslash = x ^ (ones * '\\');
    return (x | (x - ones * 0x20) | (quote - ones) | (backslash - ones)) & highs;
}

static inline uint64_t load_word(const char *at)
{
    uint64_t word;
    memcpy(&word, at, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word;
}

static inline const char *skip_ascii(const char *at, const char *end)
{
    while (end - at >= 32) { // four words: one branch
        uint64_t a = load_word(at), b = load_word(at + 8);
        uint64_t c = load_word(at + 16), d = load_word(at + 24);
        if (special_bytes(a) | special_bytes(b) | special_bytes(c) | special_bytes(d)) break;
        at += 32;
    }
    while (end - at >= 8) {
        uint64_t special = special_bytes(load_word(at));
        if (special) return at + (__builtin_ctzll(special) >> 3);
        at += 8;
    }
    while (at < end && (unsigned char)*at >= 0x20 && (unsigned char)*at < 0x80 && *at != '"' &&
           *at != '\\')
        at++;
    return at;
}

static inline bool is_tail(char c)
{
    return ((unsigned char)c & 0xc0) == 0x80;
}

/* Characters beyond ASCII; where they end. The common shapes of two and three bytes are told here,
 * the rest by utf8_decode. Stops at a malformed one, too. */
static inline const char *skip_wide(const char *at, const char *end)
{
    while (at < end && (unsigned char)*at >= 0x80) {
        unsigned char lead = (unsigned char)*at;
        if (end - at >= 3 && lead >= 0xe1 && lead < 0xf0 && lead != 0xed && is_tail(at[1]) &&
            is_tail(at[2])) {
            at += 3;
        } else if (end - at >= 2 && lead >= 0xc2 && lead < 0xe0 && is_tail(at[1])) {
            at += 2;
        } else {
            uint32_t code_point;
            size_t len = utf8_decode(at, (size_t)(end - at), &code_point);
            if (len == 0) break;
            at += len;
        }
    }
    return at;
}

/* To the next quote, escape or fault, or about RUN_MAX further. */
static void skip_run(struct peek_scan *s)
{
    const char *limit = (size_t)(s->end - s->at) > RUN_MAX ? s->at + RUN_MAX : s->end;
    const char *at = s->at;
    while (at < limit) {
        at = skip_ascii(at, limit);
        if (at >= limit || (unsigned char)*at < 0x80) break;
        const char *behind = skip_wide(at, s->end);
        if (behind == at) break;
        at = behind;
    }
    s->at = at;
}

/* What ends a run that isn't a quote or an escape. */
static int fail_string(struct peek_scan *s)
{
    if (s->at >= s->end) return peek_scan_fail(s, "unfinished string");
    unsigned char c = (unsigned char)*s->at;
    return peek_scan_fail(s, c < 0x20 ? "control character inside a string" : "malformed UTF-8");
}

int peek_scan_string(struct peek_scan *s, struct str *raw, bool *escaped)
{
    const char *first = ++s->at;
    char text[4];
    *escaped = false;
    for (;;) {
        const char *run = s->at;
        skip_run(s);
        int c = peek_next_char(s);
        if (c == '"') break;
        if (c == '\\') {
            *escaped = true;
            if (scan_escape(s, text) < 0) return -1;
        } else if (s->at == run) {
            return fail_string(s);
        }
    }
    *raw = (struct str){first, (size_t)(s->at - first)};
    s->at++;
    return 0;
}

/* What a text spells, on its way: short runs and escapes are put together first. */
struct stage {
    const struct peek_sink *sink;
    size_t len;
    char text[512];
};

static inline void put(const struct peek_sink *sink, const char *data, size_t len)
{
    if (sink->text) {
        canonical_write(sink->text, data, len);
    } else {
        text_digest_write(sink->digest, data, len);
    }
}

static void flush(struct stage *stage)
{
    if (stage->len > 0) put(stage->sink, stage->text, stage->len);
    stage->len = 0;
}

static inline void stage_run(struct stage *stage, const char *run, size_t len)
{
    if (len > sizeof stage->text - stage->len) flush(stage);
    if (len > sizeof stage->text) {
        put(stage->sink, run, len);
        return;
    }
    memcpy(stage->text + stage->len, run, len);
    stage->len += len;
}

/* Escapes often follow one another, as all of a text beyond ASCII may be written so. */
static int stage_escapes(struct peek_scan *s, struct stage *stage)
{
    while (peek_next_char(s) == '\\') {
        if (sizeof stage->text - stage->len < 4) flush(stage);
        int n = scan_escape(s, stage->text + stage->len);
        if (n < 0) return -1;
        stage->len += (size_t)n;
    }
    return 0;
}

int peek_scan_text(struct peek_scan *s, const struct peek_sink *sink)
{
    struct stage stage;
    stage.sink = sink;
    stage.len = 0;
    s->at++;
    for (;;) {
        const char *run = s->at;
        skip_run(s);
        size_t len = (size_t)(s->at - run);
        int c = peek_next_char(s);
        if (len > 0) stage_run(&stage, run, len);
        if (c == '"') break;
        if (c == '\\') {
            if (stage_escapes(s, &stage) < 0) return -1;
        } else if (len == 0) {
            return fail_string(s);
        }
    }
    flush(&stage);
    s->at++;
    return 0;
}

/* ---- numbers and words ---- */

static bool skip_digits(struct peek_scan *s)
{
    const char *first = s->at;
    while (s->at < s->end && *s->at >= '0' && *s->at <= '9')
        s->at++;
    return s->at > first;
}

int peek_scan_number(struct peek_scan *s, struct str *raw)
{
    const char *start = s->at;
    if (*s->at == '-') s->at++;
    bool zero = peek_next_char(s) == '0';
    const char *first = s->at;
    bool ok = skip_digits(s) && !(zero && s->at - first > 1);
    if (ok && peek_next_char(s) == '.') {
        s->at++;
        ok = skip_digits(s);
    }
    if (ok && (peek_next_char(s) == 'e' || peek_next_char(s) == 'E')) {
        s->at++;
        if (peek_next_char(s) == '+' || peek_next_char(s) == '-') s->at++;
        ok = skip_digits(s);
    }
    if (!ok) return peek_scan_fail(s, "malformed number");
    *raw = (struct str){start, (size_t)(s->at - start)};
    return 0;
}

int peek_scan_word(struct peek_scan *s, struct str word)
{
    struct str rest = {s->at, (size_t)(s->end - s->at)};
    if (!str_starts_with(rest, word)) return peek_scan_fail(s, "expected a value");
    s->at += word.len;
    return 0;
}
