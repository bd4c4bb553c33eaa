/* text_worker.h - a few threads for work on text that is too slow for the loop: parsing large
 * bodies, Jinja, tokenising. Results come back on the loop's thread.
 *
 * Everything here is called from the loop's thread, but for a job's run(). */
#ifndef LM_AGENT_TEXT_WORKER_H
#define LM_AGENT_TEXT_WORKER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include <uv.h>

#include "shared/base/error.h"
#include "shared/base/list.h"

struct text_worker;

/* Embedded in its owner, who must keep it until done(). */
struct text_job {
    void (*run)(struct text_job *job);  // on a worker thread; not called once cancelled
    void (*done)(struct text_job *job); // on the loop, exactly once, cancelled or not
    atomic_bool cancelled;
    /* the worker's */
    struct text_worker *worker;
    struct list link;
    bool is_waiting;
};

/* Aborts if the machine has no thread to give. queue_max: jobs waiting for a thread. */
struct text_worker *text_worker_create(uv_loop_t *loop, int threads, size_t queue_max);

/* E_BUSY: the queue is full, and done() won't be called. Never runs or finishes the job inside. */
FALLIBLE int text_worker_submit(struct text_worker *w, struct text_job *job);
/* Nobody needs the result any more. A job that hasn't begun gives its place in the queue to others
 * at once. done() still comes, never from inside. */
void text_job_cancel(struct text_job *job);

/* Waits for the jobs that run, calls done() for all that are left, frees. The handle closes on the
 * loop's next turns. */
void text_worker_destroy(struct text_worker *w); // NULL is fine

#endif
