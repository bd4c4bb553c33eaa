/* engine_thread.c - the loop between commands, scheduler, executor and outbox.
 *
 *     commands (ring) --> scheduler_submit / cancel
 *     scheduler_plan  --> executor_submit        while fewer than `depth` steps are in flight
 *     batch done      --> tokens --> stopping --> outbox --> on_events (once a turn)
 *     nothing to do   --> wake_wait              woken by commands and by finished steps
 *
 * Rules
 *  1. Requests belong to this thread from the moment the ring gave them. Nothing here blocks but
 *     wake_wait.
 *  2. Batches are a ring of depth + 1: a batch in flight may read the results of the one before it.
 *  3. With depth 2 a stop is noticed while the next step runs: that step's token of a finished
 *     request is dropped, and the request freed when no step has it (`zombies`).
 *  4. A device error is final: every request fails, submissions are refused, the loop only waits
 *     for its end. */
#include "engine/engine_thread.h"

#include "engine/grammar_pace.h"
#include "engine/outbox.h"
#include "engine/pooling.h"
#include "engine/prefix_marks.h"
#include "engine/step_cost.h"
#include "engine/wake.h"
#include "shared/base/buf.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/ring.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LOG_MODULE "engine"
#include "shared/base/log.h"

#define DEPTH_MAX 2

/* What debug and sanitizer builds do after every turn. */
#if !defined(NDEBUG) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CHECK_EACH_TURN 1
#else
#define CHECK_EACH_TURN 0
#endif

struct command {
    struct request *submit; // or NULL:
    uint64_t cancel_id;     // or 0:
    uint64_t release_session;
};

/* Requests that left the ring, ever, and the tokens of their prompts. */
struct intake {
    uint64_t requests, tokens;
};

struct engine_thread {
    struct engine_thread_setup setup;
    struct executor *executor; // borrowed
    pthread_t thread;
    bool started;

    /* any thread */
    struct ring commands;
    struct wake wake;
    atomic_int open;                      // submitted, and their last event is not posted yet
    atomic_ullong requests_in, tokens_in; // submitted ever, and their prompts
    struct prefix_marks marks;
    atomic_bool stopping, failed;
    struct outbox outbox;
    pthread_mutex_t stats_lock;
    struct engine_stats stats;
    struct intake taken; // what `stats` knows of

    /* engine thread */
    struct scheduler scheduler;
    struct kv_memory memory;
    struct batch batches[DEPTH_MAX + 1];
    unsigned submitted, finished; // steps; their difference is in flight
    struct list zombies;          // finished requests that steps in flight still have
    struct buf text;              // of one token, scratch
    bool notify;                  // on_events is due this turn
    struct engine_stats counters;
    struct intake drained;
    struct step_cost cost;
    uint64_t step_ns; // how long the last step took; 0: there was a rest behind it
};

/* ---- events ---- */

static void post(struct engine_thread *t, struct request *r, struct output_update *update)
{
    update->cached_tokens = r->cached;
    update->completion_tokens = r->pool == ENGINE_POOL_NONE ? request_generated(r) : 0;
    update->resumed_tokens = r->resumed_count;
    bool last = update->kind != ENGINE_EVENT_TOKENS;
    /* Before the event: who reads it may submit the next one at once. */
    if (last) atomic_fetch_sub(&t->open, 1);
    t->notify |= outbox_post(&t->outbox, r->output, update);
    if (last) r->output = NULL;
}

static void free_or_keep(struct engine_thread *t, struct request *r)
{
    if (r->in_flight > 0)
        list_push_back(&t->zombies, &r->link);
    else
        request_destroy(r);
}

/* Of r's tokens, those whose text is out or began to be. */
static int released_tokens(const struct engine_thread *t, const struct request *r)
{
    int count = request_generated(r);
    size_t withheld = r->stopping.withheld;
    for (; count > 0 && withheld > 0; count--) {
        int32_t token = r->tokens[r->prompt_count + count - 1];
        struct str bytes = t->setup.text.bytes(t->setup.text.arg, token, request_shows(r, token));
        if (bytes.len > withheld) break; // it began before what is withheld
        withheld -= bytes.len;
    }
    return count;
}

