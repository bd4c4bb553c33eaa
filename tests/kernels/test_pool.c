/* The pool: every part runs once per call, items go out once, results are visible, lists of cores
 * are checked, and an idle pool uses no processor time. */
#include "kernels/cpu/cpu_pool.h"

#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#include "shared/base/check.h"
#include "tests/test.h"

#define ITEMS 1000

struct tally {
    struct cpu_pool *pool;
    int runs[CPU_POOL_THREADS_MAX]; // by part, plain on purpose: the pool must order them
    atomic_int taken[ITEMS];
    int pause_us;
};

static void count_parts(void *arg, int part, int parts)
{
    struct tally *t = arg;
    EXPECT(part >= 0 && part < parts);
    if (t->pause_us && part > 0) {
        struct timespec pause = {0, t->pause_us * 1000L};
        nanosleep(&pause, NULL);
    }
    t->runs[part]++;
}

static void count_part(void *arg, int part, int parts)
{
    atomic_int *taken = arg;
    EXPECT_INT(parts, ITEMS);
    atomic_fetch_add(&taken[part], 1);
}

static void take_items(void *arg, int part, int parts)
{
    struct tally *t = arg;
    (void)part;
    (void)parts;
    for (int item; (item = cpu_pool_next(t->pool)) < ITEMS;)
        atomic_fetch_add(&t->taken[item], 1);
}

static struct cpu_pool *pool_of(int threads)
{
    struct cpu_pool *pool;
    struct error err;
    NEED(cpu_pool_create(threads, NULL, &pool, &err) == 0);
    return pool;
}

static void test_runs(void)
{
    static const int threads[] = {1, 2, 3, 8};
    for (size_t i = 0; i < ARRAY_LEN(threads); i++) {
        struct tally t = {.pool = pool_of(threads[i])};
        EXPECT_INT(cpu_pool_threads(t.pool), threads[i]);
        for (int run = 1; run <= 2000; run++) {
            cpu_pool_run(t.pool, count_parts, &t);
            for (int part = 0; part < threads[i]; part++)
                if (t.runs[part] != run) NEED(0);
        }
        cpu_pool_destroy(t.pool);
    }
}

/* Waits longer than anyone spins, on either side. */
static void test_sleepers(void)
{
    struct tally t = {.pool = pool_of(4), .pause_us = 1000};
    for (int run = 1; run <= 50; run++) {
        struct timespec pause = {0, run % 2 ? 500000 : 0};
        cpu_pool_run(t.pool, count_parts, &t);
        for (int part = 0; part < 4; part++)
            EXPECT_INT(t.runs[part], run);
        nanosleep(&pause, NULL);
    }
    cpu_pool_destroy(t.pool);
}

static void test_items(void)
{
    struct tally *t = xcalloc(1, sizeof *t);
    t->pool = pool_of(3);
    for (int run = 1; run <= 20; run++) {
        cpu_pool_run(t->pool, take_items, t);
        for (int i = 0; i < ITEMS; i++)
            EXPECT_INT(atomic_load(&t->taken[i]), run);
    }
    cpu_pool_destroy(t->pool);
    free(t);
}

static void test_parts(void)
{
    static atomic_int taken[ITEMS];
    for (int threads = 1; threads < 5; threads += 3) {
        struct cpu_pool *pool = pool_of(threads);
        memset(taken, 0, sizeof taken);
        for (int run = 1; run <= 200; run++) {
            cpu_pool_run_parts(pool, ITEMS, count_part, taken);
            int wrong = 0;
            for (int i = 0; i < ITEMS; i++)
                wrong += atomic_load(&taken[i]) != run;
            EXPECT_INT(wrong, 0);
        }
        cpu_pool_destroy(pool);
    }
}

static void test_shares(void)
{
    for (int count = 0; count < 40; count++) {
        for (int parts = 1; parts < 9; parts++) {
            int at = 0, first, last;
            for (int part = 0; part < parts; part++) {
                cpu_pool_share(count, part, parts, &first, &last);
                EXPECT_INT(first, at);
                EXPECT(last - first <= count / parts + 1 && last >= first);
                at = last;
            }
            EXPECT_INT(at, count);
        }
    }
}

static double process_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void test_idle(void)
{
    struct tally t = {.pool = pool_of(4)};
    struct timespec pause = {0, 300000000};

    cpu_pool_run(t.pool, count_parts, &t);
    double before = process_seconds();
    nanosleep(&pause, NULL);
    double used = process_seconds() - before;
    if (used > 0.01) printf("idle for 300 ms took %.1f ms\n", used * 1e3);
    EXPECT(used < 0.01); // three workers that spin 50 us each
    cpu_pool_destroy(t.pool);
}

static void test_cpu_lists(void)
{
    static const char *const bad[] = {"",    ",",    "a",     "1-",    "-1",
                                      "3-1", "0,,1", "1-2-3", "99999", "0-1x"};
    struct cpu_pool *pool;
    struct error err;

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        int rc = cpu_pool_create(2, bad[i], &pool, &err);
        if (rc != E_INVALID) printf("list '%s' was taken\n", bad[i]);
        EXPECT_INT(rc, E_INVALID);
    }
    EXPECT_INT(cpu_pool_create(-1, NULL, &pool, &err), E_INVALID);
    EXPECT_INT(cpu_pool_create(100000, NULL, &pool, &err), E_LIMIT);
    struct tally t = {0};
    NEED(cpu_pool_create(0, "0,0-1", &t.pool, &err) ==
         0); // as many threads as the list has entries
    EXPECT_INT(cpu_pool_threads(t.pool), 3);
    cpu_pool_run(t.pool, count_parts, &t);
    EXPECT_INT(t.runs[0] + t.runs[1] + t.runs[2], 3);
    cpu_pool_destroy(t.pool);
    cpu_pool_destroy(NULL);
}

int main(void)
{
    RUN(test_runs);
    RUN(test_sleepers);
    RUN(test_items);
    RUN(test_parts);
    RUN(test_shares);
    RUN(test_idle);
    RUN(test_cpu_lists);
    return TEST_END();
}
