/* prefix_cache.c - a trie of KV blocks.
 *
 *     root ── 64 tokens ──┬── 64 tokens ── 23 tokens      the last may have fewer
 *                         └── 64 tokens                   children by hash of the whole path
 *
 * There is such a trie for each set of rope tables: keys turned by one are of no use with another.
 *
 * A node knows the block that holds its keys and values, and the tokens they came from: these are
 * compared, the hash only says where to look. A block that isn't whole, or differs further on, is
 * of use too: what agrees is copied (copy on write), so reuse is exact to the token.
 *
 * Rules
 *  1. A table has all of a path or none of it, and so does a pin: when a block is active or pinned,
 *     so are those above it. Below an idle block, all is idle or in host memory.
 *  2. `idle` has exactly the nodes whose block is KV_CACHED, and a child before its parent, because
 *     paths become idle from their end. So the first can always be evicted, and is the one that
 *     was used least recently.
 *  3. Nodes are published when the step that computes them is about to be submitted, and evicted
 *     blocks are taken again by later plans only: steps and moves run in order, so whoever finds a
 *     block reads what was promised, also while that is still to be computed.
 *  4. A node that isn't whole has at most one writer: the request whose table has its block, which
 *     writes behind `count` only. All others copy.
 *  5. Where sessions pass, an evicted block is first copied to host memory; there, too, a child goes
 *     before its parent, and nothing in a host page has a child on the device.
 *  6. What was computed wrongly is unlinked from the hash, with all below it, and never found; the
 *     nodes stay until their holders let them go. */
#include "engine/prefix_cache.h"

#include "shared/base/check.h"
#include "shared/base/hash.h"
#include "shared/base/rng.h"

#include <stdlib.h>
#include <string.h>

#define CHILDREN_SCAN_MAX 64 // looked at for a tail: those used last

/* ---- nodes ---- */

static void node_init(struct prefix_node *n)
{
    *n = (struct prefix_node){.block = -1};
    list_init(&n->children);
    list_init(&n->sibling);
    list_init(&n->order);
    list_init(&n->sessions);
}

static struct prefix_node *create_node(struct prefix_cache *c, struct prefix_node *parent,
                                       int32_t block)
{
    struct prefix_node *n = xmalloc(sizeof *n);
    node_init(n);
    n->parent = parent;
    n->depth = parent->depth + 1;
    n->lost = parent->lost;
    n->block = block;
    list_push_front(&parent->children, &n->sibling);
    c->node_of[block] = n;
    c->nodes++;
    kv_cache_set_cached(c->kv, block, true);
    return n;
}

static uint64_t chain(const struct prefix_cache *c, const struct prefix_node *parent,
                      const int32_t *tokens)
{
    return hash_mix(parent->hash ^ hash_sip24(c->key, tokens, KV_BLOCK_TOKENS * sizeof *tokens));
}

static struct prefix_node *find(const struct prefix_cache *c, const struct prefix_node *parent,
                                const int32_t *tokens, uint64_t hash)
{
    for (struct prefix_node *n = c->buckets[hash & c->bucket_mask]; n; n = n->bucket_next)
        if (n->hash == hash && n->parent == parent &&
            memcmp(n->tokens, tokens, sizeof n->tokens) == 0)
            return n;
    return NULL;
}

static void link_hash(struct prefix_cache *c, struct prefix_node *n, uint64_t hash)
{
    n->hash = hash;
    if (n->lost) return;
    n->bucket_next = c->buckets[hash & c->bucket_mask];
    c->buckets[hash & c->bucket_mask] = n;
}

static void unlink_hash(struct prefix_cache *c, struct prefix_node *n)
{
    if (n->count < KV_BLOCK_TOKENS || n->lost) return;
    struct prefix_node **at = &c->buckets[n->hash & c->bucket_mask];
    while (*at != n)
        at = &(*at)->bucket_next;
    *at = n->bucket_next;
    if (n->is_marked) c->setup.on_gone(c->setup.on_gone_arg, n->hash);
}

static void drop_page(struct prefix_cache *c, struct prefix_node *n)
{
    if (!n->page) return;
    c->host_used -= (int64_t)c->setup.page_bytes * c->setup.ranks;
    host_page_unref(n->page);
    n->page = NULL;
}

static void report(struct prefix_cache *c, struct prefix_node *n, struct prefix_node *to)
{
    if (!list_is_empty(&n->sessions)) c->setup.on_change(c->setup.on_change_arg, n, to);
}

