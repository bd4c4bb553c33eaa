/* kv_moves.h - copies of pages that must be made before a step: what the prefix cache decided when
 * that step was planned. They run on all ranks, in this order, before the step's first stage. */
#ifndef LM_ENGINE_KV_MOVES_H
#define LM_ENGINE_KV_MOVES_H

#include <stddef.h>
#include <stdint.h>

/* One block's contents in host memory, of all ranks. Counted by its owner in the cache and by the
 * moves that read or write it; engine thread only, but for the bytes. */
struct host_page {
    int refs;
    size_t rank_bytes;
    char bytes[]; // [ranks][rank_bytes]
};

struct host_page *host_page_create(size_t rank_bytes, int ranks); // refs = 1
struct host_page *host_page_ref(struct host_page *page);
void host_page_unref(struct host_page *page); // NULL is fine

enum kv_move_kind { KV_MOVE_COPY, KV_MOVE_SAVE, KV_MOVE_RESTORE };

struct kv_move {
    enum kv_move_kind kind;
    int32_t from, to;       // blocks; save has no `to`, restore no `from`
    int tokens;             // leading positions of the block
    struct host_page *page; // save, restore: a reference
};

struct kv_moves {
    struct kv_move *move; // owned
    int count, cap;
};

void kv_moves_deinit(struct kv_moves *m);
void kv_moves_clear(struct kv_moves *m);
void kv_moves_copy(struct kv_moves *m, int32_t from, int32_t to, int tokens);
void kv_moves_save(struct kv_moves *m, int32_t from, int tokens, struct host_page *page);
void kv_moves_restore(struct kv_moves *m, struct host_page *page, int32_t to, int tokens);
void kv_moves_hand_over(struct kv_moves *from, struct kv_moves *to); // to's end; from is empty then

#endif
