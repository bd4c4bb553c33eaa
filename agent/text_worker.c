/* text_worker.c - one mutex, one condition, two lists.
 *
 *     submit ─► waiting ─► (a thread: run) ─► finished ─► uv_async ─► (the loop: done)
 *                  └────────── cancel ───────────┘
 *
 * Rules:
 *  1. A job is in exactly one list, or with one thread.
 *  2. run() and done() are called with the lock free.
 *  3. Jobs start in the order in which they came; a long one holds one thread, not the queue. */
#include "agent/text_worker.h"

#include "shared/base/check.h"

#include <pthread.h>
#include <stdlib.h>

struct text_worker {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct list waiting, finished; // under lock
    size_t waiting_count;          // under lock
    bool stopping;                 // under lock
    size_t queue_max;
    uv_async_t async;
    int thread_count;
    pthread_t threads[];
};

static void leave_waiting(struct text_worker *w, struct text_job *job) // under lock
{
    list_remove(&job->link);
    job->is_waiting = false;
    w->waiting_count--;
}

static struct text_job *take_waiting(struct text_worker *w)
{
    while (list_is_empty(&w->waiting) && !w->stopping) {
        pthread_cond_wait(&w->wake, &w->lock);
    }
    if (w->stopping) return NULL;
    struct text_job *job = list_first(&w->waiting, struct text_job, link);
    leave_waiting(w, job);
    return job;
}

static void *thread_main(void *arg)
{
    struct text_worker *w = arg;
    pthread_mutex_lock(&w->lock);
    for (struct text_job *job; (job = take_waiting(w));) {
        pthread_mutex_unlock(&w->lock);
        if (!atomic_load(&job->cancelled)) job->run(job);
        pthread_mutex_lock(&w->lock);
        list_push_back(&w->finished, &job->link);
        uv_async_send(&w->async);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* Takes them off one by one under the lock, so that done() may submit again. */
static void finish_jobs(struct text_worker *w)
{
    for (;;) {
        pthread_mutex_lock(&w->lock);
        struct text_job *job =
            list_is_empty(&w->finished) ? NULL : list_first(&w->finished, struct text_job, link);
        if (job) list_remove(&job->link);
        pthread_mutex_unlock(&w->lock);
        if (!job) return;
        job->done(job);
    }
}

static void on_async(uv_async_t *async)
{
    struct text_worker *w = async->data;
    finish_jobs(w);
}

struct text_worker *text_worker_create(uv_loop_t *loop, int threads, size_t queue_max)
{
    CHECK(threads > 0);
    struct text_worker *w = xcalloc(1, sizeof *w + (size_t)threads * sizeof w->threads[0]);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->wake, NULL);
    list_init(&w->waiting);
    list_init(&w->finished);
    w->queue_max = queue_max;
    CHECK(uv_async_init(loop, &w->async, on_async) == 0);
    w->async.data = w;
    w->thread_count = threads;
    for (int i = 0; i < threads; i++) {
        CHECK(pthread_create(&w->threads[i], NULL, thread_main, w) == 0);
    }
    return w;
}

int text_worker_submit(struct text_worker *w, struct text_job *job)
{
    pthread_mutex_lock(&w->lock);
    bool has_room = w->waiting_count < w->queue_max && !w->stopping;
    if (has_room) {
        job->worker = w;
        job->is_waiting = true;
        list_push_back(&w->waiting, &job->link);
        w->waiting_count++;
        pthread_cond_signal(&w->wake);
    }
    pthread_mutex_unlock(&w->lock);
    return has_room ? 0 : E_BUSY;
}

void text_job_cancel(struct text_job *job)
{
    struct text_worker *w = job->worker;
    atomic_store(&job->cancelled, true);
    pthread_mutex_lock(&w->lock);
    if (job->is_waiting) {
        leave_waiting(w, job);
        list_push_back(&w->finished, &job->link);
        uv_async_send(&w->async);
    }
    pthread_mutex_unlock(&w->lock);
}

static void on_closed(uv_handle_t *handle)
{
    struct text_worker *w = handle->data;
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->wake);
    free(w);
}

void text_worker_destroy(struct text_worker *w)
{
    if (!w) return;
    pthread_mutex_lock(&w->lock);
    w->stopping = true;
    pthread_cond_broadcast(&w->wake);
    pthread_mutex_unlock(&w->lock);
    for (int i = 0; i < w->thread_count; i++) {
        pthread_join(w->threads[i], NULL);
    }
    list_each_safe (job, &w->waiting, struct text_job, link)
        text_job_cancel(job);
    finish_jobs(w);
    uv_close((uv_handle_t *)&w->async, on_closed);
}