/* r may be gone afterwards. */
static void finish(struct engine_thread *t, struct request *r, struct output_update *update,
                   enum finish_reason reason)
{
    scheduler_finish(&t->scheduler, r);
    update->kind = ENGINE_EVENT_DONE;
    update->text = buf_str(&t->text);
    update->finish = reason;
    post(t, r, update);
    free_or_keep(t, r);
}

static void fail(struct engine_thread *t, struct request *r, int code, const char *text)
{
    if (code == E_DEVICE && r->state != REQUEST_FINISHED)
        scheduler_finish_distrusted(&t->scheduler, r);
    scheduler_finish(&t->scheduler, r);
    post(t, r,
         &(struct output_update){
             .kind = ENGINE_EVENT_FAILED, .text = str_of(text), .error_code = code});
    free_or_keep(t, r);
}

/* r's newest token: what text is certain now, added to t->text, and whether the answer ends. */
static enum finish_reason take_token(struct engine_thread *t, struct request *r,
                                     struct output_update *update)
{
    int32_t token = r->tokens[r->count - 1];
    int generated = request_generated(r);
    if (generated > r->min_tokens && request_is_stop(r, token)) {
        stopping_flush(&r->stopping, &t->text);
        update->released_tokens = generated - 1; // it has no text
        return FINISH_STOP;
    }
    struct str bytes = t->setup.text.bytes(t->setup.text.arg, token, request_shows(r, token));
    bool stopped = stopping_feed(&r->stopping, bytes, generated >= r->min_tokens, &t->text);
    bool at_limit = generated == r->max_tokens;
    if (!stopped && at_limit) stopping_flush(&r->stopping, &t->text);
    if (r->sampling.logprobs > 0) update->released_tokens = released_tokens(t, r);
    return stopped ? FINISH_STOP : at_limit ? FINISH_LENGTH : FINISH_NONE;
}

/* r may be gone afterwards. */
static void post_tokens(struct engine_thread *t, struct request *r, struct output_update *update,
                        enum finish_reason reason)
{
    if (reason != FINISH_NONE) {
        finish(t, r, update, reason);
        return;
    }
    update->kind = ENGINE_EVENT_TOKENS;
    update->text = buf_str(&t->text);
    post(t, r, update);
}

/* r's newest token counts as text, or as a special token that the grammar has in that place. One more
 * comes only where the answer may end: a stop token that doesn't stop this one. */
static bool follow_grammar(struct engine_thread *t, struct request *r)
{
    int32_t token = r->tokens[r->count - 1];
    if (!r->grammar.grammar || request_is_stop(r, token)) return true;
    struct str bytes = t->setup.text.bytes(t->setup.text.arg, token, false);
    if (bytes.len > 0) return grammar_accept(&r->grammar, bytes);
    bytes = t->setup.text.bytes(t->setup.text.arg, token, true);
    return grammar_accept_special(&r->grammar, bytes) || grammar_may_end(&r->grammar);
}

/* r got a token: text, stops, limits. */
static void on_token(struct engine_thread *t, struct request *r,
                     const struct token_logprob *logprobs)
{
    int32_t token = r->tokens[r->count - 1];
    struct output_update update = {.tokens = &token, .token_count = 1, .logprobs = logprobs};
    buf_clear(&t->text);
    follow_grammar(t, r);
    t->counters.generated_tokens_total++;
    if (request_generated(r) == r->resumed_count + 1) {
        t->counters.prompt_tokens_total += (uint64_t)r->prompt_count;
        t->counters.cached_tokens_total += (uint64_t)r->cached;
    }
    post_tokens(t, r, &update, take_token(t, r, &update));
}

/* The prompt's last row is there: its embedding is the answer. r may be gone afterwards. */
static void on_pooled(struct engine_thread *t, struct request *r, const float *last)
{
    struct output_update update = {.embedding = pooling_finish(r, last, t->setup.hidden)};
    t->counters.prompt_tokens_total += (uint64_t)r->prompt_count;
    t->counters.cached_tokens_total += (uint64_t)r->cached;
    buf_clear(&t->text);
    if (update.embedding)
        finish(t, r, &update, FINISH_STOP);
    else
        fail(t, r, E_FORMAT, "the model's hidden states are not finite numbers");
}

