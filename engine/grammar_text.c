#include "engine/grammar_text.h"

#include "engine/unicode.h"
#include "shared/base/check.h"
#include "shared/base/utf8.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define CODE_POINT_MAX  0x10ffffu
#define SURROGATE_FIRST 0xd800u
#define SURROGATE_LAST  0xdfffu

/* ---- sets ---- */

void char_set_deinit(struct char_set *s)
{
    free(s->range);
    *s = (struct char_set){0};
}

void char_set_add(struct char_set *s, uint32_t low, uint32_t high)
{
    if (low > high) return;
    if (s->count == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 8;
        s->range = xrealloc_array(s->range, (size_t)s->cap, sizeof *s->range);
    }
    s->range[s->count++] = (struct char_range){low, high};
}

static int compare_ranges(const void *a, const void *b)
{
    uint32_t x = ((const struct char_range *)a)->low, y = ((const struct char_range *)b)->low;
    return (x > y) - (x < y);
}

void char_set_normalise(struct char_set *s)
{
    int kept = 0;
    if (s->count == 0) return;
    qsort(s->range, (size_t)s->count, sizeof *s->range, compare_ranges);
    for (int i = 1; i < s->count; i++) {
        struct char_range *last = &s->range[kept];
        if (s->range[i].low <= last->high + 1)
            last->high = s->range[i].high > last->high ? s->range[i].high : last->high;
        else
            s->range[++kept] = s->range[i];
    }
    s->count = kept + 1;
}

void char_set_negate(struct char_set *s)
{
    struct char_set out = {0};
    uint32_t next = 0;
    char_set_add(s, SURROGATE_FIRST, SURROGATE_LAST);
    char_set_normalise(s);
    for (int i = 0; i < s->count; i++) {
        if (s->range[i].low > next) char_set_add(&out, next, s->range[i].low - 1);
        next = s->range[i].high + 1;
    }
    if (next <= CODE_POINT_MAX) char_set_add(&out, next, CODE_POINT_MAX);
    char_set_deinit(s);
    *s = out;
}

/* Ranges of each general category, from one pass over all code points: a pattern may name them a
 * thousand times. */
static struct char_set ranges_of[UNICODE_CATEGORIES];
static pthread_once_t ranges_once = PTHREAD_ONCE_INIT;

static void find_ranges(void)
{
    const uint8_t *category = unicode_categories();
    for (uint32_t c = 0, begin; c < UNICODE_COUNT; c++) {
        for (begin = c; c + 1 < UNICODE_COUNT && category[c + 1] == category[begin];)
            c++;
        char_set_add(&ranges_of[category[begin]], begin, c);
    }
}

bool char_set_add_category(struct char_set *s, struct str name)
{
    uint32_t mask = unicode_category_mask(name);
    if (mask == 0) return false;
    pthread_once(&ranges_once, find_ranges);
    for (int i = 0; i < UNICODE_CATEGORIES; i++)
        for (int j = 0; mask >> i & 1 && j < ranges_of[i].count; j++)
            char_set_add(s, ranges_of[i].range[j].low, ranges_of[i].range[j].high);
    return true;
}

/* ---- UTF-8 ---- */

/* Bytes of all code points low..high, which have the same number of bytes and differ only where every
 * continuation byte that follows takes all its values, so each byte is a range of its own. */
static void add_sequence(struct grammar_nfa *n, int from, uint32_t low, uint32_t high, int to)
{
    char a[4], b[4];
    int len = (int)utf8_encode(low, a);
    utf8_encode(high, b);
    for (int i = 0; i < len; i++) {
        int next = i == len - 1 ? to : nfa_add_state(n);
        nfa_add_bytes(n, from, (uint8_t)a[i], (uint8_t)b[i], next);
        from = next;
    }
}

/* Splits at the borders where the number of bytes changes and where a leading byte's range isn't
 * whole. R. Cox, "Regular expression matching in the wild", 2010: UTF-8 ranges. */
static void add_range(struct grammar_nfa *n, int from, uint32_t low, uint32_t high, int to)
{
    static const uint32_t last_of_length[] = {0x7f, 0x7ff, 0xffff};
    for (size_t i = 0; i < ARRAY_LEN(last_of_length); i++)
        if (low <= last_of_length[i] && last_of_length[i] < high) {
            add_range(n, from, low, last_of_length[i], to);
            add_range(n, from, last_of_length[i] + 1, high, to);
            return;
        }
    for (uint32_t span = 0x3f; span < CODE_POINT_MAX && high > 0x7f; span = span << 6 | 0x3f) {
        if ((low & ~span) == (high & ~span)) break;
        if (low & span) {
            add_range(n, from, low, low | span, to);
            add_range(n, from, (low | span) + 1, high, to);
            return;
        }
        if ((high & span) != span) {
            add_range(n, from, low, (high & ~span) - 1, to);
            add_range(n, from, high & ~span, high, to);
            return;
        }
    }
    add_sequence(n, from, low, high, to);
}

static void add_utf8(struct grammar_nfa *n, int from, uint32_t low, uint32_t high, int to)
{
    if (low < SURROGATE_FIRST)
        add_range(n, from, low, high < SURROGATE_FIRST ? high : SURROGATE_FIRST - 1, to);
    if (high > SURROGATE_LAST)
        add_range(n, from, low > SURROGATE_LAST ? low : SURROGATE_LAST + 1, high, to);
}

