/* session_lanes.h - turns of one session go through this proxy one after the other, in the order in
 * which they came: the agents keep the order of what reaches them, and two connections don't.
 *
 * Shared by the threads of a proxy: whoever leaves calls the next one's thread. Bounded:
 * SESSION_LANE_WAITING turns wait for a session, SESSION_LANES sessions have one. */
#ifndef LM_PROXY_SESSION_LANES_H
#define LM_PROXY_SESSION_LANES_H

#include <pthread.h>
#include <stdbool.h>
#include <uv.h>

#include "shared/base/error.h"
#include "shared/base/list.h"

#define SESSION_LANE_WAITING 8
#define SESSION_LANES        65536

struct session_lanes;
struct lane_mailbox; // of one thread

struct session_lanes *session_lanes_create(void);
void session_lanes_destroy(struct session_lanes *l); // empty

struct lane_mailbox *lane_mailbox_open(struct session_lanes *l, uv_loop_t *loop);
void lane_mailbox_close(struct lane_mailbox *m, void (*on_closed)(void *arg), void *arg);

struct lane_ticket {
    struct list link;
    struct lane_mailbox *mailbox; // NULL: not in a lane
    uint64_t key;
    bool is_called;
    void (*on_turn)(void *arg); // on the mailbox's thread, from its loop
    void *arg;
};

/* 1: it is our turn at once. 0: on_turn comes later. E_BUSY: too many wait. */
FALLIBLE int session_lanes_enter(struct lane_mailbox *m, uint64_t key, struct lane_ticket *t,
                                 void (*on_turn)(void *arg), void *arg);
/* Done, or no longer interested. Idempotent; a zeroed ticket is fine. */
void session_lanes_leave(struct lane_ticket *t);

#endif