/* ---- answers that began elsewhere ---- */

/* The tokens that r brought, as if they had been drawn here. Ends before one that its grammar doesn't
 * allow. */
static enum finish_reason replay(struct engine_thread *t, struct request *r,
                                 struct output_update *update)
{
    enum finish_reason reason = FINISH_NONE;
    buf_clear(&t->text);
    for (int i = 0; i < r->resumed_count && reason == FINISH_NONE; i++) {
        request_push_token(r, r->resumed[i]);
        if (!follow_grammar(t, r)) {
            r->count--;
            break;
        }
        reason = take_token(t, r, update);
    }
    return reason;
}

static void resume(struct engine_thread *t, struct request *r)
{
    struct output_update update = {0};
    enum finish_reason reason = replay(t, r, &update);
    if (request_generated(r) < r->resumed_count) {
        fail(t, r, E_INVALID,
             "the answer ends before the last of the tokens it is resumed with, or can't "
             "have them");
        return;
    }
    if (r->sampling.logprobs > 0 && update.released_tokens < r->resumed_count) {
        r->resumed_count = update.released_tokens; // the others are drawn again
        request_restart(r);
        reason = replay(t, r, &update);
    }
    update.tokens = r->resumed;
    update.token_count = r->resumed_count;
    post_tokens(t, r, &update, reason);
}

/* ---- commands ---- */

static void cancel(struct engine_thread *t, uint64_t id)
{
    struct request *r = scheduler_find(&t->scheduler, id);
    if (!r) return; // it ended before
    buf_clear(&t->text);
    stopping_flush(&r->stopping, &t->text);
    finish(t, r,
           &(struct output_update){.completion_tokens = request_generated(r),
                                   .released_tokens = request_generated(r)},
           FINISH_CANCELLED);
}

static void accept_request(struct engine_thread *t, struct request *r)
{
    struct error err;
    int rc = t->failed ? error_set(&err, E_CLOSED, "the engine has failed")
                       : scheduler_submit(&t->scheduler, r, &err);
    if (rc == 0) {
        if (r->resumed_count > 0) resume(t, r);
        return;
    }
    r->state = REQUEST_FINISHED;
    r->cached = 0;
    post(t, r,
         &(struct output_update){
             .kind = ENGINE_EVENT_FAILED, .text = str_of(err.text), .error_code = rc});
    request_destroy(r);
}

static bool drain_commands(struct engine_thread *t)
{
    struct command c;
    bool any = false;
    while (ring_pop(&t->commands, &c)) {
        any = true;
        if (c.submit) {
            t->drained.requests++;
            t->drained.tokens += (uint64_t)c.submit->prompt_count;
            accept_request(t, c.submit);
        } else if (c.cancel_id) {
            cancel(t, c.cancel_id);
        } else
            session_pages_forget(&t->memory.sessions, c.release_session);
    }
    return any;
}

static bool expire_requests(struct engine_thread *t)
{
    bool any = false;
    for (struct request *r; (r = scheduler_take_expired(&t->scheduler, clock_ms())) != NULL;) {
        fail(t, r, E_TIMEOUT, "the request's deadline is over");
        any = true;
    }
    return any;
}

/* ---- steps ---- */

static unsigned in_flight(const struct engine_thread *t)
{
    return t->submitted - t->finished;
}

static struct batch *batch_at(struct engine_thread *t, unsigned step)
{
    return &t->batches[step % (unsigned)(t->setup.depth + 1)];
}

static bool submit_steps(struct engine_thread *t)
{
    bool any = false;
    while (!t->failed && !t->stopping && in_flight(t) < (unsigned)t->setup.depth) {
        struct batch *b = batch_at(t, t->submitted);
        batch_clear(b, t->submitted ? batch_at(t, t->submitted - 1) : NULL);
        if (!scheduler_plan(&t->scheduler, b)) break;
        executor_submit(t->executor, b);
        t->submitted++;
        any = true;
    }
    for (struct request *r; (r = scheduler_take_failed(&t->scheduler)) != NULL;) {
        char text[160];
        snprintf(text, sizeof text,
                 "the sequence of %d tokens doesn't fit the key-value cache of %d tokens", r->count,
                 t->memory.kv.total * KV_BLOCK_TOKENS);
        fail(t, r, E_LIMIT, text);
        any = true;
    }
    return any;
}

