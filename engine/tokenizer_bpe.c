#include "engine/tokenizer_bpe.h"

#include "shared/base/check.h"
#include "shared/base/hash.h"
#include "shared/base/min_heap.h"
#include "shared/base/rng.h"

#include <stdio.h>
#include <stdlib.h>

struct bpe_slot {
    int32_t left, right; // left -1: free
    uint32_t rank;
    int32_t merged;
};

#define NO_RANK UINT32_MAX

enum { WHOLE_UNKNOWN, WHOLE_YES, WHOLE_NO };

static int32_t find_byte(const struct vocab *v, int byte, bool characters)
{
    char name[8] = {(char)byte};
    size_t len = characters ? (size_t)snprintf(name, sizeof name, "<0x%02X>", byte) : 1;
    return vocab_find(v, (struct str){name, len});
}

void bpe_init(struct bpe *b, const struct vocab *v, size_t merges_max, bool characters)
{
    memset(b, 0, sizeof *b);
    random_bytes(&b->seed, sizeof b->seed);
    b->mask = 15;
    while (b->mask / 2 < merges_max)
        b->mask = b->mask * 2 + 1;
    b->slots = xmalloc(((size_t)b->mask + 1) * sizeof *b->slots);
    memset(b->slots, 0xff, ((size_t)b->mask + 1) * sizeof *b->slots);
    b->whole = xcalloc((size_t)v->count + 1, 1);
    b->characters = characters;
    b->unknown = -1;
    for (int i = 0; i < 256; i++)
        b->byte_ids[i] = find_byte(v, i, characters);
    for (int i = 0; i < 128; i++)
        b->ascii_ids[i] = find_byte(v, i, false);
}

void bpe_deinit(struct bpe *b)
{
    free(b->slots);
    free(b->whole);
    memset(b, 0, sizeof *b);
}

static uint32_t pair_hash(const struct bpe *b, int32_t left, int32_t right)
{
    return (uint32_t)hash_mix(((uint64_t)(uint32_t)left << 32 | (uint32_t)right) ^ b->seed);
}

void bpe_add_merge(struct bpe *b, int32_t left, int32_t right, int32_t merged, uint32_t rank)
{
    uint32_t i = pair_hash(b, left, right) & b->mask;
    for (; b->slots[i].left >= 0; i = (i + 1) & b->mask)
        if (b->slots[i].left == left && b->slots[i].right == right) return;
    b->slots[i] = (struct bpe_slot){left, right, rank, merged};
}

static uint32_t pair_rank(const struct bpe *b, int32_t left, int32_t right, int32_t *merged)
{
    uint32_t i = pair_hash(b, left, right) & b->mask;
    for (; b->slots[i].left >= 0; i = (i + 1) & b->mask)
        if (b->slots[i].left == left && b->slots[i].right == right) {
            *merged = b->slots[i].merged;
            return b->slots[i].rank;
        }
    return NO_RANK;
}

/* ---- what a piece starts as ---- */

static size_t push_unknown(const struct bpe *b, struct str character, int32_t *ids, size_t count,
                           bool *fuses)
{
    size_t known = 0;
    for (size_t i = 0; i < character.len; i++)
        known += (ids[count + i] = b->byte_ids[(unsigned char)character.data[i]]) >= 0;
    bool joins = *fuses;
    *fuses = false;
    if (known == character.len) return count + known;
    if (b->unknown < 0) return count;
    *fuses = b->fuse_unknown;
    if (joins) return count;
    ids[count] = b->unknown;
    return count + 1;
}

static size_t start_characters(const struct bpe *b, const struct vocab *v, struct str piece,
                               int32_t *ids)
{
    size_t count = 0, n;
    bool fuses = false;
    for (size_t at = 0; at < piece.len; at += n) {
        unsigned char c = (unsigned char)piece.data[at];
        for (n = 1; at + n < piece.len && ((unsigned char)piece.data[at + n] & 0xc0) == 0x80;)
            n++;
        struct str character = {piece.data + at, n};
        int32_t id = n == 1 && c < 0x80 ? b->ascii_ids[c] : vocab_find(v, character);
        if (id < 0) {
            count = push_unknown(b, character, ids, count, &fuses);
            continue;
        }
        fuses = false;
        ids[count++] = id;
    }
    return count;
}

/* At most one id per byte. */
static size_t start_piece(const struct bpe *b, const struct vocab *v, struct str piece,
                          int32_t *ids)
{
    if (b->characters) return start_characters(b, v, piece, ids);
    size_t count = 0;
    for (size_t i = 0; i < piece.len; i++) {
        int32_t id = b->byte_ids[(unsigned char)piece.data[i]];
        if (id >= 0) ids[count++] = id;
    }
    return count;
}

/* ---- short pieces: scan for the lowest rank; everything stays in a few cache lines ---- */

#define SHORT_MAX 48

