/* kv_cache.c - fixed pool of KV blocks.
 *
 * A block holds KV_BLOCK_TOKENS consecutive positions for all layers. Sequences see memory only
 * through their block table, so a block can be shared, moved or evicted without touching model
 * code.
 *
 * Rules
 *  1. Every block is in exactly one place: on the free stack (refs == 0) or held (refs > 0).
 *  2. Only the engine thread calls in here; there is no lock to forget.
 *  3. Taking a block never waits. It fails, and the scheduler decides who yields.
 *  4. The block freed last is taken first: its memory is warm and already there, pages that were
 *     never written cost nothing.
 *  5. A block may be freed and taken again while a step that writes it is in flight: steps run
 *     in the order of their submission, so the old writes come before the new owner's. */
#include "engine/kv_cache.h"

#include "kernels/backend.h"
#include "shared/base/check.h"

#include <stdlib.h>

void kv_cache_init(struct kv_cache *kv, int blocks)
{
    CHECK(blocks > 0);
    *kv = (struct kv_cache){.total = blocks, .free_count = blocks};
    kv->free = xcalloc((size_t)blocks, sizeof *kv->free);
    kv->refs = xcalloc((size_t)blocks, sizeof *kv->refs);
    for (int i = 0; i < blocks; i++)
        kv->free[i] = blocks - 1 - i; // block 0 on top
}

void kv_cache_deinit(struct kv_cache *kv)
{
    free(kv->free);
    free(kv->refs);
    *kv = (struct kv_cache){0};
}

int32_t kv_cache_take(struct kv_cache *kv)
{
    if (kv->free_count == 0) return -1;
    int32_t block = kv->free[--kv->free_count];
    CHECK(kv->refs[block] == 0);
    kv->refs[block] = 1;
    return block;
}

void kv_cache_ref(struct kv_cache *kv, int32_t block)
{
    CHECK(block >= 0 && block < kv->total && kv->refs[block] > 0);
    kv->refs[block]++;
}

void kv_cache_unref(struct kv_cache *kv, int32_t block)
{
    CHECK(block >= 0 && block < kv->total && kv->refs[block] > 0);
    if (--kv->refs[block] == 0) kv->free[kv->free_count++] = block;
}

void kv_cache_check(const struct kv_cache *kv)
{
    bool *seen = xcalloc((size_t)kv->total, sizeof *seen);
    for (int i = 0; i < kv->free_count; i++) {
        int32_t block = kv->free[i];
        CHECK(block >= 0 && block < kv->total && !seen[block] && kv->refs[block] == 0);
        seen[block] = true;
    }
    for (int i = 0; i < kv->total; i++)
        CHECK(seen[i] == (kv->refs[i] == 0));
    free(seen);
}

int blocks_for(int64_t positions)
{
    return (int)((positions + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS);
}

bool block_table_reserve(struct block_table *t, struct kv_cache *kv, int64_t positions)
{
    int want = blocks_for(positions);
    if (want - t->count > kv->free_count) return false;
    if (want > t->cap) {
        t->cap = want < 2 * t->cap ? 2 * t->cap : want;
        t->blocks = xrealloc_array(t->blocks, (size_t)t->cap, sizeof *t->blocks);
    }
    while (t->count < want)
        t->blocks[t->count++] = kv_cache_take(kv);
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