static void measure(struct engine_thread *t, const struct batch *b)
{
    double seconds = (double)(b->done_ns - b->begun_ns) * 1e-9;
    struct engine_stats *c = &t->counters;
    t->step_ns = b->done_ns - b->begun_ns;
    c->steps++;
    c->steps_ahead += b->was_ahead;
    c->last_step_ms = clock_ms();
    if (seconds <= 0) return;
    scheduler_measure(&t->scheduler, b, seconds);
    step_cost_measure(&t->cost, b->answers, b->prefill_tokens, seconds);
    c->prefill_tokens_per_s = t->cost.prefill_tokens_per_s;
    c->inter_token_s = t->cost.inter_token_s;
    c->inter_token_slope_s = t->cost.inter_token_slope_s;
}

static void fail_all(struct engine_thread *t, int code, const char *text)
{
    log_error("engine failed", "code=%s error=\"%s\"", error_name(code), text);
    t->failed = true;
    for (struct request *r; (r = scheduler_any(&t->scheduler)) != NULL;)
        fail(t, r, code, text);
}

/* The log-probabilities or hidden states of prompt tokens that a step gave, or why it didn't. */
static int post_scores(struct engine_thread *t, const struct batch *b, const struct batch_entry *e)
{
    if (e->request->state == REQUEST_FINISHED) return 0;
    for (int i = 0; i < e->scored_rows; i++) {
        const struct batch_row *row = &b->row_info[e->scored_row + i];
        if (row->status < 0) return row->status;
        if (row->hidden) {
            pooling_add(e->request, row->hidden, t->setup.hidden);
            continue;
        }
        outbox_add_prompt_logprobs(&t->outbox, e->request->output, row->logprobs);
    }
    return 0;
}

static void finish_entry(struct engine_thread *t, struct batch *b, int index)
{
    struct batch_entry *e = &b->entry[index];
    struct request *r = e->request;
    int status = post_scores(t, b, e);
    bool has_token = scheduler_complete_entry(&t->scheduler, b, index);
    if (r->state == REQUEST_FINISHED) {
        if (r->in_flight == 0) {
            list_remove(&r->link);
            request_destroy(r);
        }
    } else if (status < 0 || (e->row >= 0 && !has_token)) {
        if (status == 0) status = b->row_info[e->row].status;
        fail(t, r, status,
             status == E_UNSUPPORTED ? "the vocabulary can't spell what its grammar demands"
                                     : "the model's logits are not finite numbers");
    } else if (has_token && r->pool != ENGINE_POOL_NONE) {
        on_pooled(t, r, b->row_info[e->row].hidden);
    } else if (has_token) {
        on_token(t, r, b->row_info[e->row].logprobs);
    }
}

static bool reap_steps(struct engine_thread *t)
{
    bool any = false;
    while (in_flight(t) > 0 && executor_is_done(batch_at(t, t->finished))) {
        struct batch *b = batch_at(t, t->finished++);
        any = true;
        if (b->status < 0) {
            for (int i = 0; i < b->rows; i++)
                b->row_info[i].status = b->status;
            if (!t->failed) fail_all(t, b->status, b->error.text);
        }
        measure(t, b);
        for (int i = 0; i < b->sequences; i++)
            finish_entry(t, b, i);
        executor_take(t->executor, b);
    }
    return any;
}

/* ---- the loop ---- */

/* Prompt tokens of steps in flight: planned, but not computed yet. */
static int64_t prefill_in_flight(struct engine_thread *t)
{
    int64_t tokens = 0;
    for (unsigned i = t->finished; i != t->submitted; i++)
        tokens += batch_at(t, i)->prefill_tokens;
    return tokens;
}

