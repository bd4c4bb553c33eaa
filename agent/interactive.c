/* interactive.c - one turn of a conversation.
 *
 *   start ─► PARSING ─► WAITING ─► OPENING ─► FORKING ─► BUILDING ─► RUNNING ─► SAVING ─► CLOSED
 *              worker    the       Redis:     another    worker:     engine     Redis,      ▲
 *              │         session's whose is   session's  template,   │          disk        │
 *              │         queue     it?        turn       tokens      │                      │
 *              └ 400 ────┴ 429 ────┴ 410, 409 ┴ 404 ─────┴ 400, full ┴ 429, 500 ── 409 ─────┘
 *
 * Rules:
 *  1. From WAITING's end to CLOSED the turn holds the front ticket of its session; nobody else
 *     reads or changes the history.
 *  2. The history changes in one place, commit(), when the engine has ended the turn. Whatever
 *     fails before leaves it as it was, a rewind included.
 *  3. A client that leaves, or cancels, while the engine works stops it; what was sampled until then
 *     is the turn. One that leaves earlier leaves nothing.
 *  4. The last part of an answer goes out after the turn was written down, or the deadline for
 *     that; if it wasn't, x-lm-durable: 0 says so.
 *  5. Without history there is no answer in its name: a session that was here and is gone is 410,
 *     until its client ends it. x-lm-session-new: 1 marks a first turn. */
#define LOG_MODULE "interactive"
#include "agent/interactive.h"

#include "agent/agent_metrics.h"
#include "agent/interactive_request.h"
#include "agent/interactive_response.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/base/rng.h"
#include "shared/net/api_error.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PENDING_MAX ((size_t)256 << 10)
#define BUSY_MS     6000 // what a dead owner's lease takes, and some
#define JSON_TYPE   "application/json"
#define STREAM_TYPE "text/event-stream; charset=utf-8" // LMDeploy's, though lines of JSON follow

enum interactive_state {
    INTERACTIVE_PARSING,
    INTERACTIVE_WAITING,
    INTERACTIVE_OPENING,
    INTERACTIVE_FORKING,
    INTERACTIVE_BUILDING,
    INTERACTIVE_RUNNING,
    INTERACTIVE_SAVING,
    INTERACTIVE_CLOSED,
};

struct interactive {
    struct text_job job;
    struct session_service *service;
    struct list link; // service->turns
    enum interactive_state state;
    struct http_exchange *exchange; // NULL: answered, or gone
    struct session_caller caller;
    uint64_t started_ms, first_token_ms;
    bool is_delete; // not a turn: DELETE /v1/sessions/{id}

    // The job's while a worker has it
    bool job_pending;
    struct buf body;
    struct interactive_request request;
    struct session_prompt prompt;
    int job_status;
    struct api_error error;

    struct session *session; // NULL: not in its queue
    struct session_ticket ticket;
    struct session *source; // of a fork, while in its queue
    struct session_ticket source_ticket;
    uint64_t redis_name;    // 0: none
    uint64_t busy_until_ms; // 0: not asked yet
    bool wants_retry;       // of OPENING, with the next tick
    bool is_opened;         // Redis counts the session as running here
    bool is_auto, is_new, is_moved, is_cancelled, is_undurable;

    uint64_t engine_id;       // 0: not with the engine
    struct buf text;          // plain: all of it; stream: what wasn't written yet
    struct buf answer;        // all of it, for templates that are rendered whole
    struct token_list tokens; // sampled
    enum finish_reason finish;

    struct buf record; // the turn, being written down
    int saves_pending;
    bool was_taken; // by another agent, meanwhile

    struct buf out;
    bool is_stream, is_blocked;
};

/* ---- end of life ---- */

static void interactive_free(struct interactive *t)
{
    token_list_deinit(&t->tokens);
    session_prompt_deinit(&t->prompt);
    interactive_request_deinit(&t->request);
    buf_deinit(&t->body);
    buf_deinit(&t->text);
    buf_deinit(&t->answer);
    buf_deinit(&t->record);
    buf_deinit(&t->out);
    free(t);
}

static void leave_queue(struct interactive *t, struct session **session,
                        struct session_ticket *ticket)
{
    struct session *left = *session;
    if (!left) return;
    *session = NULL;
    session_table_leave(&t->service->table, left, ticket, clock_ms(), clock_wall_ms() / 1000);
}

static void interactive_close(struct interactive *t)
{
    struct session_service *s = t->service;
    CHECK(t->state != INTERACTIVE_CLOSED && t->saves_pending == 0);
    t->state = INTERACTIVE_CLOSED;
    t->exchange = NULL;
    if (t->engine_id) engine_bridge_cancel(s->completions->bridge, t->engine_id);
    if (t->is_opened) {
        session_transcript_release(s->transcript, t->redis_name,
                                   t->session->history.turn_count == 0);
    }
    list_remove(&t->link);
    leave_queue(t, &t->source, &t->source_ticket);
    leave_queue(t, &t->session, &t->ticket); // the next turn may begin in here
    if (t->job_pending) {
        text_job_cancel(&t->job);
    } else {
        interactive_free(t);
    }
    completion_service_leave(s->completions);
}

