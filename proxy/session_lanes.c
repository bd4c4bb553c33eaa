/* session_lanes.c - rules:
 *
 *  1. A lane exists while somebody is in it: the front ticket's turn runs, the others wait.
 *  2. Only the lock's holder touches lanes and tickets' links. A ticket that is called moves to its
 *     mailbox's list first and is run by the mailbox's thread, which alone may free it: so leaving
 *     needs no thread but one's own.
 *  3. on_turn is never called under the lock. */
#include "proxy/session_lanes.h"

#include "shared/base/check.h"
#include "shared/base/hash.h"

#include <stdlib.h>

#define BUCKETS 4096 // power of two

struct lane {
    struct list link;    // its bucket
    struct list tickets; // that wait, in order
    uint64_t key;
    int waiting;
};

struct session_lanes {
    pthread_mutex_t lock;
    struct list buckets[BUCKETS];
    int count;
};

struct lane_mailbox {
    struct session_lanes *lanes;
    uv_async_t wake;
    struct list called; // behind the lanes' lock
    void (*on_closed)(void *arg);
    void *on_closed_arg;
};

struct session_lanes *session_lanes_create(void)
{
    struct session_lanes *l = xcalloc(1, sizeof *l);
    pthread_mutex_init(&l->lock, NULL);
    for (int i = 0; i < BUCKETS; i++)
        list_init(&l->buckets[i]);
    return l;
}

void session_lanes_destroy(struct session_lanes *l)
{
    if (!l) return;
    CHECK(l->count == 0);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

/* ---- mailboxes ---- */

static void on_wake(uv_async_t *handle)
{
    struct lane_mailbox *m = handle->data;
    struct session_lanes *l = m->lanes;
    for (;;) {
        pthread_mutex_lock(&l->lock);
        struct lane_ticket *t = NULL;
        if (!list_is_empty(&m->called)) {
            t = list_first(&m->called, struct lane_ticket, link);
            list_remove(&t->link);
        }
        pthread_mutex_unlock(&l->lock);
        if (!t) return;
        t->on_turn(t->arg);
    }
}

struct lane_mailbox *lane_mailbox_open(struct session_lanes *l, uv_loop_t *loop)
{
    struct lane_mailbox *m = xcalloc(1, sizeof *m);
    m->lanes = l;
    list_init(&m->called);
    CHECK(uv_async_init(loop, &m->wake, on_wake) == 0);
    m->wake.data = m;
    return m;
}

static void on_wake_closed(uv_handle_t *handle)
{
    struct lane_mailbox *m = handle->data;
    void (*on_closed)(void *) = m->on_closed;
    void *arg = m->on_closed_arg;
    free(m);
    if (on_closed) on_closed(arg);
}

void lane_mailbox_close(struct lane_mailbox *m, void (*on_closed)(void *arg), void *arg)
{
    CHECK(list_is_empty(&m->called));
    m->on_closed = on_closed;
    m->on_closed_arg = arg;
    uv_close((uv_handle_t *)&m->wake, on_wake_closed);
}

/* ---- lanes ---- */

static struct lane *find(struct session_lanes *l, uint64_t key)
{
    struct list *bucket = &l->buckets[hash_mix(key) & (BUCKETS - 1)];
    list_each (lane, bucket, struct lane, link) {
        if (lane->key == key) return lane;
    }
    return NULL;
}

int session_lanes_enter(struct lane_mailbox *m, uint64_t key, struct lane_ticket *t,
                        void (*on_turn)(void *arg), void *arg)
{
    struct session_lanes *l = m->lanes;
    CHECK(!t->mailbox);
    *t = (struct lane_ticket){.key = key, .on_turn = on_turn, .arg = arg};
    list_init(&t->link);
    int rc = 0;
    pthread_mutex_lock(&l->lock);
    struct lane *lane = find(l, key);
    if (!lane && l->count < SESSION_LANES) {
        lane = xcalloc(1, sizeof *lane);
        lane->key = key;
        list_init(&lane->tickets);
        list_push_back(&l->buckets[hash_mix(key) & (BUCKETS - 1)], &lane->link);
        l->count++;
        t->is_called = true;
        rc = 1;
    } else if (!lane || lane->waiting == SESSION_LANE_WAITING) {
        rc = E_BUSY;
    } else {
        list_push_back(&lane->tickets, &t->link);
        lane->waiting++;
    }
    if (rc != E_BUSY) t->mailbox = m;
    pthread_mutex_unlock(&l->lock);
    return rc;
}

void session_lanes_leave(struct lane_ticket *t)
{
    if (!t->mailbox) return;
    struct session_lanes *l = t->mailbox->lanes;
    pthread_mutex_lock(&l->lock);
    struct lane *lane = find(l, t->key);
    CHECK(lane);
    list_remove(&t->link);
    if (!t->is_called) {
        lane->waiting--;
    } else if (list_is_empty(&lane->tickets)) {
        list_remove(&lane->link);
        free(lane);
        l->count--;
    } else {
        struct lane_ticket *next = list_first(&lane->tickets, struct lane_ticket, link);
        list_remove(&next->link);
        lane->waiting--;
        next->is_called = true;
        list_push_back(&next->mailbox->called, &next->link);
        uv_async_send(&next->mailbox->wake);
    }
    t->mailbox = NULL;
    pthread_mutex_unlock(&l->lock);
}
