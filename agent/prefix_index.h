/* prefix_index.h - which beginnings of prompts, by the hashes that proxies gave them (x-lm-prefix),
 * have their KV blocks here, and what has changed since a version: GET /lm/prefixes.
 *
 *     lm-prefixes 1000 1003 delta
 *     +00f3a1b2c4d5e6f7 1024
 *     -9ab4c3d2e1f00718
 *
 * Each change is a version. Who asks with one that the log still knows gets the changes since, in
 * order; anybody else gets all that is live. Rules at the head of prefix_index.c. Pure. Loop thread
 * only. */
#ifndef LM_AGENT_PREFIX_INDEX_H
#define LM_AGENT_PREFIX_INDEX_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/engine.h"
#include "shared/base/buf.h"
#include "shared/base/hash_map.h"
#include "shared/base/list.h"
#include "shared/net/prefix_chain.h"

#define PREFIX_INDEX_MAX       65536 // hashes
#define PREFIX_LOG_MAX         16384 // changes
/* Of versions from the clock: no process makes so many. 2^53 is reached in the year 2255. */
#define PREFIX_VERSIONS_PER_MS 1000

struct prefix_change;

struct prefix_index {
    struct hash_map by_hash;  // of struct prefix_entry
    struct hash_map by_block; // one of those of a block; the others are in its ring
    struct list by_use;       // reported least recently: first
    size_t count;
    uint64_t version; // after the last change
    struct prefix_change *log;
    size_t logged;       // the last changes that `log` has
    uint64_t lost_known; // events that the engine had lost when this was last emptied
};

/* version: > 0, more than any that an earlier process at this address reached. */
void prefix_index_init(struct prefix_index *p, uint64_t version);
void prefix_index_deinit(struct prefix_index *p);

/* What the engine says; `lost`: its engine_lost_mark_events, when all waiting events were given. */
void prefix_index_apply(struct prefix_index *p, const struct engine_mark_event *event);
void prefix_index_note_lost(struct prefix_index *p, uint64_t lost);

/* The answer to GET /lm/prefixes?since=V. */
void prefix_index_print(const struct prefix_index *p, uint64_t since, struct buf *out);

void prefix_index_check(const struct prefix_index *p);

/* Marks for the engine: where the header's lie in a prompt of that many tokens, by proportion, down
 * to whole blocks. Returns their number, 0 for a malformed header; out has ENGINE_MARKS_MAX. */
int prefix_marks_of(struct str header, size_t prompt_tokens, struct engine_mark *out);

#endif
