/* prefix_index.c - hashes, the blocks they stand on, and a log of what changed.
 *
 * Rules
 *  1. A hash stands for one block. While that lives, a report that puts it elsewhere (proportions
 *     differ between prompts) only says that it is in use.
 *  2. A block that goes takes its hashes along. When there are too many hashes, those go whose last
 *     report is oldest.
 *  3. version - logged is the oldest version that a delta can start from. When events were lost,
 *     everything goes, and no delta reaches behind that. */
#include "agent/prefix_index.h"

#include "shared/base/check.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct prefix_entry {
    uint64_t hash, block;
    int tokens;
    struct list use;   // prefix_index.by_use
    struct list peers; // ring of those on the same block
};

struct prefix_change {
    uint64_t hash;
    int tokens; // 0: removed
};

static struct str key_of(const uint64_t *number)
{
    return (struct str){(const char *)number, sizeof *number};
}

static void log_change(struct prefix_index *p, uint64_t hash, int tokens)
{
    p->log[p->version % PREFIX_LOG_MAX] = (struct prefix_change){hash, tokens};
    p->version++;
    if (p->logged < PREFIX_LOG_MAX) p->logged++;
}

static void remove_entry(struct prefix_index *p, struct prefix_entry *e)
{
    hash_map_remove(&p->by_hash, key_of(&e->hash));
    hash_map_remove(&p->by_block, key_of(&e->block));
    if (!list_is_empty(&e->peers)) {
        struct prefix_entry *peer = list_first(&e->peers, struct prefix_entry, peers);
        hash_map_put(&p->by_block, key_of(&peer->block), peer);
    }
    list_remove(&e->peers);
    list_remove(&e->use);
    log_change(p, e->hash, 0);
    free(e);
    p->count--;
}

static void remove_block(struct prefix_index *p, uint64_t block)
{
    struct prefix_entry *e;
    while ((e = hash_map_get(&p->by_block, key_of(&block))) != NULL)
        remove_entry(p, e);
}

static void add_entry(struct prefix_index *p, const struct engine_mark_event *event)
{
    while (p->count >= PREFIX_INDEX_MAX)
        remove_entry(p, list_first(&p->by_use, struct prefix_entry, use));
    struct prefix_entry *e = xcalloc(1, sizeof *e);
    e->hash = event->mark.name;
    e->block = event->block;
    e->tokens = event->mark.tokens;
    list_init(&e->peers);
    struct prefix_entry *peer = hash_map_put(&p->by_block, key_of(&e->block), e);
    if (peer) list_push_back(&peer->peers, &e->peers);
    hash_map_put(&p->by_hash, key_of(&e->hash), e);
    list_push_back(&p->by_use, &e->use);
    log_change(p, e->hash, e->tokens);
    p->count++;
}

void prefix_index_apply(struct prefix_index *p, const struct engine_mark_event *event)
{
    if (!event->is_live) {
        remove_block(p, event->block);
        return;
    }
    struct prefix_entry *e = hash_map_get(&p->by_hash, key_of(&event->mark.name));
    if (!e) {
        add_entry(p, event);
        return;
    }
    list_remove(&e->use); // rule 1
    list_push_back(&p->by_use, &e->use);
}

static void free_entries(struct prefix_index *p)
{
    list_each_safe (e, &p->by_use, struct prefix_entry, use)
        free(e);
    list_init(&p->by_use);
    hash_map_deinit(&p->by_hash);
    hash_map_deinit(&p->by_block);
    hash_map_init(&p->by_hash);
    hash_map_init(&p->by_block);
    p->count = 0;
}

void prefix_index_note_lost(struct prefix_index *p, uint64_t lost)
{
    if (lost == p->lost_known) return;
    p->lost_known = lost;
    free_entries(p);
    p->version++;
    p->logged = 0;
}

void prefix_index_print(const struct prefix_index *p, uint64_t since, struct buf *out)
{
    bool is_delta = since <= p->version && p->version - since <= p->logged;
    buf_printf(out, "lm-prefixes %" PRIu64 " %" PRIu64 " %s\n", is_delta ? since : 0, p->version,
               is_delta ? "delta" : "full");
    if (!is_delta) {
        list_each (e, &p->by_use, struct prefix_entry, use)
            buf_printf(out, "+%016" PRIx64 " %d\n", e->hash, e->tokens);
        return;
    }
    for (uint64_t v = since; v < p->version; v++) {
        const struct prefix_change *c = &p->log[v % PREFIX_LOG_MAX];
        if (c->tokens > 0) {
            buf_printf(out, "+%016" PRIx64 " %d\n", c->hash, c->tokens);
        } else {
            buf_printf(out, "-%016" PRIx64 "\n", c->hash);
        }
    }
}

void prefix_index_init(struct prefix_index *p, uint64_t version)
{
    CHECK(version > 0);
    *p = (struct prefix_index){.version = version};
    hash_map_init(&p->by_hash);
    hash_map_init(&p->by_block);
    list_init(&p->by_use);
    p->log = xcalloc(PREFIX_LOG_MAX, sizeof *p->log);
}

void prefix_index_deinit(struct prefix_index *p)
{
    if (!p->log) return;
    free_entries(p);
    hash_map_deinit(&p->by_hash);
    hash_map_deinit(&p->by_block);
    free(p->log);
    p->log = NULL;
}

void prefix_index_check(const struct prefix_index *p)
{
    size_t count = 0, blocks = 0;
    list_each (e, &p->by_use, struct prefix_entry, use) {
        const struct prefix_entry *head = hash_map_get(&p->by_block, key_of(&e->block));
        CHECK(hash_map_get(&p->by_hash, key_of(&e->hash)) == e && head && e->tokens > 0);
        CHECK(head->block == e->block);
        blocks += head == e;
        list_each (peer, &e->peers, struct prefix_entry, peers)
            CHECK(peer->block == e->block);
        count++;
    }
    CHECK(count == p->count && count == p->by_hash.len && blocks == p->by_block.len);
    CHECK(count <= PREFIX_INDEX_MAX && p->logged <= PREFIX_LOG_MAX);
}

/* ---- from bytes to tokens ---- */

_Static_assert(PREFIX_MARKS_MAX <= ENGINE_MARKS_MAX, "a header's marks fit a request");

int prefix_marks_of(struct str header, size_t prompt_tokens, struct engine_mark *out)
{
    struct prefix_mark marks[PREFIX_MARKS_MAX];
    uint64_t total;
    int count = prefix_chain_parse(header, marks, PREFIX_MARKS_MAX, &total), kept = 0;
    for (int i = 0; i < count; i++) {
        double share = (double)marks[i].bytes / (double)total;
        int tokens = (int)(share * (double)prompt_tokens);
        tokens -= tokens % ENGINE_BLOCK_TOKENS;
        if (tokens > 0) out[kept++] = (struct engine_mark){marks[i].hash, tokens};
    }
    return kept;
}
