/* tp_group.h - the rank threads: one per backend instance, each doing all work in the order of
 * posting.
 *
 * Work is broadcast by pointer: every rank runs the same function on the same object, and it is
 * done when the last rank is. One thread posts. World size 1 is one thread and the same code. */
#ifndef LM_ENGINE_TP_GROUP_H
#define LM_ENGINE_TP_GROUP_H

#include "shared/base/error.h"

#include <stdatomic.h>
#include <stdbool.h>

#define TP_GROUP_QUEUE 8 // works posted and not done, at most

struct tp_group; // opaque

/* Embedded in what is to be done. */
struct tp_work {
    void (*run)(struct tp_work *work, int rank, void *arg); // on each rank's thread
    atomic_int ranks_left;
};

/* arg goes to every run(). */
FALLIBLE int tp_group_start(int world, void *arg, struct tp_group **out, struct error *err);
/* on_done(arg) is called by the last rank of each work, after it is done. Once this returns, the
 * one that was set before is not running and won't be called again. It must not call in here. */
void tp_group_set_on_done(struct tp_group *g, void (*on_done)(void *arg), void *arg);
/* Finishes what was posted, joins, frees; NULL is fine. An abandoned group is left alone. */
void tp_group_stop(struct tp_group *g);

/* In a work's run(), by a rank that failed: wait until every other rank is done with the work or has
 * failed too. If that takes longer than wait_ms a rank is lost, and the group is abandoned: all works count
 * as done, no run() begins any more, on_done is called. The lost rank may still be in its run(), now
 * or later: what it can reach must be left as it is for ever. */
void tp_group_fail(struct tp_group *g, struct tp_work *work, int rank, int wait_ms);
bool tp_group_is_abandoned(const struct tp_group *g);

/* In a work's run(): the one posted behind it, or NULL. Its run() will be called, unless the group is abandoned. */
struct tp_work *tp_group_next(struct tp_group *g, int rank);

void tp_group_post(struct tp_group *g, struct tp_work *work);
bool tp_work_is_done(const struct tp_work *work); // acquire: the results may be read
void tp_group_wait(struct tp_group *g, struct tp_work *work);

#endif
