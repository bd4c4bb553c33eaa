#include "engine/tokenizer_added.h"

#include "engine/unicode.h"
#include "shared/base/check.h"
#include "shared/base/utf8.h"

#include <stdlib.h>

void added_tokens_init(struct added_tokens *a)
{
    memset(a, 0, sizeof *a);
}

void added_tokens_deinit(struct added_tokens *a)
{
    for (size_t i = 0; i < a->count; i++)
        free((char *)a->list[i].text.data);
    free(a->list);
    memset(a, 0, sizeof *a);
}

void added_tokens_add(struct added_tokens *a, struct str text, int32_t id, unsigned flags)
{
    if (!text.len) return; // would match everywhere
    if (a->count == a->cap) {
        a->cap = a->cap ? a->cap * 2 : 32;
        a->list = xrealloc_array(a->list, a->cap, sizeof *a->list);
    }
    struct str copy = {xstrndup(text.data, text.len), text.len};
    a->list[a->count++] = (struct added_token){copy, id, flags};
}

static int compare(const void *left, const void *right)
{
    const struct added_token *a = left, *b = right;
    size_t shorter = a->text.len < b->text.len ? a->text.len : b->text.len;
    int order = memcmp(a->text.data, b->text.data, shorter);
    if (order) return order;
    if (a->text.len != b->text.len) return a->text.len < b->text.len ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

void added_tokens_index(struct added_tokens *a)
{
    if (a->count) qsort(a->list, a->count, sizeof *a->list, compare);
    size_t at = 0;
    for (int c = 0; c <= 256; c++) {
        while (at < a->count && (unsigned char)a->list[at].text.data[0] < c)
            at++;
        a->first[c] = (uint32_t)at;
    }
}

/* First entry of list[low..high), all equal in their first `depth` bytes, whose byte there is >= c;
 * entries that end at depth sort first and count as smaller. */
static uint32_t lower_bound(const struct added_tokens *a, uint32_t low, uint32_t high, size_t depth,
                            int c)
{
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        struct str text = a->list[middle].text;
        bool smaller = text.len <= depth || (unsigned char)text.data[depth] < c;
        if (smaller)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

enum which { ONLY_PLAIN, ONLY_SPECIAL, ALL };

static bool is_meant(const struct added_token *token, enum which which)
{
    bool special = token->flags & ADDED_SPECIAL;
    return which == ALL || special == (which == ONLY_SPECIAL);
}

/* The sorted list is a trie whose nodes are ranges: each further byte of the text narrows the
 * range, and an entry that ends here stands first in it. */
static const struct added_token *longest_at(const struct added_tokens *a, struct str text,
                                            enum which which)
{
    unsigned char c = (unsigned char)text.data[0];
    uint32_t low = a->first[c], high = a->first[c + 1];
    const struct added_token *best = NULL;
    for (size_t depth = 1; low < high; depth++) {
        for (; low < high && a->list[low].text.len == depth; low++)
            if (is_meant(&a->list[low], which)) {
                if (!best || best->text.len < depth) best = &a->list[low];
            }
        if (depth >= text.len) break;
        c = (unsigned char)text.data[depth];
        uint32_t end = lower_bound(a, low, high, depth, c + 1);
        low = lower_bound(a, low, end, depth, c);
        high = end;
    }
    return best;
}

/* ---- what stands beside a match ---- */

static size_t char_before(struct str text, size_t at, uint32_t *c) // its length, 0: none
{
    size_t from = at;
    while (from > 0 && at - from < 4) {
        from--;
        if (((unsigned char)text.data[from] & 0xc0) != 0x80)
            return utf8_decode(text.data + from, at - from, c);
    }
    return 0;
}

/* The reference's Rust counts the two joiners to words, other than its patterns. */
static bool is_word(uint32_t c)
{
    return unicode_is_word(c) || c == 0x200c || c == 0x200d;
}

static bool stands_alone(struct str text, size_t at, size_t end)
{
    uint32_t c;
    if (char_before(text, at, &c) && is_word(c)) return false;
    return !utf8_decode(text.data + end, text.len - end, &c) || !is_word(c);
}

static void take_space(const struct added_token *token, struct str text, size_t from, size_t *at,
                       size_t *end)
{
    uint32_t c;
    size_t n;
    if (token->flags & ADDED_LSTRIP)
        while (*at > from && (n = char_before(text, *at, &c)) != 0 && unicode_is_space(c))
            *at -= n;
    if (token->flags & ADDED_RSTRIP)
        while ((n = utf8_decode(text.data + *end, text.len - *end, &c)) != 0 && unicode_is_space(c))
            *end += n;
}

bool added_tokens_next(const struct added_tokens *a, struct str text, size_t from, bool specials,
                       size_t *at, size_t *len, int32_t *id)
{
    if (!a->count) return false;
    for (size_t i = from; i < text.len; i++) {
        unsigned char c = (unsigned char)text.data[i];
        if (a->first[c] == a->first[c + 1]) continue;
        const struct added_token *found =
            longest_at(a, (struct str){text.data + i, text.len - i}, specials ? ALL : ONLY_PLAIN);
        if (!found) continue;
        size_t begin = i, end = i + found->text.len;
        if ((found->flags & ADDED_WORD) && !stands_alone(text, begin, end)) {
            i = end - 1; // the reference looks on behind it
            continue;
        }
        take_space(found, text, from, &begin, &end);
        *at = begin;
        *len = end - begin;
        *id = found->id;
        return true;
    }
    return false;
}

bool added_tokens_special_at(const struct added_tokens *a, struct str text)
{
    if (!a->count || !text.len) return false;
    return longest_at(a, text, ONLY_SPECIAL) != NULL;
}

size_t added_tokens_longest(const struct added_tokens *a, struct str text)
{
    const struct added_token *found = a->count && text.len ? longest_at(a, text, ALL) : NULL;
    return found ? found->text.len : 0;
}

int32_t added_tokens_find(const struct added_tokens *a, struct str text)
{
    if (!text.len) return -1;
    const struct added_token *found = longest_at(a, text, ALL);
    return found && found->text.len == text.len ? found->id : -1;
}
