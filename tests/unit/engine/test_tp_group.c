/* Rank threads, and the executor over two of them. */
#include "engine/tp_group.h"

#include "engine/executor.h"
#include "engine/request.h"
#include "engine/scheduler.h"
#include "shared/base/clock.h"
#include "tests/fakes/fake_backend.h"
#include "tests/test.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>

#define WORKS 2000

struct counted_work {
    struct tp_work work;
    int number;
    atomic_int runs;
};

struct order {
    int last[4]; // per rank: the number of the work that it ran last
    bool disordered;
};

static atomic_int done_calls;

static void sleep_ms(int ms)
{
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000L}, NULL);
}

static void count_done(void *arg)
{
    (void)arg;
    done_calls++;
}

static void run_counted(struct tp_work *work, int rank, void *arg)
{
    struct counted_work *w = (struct counted_work *)work;
    struct order *order = arg;
    if (order->last[rank] != w->number - 1) order->disordered = true;
    order->last[rank] = w->number;
    w->runs++;
}

static void test_every_rank_runs_all_in_order(void)
{
    for (int world = 1; world <= 3; world++) {
        static struct counted_work works[WORKS];
        struct order order = {{0}, false};
        struct tp_group *g;
        struct error err;
        done_calls = 0;
        NEED(tp_group_start(world, &order, &g, &err) == 0);
        tp_group_set_on_done(g, count_done, NULL);
        for (int i = 0; i < WORKS; i++) {
            works[i] = (struct counted_work){.work.run = run_counted, .number = i + 1};
            if (i >= TP_GROUP_QUEUE) tp_group_wait(g, &works[i - TP_GROUP_QUEUE].work);
            tp_group_post(g, &works[i].work);
        }
        tp_group_wait(g, &works[WORKS - 1].work);
        for (int i = 0; i < WORKS; i++)
            EXPECT(tp_work_is_done(&works[i].work) && works[i].runs == world);
        EXPECT(!order.disordered);
        tp_group_stop(g);
        EXPECT_INT(done_calls, WORKS);
    }
    tp_group_stop(NULL);
}

static void test_what_was_posted_is_finished_by_stop(void)
{
    struct counted_work works[TP_GROUP_QUEUE];
    struct order order = {{0}, false};
    struct tp_group *g;
    struct error err;
    NEED(tp_group_start(2, &order, &g, &err) == 0);
    for (int i = 0; i < TP_GROUP_QUEUE; i++) {
        works[i] = (struct counted_work){.work.run = run_counted, .number = i + 1};
        tp_group_post(g, &works[i].work);
    }
    tp_group_stop(g);
    for (int i = 0; i < TP_GROUP_QUEUE; i++)
        EXPECT_INT(works[i].runs, 2);
}

/* Two ranks, two steps in flight: each resolves the ids that rank 0 sampled. The fake computes the
 * whole model on every rank, so any id that a rank got wrong changes its pages, and rank 0 is
 * checked. */
static void test_links_reach_every_rank(void)
{
    struct scheduler_limits limits = {4, 64, 8, 0};
    struct executor_setup setup = {
        .ops = &fake_backend_ops,
        .backend = {.world = 2},
        .params = &fake_params,
        .limits = {scheduler_tokens_max(&limits), 4, 4, 500},
        .vocab = FAKE_VOCAB,
    };
    struct executor *x;
    struct error err;
    struct kv_memory memory;
    struct scheduler s;
    struct batch batches[3];
    int32_t prompt[] = {3, 1, 4, 1, 5};
    struct engine_request in = {.id = 1, .prompt = prompt, .prompt_count = 5, .max_tokens = 100};
    in.sampling.top_p = 1;
    NEED(executor_open(&setup, &x, &err) == 0);
    NEED(executor_open_kv(x, KV_F32, 8, &err) == 0);
    kv_memory_init(&memory, &(struct kv_memory_setup){.blocks = 8, .ranks = 1});
    scheduler_init(&s, &limits, &memory);
    for (int i = 0; i < 3; i++)
        batch_init(&batches[i], &setup.limits);
    struct request *r = request_create(&in, 500, NULL, 0);
    NEED(scheduler_submit(&s, r, &err) == 0);
    unsigned submitted = 0, finished = 0;
    while (request_generated(r) < r->max_tokens) {
        while (submitted - finished < 2) {
            struct batch *b = &batches[submitted % 3];
            batch_clear(b, submitted ? &batches[(submitted - 1) % 3] : NULL);
            if (!scheduler_plan(&s, b)) break;
            executor_submit(x, b);
            submitted++;
        }
        struct batch *b = &batches[finished++ % 3];
        executor_wait(x, b);
        EXPECT(executor_is_done(b));
        EXPECT_INT(b->status, 0);
        EXPECT(scheduler_complete_entry(&s, b, 0));
        EXPECT_INT(r->tokens[r->count - 1], fake_next_token(r->tokens, r->count - 1));
    }
    EXPECT_INT(submitted, finished);
    scheduler_finish(&s, r);
    request_destroy(r);
    for (int i = 0; i < 3; i++)
        batch_deinit(&batches[i]);
    scheduler_deinit(&s);
    kv_memory_deinit(&memory);
    executor_close(x);
}