/* ---- JSON ---- */

static const char short_escapes[][2] = {{'"', '"'},  {'\\', '\\'}, {'\b', 'b'}, {'\f', 'f'},
                                        {'\n', 'n'}, {'\r', 'r'},  {'\t', 't'}};

static bool must_escape(uint32_t c)
{
    return c < 0x20 || c == '"' || c == '\\';
}

static void add_escaped(struct grammar_nfa *n, int from, uint32_t c, int to)
{
    char text[8] = {'\\'};
    for (size_t i = 0; i < ARRAY_LEN(short_escapes); i++)
        if ((uint32_t)short_escapes[i][0] == c) text[1] = short_escapes[i][1];
    if (!text[1]) snprintf(text + 1, sizeof text - 1, "u%04x", (unsigned)(c & 0xff));
    nfa_add_epsilon(n, nfa_emit_text(n, from, str_of(text)), to);
}

/* Of low..high what stands as it is; the rest is escaped. */
static void add_json(struct grammar_nfa *n, int from, uint32_t low, uint32_t high, int to)
{
    for (uint32_t c = low; c <= high && c <= '\\'; c++)
        if (must_escape(c)) add_escaped(n, from, c, to);
    while (low <= high) {
        if (must_escape(low)) {
            low++;
            continue;
        }
        uint32_t end = low < '"' ? '"' - 1 : low < '\\' ? '\\' - 1 : CODE_POINT_MAX;
        if (end > high) end = high;
        add_utf8(n, from, low, end, to);
        low = end + 1;
    }
}

void nfa_add_chars(struct grammar_nfa *n, int from, const struct char_set *s,
                   enum grammar_spelling spelling, int to)
{
    for (int i = 0; i < s->count; i++) {
        if (spelling == SPELLING_JSON)
            add_json(n, from, s->range[i].low, s->range[i].high, to);
        else
            add_utf8(n, from, s->range[i].low, s->range[i].high, to);
    }
}

int nfa_emit_spelled(struct grammar_nfa *n, int from, struct str text,
                     enum grammar_spelling spelling)
{
    for (size_t i = 0; i < text.len; i++) {
        uint8_t c = (uint8_t)text.data[i];
        if (spelling == SPELLING_JSON && must_escape(c)) {
            int to = nfa_add_state(n);
            add_escaped(n, from, c, to);
            from = to;
        } else {
            from = nfa_emit_text(n, from, (struct str){text.data + i, 1});
        }
    }
    return from;
}

static int emit_hex(struct grammar_nfa *n, int from, int digits)
{
    for (int i = 0; i < digits; i++) {
        int to = nfa_add_state(n);
        nfa_add_bytes(n, from, '0', '9', to);
        nfa_add_bytes(n, from, 'A', 'F', to);
        nfa_add_bytes(n, from, 'a', 'f', to);
        from = to;
    }
    return from;
}

/* \uXXXX: no surrogate, or a high one and then a low one. */
static void add_unicode_escape(struct grammar_nfa *n, int from, int to)
{
    int u = nfa_emit_text(n, from, STR("\\u"));
    int rest = nfa_add_state(n), d = nfa_add_state(n);
    nfa_add_bytes(n, u, '0', '9', rest);
    for (int letter = 0; letter < 2; letter++) {
        int a = letter ? 'a' : 'A';
        nfa_add_bytes(n, u, a, a + 2, rest); // A, B, C
        nfa_add_bytes(n, u, a + 4, a + 5, rest);
        nfa_add_bytes(n, u, a + 3, a + 3, d);
    }
    nfa_add_epsilon(n, emit_hex(n, rest, 3), to);
    int low_d = nfa_add_state(n), pair = nfa_add_state(n);
    nfa_add_bytes(n, d, '0', '7', low_d);
    nfa_add_epsilon(n, emit_hex(n, low_d, 2), to);
    nfa_add_bytes(n, d, '8', '9', pair);
    nfa_add_bytes(n, d, 'A', 'B', pair);
    nfa_add_bytes(n, d, 'a', 'b', pair);
    int second = nfa_emit_text(n, emit_hex(n, pair, 2), STR("\\u"));
    int second_d = nfa_add_state(n), end = nfa_add_state(n);
    nfa_add_bytes(n, second, 'D', 'D', second_d);
    nfa_add_bytes(n, second, 'd', 'd', second_d);
    nfa_add_bytes(n, second_d, 'C', 'F', end);
    nfa_add_bytes(n, second_d, 'c', 'f', end);
    nfa_add_epsilon(n, emit_hex(n, end, 2), to);
}

void nfa_add_json_character(struct grammar_nfa *n, int from, int to)
{
    add_utf8(n, from, 0x20, '"' - 1, to);
    add_utf8(n, from, '"' + 1, '\\' - 1, to);
    add_utf8(n, from, '\\' + 1, CODE_POINT_MAX, to);
    int escape = nfa_emit_text(n, from, STR("\\"));
    for (const char *c = "\"\\/bfnrt"; *c; c++)
        nfa_add_bytes(n, escape, *c, *c, to);
    add_unicode_escape(n, from, to);
}
