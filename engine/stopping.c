/* stopping.c - holding text back until it is certain.
 *
 *     token bytes -> [cut: incomplete character] -> valid text -> [text: maybe a stop string] ->
 * out
 *
 * Rules
 *  1. Text leaves only when no stop string can begin in it: the longest suffix that is a proper
 *     prefix of some stop string stays.
 *  2. Each stop string has a matcher after Knuth, Morris and Pratt (1977), so a byte costs
 *     amortised constant time per string, whatever the strings are.
 *  3. Invalid UTF-8 becomes U+FFFD before matching, by the practice that utf8_invalid_len() states.
 *     What comes out is the same however the bytes were cut into tokens, except which of two
 *     overlapping stop strings is seen first: matches are compared once per token, and of those
 *     complete by then the one that begins first wins. */
#include "engine/stopping.h"

#include "shared/base/check.h"
#include "shared/base/utf8.h"

#include <stdlib.h>
#include <string.h>

struct stop_matcher {
    char *string; // owned
    size_t len;
    uint32_t *border; // [len + 1] border[n]: longest proper prefix of string that ends string[0..n)
    size_t state;     // bytes of string that the text so far ends with
};

static void matcher_init(struct stop_matcher *m, struct str string)
{
    CHECK(string.len > 0 && string.len <= STOP_STRING_BYTES_MAX);
    *m = (struct stop_matcher){.string = xmemdup(string.data, string.len), .len = string.len};
    m->border = xcalloc(string.len + 1, sizeof *m->border);
    size_t n = 0;
    for (size_t i = 1; i < m->len; i++) {
        while (n > 0 && m->string[i] != m->string[n])
            n = m->border[n];
        if (m->string[i] == m->string[n]) n++;
        m->border[i + 1] = (uint32_t)n;
    }
}

/* True when `byte` completes the string. */
static bool matcher_step(struct stop_matcher *m, char byte)
{
    if (m->state == m->len) m->state = m->border[m->len];
    while (m->state > 0 && m->string[m->state] != byte)
        m->state = m->border[m->state];
    if (m->string[m->state] == byte) m->state++;
    return m->state == m->len;
}

/* Bytes at the end of the text that a later match may begin with. */
static size_t matcher_held(const struct stop_matcher *m)
{
    return m->state == m->len ? m->border[m->len] : m->state;
}

void stopping_init(struct stopping *s, const struct str *strings, int count)
{
    CHECK(count >= 0 && count <= STOP_STRINGS_MAX);
    *s = (struct stopping){.count = count};
    buf_init(&s->text, BUF_MAX_INTERNAL);
    if (count > 0) s->matchers = xcalloc((size_t)count, sizeof *s->matchers);
    for (int i = 0; i < count; i++)
        matcher_init(&s->matchers[i], strings[i]);
}

void stopping_deinit(struct stopping *s)
{
    for (int i = 0; i < s->count; i++) {
        free(s->matchers[i].string);
        free(s->matchers[i].border);
    }
    free(s->matchers);
    buf_deinit(&s->text);
    *s = (struct stopping){0};
}

void stopping_restart(struct stopping *s)
{
    for (int i = 0; i < s->count; i++)
        s->matchers[i].state = 0;
    buf_clear(&s->text);
    s->cut_len = s->withheld = 0;
}

/* Whole characters of bytes to text; an incomplete one at the end stays in cut, or with `final`
 * becomes U+FFFD. */
static void append_valid(struct stopping *s, struct str bytes, bool final)
{
    while (bytes.len > 0) {
        size_t valid = utf8_valid_prefix(bytes.data, bytes.len);
        buf_append(&s->text, bytes.data, valid);
        bytes.data += valid;
        bytes.len -= valid;
        if (bytes.len == 0) return;
        if (!final && utf8_incomplete_tail(bytes.data, bytes.len) == bytes.len) {
            memcpy(s->cut, bytes.data, bytes.len);
            s->cut_len = bytes.len;
            return;
        }
        size_t invalid = utf8_invalid_len(bytes.data, bytes.len);
        buf_append_str(&s->text, "\xef\xbf\xbd");
        bytes.data += invalid;
        bytes.len -= invalid;
    }
}

static void decode(struct stopping *s, struct str bytes, bool final)
{
    if (s->cut_len == 0) {
        append_valid(s, bytes, final);
        return;
    }
    struct buf joined;
    buf_init(&joined, BUF_MAX_INTERNAL);
    buf_append(&joined, s->cut, s->cut_len);
    buf_append(&joined, bytes.data, bytes.len);
    s->cut_len = 0;
    append_valid(s, buf_str(&joined), final);
    buf_deinit(&joined);
}

static void release(struct stopping *s, size_t len, struct buf *out)
{
    buf_append(out, s->text.data, len);
    buf_consume(&s->text, len);
}

/* Run all matchers over text[from..). True: *start is where the first stop string begins in text.
 */
static bool match(struct stopping *s, size_t from, bool may_stop, size_t *start)
{
    size_t first = SIZE_MAX;
    for (int i = 0; i < s->count; i++) {
        struct stop_matcher *m = &s->matchers[i];
        for (size_t at = from; at < s->text.len; at++) {
            if (!matcher_step(m, s->text.data[at]) || !may_stop) continue;
            /* A match that began in text already released can only be one that may_stop let pass.
             */
            if (at + 1 < m->len) continue;
            if (at + 1 - m->len < first) first = at + 1 - m->len;
            break;
        }
    }
    *start = first;
    return first != SIZE_MAX;
}

bool stopping_feed(struct stopping *s, struct str bytes, bool may_stop, struct buf *out)
{
    size_t from = s->text.len, start, held = 0;
    decode(s, bytes, false);
    if (match(s, from, may_stop, &start)) {
        s->withheld = s->text.len - start + s->cut_len;
        release(s, start, out);
        buf_clear(&s->text);
        s->cut_len = 0;
        return true;
    }
    for (int i = 0; i < s->count; i++) {
        size_t n = matcher_held(&s->matchers[i]);
        if (n > held) held = n;
    }
    /* Held text of an unfinished match is always still here: it was held when it came. */
    CHECK(held <= s->text.len);
    s->withheld = held + s->cut_len;
    release(s, s->text.len - held, out);
    return false;
}

void stopping_flush(struct stopping *s, struct buf *out)
{
    decode(s, (struct str){0}, true);
    s->withheld = 0;
    release(s, s->text.len, out);
}