/* ---- ranks that fail ---- */

struct failing_work {
    struct tp_work work;
    int fails, hangs; // masks of ranks
    int wait_ms;
    atomic_int returned;
};

static atomic_bool let_go; // of what hangs

static void run_failing(struct tp_work *work, int rank, void *arg)
{
    struct failing_work *w = (struct failing_work *)work;
    while (w->hangs & 1 << rank && !let_go)
        sleep_ms(1);
    if (w->fails & 1 << rank) tp_group_fail(*(struct tp_group **)arg, work, rank, w->wait_ms);
    w->returned++;
}

/* All fail, or some do and the others are done: the group goes on. */
static void test_failing_together_loses_nobody(void)
{
    static const int masks[] = {7, 5, 2};
    struct tp_group *g;
    struct error err;
    NEED(tp_group_start(3, &g, &g, &err) == 0);
    for (size_t i = 0; i < ARRAY_LEN(masks); i++) {
        struct failing_work w = {.work.run = run_failing, .fails = masks[i], .wait_ms = 60000};
        tp_group_post(g, &w.work);
        tp_group_wait(g, &w.work);
        EXPECT_INT(w.returned, 3);
        EXPECT(!tp_group_is_abandoned(g));
    }
    tp_group_stop(g);
}

/* One never comes back: the works end without it, later ones never begin, nothing waits. The group and
 * the works stay as they are. */
static void test_a_lost_rank_is_left_behind(void)
{
    static struct failing_work works[3];
    static struct tp_group *g;
    struct error err;
    NEED(tp_group_start(3, &g, &g, &err) == 0);
    done_calls = 0;
    tp_group_set_on_done(g, count_done, NULL);
    for (int i = 0; i < 3; i++)
        works[i] = (struct failing_work){
            .work.run = run_failing, .fails = i == 0 ? 3 : 0, .hangs = 4, .wait_ms = 30};
    tp_group_post(g, &works[0].work);
    tp_group_post(g, &works[1].work);
    tp_group_wait(g, &works[1].work);
    EXPECT(tp_work_is_done(&works[0].work) && tp_group_is_abandoned(g));
    for (int i = 0; i < 1000 && !done_calls; i++)
        sleep_ms(1);
    EXPECT_INT(done_calls, 1);
    tp_group_post(g, &works[2].work);
    tp_group_wait(g, &works[2].work);
    tp_group_stop(g);
    let_go = true; // it comes back after all, to where nobody waits
    for (int i = 0; i < 1000 && works[0].returned < 3; i++)
        sleep_ms(1);
    EXPECT_INT(works[0].returned, 3);
    sleep_ms(20);
    EXPECT_INT(works[1].returned + works[2].returned, 0);
    EXPECT(tp_work_is_done(&works[0].work));
}

/* ---- ranks that stop between two works ---- */

#define FREEZES 300

static pthread_t self_of[2];
static atomic_int frozen;
static atomic_bool thaw;

static void run_introduce(struct tp_work *work, int rank, void *arg)
{
    (void)work, (void)arg;
    self_of[rank] = pthread_self();
}

static void freeze(int signal)
{
    (void)signal;
    int before = errno;
    frozen++;
    while (!thaw)
        sleep_ms(1);
    errno = before;
}

/* Wherever it is on its way to sleep, neither the poster nor the other rank needs anything that it holds. */
static void test_a_rank_that_stops_while_idle_is_left_behind(void)
{
    static struct failing_work works[FREEZES][2];
    static struct tp_group *groups[FREEZES];
    struct error err;
    sigaction(SIGUSR1, &(struct sigaction){.sa_handler = freeze, .sa_flags = SA_RESTART}, NULL);
    for (int i = 0; i < FREEZES; i++) {
        NEED(tp_group_start(2, &groups[i], &groups[i], &err) == 0);
        works[i][0].work.run = run_introduce;
        works[i][1] = (struct failing_work){.work.run = run_failing, .fails = 1, .wait_ms = 5};
        tp_group_post(groups[i], &works[i][0].work);
        tp_group_wait(groups[i], &works[i][0].work);
        for (uint64_t until = clock_ns() + (uint64_t)i * 400; clock_ns() < until;) {
        }
        pthread_kill(self_of[1], SIGUSR1);
        while (frozen <= i)
            sleep_ms(1);
        tp_group_post(groups[i], &works[i][1].work);
        tp_group_wait(groups[i], &works[i][1].work);
        EXPECT(tp_group_is_abandoned(groups[i]));
    }
    thaw = true;
    sleep_ms(20);
}

int main(void)
{
    RUN(test_every_rank_runs_all_in_order);
    RUN(test_what_was_posted_is_finished_by_stop);
    RUN(test_links_reach_every_rank);
    RUN(test_failing_together_loses_nobody);
    RUN(test_a_lost_rank_is_left_behind);
    RUN(test_a_rank_that_stops_while_idle_is_left_behind);
    return TEST_END();
}