static struct interactive_reply reply_of(const struct interactive *t)
{
    return (struct interactive_reply){
        .tokens = (int64_t)t->tokens.count,
        .input_tokens = t->prompt.input_tokens,
        .history_tokens = t->prompt.base,
    };
}

static void add_header(struct interactive *t, struct str name, const char *value)
{
    http_exchange_add_header(t->exchange, name, str_of(value));
}

static void add_headers(struct interactive *t)
{
    if (t->request.interactive_mode) {
        char id[24];
        snprintf(id, sizeof id, "%" PRId64, t->request.session_id);
        add_header(t, STR("x-lm-session-id"), id);
        if (t->is_new) add_header(t, STR("x-lm-session-new"), "1");
    }
    if (t->is_moved) add_header(t, STR("x-lm-session-moved"), "1");
}

/* Answer with an error, in whatever way the answer's state still allows. */
static void interactive_fail(struct interactive *t, const struct api_error *e)
{
    completion_count_refusal(e->status);
    log_debug("turn refused", "status=%d code=%s param=%s", e->status, e->code ? e->code : "",
              e->param);
    if (t->exchange && http_respond_has_begun(t->exchange)) {
        struct interactive_reply reply = reply_of(t);
        buf_clear(&t->out);
        interactive_reply_print_error(&t->out, &reply, e);
        buf_append_char(&t->out, '\n');
        http_respond_end(t->exchange, t->out.data, t->out.len);
    } else if (t->exchange) {
        api_error_respond(t->exchange, e);
    }
    interactive_close(t);
}

static void end_session(struct interactive *t);

static void fail_lost(struct interactive *t, const char *why)
{
    // LMDeploy's remedy for a session that went wrong is a turn outside interactive mode.
    if (!t->caller.has_hop && !t->request.interactive_mode) end_session(t);
    if (t->caller.has_hop) { // the hop decides what its client hears
        api_error_set(&t->error, 404, "session_unknown", "session_id",
                      "This agent does not have the session: %s.", why);
    } else {
        api_error_set(&t->error, 410, "session_lost", "session_id",
                      "The session %" PRId64
                      " is lost: %s. Its history cannot be continued. End it "
                      "(an empty prompt with 'interactive_mode' false) to use the id again.",
                      t->request.session_id, why);
    }
    interactive_fail(t, &t->error);
}

static void respond_json(struct interactive *t)
{
    metric_add(&agent_metrics.requests_done_total, 1);
    if (t->exchange) http_respond(t->exchange, 200, JSON_TYPE, buf_str(&t->out));
    interactive_close(t);
}

/* An answer of zeros: cancel and end. */
static void respond_nothing(struct interactive *t)
{
    struct interactive_reply reply = {.text = STR(""), .finish = FINISH_STOP};
    interactive_reply_print(&t->out, &reply);
    if (t->request.stream) buf_append_char(&t->out, '\n');
    respond_json(t);
}

/* ---- answering ---- */

static void respond_whole(struct interactive *t)
{
    struct interactive_reply reply = reply_of(t);
    reply.text = buf_str(&t->text);
    reply.finish = t->finish;
    interactive_reply_print(&t->out, &reply);
    add_headers(t);
    if (t->is_undurable) add_header(t, STR("x-lm-durable"), "0");
    http_respond(t->exchange, 200, JSON_TYPE, buf_str(&t->out));
}

static void begin_stream(struct interactive *t)
{
    struct session_service *s = t->service;
    t->is_stream = true;
    add_headers(t);
    add_header(t, STR("cache-control"), "no-cache");
    add_header(t, STR("x-accel-buffering"), "no");
    bool may_be_undurable = s->transcript || session_folder_is_open(&s->folder);
    if (may_be_undurable) add_header(t, STR("trailer"), "x-lm-durable");
    http_respond_begin(t->exchange, 200, STREAM_TYPE, true);
}

static void print_line(struct interactive *t, struct str text, enum finish_reason finish)
{
    struct interactive_reply reply = reply_of(t);
    reply.text = text;
    reply.finish = finish;
    interactive_reply_print(&t->out, &reply);
    buf_append_char(&t->out, '\n');
}

static void respond_piece(struct interactive *t)
{
    if (!t->exchange || !t->is_stream || t->is_blocked || t->text.len == 0) return;
    buf_clear(&t->out);
    print_line(t, buf_str(&t->text), FINISH_NONE);
    buf_clear(&t->text);
    t->is_blocked = http_respond_write(t->exchange, t->out.data, t->out.len) > PENDING_MAX;
}

