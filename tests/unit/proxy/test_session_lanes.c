/* Order and bounds on one thread, then turns that come on several. */
#include "proxy/session_lanes.h"

#include "shared/base/check.h"
#include "tests/unit/net/net_test.h"

#include <stdatomic.h>

static struct session_lanes *lanes;

struct turn {
    struct lane_ticket ticket;
    int number;
};

static int called[64], called_count;

static void on_turn(void *arg)
{
    struct turn *t = arg;
    called[called_count++] = t->number;
}

static int closed;

static void on_closed(void *arg)
{
    (void)arg;
    closed++;
}

static void test_order(void)
{
    uv_loop_init(&loop);
    struct lane_mailbox *m = lane_mailbox_open(lanes, &loop);
    struct turn turns[SESSION_LANE_WAITING + 3] = {{.number = 0}}, other = {.number = 99};
    called_count = 0;
    for (int i = 0; i < SESSION_LANE_WAITING + 2; i++) {
        turns[i].number = i;
        int want = i == 0 ? 1 : i <= SESSION_LANE_WAITING ? 0 : E_BUSY;
        EXPECT_INT(session_lanes_enter(m, 7, &turns[i].ticket, on_turn, &turns[i]), want);
    }
    EXPECT_INT(session_lanes_enter(m, 8, &other.ticket, on_turn, &other), 1); // its own lane
    session_lanes_leave(&turns[SESSION_LANE_WAITING + 1].ticket);             // never in: nothing
    session_lanes_leave(&turns[2].ticket);                                    // no longer waits
    session_lanes_leave(&turns[2].ticket);
    session_lanes_leave(&turns[0].ticket);
    EXPECT_INT(called_count, 0); // never from inside
    EXPECT(SPIN_UNTIL(called_count == 1, 5000));
    session_lanes_leave(&turns[1].ticket);
    session_lanes_leave(&turns[3].ticket); // called, and gone before it heard of it
    EXPECT(SPIN_UNTIL(called_count == 2, 5000));
    EXPECT_INT(called[0], 1);
    EXPECT_INT(called[1], 4);
    for (int i = 4; i <= SESSION_LANE_WAITING; i++)
        session_lanes_leave(&turns[i].ticket);
    spin_for(5);
    EXPECT_INT(called_count, 2);
    EXPECT_INT(session_lanes_enter(m, 7, &turns[0].ticket, on_turn, &turns[0]), 1);
    session_lanes_leave(&turns[0].ticket);
    session_lanes_leave(&other.ticket);
    lane_mailbox_close(m, on_closed, NULL);
    EXPECT(SPIN_UNTIL(closed == 1, 5000));
    EXPECT_INT(uv_loop_close(&loop), 0);
}

/* ---- several threads ---- */

enum { THREADS = 4, ROUNDS = 2000, KEYS = 5 };

struct runner {
    uv_loop_t loop;
    uv_thread_t thread;
    struct lane_mailbox *mailbox;
    struct lane_ticket tickets[KEYS];
    int keys[KEYS];
    int left, open;
    uv_idle_t idle;
    struct runner_turn {
        struct runner *owner;
        int key;
    } turns[KEYS];
};

static atomic_int inside[KEYS], served, refused;

static void turn_runs(void *arg)
{
    struct runner_turn *t = arg;
    CHECK(atomic_fetch_add(&inside[t->key], 1) == 0); // nobody else's
    atomic_fetch_add(&served, 1);
    CHECK(atomic_fetch_sub(&inside[t->key], 1) == 1);
    session_lanes_leave(&t->owner->tickets[t->key]);
    t->owner->open--;
}

static void on_idle(uv_idle_t *idle)
{
    struct runner *r = idle->data;
    for (int key = 0; key < KEYS; key++) {
        if (r->tickets[key].mailbox || r->left == 0) continue;
        int rc = session_lanes_enter(r->mailbox, (uint64_t)key, &r->tickets[key], turn_runs,
                                     &r->turns[key]);
        r->left--;
        if (rc == E_BUSY) {
            atomic_fetch_add(&refused, 1);
            continue;
        }
        r->open++;
        if (rc == 1) turn_runs(&r->turns[key]);
    }
    if (r->left > 0 || r->open > 0) return;
    uv_close((uv_handle_t *)idle, NULL);
    lane_mailbox_close(r->mailbox, NULL, NULL);
}

static void runner_main(void *arg)
{
    struct runner *r = arg;
    uv_run(&r->loop, UV_RUN_DEFAULT);
}

static void test_threads(void)
{
    static struct runner runners[THREADS];
    for (int i = 0; i < THREADS; i++) {
        struct runner *r = &runners[i];
        r->left = ROUNDS;
        uv_loop_init(&r->loop);
        r->mailbox = lane_mailbox_open(lanes, &r->loop);
        for (int key = 0; key < KEYS; key++)
            r->turns[key] = (struct runner_turn){r, key};
        uv_idle_init(&r->loop, &r->idle);
        r->idle.data = r;
        uv_idle_start(&r->idle, on_idle);
        NEED(uv_thread_create(&r->thread, runner_main, r) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        uv_thread_join(&runners[i].thread);
        EXPECT_INT(uv_loop_close(&runners[i].loop), 0);
    }
    EXPECT_INT(atomic_load(&served) + atomic_load(&refused), THREADS * ROUNDS);
    EXPECT(atomic_load(&served) > 0);
}

int main(void)
{
    lanes = session_lanes_create();
    RUN(test_order);
    RUN(test_threads);
    session_lanes_destroy(lanes); // CHECKs that no lane is left
    return TEST_END();
}
