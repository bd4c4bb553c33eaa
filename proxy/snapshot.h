/* snapshot.h - the fleet as it was last known, in a file (--state-file): for a proxy that starts
 * while Redis is away, and for foreign nodes, which nobody else remembers.
 *
 * JSON: {"version":1,"agents":[{"source":"redis","lm":{...}}],"nodes":[{"url","models","speed"}]}.
 * Written when members have changed, at most every SNAPSHOT_MS, to a temporary file that is renamed
 * over the old one, by libuv's thread pool. What is read at the start is hearsay: agents are suspect
 * until a probe of ours succeeds. Main thread. */
#ifndef LM_PROXY_SNAPSHOT_H
#define LM_PROXY_SNAPSHOT_H

#include <uv.h>

#include "proxy/registry.h"

#define SNAPSHOT_MS 2000

struct snapshot;

/* path NULL: *out is NULL, no snapshots. A missing file is none; one that can't be read or parsed
 * is logged and ignored: it must not keep a proxy from starting. */
void snapshot_open(uv_loop_t *loop, const char *path, struct registry *registry, uint64_t now_ms,
                   struct snapshot **out);
void snapshot_tick(struct snapshot *s, uint64_t now_ms); // NULL is fine
bool snapshot_is_busy(const struct snapshot *s);         // a write is under way; NULL is fine
void snapshot_close(struct snapshot *s);                 // not while it is busy; NULL is fine

/* The two directions, for tests. E_FORMAT; what is malformed in one entry loses that entry only. */
void snapshot_print(struct registry *registry, struct buf *out);
FALLIBLE int snapshot_read(struct registry *registry, struct str text, uint64_t now_ms,
                           struct error *err);

#endif