/* LMDeploy's client drops the text of an object that ends with "length", so text and end are two. */
static void respond_last(struct interactive *t)
{
    buf_clear(&t->out);
    if (t->text.len > 0) print_line(t, buf_str(&t->text), FINISH_NONE);
    print_line(t, STR(""), t->finish);
    if (t->is_undurable) http_respond_trailer(t->exchange, STR("x-lm-durable"), STR("0"));
    http_respond_end(t->exchange, t->out.data, t->out.len);
}

static void interactive_done(struct interactive *t)
{
    uint64_t now_ms = clock_ms();
    int64_t tokens = (int64_t)t->tokens.count;
    metric_add(&agent_metrics.requests_done_total, 1);
    metric_add(&agent_metrics.completion_tokens_total, tokens);
    metric_add(&agent_metrics.session_turns_total, 1);
    if (t->is_undurable) metric_add(&agent_metrics.session_turns_undurable_total, 1);
    metric_observe(&agent_metrics.request_seconds, (double)(now_ms - t->started_ms) / 1000);
    if (tokens > 1) {
        double span_s = (double)(now_ms - t->first_token_ms) / 1000;
        metric_observe(&agent_metrics.inter_token_seconds, span_s / (double)(tokens - 1));
    }
    if (t->exchange && t->is_stream) {
        respond_last(t);
    } else if (t->exchange) {
        respond_whole(t);
    }
    interactive_close(t);
}

/* There is no room for the prompt, or for a token behind it: LMDeploy's answer, and the
 * conversation stays as it is. */
static void interactive_full(struct interactive *t)
{
    t->finish = FINISH_LENGTH;
    t->tokens.count = 0;
    if (!t->request.interactive_mode) end_session(t);
    if (!t->exchange) {
        interactive_close(t);
        return;
    }
    if (t->request.stream && !t->is_stream) begin_stream(t);
    interactive_done(t);
}

/* ---- what is kept ---- */

static void end_session(struct interactive *t)
{
    struct session_service *s = t->service;
    session_service_clear(s, t->session);
    session_table_unbury(&s->table, t->session->key);
    if (s->transcript && t->redis_name) {
        session_transcript_end(s->transcript, t->redis_name);
        t->is_opened = false;
    }
}

static void save_ended(struct interactive *t)
{
    if (--t->saves_pending > 0) return;
    if (!t->was_taken) {
        interactive_done(t);
        return;
    }
    session_service_clear(t->service, t->session);
    api_error_set(&t->error, 409, "session_moved", "session_id",
                  "The session %" PRId64
                  " was taken over by another agent while this turn ran. The "
                  "turn is not part of it.",
                  t->request.session_id);
    interactive_fail(t, &t->error);
}

static void on_transcript_saved(void *arg, enum transcript_saved saved)
{
    struct interactive *t = arg;
    t->session->is_safe = saved == TRANSCRIPT_SAVED;
    if (saved != TRANSCRIPT_SAVED) t->is_undurable = true;
    if (saved == TRANSCRIPT_MOVED) t->was_taken = true;
    save_ended(t);
}

static void run_save(struct text_job *job) // worker thread; rule 1 makes the session ours
{
    struct interactive *t = list_entry(job, struct interactive, job);
    const struct session_folder *f = &t->service->folder;
    struct session *session = t->session;
    struct error err = {0};
    int rc = E_LIMIT;
    if (session->file.size > 0) {
        rc = session_file_append(f, &session->file, buf_str(&t->record), &err);
    }
    if (rc != 0) {
        rc = session_file_rewrite(f, &session->file, &session->owner, &session->history, &err);
    }
    t->job_status = rc;
    if (rc == 0) return;
    session->file.size = 0; // it lacks a turn from here on, so the next one writes all
    log_error("a turn is not on the disk", "folder=%s reason=\"%s\"", f->path, err.text);
}

static void on_file_saved(struct text_job *job)
{
    struct interactive *t = list_entry(job, struct interactive, job);
    t->job_pending = false;
    if (t->job_status != 0) t->is_undurable = true;
    save_ended(t);
}

static void save(struct interactive *t, uint64_t base)
{
    struct session_service *s = t->service;
    t->state = INTERACTIVE_SAVING;
    t->saves_pending = 1; // nothing is answered before all have begun
    t->session->is_safe = false;
    if (s->transcript && t->redis_name) {
        t->saves_pending++;
        t->is_opened = false; // the append says so, too
        session_transcript_append(s->transcript, t->redis_name, base, &t->session->history,
                                  buf_str(&t->record), on_transcript_saved, t);
    } else if (s->transcript) {
        t->is_undurable = true;
    }
    if (session_folder_is_open(&s->folder)) {
        t->job = (struct text_job){.run = run_save, .done = on_file_saved};
        t->job_pending = text_worker_submit(s->completions->worker, &t->job) == 0;
        if (t->job_pending) {
            t->saves_pending++;
        } else {
            t->session->file.size = 0;
            t->is_undurable = true;
        }
    }
    save_ended(t);
}

