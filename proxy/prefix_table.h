/* prefix_table.h - which agents hold the KV blocks of which beginnings of prompts: a cache of fixed
 * size from a mark's hash (shared/net/prefix_chain.h) to a set of agents and a number of tokens.
 * Agents are columns: fleet_cell.column, below PREFIX_COLUMNS.
 *
 * An agent that reports gets its marks by add and remove (prefix_sync). A dispatch sets a predicted
 * bit for five seconds, so that a burst of siblings meets before the first report. For agents that
 * don't report, learn() keeps as many marks as their KV memory may hold.
 *
 * Memory, by number of entries: 32 bytes each, a pool of 128-byte bitmaps for marks with more than
 * four holders (one bitmap for 64 entries): 34 MiB for the default of 1 Mi; pages that were never
 * used are not resident. Learned marks: up to 32 KiB for each agent that doesn't report.
 *
 * All functions may be called on any thread: locks are inside, held for one entry at a time. */
#ifndef LM_PROXY_PREFIX_TABLE_H
#define LM_PROXY_PREFIX_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/net/prefix_chain.h"

#define PREFIX_COLUMNS    1024
#define PREFIX_MATCHES    3
#define PREFIX_PREDICT_MS 5000

struct prefix_table;

/* What an agent is thought to hold of a chain. */
struct prefix_match {
    int column;
    double cached_tokens;
    uint64_t bytes; // canonical bytes that these tokens cover
};

/* Everybody who holds one mark of a chain: of a system prompt that many share, say. */
struct prefix_crowd {
    double cached_tokens;
    uint64_t columns[PREFIX_COLUMNS / 64]; // bits
};

static inline bool prefix_crowd_has(const struct prefix_crowd *c, int column)
{
    return column >= 0 && column < PREFIX_COLUMNS && c->columns[column / 64] >> (column % 64) & 1;
}

/* entries: 1 Ki to 16 Mi, rounded up to a power of two. */
struct prefix_table *prefix_table_create(uint64_t entries);
/* With a key that is known, for simulations: the same calls give the same answers. */
struct prefix_table *prefix_table_create_keyed(uint64_t entries, uint64_t key);
void prefix_table_destroy(struct prefix_table *t); // NULL is fine

void prefix_table_add(struct prefix_table *t, uint64_t hash, int column, uint32_t tokens);
void prefix_table_remove(struct prefix_table *t, uint64_t hash, int column);
/* The agent is gone, or starts anew: all its bits. Does not walk over the entries. */
void prefix_table_clear_column(struct prefix_table *t, int column);

/* A request with these marks goes to `column`: it will hold them. tokens_per_byte: canonical bytes,
 * as the model's statistics have it, where no report has said what the marks cover. */
void prefix_table_predict(struct prefix_table *t, const struct prefix_mark *marks, int count,
                          double tokens_per_byte, int column, uint64_t now_ms);
/* The same for an agent that makes no reports, of whose KV memory kv_tokens are known or guessed:
 * what exceeds that displaces older marks. */
void prefix_table_learn(struct prefix_table *t, const struct prefix_mark *marks, int count,
                        double tokens_per_byte, int column, double kv_tokens);

/* Up to PREFIX_MATCHES agents that hold most of the chain, longest first; their number. Where more
 * hold the same length, the chain's last hash says who is named: other prompts name others. */
int prefix_table_match(struct prefix_table *t, const struct prefix_mark *marks, int count,
                       uint64_t now_ms, struct prefix_match out[PREFIX_MATCHES]);
/* What one agent holds of the chain; false: nothing. */
bool prefix_table_match_column(struct prefix_table *t, const struct prefix_mark *marks, int count,
                               int column, uint64_t now_ms, struct prefix_match *out);

/* The longest beginning that more than a few agents hold, and who they are. False: there is none. What
 * is only predicted isn't in it. */
bool prefix_table_match_crowd(struct prefix_table *t, const struct prefix_mark *marks, int count,
                              struct prefix_crowd *out);

struct prefix_table_stats {
    uint64_t entries;     // in use
    uint64_t entries_max; // slots
    uint64_t bitmaps;     // in use
    uint64_t evicted;     // ever: entries that made room for others
    uint64_t memory_bytes;
};
void prefix_table_get_stats(struct prefix_table *t, struct prefix_table_stats *out);
/* CHECKs the invariants of every bucket; for tests and debug builds. */
void prefix_table_check(struct prefix_table *t);

#endif
