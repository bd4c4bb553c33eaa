#include "engine/grammar_vocab.h"

#include "engine/tokenizer.h"
#include "shared/base/arena.h"
#include "shared/base/check.h"
#include "shared/base/utf8.h"

#include <stdlib.h>
#include <string.h>

#define TOKEN_BYTES_MAX 1024 // longer ones can't be drawn under a grammar

struct entry {
    struct str bytes; // the tokenizer's, or in the arena
    int32_t token;
    int32_t chars; // of a plain token, else -1
};

/* ---- sorting ---- */

static int compare_entries(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    size_t shorter = x->bytes.len < y->bytes.len ? x->bytes.len : y->bytes.len;
    int order = memcmp(x->bytes.data, y->bytes.data, shorter);
    if (order) return order;
    if (x->bytes.len != y->bytes.len) return x->bytes.len < y->bytes.len ? -1 : 1;
    return (x->token > y->token) - (x->token < y->token);
}

static int plain_chars(struct str s)
{
    int chars = 0;
    if (!utf8_is_valid(s.data, s.len)) return -1;
    for (size_t i = 0; i < s.len; i++) {
        uint8_t c = (uint8_t)s.data[i];
        if (c < 0x20 || c == '"' || c == '\\') return -1;
        chars += (c & 0xc0) != 0x80;
    }
    return chars <= PLAIN_CHARS_MAX ? chars : -1;
}

static struct str mark(struct arena *arena, struct str text)
{
    char *bytes = arena_alloc(arena, text.len + 2);
    bytes[0] = bytes[text.len + 1] = (char)GRAMMAR_SPECIAL_MARK;
    memcpy(bytes + 1, text.data, text.len);
    return (struct str){bytes, text.len + 2};
}

static struct entry *collect(const struct tokenizer *t, int vocab, struct arena *arena, int *count)
{
    struct entry *list = xcalloc((size_t)vocab + 1, sizeof *list);
    *count = 0;
    for (int32_t id = 0; id < vocab; id++) {
        bool is_special = tokenizer_is_special(t, id) || tokenizer_is_stop(t, id);
        struct str bytes = tokenizer_token_bytes(t, id, is_special);
        if (bytes.len == 0 || bytes.len > TOKEN_BYTES_MAX - 2) continue;
        if (memchr(bytes.data, GRAMMAR_SPECIAL_MARK, bytes.len)) continue; // in no text
        if (is_special) bytes = mark(arena, bytes);
        list[(*count)++] = (struct entry){bytes, id, is_special ? -1 : plain_chars(bytes)};
    }
    qsort(list, (size_t)*count, sizeof *list, compare_entries);
    return list;
}

/* ---- tries ---- */

static size_t common_prefix(struct str a, struct str b)
{
    size_t n = 0;
    while (n < a.len && n < b.len && a.data[n] == b.data[n])
        n++;
    return n;
}

/* From sorted entries, of which those that are plain are left out with unplain_only. */
static void build_trie(struct token_trie *t, const struct entry *list, int count, bool unplain_only)
{
    size_t bytes = 0;
    for (int i = 0; i < count; i++)
        bytes += list[i].bytes.len;
    t->node = xcalloc(bytes + 1, sizeof *t->node);
    int32_t path[TOKEN_BYTES_MAX + 1]; // nodes of the entry before
    struct str before = {0};
    int depth = 0;
    for (int i = 0; i < count; i++) {
        struct str s = list[i].bytes;
        if (unplain_only && list[i].chars >= 0) continue;
        int shared = (int)common_prefix(before, s);
        if (shared == (int)s.len && shared == depth) continue; // the same bytes again
        for (; depth > shared; depth--)
            t->node[path[depth]].next = t->count;
        for (; depth < (int)s.len; depth++) {
            path[depth + 1] = t->count;
            t->node[t->count++] = (struct trie_node){
                .token = -1, .depth = (uint16_t)(depth + 1), .byte = (uint8_t)s.data[depth]};
        }
        t->node[path[depth]].token = list[i].token;
        if (depth > t->depth_max) t->depth_max = depth;
        before = s;
    }
    for (; depth > 0; depth--)
        t->node[path[depth]].next = t->count;
    t->node = xrealloc_array(t->node, (size_t)t->count + 1, sizeof *t->node);
    for (int byte = 0; byte < 256; byte++)
        t->first[byte] = -1;
    for (int i = 0; i < t->count; i = t->node[i].next)
        t->first[t->node[i].byte] = i;
}

static void link_same(struct grammar_vocab *v, const struct entry *list, int count)
{
    v->same = xmalloc((size_t)(v->vocab + 1) * sizeof *v->same);
    for (int i = 0; i < v->vocab; i++)
        v->same[i] = -1;
    for (int i = 1; i < count; i++)
        if (str_equal(list[i - 1].bytes, list[i].bytes)) v->same[list[i - 1].token] = list[i].token;
}

static void build_plain(struct grammar_vocab *v, const struct entry *list, int count)
{
    for (int i = 0; i < count; i++)
        if (list[i].chars > v->plain_chars_max) v->plain_chars_max = list[i].chars;
    for (int chars = 0; chars <= v->plain_chars_max; chars++) {
        v->plain[chars] = xcalloc((size_t)v->words, sizeof **v->plain);
        for (int i = 0; i < count; i++)
            if (list[i].chars >= 0 && list[i].chars <= chars)
                v->plain[chars][list[i].token / 32] |= 1u << (list[i].token % 32);
    }
}

/* ---- whole ---- */

struct grammar_vocab *grammar_vocab_create(const struct tokenizer *t)
{
    struct grammar_vocab *v = xcalloc(1, sizeof *v);
    int count;
    v->vocab = tokenizer_vocab_size(t);
    v->words = (v->vocab + 31) / 32;
    struct arena arena; // of marked texts
    arena_init(&arena);
    struct entry *list = collect(t, v->vocab, &arena, &count);
    build_trie(&v->all, list, count, false);
    build_trie(&v->unplain, list, count, true);
    link_same(v, list, count);
    build_plain(v, list, count);
    free(list);
    arena_deinit(&arena);
    v->stops = xcalloc((size_t)v->vocab + 1, sizeof *v->stops);
    for (int32_t id = 0; id < v->vocab; id++)
        if (tokenizer_is_stop(t, id)) v->stops[v->stop_count++] = id;
    return v;
}

void grammar_vocab_destroy(struct grammar_vocab *v)
{
    if (!v) return;
    free(v->all.node);
    free(v->unplain.node);
    free(v->same);
    free(v->stops);
    for (int i = 0; i <= PLAIN_CHARS_MAX; i++)
        free(v->plain[i]);
    free(v);
}

/* The child of a node, -1: of the root. -1: it has none with that byte. */
static int32_t find_child(const struct token_trie *t, int32_t node, uint8_t byte)
{
    if (node < 0) return t->first[byte];
    for (int32_t i = node + 1; i < t->node[node].next; i = t->node[i].next)
        if (t->node[i].byte == byte) return i;
    return -1;
}

bool grammar_vocab_has_special(const struct grammar_vocab *v, struct str text)
{
    int32_t node = find_child(&v->all, -1, GRAMMAR_SPECIAL_MARK);
    for (size_t i = 0; i < text.len && node >= 0; i++)
        node = find_child(&v->all, node, (uint8_t)text.data[i]);
    if (node >= 0) node = find_child(&v->all, node, GRAMMAR_SPECIAL_MARK);
    return node >= 0 && v->all.node[node].token >= 0;
}