static void publish(struct engine_thread *t)
{
    struct engine_stats *c = &t->counters;
    const struct kv_memory *m = &t->memory;
    c->running = t->scheduler.running_count;
    c->waiting = scheduler_waiting(&t->scheduler);
    c->prefill_tokens_waiting = scheduler_prefill_waiting(&t->scheduler) + prefill_in_flight(t);
    c->kv_blocks_total = m->kv.total;
    c->kv_blocks_used = m->kv.count[KV_ACTIVE];
    c->kv_blocks_pinned = m->kv.count[KV_PINNED];
    c->kv_blocks_cached = m->kv.count[KV_CACHED];
    c->kv_host_bytes = m->cache.host_used;
    memcpy(c->sessions, m->sessions.count, sizeof c->sessions);
    c->preemptions_total = t->scheduler.preemptions;
    c->failed = t->failed;
    pthread_mutex_lock(&t->stats_lock);
    t->stats = *c;
    t->taken = t->drained;
    pthread_mutex_unlock(&t->stats_lock);

    if (t->notify && t->setup.on_events) t->setup.on_events(t->setup.on_events_arg);
    t->notify = false;
}

/* Where it doesn't cost more than it takes: no thread waits for another between steps. */
static void rest_for_others(struct engine_thread *t)
{
    struct grammar_pace *pace = t->setup.pace;
    if (!pace || t->step_ns == 0 || in_flight(t) > 0 || !grammar_pace_is_wanted(pace)) return;
    publish(t); // what the step gave isn't late for it
    grammar_pace_give(pace, t->step_ns);
    t->step_ns = 0;
}

static void *engine_main(void *arg)
{
    struct engine_thread *t = arg;
    pthread_setname_np(pthread_self(), "lm-engine");
    for (;;) {
        unsigned ticket = wake_ticket(&t->wake);
        bool any = drain_commands(t);
        any |= reap_steps(t);
        any |= expire_requests(t);
        rest_for_others(t);
        any |= submit_steps(t);
        if (CHECK_EACH_TURN) scheduler_check(&t->scheduler);
        if (any) publish(t);
        if (t->stopping && in_flight(t) == 0) return NULL;
        if (!any) wake_wait(&t->wake, ticket);
    }
}

/* ---- start and end ---- */

static struct engine_thread *create(const struct engine_thread_setup *setup)
{
    CHECK(setup->depth >= 1 && setup->depth <= DEPTH_MAX);
    struct engine_thread *t = xcalloc(1, sizeof *t);
    t->setup = *setup;
    /* Every live request may be cancelled while its submission still waits. */
    ring_init(&t->commands, 4 * (size_t)scheduler_open_max(&setup->limits), sizeof(struct command));
    outbox_init(&t->outbox);
    pthread_mutex_init(&t->stats_lock, NULL);
    prefix_marks_init(&t->marks, PREFIX_MARK_EVENTS);
    struct kv_memory_setup memory = setup->memory;
    memory.marks = &t->marks;
    kv_memory_init(&t->memory, &memory);
    scheduler_init(&t->scheduler, &setup->limits, &t->memory);
    for (int i = 0; i <= setup->depth; i++) {
        batch_init(&t->batches[i], &setup->step_limits);
        t->batches[i].hidden_len = setup->hidden;
    }
    list_init(&t->zombies);
    buf_init(&t->text, BUF_MAX_INTERNAL);
    t->stats.kv_blocks_total = setup->memory.blocks;
    t->stats.last_step_ms = t->counters.last_step_ms = clock_ms();
    return t;
}

static void on_step_done(void *thread)
{
    struct engine_thread *t = thread;
    wake_signal(&t->wake);
}

int engine_thread_start(const struct engine_thread_setup *setup, struct executor *executor,
                        struct engine_thread **out, struct error *err)
{
    struct engine_thread *t = create(setup);
    t->executor = executor;
    executor_set_on_done(executor, on_step_done, t);
    int rc = pthread_create(&t->thread, NULL, engine_main, t);
    if (rc) {
        engine_thread_destroy(t);
        return error_set(err, -rc, "can't start the engine thread: %s", strerror(rc));
    }
    t->started = true;
    *out = t;
    return 0;
}

static void drop(struct engine_thread *t, struct request *r)
{
    scheduler_finish(&t->scheduler, r);
    output_destroy(r->output);
    request_destroy(r);
}

void engine_thread_stop(struct engine_thread *t)
{
    t->stopping = true;
    wake_signal(&t->wake);
    if (t->started) pthread_join(t->thread, NULL);
    t->started = false;
}

