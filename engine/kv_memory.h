/* kv_memory.h - the pages of requests: what each finds, holds, publishes and leaves behind. One
 * pool of blocks with its prefix cache and its sessions. Engine thread only. */
#ifndef LM_ENGINE_KV_MEMORY_H
#define LM_ENGINE_KV_MEMORY_H

#include "engine/kv_cache.h"
#include "engine/prefix_cache.h"
#include "engine/prefix_marks.h"
#include "engine/request.h"
#include "engine/session_pages.h"

struct kv_memory_setup {
    int blocks;
    int rope_sets;            // that requests may have; 0 or 1: one
    bool prefix_caching;      // as in struct engine_options, like the next two
    double session_pin_ratio; // 0: no session is hot
    int64_t session_host_bytes;
    size_t page_bytes; // of a block on one rank
    int ranks;
    struct prefix_marks *marks; // gets those of all requests, borrowed; NULL: nobody asks
};

struct kv_memory {
    struct kv_cache kv;
    struct prefix_cache cache;
    struct session_pages sessions;
    struct prefix_marks *marks; // NULL: nothing is kept, or nobody asks
};

void kv_memory_init(struct kv_memory *m, const struct kv_memory_setup *setup);
void kv_memory_deinit(struct kv_memory *m);

/* A request comes, and goes: nothing of its group's is kept beyond the last one. */
void kv_memory_join(struct kv_memory *m, struct request *r);
void kv_memory_leave(struct kv_memory *m, struct request *r);

/* Leading tokens of a request that need not be computed by itself: all but its last, and of a
 * prompt whose log-probabilities it wants, those that it has. */
int kv_memory_findable(const struct request *r);
/* What of these is there already, for a request that waits. */
void kv_memory_match(struct kv_memory *m, const struct request *r, struct prefix_match *match);
/* Blocks that would be left after all of it, evicting and demoting what that takes; may be < 0. */
int kv_memory_spare(const struct kv_memory *m, const struct request *r,
                    const struct prefix_match *match);
/* The request gets its table: what was found, and blocks for all its tokens. There must be spare
 * blocks >= 0. Sets r->computed. */
void kv_memory_admit(struct kv_memory *m, struct request *r, const struct prefix_match *match);

/* Room for `positions` in r's table, by evicting idle blocks, then demoting sessions. False, and
 * nothing was done: only other running requests could make that room. */
bool kv_memory_grow(struct kv_memory *m, struct request *r, int positions);

/* Let others find what r has computed, or will have after the steps that are planned. */
void kv_memory_publish(struct kv_memory *m, struct request *r);

/* r gives its blocks back, preempted or ended; what it computed stays in the cache. An ended
 * session's request makes its session hot. */
void kv_memory_yield(struct kv_memory *m, struct request *r);
void kv_memory_end(struct kv_memory *m, struct request *r);
/* The same, when what it computed can't be trusted. */
void kv_memory_end_distrusted(struct kv_memory *m, struct request *r);

void kv_memory_check(const struct kv_memory *m);

#endif