static size_t merge_short(const struct bpe *b, int32_t *ids, size_t count)
{
    uint32_t ranks[SHORT_MAX]; // of the pair (i, i + 1)
    int32_t merged[SHORT_MAX];
    for (size_t i = 0; i + 1 < count; i++)
        ranks[i] = pair_rank(b, ids[i], ids[i + 1], &merged[i]);
    while (count > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < count; i++)
            if (ranks[i] < ranks[best]) best = i;
        if (ranks[best] == NO_RANK) break;
        ids[best] = merged[best];
        size_t behind = count - best - 2; // symbols after the pair
        memmove(ids + best + 1, ids + best + 2, behind * sizeof *ids);
        memmove(ranks + best, ranks + best + 1, behind * sizeof *ranks);
        memmove(merged + best, merged + best + 1, behind * sizeof *merged);
        count--;
        if (best + 1 < count) ranks[best] = pair_rank(b, ids[best], ids[best + 1], &merged[best]);
        if (best > 0) ranks[best - 1] = pair_rank(b, ids[best - 1], ids[best], &merged[best - 1]);
    }
    return count;
}

/* ---- long pieces: linked symbols and a heap of (rank, position) ----
 *
 * An entry of the heap is stale when its symbol's current pair has another rank: symbols only grow,
 * so a pair that is gone never comes back at the same place. Each merge adds at most two entries.
 */

struct long_symbol {
    int32_t id;
    uint32_t previous, next; // count: none
    uint32_t rank;           // of the pair (this, next); NO_RANK: none, or this was merged away
    int32_t merged;
};

struct long_merge {
    const struct bpe *b;
    struct long_symbol *symbols;
    uint32_t count;
    struct min_heap heap; // rank << 32 | position: by rank, then from the left
};

static void long_rank(struct long_merge *m, uint32_t at)
{
    struct long_symbol *s = &m->symbols[at];
    s->rank = NO_RANK;
    if (s->next == m->count) return;
    s->rank = pair_rank(m->b, s->id, m->symbols[s->next].id, &s->merged);
    if (s->rank != NO_RANK) min_heap_push(&m->heap, (uint64_t)s->rank << 32 | at);
}

static void *scratch_reserve(struct bpe_scratch *s, size_t size)
{
    if (s->cap < size) {
        free(s->memory);
        s->memory = xmalloc(size);
        s->cap = size;
    }
    return s->memory;
}

void bpe_scratch_deinit(struct bpe_scratch *s)
{
    free(s->memory);
    *s = (struct bpe_scratch){NULL, 0};
}

static void merge_long(const struct bpe *b, const struct vocab *v, struct str piece,
                       struct bpe_scratch *scratch, struct token_list *out)
{
    size_t n = piece.len;
    struct long_merge m = {.b = b};
    m.heap.keys = scratch_reserve(scratch, n * (3 * sizeof *m.heap.keys + sizeof *m.symbols + 4));
    m.symbols = (struct long_symbol *)(m.heap.keys + 3 * n);
    int32_t *ids = (int32_t *)(m.symbols + n);
    m.count = (uint32_t)start_piece(b, v, piece, ids);
    for (uint32_t i = 0; i < m.count; i++) {
        m.symbols[i].id = ids[i];
        m.symbols[i].previous = i ? i - 1 : m.count;
        m.symbols[i].next = i + 1;
    }
    for (uint32_t i = 0; i < m.count; i++)
        long_rank(&m, i);
    while (m.heap.count) {
        uint64_t key = min_heap_pop(&m.heap);
        uint32_t at = (uint32_t)key;
        struct long_symbol *left = &m.symbols[at];
        if (left->rank != key >> 32) continue;
        struct long_symbol *right = &m.symbols[left->next];
        left->id = left->merged;
        left->next = right->next;
        right->rank = NO_RANK;
        if (left->next != m.count) m.symbols[left->next].previous = at;
        long_rank(&m, at);
        if (left->previous != m.count) long_rank(&m, left->previous);
    }
    for (uint32_t i = 0; i < m.count; i = m.symbols[i].next)
        token_list_push(out, m.symbols[i].id);
}

/* ---- pieces ---- */

static size_t encode_short(const struct bpe *b, const struct vocab *v, struct str piece,
                           int32_t ids[SHORT_MAX])
{
    return merge_short(b, ids, start_piece(b, v, piece, ids));
}

/* Whether the token `id`, whose bytes are the whole piece, is what the piece becomes. */
static bool stands_whole(const struct bpe *b, const struct vocab *v, struct str piece, int32_t id)
{
    if (b->ignore_merges && v->kinds[id] == TOKEN_NORMAL) return true;
    uint8_t known = __atomic_load_n(&b->whole[id], __ATOMIC_RELAXED);
    if (known == WHOLE_UNKNOWN) {
        int32_t ids[SHORT_MAX];
        size_t count = encode_short(b, v, piece, ids);
        known = count == 1 && ids[0] == id ? WHOLE_YES : WHOLE_NO;
        __atomic_store_n(&b->whole[id], known, __ATOMIC_RELAXED);
    }
    return known == WHOLE_YES;
}

void bpe_encode(const struct bpe *b, const struct vocab *v, struct str piece,
                struct bpe_scratch *scratch, struct token_list *out)
{
    if (piece.len <= SHORT_MAX || b->ignore_merges) {
        int32_t id = vocab_find(v, piece);
        bool known = id >= 0 && (piece.len <= SHORT_MAX || v->kinds[id] == TOKEN_NORMAL);
        if (known && stands_whole(b, v, piece, id)) {
            token_list_push(out, id);
            return;
        }
    }
    if (piece.len > SHORT_MAX) {
        merge_long(b, v, piece, scratch, out);
        return;
    }
    int32_t ids[SHORT_MAX];
    size_t count = encode_short(b, v, piece, ids);
    for (size_t i = 0; i < count; i++)
        token_list_push(out, ids[i]);
}
