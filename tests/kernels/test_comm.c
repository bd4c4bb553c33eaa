/* Meetings of ranks: everybody's offers, in any number, and what happens when one doesn't come. */
#include "kernels/cpu/cpu_comm.h"

#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "tests/test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#define WORLD    5
#define MEETINGS 1000
#define ROW      8

struct rank {
    struct comm_group *group;
    int number, world, meetings;
    int leave_at; // comes to that many meetings only; -1: all
    int late_ms;  // before its first one
    float row[2][ROW];
    int wrong, failed_at; // -1: never
    struct error error;
    pthread_t thread;
};

static struct comm_group *new_group(int world, int timeout_ms)
{
    struct backend_options options = {.world = world, .peer_timeout_ms = timeout_ms};
    struct comm_group *g;
    struct error err;
    NEED(cpu_comm_create(&options, &g, &err) == 0);
    return g;
}

static void sleep_ms(int ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000L}, NULL);
}

static void *rank_main(void *arg)
{
    struct rank *r = arg;
    r->failed_at = -1;
    sleep_ms(r->late_ms);
    for (int m = 0; m < r->meetings && m != r->leave_at; m++) {
        float *row = r->row[m % 2]; // of the meeting before, others may still read
        for (int i = 0; i < ROW; i++)
            row[i] = (float)(1000 * r->number + m + i);
        struct cpu_offer own = {row, ROW, r->number, m};
        const struct cpu_offer *offers = cpu_comm_meet(r->group, r->number, &own);
        if (!offers) {
            r->failed_at = m;
            break;
        }
        for (int o = 0; o < r->world; o++) {
            r->wrong += offers[o].first != o || offers[o].count != m;
            for (int i = 0; i < ROW; i++)
                r->wrong += offers[o].rows[i] != (float)(1000 * o + m + i);
        }
    }
    int rc = cpu_comm_check(r->group, &r->error);
    r->wrong += (rc == 0) != (r->failed_at < 0) && r->leave_at < 0;
    return NULL;
}

static void start(struct rank *ranks, struct comm_group *g, int world, int meetings)
{
    for (int i = 0; i < world; i++) {
        ranks[i].group = g;
        ranks[i].number = i;
        ranks[i].world = world;
        ranks[i].meetings = meetings;
        NEED(pthread_create(&ranks[i].thread, NULL, rank_main, &ranks[i]) == 0);
    }
}

static void join(struct rank *ranks, int world)
{
    for (int i = 0; i < world; i++)
        pthread_join(ranks[i].thread, NULL);
}

static void test_all_see_all(void)
{
    for (int world = 1; world <= WORLD; world++) {
        struct comm_group *g = new_group(world, 0);
        struct rank ranks[WORLD] = {0};
        for (int i = 0; i < world; i++)
            ranks[i].leave_at = -1;
        start(ranks, g, world, MEETINGS);
        join(ranks, world);
        for (int i = 0; i < world; i++) {
            EXPECT_INT(ranks[i].wrong, 0);
            EXPECT_INT(ranks[i].failed_at, -1);
        }
        cpu_comm_destroy(g);
    }
    cpu_comm_destroy(NULL);
}

/* Sleeping ranks are woken by the one that comes last. */
static void test_a_late_rank_is_waited_for(void)
{
    struct comm_group *g = new_group(3, 10000);
    struct rank ranks[3] = {{.leave_at = -1}, {.leave_at = -1, .late_ms = 120}, {.leave_at = -1}};
    start(ranks, g, 3, 10);
    join(ranks, 3);
    for (int i = 0; i < 3; i++)
        EXPECT(ranks[i].failed_at == -1 && ranks[i].wrong == 0);
    cpu_comm_destroy(g);
}

static void test_a_missing_rank_is_named(void)
{
    struct comm_group *g = new_group(4, 50);
    struct rank ranks[4] = {{.leave_at = -1}, {.leave_at = 7}, {.leave_at = -1}, {.leave_at = 7}};
    start(ranks, g, 4, 100);
    join(ranks, 4);
    for (int i = 0; i < 4; i += 2) {
        EXPECT_INT(ranks[i].failed_at, 7);
        EXPECT_STR(ranks[i].error.text, "rank 1, 3 did not answer the other ranks for 0.05 s");
    }
    struct cpu_offer own = {0};
    EXPECT(!cpu_comm_meet(g, 1, &own)); // it comes after all
    cpu_comm_destroy(g);
}

static void test_abort_wakes_who_waits(void)
{
    struct comm_group *g = new_group(3, 60000);
    struct rank ranks[3] = {{.leave_at = -1}, {.leave_at = -1}, {.leave_at = 3}};
    struct error err;
    start(ranks, g, 3, 10);
    sleep_ms(100); // two of them sleep
    EXPECT_INT(cpu_comm_check(g, &err), 0);
    cpu_comm_abort(g, "rank 2 is out of memory");
    cpu_comm_abort(g, "and so on");
    join(ranks, 3);
    EXPECT_INT(ranks[0].failed_at, 3);
    EXPECT_INT(ranks[1].failed_at, 3);
    EXPECT_INT(cpu_comm_check(g, &err), E_DEVICE);
    EXPECT_STR(err.text, "rank 2 is out of memory");
    cpu_comm_destroy(g);
}

static void test_refusals(void)
{
    struct backend_options options = {.world = CPU_COMM_WORLD_MAX + 1};
    struct comm_group *g;
    struct error err;
    EXPECT_INT(cpu_comm_create(&options, &g, &err), E_LIMIT);
    options.world = 0;
    EXPECT_INT(cpu_comm_create(&options, &g, &err), E_LIMIT);
}

int main(void)
{
    RUN(test_all_see_all);
    RUN(test_a_late_rank_is_waited_for);
    RUN(test_a_missing_rank_is_named);
    RUN(test_abort_wakes_who_waits);
    RUN(test_refusals);
    return TEST_END();
}
