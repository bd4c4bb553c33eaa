/* engine_thread.h - the thread that owns requests, scheduler and KV bookkeeping. It takes commands
 * from any thread, plans steps, hands them to the executor, and turns sampled tokens into events.
 */
#ifndef LM_ENGINE_ENGINE_THREAD_H
#define LM_ENGINE_ENGINE_THREAD_H

#include "engine/engine.h"
#include "engine/executor.h"
#include "engine/scheduler.h"
#include "shared/base/str.h"

struct engine_thread; // opaque

/* Where the bytes of a token come from. */
struct token_text {
    struct str (*bytes)(const void *arg, int32_t token, bool keep_special);
    const void *arg;
};

struct engine_thread_setup {
    struct scheduler_limits limits;
    struct step_limits step_limits;
    struct kv_memory_setup memory;
    int depth; // steps in flight: 1 or 2
    struct token_text text;
    int hidden;                   // floats of a hidden state
    struct grammar_pace *pace;    // whom it rests for between steps; borrowed; NULL: nobody
    void (*on_events)(void *arg); // may be NULL
    void *on_events_arg;
};

/* The executor is borrowed and must have its KV pages. */
FALLIBLE int engine_thread_start(const struct engine_thread_setup *setup, struct executor *executor,
                                 struct engine_thread **out, struct error *err);
/* Joins the thread only, for an executor that has lost a rank. */
void engine_thread_stop(struct engine_thread *t);
/* Drops all requests without events, joins, frees. The executor must still be open. NULL is fine.
 */
void engine_thread_destroy(struct engine_thread *t);

/* Any thread. Takes r, also on failure: E_BUSY, E_CLOSED. */
FALLIBLE int engine_thread_submit_take(struct engine_thread *t, struct request *r,
                                       struct error *err);
void engine_thread_cancel(struct engine_thread *t, uint64_t id);
enum engine_session_state engine_thread_session_state(struct engine_thread *t, uint64_t session);
void engine_thread_session_release(struct engine_thread *t, uint64_t session);
/* Requests whose last event isn't posted yet. */
int engine_thread_open(struct engine_thread *t);
void engine_thread_stats(struct engine_thread *t, struct engine_stats *out);
/* One consumer. */
bool engine_thread_next_event(struct engine_thread *t, struct engine_event *event);
bool engine_thread_next_mark_event(struct engine_thread *t, struct engine_mark_event *event);
uint64_t engine_thread_lost_mark_events(const struct engine_thread *t);

#endif