/* It has no children. Its block goes to whoever has it in a table, or is free. */
static void remove_node(struct prefix_cache *c, struct prefix_node *n)
{
    CHECK(list_is_empty(&n->children) && n->pins == 0);
    report(c, n, n->parent->parent ? n->parent : NULL);
    unlink_hash(c, n);
    list_remove(&n->sibling);
    list_remove(&n->order);
    drop_page(c, n);
    if (n->block >= 0) {
        c->node_of[n->block] = NULL;
        kv_cache_set_cached(c->kv, n->block, false);
    }
    c->nodes--;
    free(n);
}

static void remove_below(struct prefix_cache *c, struct prefix_node *root)
{
    struct prefix_node *n = root;
    for (;;) {
        while (!list_is_empty(&n->children))
            n = list_first(&n->children, struct prefix_node, sibling);
        if (n == root) return;
        struct prefix_node *parent = n->parent;
        remove_node(c, n);
        n = parent;
    }
}

/* ---- from table to cache and back ---- */

static void use(struct prefix_cache *c, struct prefix_node *n)
{
    kv_cache_ref(c->kv, n->block);
    list_remove(&n->order);
}

/* The block's holders became fewer. Paths call this from their end (rule 2). */
static void settle(struct prefix_cache *c, struct prefix_node *n)
{
    if (kv_cache_state(c->kv, n->block) != KV_CACHED) return;
    list_remove(&n->order);
    list_push_back(&c->idle, &n->order);
}

void prefix_cache_release(struct prefix_cache *c, struct block_table *table)
{
    for (int i = table->count; i-- > 0;) {
        int32_t block = table->blocks[i];
        kv_cache_unref(c->kv, block);
        if (c->node_of[block]) settle(c, c->node_of[block]);
    }
    table->count = 0;
    block_table_release(table, c->kv);
}

/* ---- spaces ---- */

static void space_init(struct prefix_space *s, uint64_t group, int rope_set)
{
    *s = (struct prefix_space){.key = {group, (uint64_t)rope_set}};
    node_init(&s->root);
    s->root.hash = hash_mix(group + hash_mix(s->key.rope_set));
}

void prefix_cache_init(struct prefix_cache *c, const struct prefix_cache_setup *setup)
{
    *c = (struct prefix_cache){.setup = *setup, .kv = setup->kv};
    if (c->setup.rope_sets < 1) c->setup.rope_sets = 1;
    size_t buckets = 16;
    while (buckets < 2 * (size_t)c->kv->total)
        buckets *= 2;
    c->bucket_mask = buckets - 1;
    c->buckets = xcalloc(buckets, sizeof(struct prefix_node *));
    c->node_of = xcalloc((size_t)c->kv->total, sizeof(struct prefix_node *));
    c->everybody = xcalloc((size_t)c->setup.rope_sets, sizeof *c->everybody);
    for (int i = 0; i < c->setup.rope_sets; i++)
        space_init(&c->everybody[i], 0, i);
    hash_map_init(&c->groups);
    list_init(&c->idle);
    list_init(&c->hosted);
    random_bytes(c->key, sizeof c->key);
}

void prefix_cache_deinit(struct prefix_cache *c)
{
    for (int i = 0; i < c->setup.rope_sets; i++)
        remove_below(c, &c->everybody[i].root);
    CHECK(c->nodes == 0 && c->groups.len == 0);
    hash_map_deinit(&c->groups);
    free(c->everybody);
    kv_moves_deinit(&c->moves);
    free(c->buckets);
    free(c->node_of);
}

static struct str key_bytes(const struct prefix_space_key *key)
{
    return (struct str){(const char *)key, sizeof *key};
}

struct prefix_space *prefix_cache_join(struct prefix_cache *c, uint64_t group, int rope_set)
{
    CHECK(rope_set >= 0 && rope_set < c->setup.rope_sets);
    if (c->setup.keep) return &c->everybody[rope_set];
    if (group == 0) return NULL;
    struct prefix_space_key key = {group, (uint64_t)rope_set};
    struct prefix_space *s = hash_map_get(&c->groups, key_bytes(&key));
    if (!s) {
        s = xmalloc(sizeof *s);
        space_init(s, group, rope_set);
        hash_map_put(&c->groups, key_bytes(&s->key), s);
    }
    s->members++;
    return s;
}

void prefix_cache_leave(struct prefix_cache *c, struct prefix_space *space)
{
    if (!space || c->setup.keep || --space->members > 0) return;
    remove_below(c, &space->root);
    hash_map_remove(&c->groups, key_bytes(&space->key));
    free(space);
}