/* Rule 2. */
static void commit(struct interactive *t)
{
    struct session_service *s = t->service;
    struct session_history *h = &t->session->history;
    uint64_t base = h->serial;
    size_t bytes = h->bytes_owned;
    struct buf messages;
    buf_init(&messages, BUF_MAX_INTERNAL);
    if (!s->template.is_continued) {
        session_prompt_print_turn(&messages, t->request.messages, buf_str(&t->answer));
    }
    for (size_t i = 0; i < t->tokens.count; i++)
        token_list_push(&t->prompt.ids, t->tokens.ids[i]);
    struct session_step step = {
        .base = t->prompt.base,
        .keep_turns = t->prompt.keep_turns,
        .ids = t->prompt.ids.ids + t->prompt.base,
        .count = (int)t->prompt.ids.count - t->prompt.base,
        .seed = t->request.fields.sampling.seed,
        .serial = base + 1,
        .messages = messages.len > 0 ? buf_str(&messages) : (struct str){0},
    };
    session_record_print(&t->record, &step);
    session_history_apply(h, &step);
    session_table_account(&s->table, t->session, bytes);
    buf_deinit(&messages);
    save(t, base);
}

static void turn_ended(struct interactive *t)
{
    if (t->request.interactive_mode) {
        commit(t);
    } else {
        end_session(t);
        interactive_done(t);
    }
}

/* ---- the engine ---- */

static void record_event(struct interactive *t, const struct engine_event *event)
{
    buf_append(&t->text, event->text, event->text_len);
    if (!t->service->template.is_continued) buf_append(&t->answer, event->text, event->text_len);
    for (int i = 0; i < event->token_count; i++)
        token_list_push(&t->tokens, event->tokens[i]);
    if (event->token_count > 0 && t->first_token_ms == 0) {
        t->first_token_ms = clock_ms();
        metric_observe(&agent_metrics.first_token_seconds,
                       (double)(t->first_token_ms - t->started_ms) / 1000);
    }
}

static void on_failed_event(struct interactive *t, const struct engine_event *event)
{
    bool too_long = event->error_code == E_CONTEXT_LENGTH || event->error_code == E_LIMIT;
    if (too_long && t->tokens.count == 0) {
        interactive_full(t);
        return;
    }
    completion_error_event(t->service->completions, event, &t->error);
    interactive_fail(t, &t->error);
}

static void on_event(void *arg, const struct engine_event *event)
{
    struct interactive *t = arg;
    if (event->kind == ENGINE_EVENT_FAILED) {
        t->engine_id = 0;
        on_failed_event(t, event);
        return;
    }
    record_event(t, event);
    if (event->kind == ENGINE_EVENT_TOKENS) {
        respond_piece(t);
        return;
    }
    t->engine_id = 0;
    t->finish = event->finish;
    metric_add(&agent_metrics.cached_tokens_total, event->cached_tokens);
    if (event->finish == FINISH_CANCELLED && !t->is_cancelled) { // the engine is closing
        completion_error_unavailable(t->service->completions, &t->error);
        interactive_fail(t, &t->error);
    } else {
        turn_ended(t);
    }
}

static int submit(struct interactive *t, struct error *err)
{
    const struct interactive_request *r = &t->request;
    struct engine_request request = {
        .prompt = t->prompt.ids.ids,
        .prompt_count = t->prompt.ids.count,
        .tenant = t->caller.queue_tenant,
        .session = r->interactive_mode ? t->session->key : 0,
        .deadline_ms = completion_deadline(t->service->completions),
        .max_tokens = r->max_tokens,
    };
    sampling_fields_apply(&r->fields, &request);
    int rc = engine_bridge_submit(t->service->completions->bridge, &request, on_event, t, err);
    if (rc == 0) t->engine_id = request.id;
    return rc;
}

/* The prompt stands: everything that can be refused has been. */
static void run_turn(struct interactive *t)
{
    struct interactive_request *r = &t->request;
    const struct session_history *h = &t->session->history;
    if (!r->fields.has_seed) {
        uint64_t *seed = &r->fields.sampling.seed;
        *seed = h->seed;
        if (h->turn_count == 0) random_bytes(seed, sizeof *seed);
    }
    t->state = INTERACTIVE_RUNNING;
    bool is_nothing = r->wants_nothing || t->is_cancelled;
    struct error err = {0};
    int rc = is_nothing ? 0 : submit(t, &err);
    if (rc == E_CONTEXT_LENGTH) {
        interactive_full(t);
        return;
    }
    if (rc != 0) {
        completion_error_submit(t->service->completions, rc, &err, &t->error);
        interactive_fail(t, &t->error);
        return;
    }
    metric_add(&agent_metrics.prompt_tokens_total, t->prompt.input_tokens);
    json_destroy(r->document); // a long list isn't kept while its answer is written
    r->document = NULL;
    r->fields.stop_count = 0; // they pointed into it
    if (r->stream && t->exchange) begin_stream(t);
    if (is_nothing) {
        t->finish = FINISH_LENGTH;
        turn_ended(t);
    }
}

