/* prefix_cache.h - finds KV pages by the tokens that they were computed from. Rules at the head of
 * prefix_cache.c. Engine thread only; no clock, no I/O: copies are noted in `moves`. */
#ifndef LM_ENGINE_PREFIX_CACHE_H
#define LM_ENGINE_PREFIX_CACHE_H

#include "engine/kv_cache.h"
#include "engine/kv_moves.h"
#include "kernels/backend.h"
#include "shared/base/hash_map.h"
#include "shared/base/list.h"

/* One block of a sequence, below the one before it. A root stands for no tokens. */
struct prefix_node {
    struct prefix_node *parent;    // NULL: a root
    struct list children, sibling; // used last: first
    struct prefix_node *bucket_next;
    struct list order;    // in prefix_cache.idle or .hosted, else by itself
    struct list sessions; // session_pages.c: those whose sequence ends here
    uint64_t hash;        // of all tokens up to here; whole blocks and roots
    int32_t block;        // -1: a root, or only in host memory:
    struct host_page *page;
    int depth;          // blocks from the root up to here
    int count;          // positions known: KV_BLOCK_TOKENS, or fewer and then nothing is below
    int pins;           // hot sessions whose sequence passes here
    int sessions_below; // all sessions whose sequence passes or ends here
    bool lost;          // its contents are not to be trusted: never found
    bool is_marked;     // setup.on_gone wants to know when it can't be found any more
    int32_t tokens[KV_BLOCK_TOKENS];
};

/* Who finds whose pages: everybody, or the members of one group; and only those whose positions are
 * turned by the same set of rope tables. */
struct prefix_space_key {
    uint64_t group;    // 0: everybody
    uint64_t rope_set; // engine/rope_set.h
};

struct prefix_space {
    struct prefix_node root;
    struct prefix_space_key key;
    int members;
};

struct prefix_cache_setup {
    struct kv_cache *kv; // borrowed
    bool keep;           // pages stay when the requests that computed them have ended
    int rope_sets;       // that requests may have; 0 or 1: one
    int64_t host_bytes;  // for copies of sessions' pages
    size_t page_bytes;   // of a block on one rank; 0: no copies
    int ranks;
    /* Sessions in node->sessions are now at `to` (NULL: nowhere): the same node when its page went
     * to host memory or came back. It must leave node->sessions empty if to != node. */
    void (*on_change)(void *arg, struct prefix_node *node, struct prefix_node *to);
    void *on_change_arg;
    void (*on_gone)(void *arg, uint64_t hash); // of a marked node
    void *on_gone_arg;
};

struct prefix_cache {
    struct prefix_cache_setup setup;
    struct kv_cache *kv;
    struct prefix_space *everybody; // [setup.rope_sets], when pages are kept
    struct hash_map groups;         // of struct prefix_space, when they are not
    struct prefix_node **node_of;   // [kv->total] what each block holds, or NULL
    struct prefix_node **buckets;   // of whole blocks, by hash
    size_t bucket_mask;
    struct list idle;   // nodes whose block is KV_CACHED; used least recently: first
    struct list hosted; // nodes in host memory only; likewise
    int64_t host_used;  // bytes of pages that nodes own
    int nodes;
    uint8_t key[16];       // of the hash: what clients send can't aim at a bucket
    struct kv_moves moves; // for the next step
};

void prefix_cache_init(struct prefix_cache *c, const struct prefix_cache_setup *setup);
void prefix_cache_deinit(struct prefix_cache *c);

/* What a request of this group (0: none) and set shares in; NULL: nothing. It leaves when it has
 * ended. */
struct prefix_space *prefix_cache_join(struct prefix_cache *c, uint64_t group, int rope_set);
void prefix_cache_leave(struct prefix_cache *c, struct prefix_space *space); // NULL is fine

struct prefix_match {
    struct prefix_node *node; // the last of the whole blocks, or the root; NULL: no space
    struct prefix_node *tail; // a block that begins like what follows them, or NULL
    int tail_tokens;
    int tokens; // found in all
    int absent; // of the whole blocks, those in host memory
    int idle;   // of the whole blocks, those in no table: taking them makes them unavailable
};

/* What is there of tokens[count]. Valid until anything else is called. */
void prefix_cache_match(struct prefix_cache *c, struct prefix_space *space, const int32_t *tokens,
                        int count, struct prefix_match *m);

/* Hold the match: its whole blocks are referenced, what is in host memory won't go away. Then, once
 * as many blocks are free as it takes, fill an empty table for `positions`: whole blocks, a copy of
 * the tail, new blocks. Evictions may come in between, and only they. */
struct prefix_hold {
    struct prefix_match match;
    int32_t tail_block; // -1: its page is in host memory
    struct host_page *tail_page;
};
void prefix_cache_hold(struct prefix_cache *c, const struct prefix_match *m, struct prefix_hold *h);
void prefix_cache_fill(struct prefix_cache *c, struct prefix_hold *h, struct block_table *table,
                       int positions);

/* tokens[known] of a sequence are computed by steps that are submitted or about to be: they can be
 * found from now on. *whole (0 at first): blocks of the table that the cache knows as whole; a
 * block that somebody else computed too is exchanged for that one. */
void prefix_cache_publish(struct prefix_cache *c, struct prefix_space *space, const int32_t *tokens,
                          int known, struct block_table *table, int *whole);

/* Nobody writes behind the published positions any more. The last node, or NULL: none to
 * be found. */
struct prefix_node *prefix_cache_seal(struct prefix_cache *c, const struct block_table *table,
                                      int whole);
/* A node that nothing keeps any more: drop it if another one says the same. */
void prefix_cache_tidy(struct prefix_cache *c, struct prefix_node *node);
void prefix_cache_release(struct prefix_cache *c, struct block_table *table); // and back to {0}

/* The contents of these blocks, and of all that was computed after them, are wrong. */
void prefix_cache_distrust(struct prefix_cache *c, const struct block_table *table);

bool prefix_cache_evict(struct prefix_cache *c); // the idle block used least recently, to free it

/* Keep the path up to a node from eviction, for session_pages.c. Counted. Returns blocks that
 * became pinned, or ceased to be. */
int prefix_cache_pin(struct prefix_cache *c, struct prefix_node *node);
int prefix_cache_unpin(struct prefix_cache *c, struct prefix_node *node);
void prefix_cache_count_session(struct prefix_node *node, int by); // +1, -1 up to the root

void prefix_cache_check(const struct prefix_cache *c); // CHECKs its rules. O(blocks)

#endif
