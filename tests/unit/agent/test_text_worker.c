#include "agent/text_worker.h"

#include "shared/base/check.h"
#include "tests/test.h"

#include <pthread.h>
#include <unistd.h>

struct task {
    struct text_job job;
    int value;
    int runs, dones;
    pthread_t ran_on;
    struct task *next; // submitted from done()
    struct text_worker *worker;
};

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static void run_task(struct text_job *job)
{
    struct task *t = list_entry(job, struct task, job);
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
    t->runs++;
    t->ran_on = pthread_self();
}

static void task_done(struct text_job *job)
{
    struct task *t = list_entry(job, struct task, job);
    t->dones++;
    if (t->next) {
        struct task *next = t->next;
        t->next = NULL;
        NEED(text_worker_submit(next->worker, &next->job) == 0);
    }
}

static struct task task_of(struct text_worker *w)
{
    return (struct task){.job = {.run = run_task, .done = task_done}, .worker = w};
}

static void run_until(uv_loop_t *loop, const int *counter, int value)
{
    while (*counter < value)
        uv_run(loop, UV_RUN_ONCE);
}

static void test_runs_elsewhere_finishes_here(void)
{
    uv_loop_t loop;
    uv_loop_init(&loop);
    struct text_worker *w = text_worker_create(&loop, 2, 100);
    struct task tasks[50];
    for (int i = 0; i < 50; i++) {
        tasks[i] = task_of(w);
    }
    for (int i = 0; i < 50; i++) {
        NEED(text_worker_submit(w, &tasks[i].job) == 0);
    }
    for (int i = 0; i < 50; i++) {
        run_until(&loop, &tasks[i].dones, 1);
        EXPECT(tasks[i].runs == 1 && tasks[i].dones == 1);
        EXPECT(!pthread_equal(tasks[i].ran_on, pthread_self()));
    }
    text_worker_destroy(w);
    uv_run(&loop, UV_RUN_DEFAULT);
    EXPECT_INT(uv_loop_close(&loop), 0);
}

static void test_queue_bound_and_cancel(void)
{
    uv_loop_t loop;
    uv_loop_init(&loop);
    struct text_worker *w = text_worker_create(&loop, 1, 2);
    struct task busy = task_of(w), a = task_of(w), b = task_of(w), c = task_of(w);
    pthread_mutex_lock(&gate); // holds the one thread
    NEED(text_worker_submit(w, &busy.job) == 0);
    int accepted = 0; // until the thread has taken `busy`, it still counts as waiting
    while (accepted == 0)
        accepted = text_worker_submit(w, &a.job) == 0;
    while (text_worker_submit(w, &b.job) != 0)
        usleep(1000);
    EXPECT_INT(text_worker_submit(w, &c.job), E_BUSY);
    text_job_cancel(&a.job);
    EXPECT_INT(a.dones, 0);
    EXPECT_INT(text_worker_submit(w, &c.job), 0); // its place is free at once
    for (int i = 0; i < 1000 && a.dones == 0; i++) {
        uv_run(&loop, UV_RUN_NOWAIT);
        usleep(1000);
    }
    EXPECT(a.runs == 0 && a.dones == 1); // though the thread is still busy
    pthread_mutex_unlock(&gate);
    run_until(&loop, &c.dones, 1);
    EXPECT(busy.runs == 1 && busy.dones == 1);
    EXPECT(a.runs == 0 && a.dones == 1);
    EXPECT(b.runs == 1 && c.runs == 1);
    text_worker_destroy(w);
    uv_run(&loop, UV_RUN_DEFAULT);
    EXPECT_INT(uv_loop_close(&loop), 0);
}

static void test_submit_from_done(void)
{
    uv_loop_t loop;
    uv_loop_init(&loop);
    struct text_worker *w = text_worker_create(&loop, 2, 4);
    struct task second = task_of(w), first = task_of(w);
    first.next = &second;
    NEED(text_worker_submit(w, &first.job) == 0);
    run_until(&loop, &second.dones, 1);
    EXPECT(first.dones == 1 && second.runs == 1);
    text_worker_destroy(w);
    uv_run(&loop, UV_RUN_DEFAULT);
    EXPECT_INT(uv_loop_close(&loop), 0);
}

/* Jobs that never began are handed back, so that their owners can free them. */
static void test_destroy_hands_back(void)
{
    uv_loop_t loop;
    uv_loop_init(&loop);
    struct text_worker *w = text_worker_create(&loop, 1, 10);
    struct task tasks[5];
    for (int i = 0; i < 5; i++) {
        tasks[i] = task_of(w);
        NEED(text_worker_submit(w, &tasks[i].job) == 0);
    }
    text_worker_destroy(w);
    for (int i = 0; i < 5; i++) {
        EXPECT(tasks[i].dones == 1 && tasks[i].runs <= 1);
    }
    uv_run(&loop, UV_RUN_DEFAULT);
    EXPECT_INT(uv_loop_close(&loop), 0);
}

int main(void)
{
    RUN(test_runs_elsewhere_finishes_here);
    RUN(test_queue_bound_and_cancel);
    RUN(test_submit_from_done);
    RUN(test_destroy_hands_back);
    return TEST_END();
}