/* ---- building ---- */

static void run_build(struct text_job *job) // worker thread; rule 1 makes the session ours
{
    struct interactive *t = list_entry(job, struct interactive, job);
    const struct session_history *h = &t->session->history;
    int base = t->request.rewind_to >= 0 ? (int)t->request.rewind_to : (int)h->ids.count;
    t->job_status = session_prompt_build(&t->service->template, h, base, t->request.messages,
                                         clock_wall_ms() / 1000, &t->prompt, &t->error);
}

static void on_built(struct text_job *job)
{
    struct interactive *t = list_entry(job, struct interactive, job);
    t->job_pending = false;
    metric_observe(&agent_metrics.prepare_seconds, (double)(clock_ms() - t->started_ms) / 1000);
    if (!t->exchange) {
        interactive_close(t);
    } else if (t->job_status != 0) {
        interactive_fail(t, &t->error);
    } else if (t->service->completions->phase != SERVICE_OPEN) {
        completion_error_unavailable(t->service->completions, &t->error);
        interactive_fail(t, &t->error);
    } else if (t->prompt.is_full) {
        interactive_full(t);
    } else {
        run_turn(t);
    }
}

static void build(struct interactive *t)
{
    struct session *session = t->session;
    if (t->request.rewind_to > (int64_t)session->history.ids.count) {
        api_error_set(&t->error, 400, "invalid_value", "rewind_to",
                      "Invalid 'rewind_to': the session has %zu tokens, so it cannot be rewound to "
                      "%" PRId64 ".",
                      session->history.ids.count, t->request.rewind_to);
        interactive_fail(t, &t->error);
        return;
    }
    t->state = INTERACTIVE_BUILDING;
    t->job = (struct text_job){.run = run_build, .done = on_built};
    t->job_pending = text_worker_submit(t->service->completions->worker, &t->job) == 0;
    if (t->job_pending) return;
    completion_error_queue_full(t->service->completions, &t->error);
    interactive_fail(t, &t->error);
}

/* ---- forks ---- */

static void fail_no_source(struct interactive *t)
{
    api_error_set(&t->error, 404, "session_not_found", "fork_of",
                  "There is no session %" PRId64 " to fork.", t->request.fork_of);
    interactive_fail(t, &t->error);
}

static void take_history(struct interactive *t, struct session_history *history)
{
    struct session *session = t->session;
    size_t bytes = session->history.bytes_owned;
    session_history_deinit(&session->history);
    session->history = *history;
    *history = (struct session_history){0};
    session->file.size = 0; // what is there is another history
    session_table_account(&t->service->table, session, bytes);
}

static void source_is_ours(void *arg)
{
    struct interactive *t = arg;
    struct session_history copy = {0};
    bool is_there = t->source->history.turn_count > 0;
    if (is_there) session_history_copy(&copy, &t->source->history);
    leave_queue(t, &t->source, &t->source_ticket);
    if (!is_there) {
        fail_no_source(t);
        return;
    }
    take_history(t, &copy);
    build(t);
}

static void on_source_read(void *arg, enum transcript_state state, struct session_history *history)
{
    struct interactive *t = arg;
    if (!t->exchange) {
        interactive_close(t);
    } else if (state == TRANSCRIPT_HISTORY) {
        take_history(t, history);
        build(t);
    } else {
        fail_no_source(t);
    }
}

/* A copy of another session's history, when its turns before this one have ended. A fork of what is
 * itself being forked could wait in a circle, and has nothing to copy yet. */
static void fork_session(struct interactive *t)
{
    struct session_service *s = t->service;
    uint64_t key = session_service_key(s, &t->caller, t->request.fork_of);
    struct session *source = session_table_find(&s->table, key);
    t->state = INTERACTIVE_FORKING;
    t->is_new = false;
    bool is_forming = source && source->history.turn_count == 0 &&
                      list_first(&source->queue, struct session_ticket, link)->is_fork;
    if (is_forming) source = NULL;
    if (!source) {
        struct session_caller caller = t->caller;
        caller.has_hop = false; // it names the new session
        uint64_t name = session_service_redis_name(s, &caller, t->request.fork_of);
        if (name && !is_forming) {
            session_transcript_read(s->transcript, name, on_source_read, t);
        } else {
            fail_no_source(t);
        }
        return;
    }
    t->source_ticket = (struct session_ticket){.on_turn = source_is_ours, .arg = t};
    int rc = session_table_enter(&s->table, source, &t->source_ticket);
    if (rc == E_BUSY) {
        api_error_set(&t->error, 429, "session_busy", "fork_of",
                      "%d turns of the session %" PRId64 " wait already.", SESSION_WAITING_MAX,
                      t->request.fork_of);
        t->error.retry_after_s = 1;
        interactive_fail(t, &t->error);
        return;
    }
    t->source = source;
    if (rc == 1) source_is_ours(t);
}

/* ---- opening ---- */

