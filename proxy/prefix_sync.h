/* prefix_sync.h - fetches from agents which marks they hold, and keeps the prefix table so.
 *
 *     GET /lm/prefixes?since=4      lm-prefixes 4 9 delta            since that version
 *                                   +00f3a1b2c4d5e6f7 256            held now, and the tokens it covers
 *                                   -9ab4c3d2e1f00718                held no longer
 *
 * When a load report names another version than the one we have, the difference is fetched; `full`
 * instead of `delta` says that the lines are all there is: what an agent answers where it doesn't
 * know the version asked for, and to 0, which is asked for in a new incarnation and after an answer
 * that made no sense. Lines are applied as they come: nothing is kept of the body.
 *
 * One pull per agent at a time, at most every 500 ms, later after failures. On worker 0's loop. */
#ifndef LM_PROXY_PREFIX_SYNC_H
#define LM_PROXY_PREFIX_SYNC_H

#include <stdint.h>

#include "proxy/prefix_table.h"
#include "shared/net/http_client.h"

struct prefix_peer;

struct prefix_sync {
    struct http_client *client; // borrowed, as the others
    struct prefix_table *table;
    const char *join_key; // shown to agents; NULL: none
    int running;          // pulls
    int next;             // column from which the next tick starts pulls
    struct prefix_peer *peers[PREFIX_COLUMNS];
};

void prefix_sync_init(struct prefix_sync *s, struct http_client *client, struct prefix_table *table,
                      const char *join_key);
void prefix_sync_deinit(struct prefix_sync *s); // cancels all; before the client is destroyed

/* A load report: the agent at `url` (a valid one), whose column this is, has `version`; 0: it
 * doesn't speak of prefixes. */
void prefix_sync_note(struct prefix_sync *s, const char *url, const char *incarnation, int column,
                      uint64_t version, uint64_t now_ms);
/* Start the pulls that are due, cut those that take too long. Ten times a second or so. */
void prefix_sync_tick(struct prefix_sync *s, uint64_t now_ms);
/* The agent is gone, and its column free for another: its bits are, too. */
void prefix_sync_forget(struct prefix_sync *s, int column);

#endif