/* ---- finding ---- */

static int common(const int32_t *a, const int32_t *b, int count)
{
    int n = 0;
    while (n < count && a[n] == b[n])
        n++;
    return n;
}

static void match_tail(struct prefix_node *parent, const int32_t *tokens, int count,
                       struct prefix_match *m)
{
    int looked_at = 0;
    list_each (n, &parent->children, struct prefix_node, sibling) {
        if (m->tail_tokens == count || looked_at++ == CHILDREN_SCAN_MAX) break;
        if (n->lost) continue;
        int agree = common(n->tokens, tokens, count < n->count ? count : n->count);
        if (agree <= m->tail_tokens) continue;
        m->tail = n;
        m->tail_tokens = agree;
    }
    m->tokens += m->tail_tokens;
}

void prefix_cache_match(struct prefix_cache *c, struct prefix_space *space, const int32_t *tokens,
                        int count, struct prefix_match *m)
{
    *m = (struct prefix_match){0};
    if (!space) return;
    m->node = &space->root;
    while (count - m->tokens >= KV_BLOCK_TOKENS) {
        const int32_t *ids = tokens + m->tokens;
        struct prefix_node *n = find(c, m->node, ids, chain(c, m->node, ids));
        if (!n) break;
        m->node = n;
        m->tokens += KV_BLOCK_TOKENS;
        if (n->block < 0)
            m->absent++;
        else if (kv_cache_state(c->kv, n->block) != KV_ACTIVE)
            m->idle++;
    }
    match_tail(m->node, tokens + m->tokens, count - m->tokens, m);
}

void prefix_cache_hold(struct prefix_cache *c, const struct prefix_match *m, struct prefix_hold *h)
{
    *h = (struct prefix_hold){.match = *m, .tail_block = -1};
    for (struct prefix_node *n = m->node; n && n->parent; n = n->parent) {
        if (n->block >= 0)
            use(c, n);
        else
            list_remove(&n->order);
        list_remove(&n->sibling);
        list_push_front(&n->parent->children, &n->sibling);
    }
    if (!m->tail) return;
    h->tail_block = m->tail->block;
    if (m->tail->page) h->tail_page = host_page_ref(m->tail->page);
}

/* The block holds what was in host memory only. */
static void bring_back(struct prefix_cache *c, struct prefix_node *n, int32_t block)
{
    n->block = block;
    c->node_of[block] = n;
    kv_cache_set_cached(c->kv, block, true);
    list_remove(&n->order);
    drop_page(c, n);
    report(c, n, n);
}

void prefix_cache_fill(struct prefix_cache *c, struct prefix_hold *h, struct block_table *table,
                       int positions)
{
    int whole = h->match.node ? h->match.node->depth : 0;
    CHECK(table->count == 0);
    for (int i = 0; i < whole; i++)
        block_table_push(table, -1);
    for (struct prefix_node *n = h->match.node; n && n->parent; n = n->parent) {
        table->blocks[n->depth - 1] = n->block >= 0 ? n->block : kv_cache_take(c->kv);
        CHECK(table->blocks[n->depth - 1] >= 0);
    }
    bool reserved = block_table_reserve(table, c->kv, positions);
    CHECK(reserved);
    /* The tail before the rest: its block may be one of those that were evicted and taken here. */
    if (h->tail_page)
        kv_moves_restore(&c->moves, h->tail_page, table->blocks[whole], h->match.tail_tokens);
    else if (h->tail_block >= 0)
        kv_moves_copy(&c->moves, h->tail_block, table->blocks[whole], h->match.tail_tokens);
    host_page_unref(h->tail_page);
    for (struct prefix_node *n = h->match.node; n && n->parent; n = n->parent) {
        if (n->block >= 0) continue;
        int32_t block = table->blocks[n->depth - 1];
        kv_moves_restore(&c->moves, n->page, block, n->count);
        bring_back(c, n, block);
    }
}

/* ---- publishing ---- */

/* `n`, just grown whole, is what `twin` is already: the table gets the twin's block, or the twin
 * the table's. */
static void merge(struct prefix_cache *c, struct prefix_node *n, struct prefix_node *twin,
                  int32_t *block)
{
    n->count = 0; // it is in no bucket
    remove_node(c, n);
    if (twin->block >= 0) {
        kv_cache_unref(c->kv, *block);
        *block = twin->block;
        use(c, twin);
    } else {
        bring_back(c, twin, *block);
    }
}