/* The session is ours, with the newest history there is. */
static void session_is_open(struct interactive *t)
{
    struct session_service *s = t->service;
    struct session *session = t->session;
    const struct session_hop *hop = &t->caller.hop;
    bool is_empty = session->history.turn_count == 0;
    if (t->caller.has_hop && hop->expect != SESSION_EXPECT_ANY &&
        hop->expect != SESSION_EXPECT_NEW) {
        bool is_other_turn = hop->turn > 0 && session->history.serial + 1 != (uint64_t)hop->turn;
        if (is_empty || is_other_turn) {
            fail_lost(t, "it is not here, or lacks turns");
            return;
        }
    }
    t->is_new = is_empty;
    if (!is_empty && t->request.fork_of >= 0) {
        api_error_set(&t->error, 400, "invalid_value", "session_id",
                      "Invalid 'session_id': a fork needs a session without history.");
        interactive_fail(t, &t->error);
    } else if (is_empty && t->request.interactive_mode && !session_table_make_room(&s->table)) {
        api_error_set(&t->error, 429, "session_limit", NULL,
                      "This server holds as many sessions as it can. Please end some.");
        t->error.retry_after_s = 30;
        interactive_fail(t, &t->error);
    } else if (t->request.fork_of >= 0) {
        fork_session(t);
    } else {
        build(t);
    }
}

static void on_opened(void *arg, enum transcript_state state, struct session_history *history);

static void open_session(struct interactive *t)
{
    struct session *session = t->session;
    int64_t held = session->history.turn_count > 0 ? (int64_t)session->history.serial : -1;
    enum session_expect expect = t->caller.has_hop ? t->caller.hop.expect : SESSION_EXPECT_ANY;
    t->wants_retry = false;
    t->state = INTERACTIVE_OPENING;
    session_transcript_open(t->service->transcript, t->redis_name, held, expect, on_opened, t);
}

/* Another agent runs a turn of it: its next one comes when that has ended, or that agent's lease. */
static void on_busy(struct interactive *t)
{
    uint64_t now_ms = clock_ms();
    if (t->busy_until_ms == 0) t->busy_until_ms = now_ms + BUSY_MS;
    if (now_ms < t->busy_until_ms) {
        t->wants_retry = true;
        return;
    }
    api_error_set(&t->error, 409, "session_busy", "session_id",
                  "A turn of the session %" PRId64 " runs at another agent.",
                  t->request.session_id);
    t->error.retry_after_s = 1;
    interactive_fail(t, &t->error);
}

static void on_opened(void *arg, enum transcript_state state, struct session_history *history)
{
    struct interactive *t = arg;
    struct session_service *s = t->service;
    t->is_opened = state == TRANSCRIPT_OWN || state == TRANSCRIPT_NEW ||
                   state == TRANSCRIPT_ENDED || state == TRANSCRIPT_HISTORY;
    if (!t->exchange) {
        interactive_close(t);
        return;
    }
    switch (state) {
    case TRANSCRIPT_HISTORY:
        take_history(t, history);
        session_table_unbury(&s->table, t->session->key);
        t->is_moved = true;
        metric_add(&agent_metrics.sessions_adopted_total, 1);
        session_is_open(t);
        return;
    case TRANSCRIPT_ENDED:
        session_service_clear(s, t->session);
        session_is_open(t);
        return;
    case TRANSCRIPT_OWN:
    case TRANSCRIPT_NEW:
    case TRANSCRIPT_AWAY:
        session_is_open(t);
        return;
    case TRANSCRIPT_BUSY:
        on_busy(t);
        return;
    case TRANSCRIPT_ELSEWHERE:
        api_error_set(&t->error, 409, "session_elsewhere", "session_id",
                      "The session %" PRId64 " is at another agent, which could not write it down. "
                      "It goes on there.",
                      t->request.session_id);
        interactive_fail(t, &t->error);
        return;
    case TRANSCRIPT_LOST:
        fail_lost(t, "its agent is gone, and it was not written down");
        return;
    case TRANSCRIPT_UNKNOWN:
        fail_lost(t, "it is not here");
        return;
    case TRANSCRIPT_DAMAGED:
        fail_lost(t, "its transcript is damaged");
        return;
    case TRANSCRIPT_FOREIGN:
        fail_lost(t, "its transcript was written by another model");
        return;
    }
    UNREACHABLE();
}

/* ---- ending ---- */

static void respond_deleted(struct interactive *t, bool was_there)
{
    if (!was_there) {
        api_error_set(&t->error, 404, "session_not_found", "session_id",
                      "There is no session %" PRId64 ".", t->request.session_id);
        interactive_fail(t, &t->error);
        return;
    }
    struct json_writer w;
    end_session(t);
    json_writer_init(&w, &t->out);
    json_object_begin(&w);
    json_field_int(&w, "session_id", t->request.session_id);
    json_field_text(&w, "object", "session.deleted");
    json_field_bool(&w, "deleted", true);
    json_object_end(&w);
    respond_json(t);
}

