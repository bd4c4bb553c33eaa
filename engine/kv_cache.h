/* kv_cache.h - who owns which KV page. Only bookkeeping: the pages themselves belong to the
 * backend, one set per rank with the same numbers. Engine thread only. */
#ifndef LM_ENGINE_KV_CACHE_H
#define LM_ENGINE_KV_CACHE_H

#include <stdbool.h>
#include <stdint.h>

enum kv_state {
    KV_FREE,   // nobody's
    KV_CACHED, // only the prefix cache has it
    KV_PINNED, // the prefix cache has it and a hot session keeps it there
    KV_ACTIVE, // in the table of a running request, whoever else has it
    KV_STATES
};

struct kv_cache {
    int total;            // blocks
    int count[KV_STATES]; // of which are in each state
    int32_t *free;        // stack of free blocks, owned
    uint32_t *refs;       // [total] tables that each block is in, owned
    uint8_t *kept;        // [total] by the cache, by a session; owned
};

void kv_cache_init(struct kv_cache *kv, int blocks);
void kv_cache_deinit(struct kv_cache *kv);

enum kv_state kv_cache_state(const struct kv_cache *kv, int32_t block);

int32_t kv_cache_take(struct kv_cache *kv);              // active, refs = 1; -1: none is free
void kv_cache_ref(struct kv_cache *kv, int32_t block);   // one that isn't free
void kv_cache_unref(struct kv_cache *kv, int32_t block); // at 0 it is the cache's, or free

/* The prefix cache takes a block in or lets it go; hot sessions do so with cached ones. */
void kv_cache_set_cached(struct kv_cache *kv, int32_t block, bool cached);
void kv_cache_set_pinned(struct kv_cache *kv, int32_t block, bool pinned);

/* CHECKs rule 1 of kv_cache.c. O(total). */
void kv_cache_check(const struct kv_cache *kv);

/* ---- the blocks of one sequence, in the order of its positions ---- */

struct block_table {
    int32_t *blocks; // owned
    int count, cap;
};

int blocks_for(int64_t positions); // blocks that hold that many positions

void block_table_push(struct block_table *t, int32_t block); // whose reference is now the table's
/* Make room for `positions`: takes what is missing, all of it or (false) nothing. */
bool block_table_reserve(struct block_table *t, struct kv_cache *kv, int64_t positions);
void block_table_release(struct block_table *t, struct kv_cache *kv); // and back to {0}

#endif