void prefix_cache_publish(struct prefix_cache *c, struct prefix_space *space, const int32_t *tokens,
                          int known, struct block_table *table, int *whole)
{
    if (!space) return;
    struct prefix_node *parent = *whole > 0 ? c->node_of[table->blocks[*whole - 1]] : &space->root;
    while (*whole * KV_BLOCK_TOKENS < known) {
        const int32_t *ids = tokens + *whole * KV_BLOCK_TOKENS;
        int32_t *block = &table->blocks[*whole];
        int left = known - *whole * KV_BLOCK_TOKENS;
        int count = left < KV_BLOCK_TOKENS ? left : KV_BLOCK_TOKENS;
        struct prefix_node *n = c->node_of[*block];
        if (!n) n = create_node(c, parent, *block);
        CHECK(n->parent == parent && n->count <= count);
        memcpy(n->tokens + n->count, ids + n->count, (size_t)(count - n->count) * sizeof *ids);
        n->count = count;
        if (count < KV_BLOCK_TOKENS) return;
        uint64_t hash = chain(c, parent, ids);
        struct prefix_node *twin = find(c, parent, ids, hash);
        if (twin)
            merge(c, n, twin, block);
        else
            link_hash(c, n, hash);
        parent = twin ? twin : n;
        (*whole)++;
    }
}

static enum kv_state state_of(const struct prefix_cache *c, const struct prefix_node *n)
{
    return n->block < 0 ? KV_FREE : kv_cache_state(c->kv, n->block);
}

/* A node that isn't whole and one that begins with all its tokens say the same: one of them goes.
 * Returns the one that stays. What somebody still writes (rule 4) is neither. */
static struct prefix_node *drop_covered(struct prefix_cache *c, struct prefix_node *n)
{
    int looked_at = 0;
    struct prefix_node *covers = NULL;
    list_each_safe (s, &n->parent->children, struct prefix_node, sibling) {
        if (looked_at++ == CHILDREN_SCAN_MAX) break;
        if (s == n || s->lost) continue;
        int shorter = s->count < n->count ? s->count : n->count;
        if (common(s->tokens, n->tokens, shorter) < shorter) continue;
        if (s->count < KV_BLOCK_TOKENS && state_of(c, s) == KV_ACTIVE) continue;
        if (s->count >= n->count)
            covers = s;
        else if (state_of(c, s) == KV_CACHED)
            remove_node(c, s);
    }
    if (!covers) return n;
    if (covers->block < 0) { // what is here is better than what is in host memory
        if (covers->count > n->count || state_of(c, n) != KV_ACTIVE) return n;
        int32_t block = n->block;
        remove_node(c, n);
        bring_back(c, covers, block);
        return covers;
    }
    remove_node(c, n);
    return covers;
}

struct prefix_node *prefix_cache_seal(struct prefix_cache *c, const struct block_table *table,
                                      int whole)
{
    struct prefix_node *tail = whole < table->count ? c->node_of[table->blocks[whole]] : NULL;
    if (tail) return tail->lost ? NULL : drop_covered(c, tail);
    struct prefix_node *last = whole > 0 ? c->node_of[table->blocks[whole - 1]] : NULL;
    return last && !last->lost ? last : NULL;
}

void prefix_cache_tidy(struct prefix_cache *c, struct prefix_node *node)
{
    if (node->count == KV_BLOCK_TOKENS || node->lost || node->sessions_below > 0) return;
    if (state_of(c, node) == KV_CACHED) drop_covered(c, node);
}

void prefix_cache_distrust(struct prefix_cache *c, const struct block_table *table)
{
    struct prefix_node *top = table->count > 0 ? c->node_of[table->blocks[0]] : NULL;
    if (!top) return;
    /* Depth first, without a stack: a node is left for its next sibling or its parent. */
    for (struct prefix_node *n = top;;) {
        report(c, n, NULL);
        unlink_hash(c, n);
        n->lost = true;
        if (!list_is_empty(&n->children)) {
            n = list_first(&n->children, struct prefix_node, sibling);
            continue;
        }
        while (n != top && n->sibling.next == &n->parent->children)
            n = n->parent;
        if (n == top) return;
        n = list_first(&n->sibling, struct prefix_node, sibling);
    }
}

/* ---- eviction ---- */