static void on_read_to_delete(void *arg, enum transcript_state state,
                              struct session_history *history)
{
    struct interactive *t = arg;
    (void)history;
    respond_deleted(t, state != TRANSCRIPT_UNKNOWN && state != TRANSCRIPT_AWAY);
}

static void delete_session(struct interactive *t)
{
    struct session_service *s = t->service;
    bool was_there = t->session->history.turn_count > 0 ||
                     session_table_grave(&s->table, t->session->key) != SESSION_NOT_LOST;
    if (!was_there && t->redis_name) {
        t->state = INTERACTIVE_OPENING;
        session_transcript_read(s->transcript, t->redis_name, on_read_to_delete, t);
        return;
    }
    respond_deleted(t, was_there);
}

/* ---- the queue ---- */

static const char *loss_text(enum session_loss why)
{
    switch (why) {
    case SESSION_EXPIRED:
        return "it was idle for longer than sessions are kept";
    case SESSION_DAMAGED:
        return "its file is damaged";
    case SESSION_FOREIGN:
        return "its file was written by another model";
    case SESSION_NOT_LOST:
        break;
    }
    UNREACHABLE();
}

/* Our turn on the session. */
static void turn_begins(void *arg)
{
    struct interactive *t = arg;
    struct session_service *s = t->service;
    bool is_fresh = t->caller.has_hop && t->caller.hop.expect == SESSION_EXPECT_NEW;
    enum session_loss why = session_table_grave(&s->table, t->session->key);
    t->redis_name =
        t->is_auto ? 0 : session_service_redis_name(s, &t->caller, t->request.session_id);
    if (t->is_delete) {
        delete_session(t);
    } else if (interactive_request_is_end(&t->request)) {
        end_session(t);
        respond_nothing(t);
    } else if (why != SESSION_NOT_LOST && !is_fresh) {
        fail_lost(t, loss_text(why));
    } else if (t->redis_name) {
        if (is_fresh) session_service_clear(s, t->session);
        open_session(t);
    } else {
        if (is_fresh) {
            session_service_clear(s, t->session);
            session_table_unbury(&s->table, t->session->key);
        }
        // An id that we made up is nobody else's; its transcript begins with the first append.
        if (t->is_auto && t->request.interactive_mode) {
            t->redis_name = session_service_redis_name(s, &t->caller, t->request.session_id);
        }
        session_is_open(t);
    }
}

static void enter(struct interactive *t)
{
    struct session_service *s = t->service;
    struct interactive_request *r = &t->request;
    t->is_auto = r->session_id < 0;
    if (t->is_auto) r->session_id = session_service_new_id(s, &t->caller);
    struct session_owner owner = {.id = r->session_id};
    snprintf(owner.tenant, sizeof owner.tenant, "%s", t->caller.tenant);
    uint64_t key = session_service_key(s, &t->caller, r->session_id);
    struct session *session = session_table_take(&s->table, key, &owner);
    t->ticket =
        (struct session_ticket){.on_turn = turn_begins, .arg = t, .is_fork = r->fork_of >= 0};
    t->state = INTERACTIVE_WAITING;
    int rc = session_table_enter(&s->table, session, &t->ticket);
    if (rc == E_BUSY) {
        api_error_set(&t->error, 429, "session_busy", "session_id",
                      "%d turns of the session %" PRId64 " wait already.", SESSION_WAITING_MAX,
                      r->session_id);
        t->error.retry_after_s = 1;
        interactive_fail(t, &t->error);
        return;
    }
    t->session = session;
    if (rc == 1) turn_begins(t);
}

/* ---- cancelling ---- */

/* Rule 3: what was sampled stays. Between the states before and after RUNNING there is nothing to
 * stop but the beginning. */
static void stop_turn(struct interactive *t)
{
    if (t->state == INTERACTIVE_RUNNING) {
        t->is_cancelled = true;
        if (t->engine_id) engine_bridge_stop(t->service->completions->bridge, t->engine_id);
    } else if (t->state < INTERACTIVE_RUNNING && !t->is_delete) {
        t->is_cancelled = true;
    }
}

static void cancel(struct interactive *t)
{
    struct session_service *s = t->service;
    uint64_t key = session_service_key(s, &t->caller, t->request.session_id);
    struct session *session = session_table_find(&s->table, key);
    if (session && !list_is_empty(&session->queue)) {
        struct session_ticket *front = list_first(&session->queue, struct session_ticket, link);
        // Forks of the session wait in its queue, too; those aren't its turns.
        if (front->on_turn == turn_begins) stop_turn(front->arg);
    }
    respond_nothing(t);
}

