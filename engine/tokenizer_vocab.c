#include "engine/tokenizer_vocab.h"

#include "shared/base/check.h"
#include "shared/base/rng.h"

#include <stdlib.h>

struct vocab_slot {
    uint32_t hash; // compared first: a miss rarely touches the pool
    int32_t id;    // -1: free
};

static uint64_t fold(uint64_t a, uint64_t b) // 64 x 64 -> 128, halves xored
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Pieces are a few bytes long: eight at a time, the rest in one more step. */
static uint32_t vocab_hash(const struct vocab *v, const char *data, size_t len)
{
    uint64_t h = v->seed ^ (len * 0x9e3779b97f4a7c15ull), word;
    for (; len > 8; data += 8, len -= 8) {
        memcpy(&word, data, 8);
        h = fold(h ^ word, 0xa0761d6478bd642full);
    }
    word = 0;
    if (len) memcpy(&word, data, len);
    h = fold(h ^ word, 0xe7037ed1a0b428dbull);
    return (uint32_t)(h ^ (h >> 32));
}

void vocab_init(struct vocab *v, uint32_t count)
{
    memset(v, 0, sizeof *v);
    v->offsets = xcalloc((size_t)count + 1, sizeof *v->offsets);
    v->kinds = xcalloc((size_t)count + 1, sizeof *v->kinds);
    v->cap = count;
    random_bytes(&v->seed, sizeof v->seed);
    v->mask = 15;
    while (v->mask / 2 < count)
        v->mask = v->mask * 2 + 1;
    v->slots = xmalloc(((size_t)v->mask + 1) * sizeof *v->slots);
    memset(v->slots, 0xff, ((size_t)v->mask + 1) * sizeof *v->slots);
}

void vocab_deinit(struct vocab *v)
{
    free(v->offsets);
    free(v->kinds);
    free(v->hidden);
    free(v->pool);
    free(v->slots);
    memset(v, 0, sizeof *v);
}

/* The pool doubles, so its capacity follows from its size. */
static void pool_reserve(struct vocab *v, size_t size)
{
    size_t used = v->offsets[v->count], cap = 4096;
    while (v->pool && cap < used)
        cap *= 2;
    if (v->pool && used + size <= cap) return;
    while (cap < used + size)
        cap *= 2;
    v->pool = xrealloc(v->pool, cap);
}

void vocab_add(struct vocab *v, struct str bytes, enum token_kind kind)
{
    pool_reserve(v, bytes.len);
    uint32_t at = v->offsets[v->count];
    if (bytes.len) memcpy(v->pool + at, bytes.data, bytes.len);
    v->kinds[v->count++] = (uint8_t)kind;
    v->offsets[v->count] = at + (uint32_t)bytes.len;
}

void vocab_hide_last(struct vocab *v)
{
    if (!v->hidden) v->hidden = xcalloc((size_t)v->cap + 1, 1);
    v->hidden[v->count - 1] = 1;
}

static void index_one(struct vocab *v, uint32_t id)
{
    struct str bytes = vocab_bytes(v, id);
    uint32_t hash = vocab_hash(v, bytes.data, bytes.len);
    for (uint32_t i = hash & v->mask;; i = (i + 1) & v->mask) {
        struct vocab_slot *slot = &v->slots[i];
        if (slot->id < 0) {
            *slot = (struct vocab_slot){hash, (int32_t)id};
            if (bytes.len > v->piece_max) v->piece_max = (uint32_t)bytes.len;
            return;
        }
        if (slot->hash == hash && str_equal(vocab_bytes(v, (uint32_t)slot->id), bytes)) return;
    }
}

void vocab_index(struct vocab *v)
{
    static const uint8_t turn[] = {2, 0, 2, 2, 1, 1, 2}; // by kind
    for (uint8_t now = 0; now < 3; now++)
        for (uint32_t id = 0; id < v->count; id++)
            if (turn[v->kinds[id]] == now && !(v->hidden && v->hidden[id])) index_one(v, id);
}

int32_t vocab_find(const struct vocab *v, struct str bytes)
{
    if (bytes.len > v->piece_max) return -1;
    uint32_t hash = vocab_hash(v, bytes.data, bytes.len);
    for (uint32_t i = hash & v->mask; v->slots[i].id >= 0; i = (i + 1) & v->mask) {
        const struct vocab_slot *slot = &v->slots[i];
        if (slot->hash == hash && str_equal(vocab_bytes(v, (uint32_t)slot->id), bytes))
            return slot->id;
    }
    return -1;
}
