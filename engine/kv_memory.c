#include "engine/kv_memory.h"

#include "shared/base/check.h"

_Static_assert(ENGINE_BLOCK_TOKENS == KV_BLOCK_TOKENS, "marks are at whole blocks");

static void on_block_gone(void *arg, uint64_t hash)
{
    prefix_marks_gone(arg, hash);
}

void kv_memory_init(struct kv_memory *m, const struct kv_memory_setup *setup)
{
    m->marks = setup->prefix_caching ? setup->marks : NULL;
    struct prefix_cache_setup cache = {.kv = &m->kv,
                                       .keep = setup->prefix_caching,
                                       .rope_sets = setup->rope_sets,
                                       .host_bytes = setup->session_host_bytes,
                                       .page_bytes = setup->page_bytes,
                                       .ranks = setup->ranks,
                                       .on_change = session_pages_on_change,
                                       .on_change_arg = &m->sessions,
                                       .on_gone = on_block_gone,
                                       .on_gone_arg = m->marks};
    if (cache.host_bytes < (int64_t)cache.page_bytes * cache.ranks) cache.page_bytes = 0;
    kv_cache_init(&m->kv, setup->blocks);
    prefix_cache_init(&m->cache, &cache);
    session_pages_init(&m->sessions, &m->cache, (int)(setup->session_pin_ratio * setup->blocks));
}

void kv_memory_deinit(struct kv_memory *m)
{
    session_pages_deinit(&m->sessions);
    prefix_cache_deinit(&m->cache);
    kv_cache_deinit(&m->kv);
}

void kv_memory_join(struct kv_memory *m, struct request *r)
{
    r->space = prefix_cache_join(&m->cache, r->group, r->rope_set);
}

void kv_memory_leave(struct kv_memory *m, struct request *r)
{
    prefix_cache_leave(&m->cache, r->space);
    r->space = NULL;
}

int kv_memory_findable(const struct request *r)
{
    if (request_reads_prompt(r) && r->scored < r->prompt_count - 1) return r->scored;
    return r->count - 1;
}

void kv_memory_match(struct kv_memory *m, const struct request *r, struct prefix_match *match)
{
    prefix_cache_match(&m->cache, r->space, r->tokens, kv_memory_findable(r), match);
}

/* Blocks of a match that need none of those that are free. */
static int blocks_there(const struct prefix_match *match)
{
    return (match->node ? match->node->depth : 0) - match->absent;
}

int kv_memory_spare(const struct kv_memory *m, const struct request *r,
                    const struct prefix_match *match)
{
    int available = m->kv.total - m->kv.count[KV_ACTIVE] - match->idle;
    return available - (blocks_for(r->count) - blocks_there(match));
}

/* All of them or none: what isn't active can be freed, but not what a match holds, which is. */
static bool make_free(struct kv_memory *m, int blocks)
{
    if (blocks > m->kv.total - m->kv.count[KV_ACTIVE]) return false;
    while (m->kv.count[KV_FREE] < blocks)
        if (!prefix_cache_evict(&m->cache)) CHECK(session_pages_demote(&m->sessions));
    return true;
}

void kv_memory_admit(struct kv_memory *m, struct request *r, const struct prefix_match *match)
{
    struct prefix_hold hold;
    prefix_cache_hold(&m->cache, match, &hold);
    bool fits = make_free(m, blocks_for(r->count) - blocks_there(match));
    CHECK(fits && r->computed == 0);
    prefix_cache_fill(&m->cache, &hold, &r->table, r->count);
    r->whole = match->node ? match->node->depth : 0;
    r->published = r->whole * KV_BLOCK_TOKENS;
    r->computed = match->tokens;
}

bool kv_memory_grow(struct kv_memory *m, struct request *r, int positions)
{
    int missing = blocks_for(positions) - r->table.count;
    if (missing <= 0) return true;
    return make_free(m, missing) && block_table_reserve(&r->table, &m->kv, positions);
}

/* Those of r's marks whose blocks others can find now. */
static void report_marks(struct kv_memory *m, struct request *r)
{
    for (; r->marks_live < r->mark_count; r->marks_live++) {
        const struct engine_mark *mark = &r->marks[r->marks_live];
        if (mark->tokens > r->whole * KV_BLOCK_TOKENS) return;
        struct prefix_node *node =
            m->cache.node_of[r->table.blocks[mark->tokens / KV_BLOCK_TOKENS - 1]];
        if (node->lost) continue;
        node->is_marked = true;
        prefix_marks_live(m->marks, mark, node->hash);
    }
}

void kv_memory_publish(struct kv_memory *m, struct request *r)
{
    int known = r->computed < r->count ? r->computed : r->count;
    prefix_cache_publish(&m->cache, r->space, r->tokens, known, &r->table, &r->whole);
    if (r->space) r->published = known;
    if (m->marks) report_marks(m, r);
}

static void release(struct kv_memory *m, struct request *r)
{
    prefix_cache_release(&m->cache, &r->table);
    r->whole = r->published = r->computed = r->marks_live = 0;
}

void kv_memory_yield(struct kv_memory *m, struct request *r)
{
    if (r->space) {
        kv_memory_publish(m, r);
        prefix_cache_seal(&m->cache, &r->table, r->whole);
    }
    release(m, r);
}

void kv_memory_end(struct kv_memory *m, struct request *r)
{
    if (r->space && r->table.count > 0) {
        kv_memory_publish(m, r);
        struct prefix_node *leaf = prefix_cache_seal(&m->cache, &r->table, r->whole);
        if (r->session && m->cache.setup.keep) session_pages_keep(&m->sessions, r->session, leaf);
    }
    release(m, r);
}

void kv_memory_end_distrusted(struct kv_memory *m, struct request *r)
{
    prefix_cache_distrust(&m->cache, &r->table);
    release(m, r);
}

void kv_memory_check(const struct kv_memory *m)
{
    kv_cache_check(&m->kv);
    prefix_cache_check(&m->cache);
    session_pages_check(&m->sessions);
    CHECK(m->sessions.pinned >= m->kv.count[KV_PINNED]);
}