void engine_thread_destroy(struct engine_thread *t)
{
    if (!t) return;
    struct command c;
    engine_thread_stop(t);
    executor_set_on_done(t->executor, NULL, NULL);
    for (struct request *r; (r = scheduler_any(&t->scheduler)) != NULL;)
        drop(t, r);
    while (ring_pop(&t->commands, &c)) {
        if (!c.submit) continue;
        output_destroy(c.submit->output);
        request_destroy(c.submit);
    }
    CHECK(list_is_empty(&t->zombies));
    for (int i = 0; i <= t->setup.depth; i++)
        batch_deinit(&t->batches[i]);
    scheduler_deinit(&t->scheduler);
    kv_memory_deinit(&t->memory);
    buf_deinit(&t->text);
    outbox_deinit(&t->outbox);
    prefix_marks_deinit(&t->marks);
    pthread_mutex_destroy(&t->stats_lock);
    ring_deinit(&t->commands);
    free(t);
}

/* ---- any thread ---- */

static int refuse(struct engine_thread *t, struct request *r, int code, struct error *err)
{
    atomic_fetch_sub(&t->open, 1);
    request_destroy(r);
    if (code == E_CLOSED) return error_set(err, code, "the engine takes no requests");
    return error_set(err, code, "%d requests run and wait already",
                     scheduler_open_max(&t->setup.limits));
}

int engine_thread_submit_take(struct engine_thread *t, struct request *r, struct error *err)
{
    int open = atomic_fetch_add(&t->open, 1);
    if (t->failed || t->stopping) return refuse(t, r, E_CLOSED, err);
    if (open >= scheduler_open_max(&t->setup.limits)) return refuse(t, r, E_BUSY, err);
    r->output = output_create(r->id, r->prompt_count, r->sampling.logprobs);
    struct command c = {.submit = r};
    uint64_t tokens = (uint64_t)r->prompt_count; // r is the engine thread's once it is pushed
    atomic_fetch_add(&t->requests_in, 1);
    atomic_fetch_add(&t->tokens_in, tokens);
    if (!ring_push(&t->commands, &c)) {
        atomic_fetch_sub(&t->requests_in, 1);
        atomic_fetch_sub(&t->tokens_in, tokens);
        output_destroy(r->output);
        return refuse(t, r, E_BUSY, err);
    }
    wake_signal(&t->wake);
    return 0;
}

static void push_command(struct engine_thread *t, struct command c)
{
    /* Full only when somebody cancels the same requests over and over; the engine thread empties it
     * every turn. */
    while (!ring_push(&t->commands, &c)) {
        wake_signal(&t->wake);
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    wake_signal(&t->wake);
}

void engine_thread_cancel(struct engine_thread *t, uint64_t id)
{
    if (id) push_command(t, (struct command){.cancel_id = id});
}

enum engine_session_state engine_thread_session_state(struct engine_thread *t, uint64_t session)
{
    return session_pages_state(&t->memory.sessions, session);
}

void engine_thread_session_release(struct engine_thread *t, uint64_t session)
{
    session_pages_forget_soon(&t->memory.sessions, session);
    push_command(t, (struct command){.release_session = session});
}

int engine_thread_open(struct engine_thread *t)
{
    return atomic_load(&t->open);
}

void engine_thread_stats(struct engine_thread *t, struct engine_stats *out)
{
    pthread_mutex_lock(&t->stats_lock);
    *out = t->stats;
    /* What was submitted since then, so that who submitted it finds it in the numbers. */
    out->waiting += (int)(atomic_load(&t->requests_in) - t->taken.requests);
    out->prefill_tokens_waiting += (int64_t)(atomic_load(&t->tokens_in) - t->taken.tokens);
    pthread_mutex_unlock(&t->stats_lock);
}

bool engine_thread_next_event(struct engine_thread *t, struct engine_event *event)
{
    return outbox_take(&t->outbox, event);
}

bool engine_thread_next_mark_event(struct engine_thread *t, struct engine_mark_event *event)
{
    return prefix_marks_take(&t->marks, event);
}

uint64_t engine_thread_lost_mark_events(const struct engine_thread *t)
{
    return prefix_marks_lost(&t->marks);
}