static bool move_to_host(struct prefix_cache *c, struct prefix_node *n)
{
    int64_t bytes = (int64_t)c->setup.page_bytes * c->setup.ranks;
    if (bytes == 0 || n->lost) return false;
    while (c->host_used + bytes > c->setup.host_bytes) {
        if (list_is_empty(&c->hosted)) return false;
        remove_node(c, list_first(&c->hosted, struct prefix_node, order));
    }
    n->page = host_page_create(c->setup.page_bytes, c->setup.ranks);
    c->host_used += bytes;
    kv_moves_save(&c->moves, n->block, n->count, n->page);
    c->node_of[n->block] = NULL;
    kv_cache_set_cached(c->kv, n->block, false);
    n->block = -1;
    list_remove(&n->order);
    list_push_back(&c->hosted, &n->order);
    report(c, n, n);
    return true;
}

bool prefix_cache_evict(struct prefix_cache *c)
{
    if (list_is_empty(&c->idle)) return false;
    struct prefix_node *n = list_first(&c->idle, struct prefix_node, order);
    bool wanted = n->sessions_below > 0 || !list_is_empty(&n->children);
    if (wanted && move_to_host(c, n)) return true;
    remove_below(c, n); // what is in host memory is of no use without it
    remove_node(c, n);
    return true;
}

/* ---- for sessions ---- */

int prefix_cache_pin(struct prefix_cache *c, struct prefix_node *node)
{
    int pinned = 0;
    for (struct prefix_node *n = node; n->parent; n = n->parent) {
        if (n->pins++ > 0) continue;
        kv_cache_set_pinned(c->kv, n->block, true);
        list_remove(&n->order);
        pinned++;
    }
    return pinned;
}

int prefix_cache_unpin(struct prefix_cache *c, struct prefix_node *node)
{
    int unpinned = 0;
    for (struct prefix_node *n = node; n->parent; n = n->parent) {
        if (--n->pins > 0) continue;
        kv_cache_set_pinned(c->kv, n->block, false);
        settle(c, n);
        unpinned++;
    }
    return unpinned;
}

void prefix_cache_count_session(struct prefix_node *node, int by)
{
    for (; node && node->parent; node = node->parent)
        node->sessions_below += by;
}

/* ---- looking in ---- */

static void check_node(const struct prefix_cache *c, const struct prefix_node *n)
{
    const struct prefix_node *up = n->parent;
    CHECK(n->count > 0 && n->count <= KV_BLOCK_TOKENS && n->pins >= 0);
    CHECK(n->count == KV_BLOCK_TOKENS || list_is_empty(&n->children));
    CHECK((n->block >= 0) != (n->page != NULL));
    CHECK(n->block < 0 || c->node_of[n->block] == n);
    if (!up->parent) return;
    CHECK(n->pins <= up->pins && n->sessions_below <= up->sessions_below);
    CHECK(state_of(c, n) <= state_of(c, up)); // rules 1 and 5
    CHECK(n->lost || !up->lost);
}

static int check_below(const struct prefix_cache *c, const struct prefix_node *root)
{
    int nodes = 0;
    for (const struct prefix_node *n = root;;) {
        if (n != root) {
            nodes++;
            check_node(c, n);
        }
        if (!list_is_empty(&n->children)) {
            n = list_first(&n->children, struct prefix_node, sibling);
            continue;
        }
        while (n != root && n->sibling.next == &n->parent->children)
            n = n->parent;
        if (n == root) return nodes;
        n = list_first(&n->sibling, struct prefix_node, sibling);
    }
}

void prefix_cache_check(const struct prefix_cache *c)
{
    struct str key;
    void *space;
    int nodes = 0, idle = 0, hosted = 0;
    for (int i = 0; i < c->setup.rope_sets; i++)
        nodes += check_below(c, &c->everybody[i].root);
    for (size_t pos = 0; hash_map_next(&c->groups, &pos, &key, &space);)
        nodes += check_below(c, &((struct prefix_space *)space)->root);
    CHECK(nodes == c->nodes);
    list_each (n, &c->idle, struct prefix_node, order) {
        CHECK(n->block >= 0 && kv_cache_state(c->kv, n->block) == KV_CACHED);
        idle++;
    }
    list_each (h, &c->hosted, struct prefix_node, order) {
        CHECK(h->block < 0 && h->page);
        hosted++;
    }
    CHECK(idle == c->kv->count[KV_CACHED]);
    CHECK(c->host_used == hosted * (int64_t)c->setup.page_bytes * c->setup.ranks);
    CHECK(c->host_used <= c->setup.host_bytes);
}