static void on_gone(void *arg)
{
    struct interactive *t = arg;
    metric_add(&agent_metrics.requests_gone_total, 1);
    log_debug("client left", "state=%d", (int)t->state);
    t->exchange = NULL;
    switch (t->state) {
    case INTERACTIVE_PARSING:
    case INTERACTIVE_WAITING:
        interactive_close(t);
        return;
    case INTERACTIVE_OPENING:
        if (t->wants_retry) interactive_close(t); // else its callback does
        return;
    case INTERACTIVE_FORKING:
        if (t->source) interactive_close(t); // likewise
        return;
    case INTERACTIVE_BUILDING:
    case INTERACTIVE_SAVING:
        return; // likewise
    case INTERACTIVE_RUNNING:
        stop_turn(t);
        return;
    case INTERACTIVE_CLOSED:
        break;
    }
    UNREACHABLE();
}

static void on_drain(void *arg)
{
    struct interactive *t = arg;
    t->is_blocked = false;
    if (t->state == INTERACTIVE_RUNNING) respond_piece(t);
}

/* ---- the beginning ---- */

static void run_parse(struct text_job *job) // worker thread
{
    struct interactive *t = list_entry(job, struct interactive, job);
    t->job_status = interactive_request_parse(buf_str(&t->body), &t->service->completions->limits,
                                              &t->request, &t->error);
    buf_deinit(&t->body);
}

static void on_parsed(struct text_job *job)
{
    struct interactive *t = list_entry(job, struct interactive, job);
    t->job_pending = false;
    if (t->state == INTERACTIVE_CLOSED) {
        interactive_free(t);
    } else if (t->job_status != 0) {
        interactive_fail(t, &t->error);
    } else if (t->request.cancel) {
        cancel(t);
    } else if (t->service->completions->phase != SERVICE_OPEN) {
        completion_error_unavailable(t->service->completions, &t->error);
        interactive_fail(t, &t->error);
    } else if (interactive_request_is_end(&t->request) && t->request.session_id < 0) {
        respond_nothing(t); // it ends what never began
    } else {
        enter(t);
    }
}

static struct interactive *create(struct session_service *s, struct http_exchange *x)
{
    struct interactive *t = xcalloc(1, sizeof *t);
    t->service = s;
    t->exchange = x;
    t->started_ms = clock_ms();
    session_service_identify(s, http_exchange_request(x), &t->caller);
    buf_init(&t->body, BUF_MAX_INTERNAL);
    buf_init(&t->text, BUF_MAX_INTERNAL);
    buf_init(&t->answer, BUF_MAX_INTERNAL);
    buf_init(&t->record, BUF_MAX_INTERNAL);
    buf_init(&t->out, BUF_MAX_INTERNAL);
    list_push_back(&s->turns, &t->link);
    completion_service_enter(s->completions);
    http_exchange_watch(x, on_gone, on_drain, t);
    return t;
}

void interactive_start(struct session_service *s, struct http_exchange *x)
{
    metric_add(&agent_metrics.requests_total, 1);
    /* A turn that drains may still be cancelled. */
    if (s->completions->phase == SERVICE_LOADING) {
        completion_refuse(s->completions, x);
        return;
    }
    struct interactive *t = create(s, x);
    struct str body = http_exchange_request(x)->body;
    buf_append(&t->body, body.data, body.len); // the exchange may end while a worker reads
    t->job = (struct text_job){.run = run_parse, .done = on_parsed};
    t->job_pending = text_worker_submit(s->completions->worker, &t->job) == 0;
    if (t->job_pending) return;
    completion_error_queue_full(s->completions, &t->error);
    interactive_fail(t, &t->error);
}

void interactive_delete(struct session_service *s, struct http_exchange *x, int64_t id)
{
    if (s->completions->phase != SERVICE_OPEN) {
        completion_refuse(s->completions, x);
        return;
    }
    struct interactive *t = create(s, x);
    t->is_delete = true;
    t->request = (struct interactive_request){.session_id = id, .rewind_to = -1, .fork_of = -1};
    enter(t);
}

void interactive_tick(struct session_service *s)
{
    list_each_safe (t, &s->turns, struct interactive, link) {
        if (t->wants_retry) open_session(t);
    }
}

/* Turns that a worker or Redis has end when they give them back. */
void interactive_abort(struct session_service *s)
{
    bool found;
    do { // closing one may begin another, or end it
        found = false;
        list_each (t, &s->turns, struct interactive, link) {
            if (!t->exchange && t->state != INTERACTIVE_RUNNING) continue;
            bool is_held = t->state == INTERACTIVE_BUILDING || t->state == INTERACTIVE_SAVING ||
                           (t->state == INTERACTIVE_OPENING && !t->wants_retry) ||
                           (t->state == INTERACTIVE_FORKING && !t->source);
            completion_error_unavailable(s->completions, &t->error);
            found = true;
            if (!is_held) {
                interactive_fail(t, &t->error);
            } else if (http_respond_has_begun(t->exchange)) {
                http_respond_abort(t->exchange);
                t->exchange = NULL;
            } else {
                api_error_respond(t->exchange, &t->error);
                t->exchange = NULL;
            }
            break;
        }
    } while (found);
}
