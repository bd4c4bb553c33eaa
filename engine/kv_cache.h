/* kv_cache.h - who owns which KV page. Only bookkeeping: the pages themselves belong to the
 * backend, one set per rank with the same numbers. Engine thread only. */
#ifndef LM_ENGINE_KV_CACHE_H
#define LM_ENGINE_KV_CACHE_H

#include <stdbool.h>
#include <stdint.h>

struct kv_cache {
    int total;      // blocks
    int free_count; // of which nobody holds
    int32_t *free;  // stack of free blocks, owned
    uint32_t *refs; // [total] holders of each block, owned
};

void kv_cache_init(struct kv_cache *kv, int blocks);
void kv_cache_deinit(struct kv_cache *kv);

int32_t kv_cache_take(struct kv_cache *kv); // refs = 1; -1: none is free
void kv_cache_ref(struct kv_cache *kv, int32_t block);
void kv_cache_unref(struct kv_cache *kv, int32_t block); // free again at 0

/* CHECKs rule 1 of kv_cache.c. O(total). */
void kv_cache_check(const struct kv_cache *kv);

/* ---- the blocks of one sequence, in the order of its positions ---- */

struct block_table {
    int32_t *blocks; // owned
    int count, cap;
};

int blocks_for(int64_t positions); // blocks that hold that many positions

/* Make room for `positions`: takes what is missing, all of it or (false) nothing. */
bool block_table_reserve(struct block_table *t, struct kv_cache *kv, int64_t positions);
void block_table_release(struct block_table *t, struct kv_cache *kv); // and back to {0}

#endif
