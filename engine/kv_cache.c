/* kv_cache.c - fixed pool of KV blocks.
 *
 * A block holds KV_BLOCK_TOKENS consecutive positions for all layers. Sequences see memory only
 * through their block table, so a block can be shared, moved or evicted without touching model
 * code.
 *
 *     FREE --take--> ACTIVE <--ref / last unref--> PINNED <--> CACHED --let go--> FREE
 *                       +----last unref, not cached---------------------------------^
 *
 * Rules
 *  1. Every block is in exactly one state, that of its strongest holder: a table, a hot session,
 *     the prefix cache, nobody.
 *  2. Only the engine thread calls in here; there is no lock to forget.
 *  3. Taking a block never waits. It fails, and the scheduler decides who yields.
 *  4. The block freed last is taken first: its memory is warm and already there, pages that were
 *     never written cost nothing.
 *  5. A block may be freed and taken again while a step that writes it is in flight: steps run
 *     in the order of their submission, so the old writes come before the new owner's.
 *  6. A block in several tables is written by none of them. One that the cache has too may still be
 *     written by the only table it is in, behind the positions that the cache knows of. */
#include "engine/kv_cache.h"

#include "kernels/backend.h"
#include "shared/base/check.h"

#include <stdlib.h>

enum { KEPT_CACHED = 1, KEPT_PINNED = 2 };

void kv_cache_init(struct kv_cache *kv, int blocks)
{
    CHECK(blocks > 0);
    *kv = (struct kv_cache){.total = blocks, .count = {[KV_FREE] = blocks}};
    kv->free = xcalloc((size_t)blocks, sizeof *kv->free);
    kv->refs = xcalloc((size_t)blocks, sizeof *kv->refs);
    kv->kept = xcalloc((size_t)blocks, sizeof *kv->kept);
    for (int i = 0; i < blocks; i++)
        kv->free[i] = blocks - 1 - i; // block 0 on top
}

void kv_cache_deinit(struct kv_cache *kv)
{
    free(kv->free);
    free(kv->refs);
    free(kv->kept);
    *kv = (struct kv_cache){0};
}

enum kv_state kv_cache_state(const struct kv_cache *kv, int32_t block)
{
    CHECK(block >= 0 && block < kv->total);
    if (kv->refs[block] > 0) return KV_ACTIVE;
    if (kv->kept[block] & KEPT_PINNED) return KV_PINNED;
    return kv->kept[block] & KEPT_CACHED ? KV_CACHED : KV_FREE;
}

/* The block's holders changed; it was in `before`. */
static void count_change(struct kv_cache *kv, int32_t block, enum kv_state before)
{
    enum kv_state after = kv_cache_state(kv, block);
    if (after == before) return;
    if (after == KV_FREE) kv->free[kv->count[KV_FREE]] = block;
    kv->count[before]--;
    kv->count[after]++;
}

int32_t kv_cache_take(struct kv_cache *kv)
{
    if (kv->count[KV_FREE] == 0) return -1;
    int32_t block = kv->free[kv->count[KV_FREE] - 1];
    CHECK(kv_cache_state(kv, block) == KV_FREE);
    kv->refs[block] = 1;
    count_change(kv, block, KV_FREE);
    return block;
}

void kv_cache_ref(struct kv_cache *kv, int32_t block)
{
    enum kv_state before = kv_cache_state(kv, block);
    CHECK(before != KV_FREE);
    kv->refs[block]++;
    count_change(kv, block, before);
}

void kv_cache_unref(struct kv_cache *kv, int32_t block)
{
    CHECK(kv_cache_state(kv, block) == KV_ACTIVE);
    kv->refs[block]--;
    count_change(kv, block, KV_ACTIVE);
}

static void set_kept(struct kv_cache *kv, int32_t block, uint8_t by, bool on)
{
    enum kv_state before = kv_cache_state(kv, block);
    CHECK(before != KV_FREE && ((kv->kept[block] & by) != 0) != on);
    kv->kept[block] ^= by;
    count_change(kv, block, before);
}

void kv_cache_set_cached(struct kv_cache *kv, int32_t block, bool cached)
{
    CHECK(!(kv->kept[block] & KEPT_PINNED));
    set_kept(kv, block, KEPT_CACHED, cached);
}

void kv_cache_set_pinned(struct kv_cache *kv, int32_t block, bool pinned)
{
    CHECK(kv->kept[block] & KEPT_CACHED);
    set_kept(kv, block, KEPT_PINNED, pinned);
}

void kv_cache_check(const struct kv_cache *kv)
{
    bool *seen = xcalloc((size_t)kv->total, sizeof *seen);
    int count[KV_STATES] = {0};
    for (int i = 0; i < kv->count[KV_FREE]; i++) {
        int32_t block = kv->free[i];
        CHECK(kv_cache_state(kv, block) == KV_FREE && !seen[block]);
        seen[block] = true;
    }
    for (int32_t i = 0; i < kv->total; i++)
        count[kv_cache_state(kv, i)]++;
    for (int i = 0; i < KV_STATES; i++)
        CHECK(count[i] == kv->count[i]);
    free(seen);
}

int blocks_for(int64_t positions)
{
    return (int)((positions + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS);
}

void block_table_push(struct block_table *t, int32_t block)
{
    if (t->count == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 8;
        t->blocks = xrealloc_array(t->blocks, (size_t)t->cap, sizeof *t->blocks);
    }
    t->blocks[t->count++] = block;
}

bool block_table_reserve(struct block_table *t, struct kv_cache *kv, int64_t positions)
{
    int want = blocks_for(positions);
    if (want - t->count > kv->count[KV_FREE]) return false;
    while (t->count < want)
        block_table_push(t, kv_cache_take(kv));
    return true;
}

void block_table_release(struct block_table *t, struct kv_cache *kv)
{
    /* Last first, so that the stack gives them out again in the order of positions. */
    while (t->count > 0)
        kv_cache_unref(kv, t->blocks[--t->count]);
    free(t->blocks);
    *t = (struct block_table){0};
}
