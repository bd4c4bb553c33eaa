/* interactive.c - one turn of a conversation: how it begins, waits, is stopped, and ends.
 *
 *   start ─► PARSING ─► WAITING ─► OPENING ─► FORKING ─► BUILDING ─► RUNNING ─► SAVING ─► CLOSED
 *              worker    the       Redis:     another    worker:     engine     Redis,      ▲
 *              │         session's whose is   session's  template,   │          disk        │
 *              │         queue     it?        turn       tokens      │                      │
 *              └ 400 ────┴ 429 ────┴ 410, 409 ┴ 404 ─────┴ 400, full ┴ 429, 500 ── 409 ─────┘
 *              └─── here ─────────┘└─ interactive_open.c ┘└──── interactive_run.c ─────────┘
 *
 * Rules:
 *  1. From WAITING's end to CLOSED the turn holds the front ticket of its session; nobody else
 *     reads or changes the history.
 *  2. A client that leaves, or cancels, while the engine works stops it; what was sampled until then
 *     is the turn. One that leaves earlier leaves nothing.
 *  3. A turn that a worker or Redis has is closed by what they call back, nobody else. */
#define LOG_MODULE "interactive"
#include "agent/interactive.h"

#include "agent/abort_target.h"
#include "agent/agent_metrics.h"
#include "agent/interactive_turn.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/net/api_error.h"
#include "shared/net/http_router.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define JSON_TYPE "application/json"

/* ---- end of life ---- */

static void interactive_free(struct interactive *t)
{
    token_list_deinit(&t->tokens);
    session_prompt_deinit(&t->prompt);
    interactive_request_deinit(&t->request);
    resume_record_deinit(&t->record);
    stream_marks_deinit(&t->marks);
    buf_deinit(&t->body);
    buf_deinit(&t->text);
    buf_deinit(&t->answer);
    buf_deinit(&t->written);
    buf_deinit(&t->out);
    free(t);
}

void interactive_leave_queue(struct interactive *t, struct session **session,
                             struct session_ticket *ticket)
{
    struct session *left = *session;
    if (!left) return;
    *session = NULL;
    session_table_leave(&t->service->table, left, ticket, clock_ms(), clock_wall_ms() / 1000);
}

void interactive_close(struct interactive *t)
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
    dispatch_end(&t->dispatch, clock_ms());
    interactive_leave_queue(t, &t->source, &t->source_ticket);
    interactive_leave_queue(t, &t->session, &t->ticket); // the next turn may begin in here
    if (t->job_pending) {
        text_job_cancel(&t->job);
    } else {
        interactive_free(t);
    }
    completion_service_leave(s->completions);
}

/* ---- refusing and ending ---- */

struct interactive_reply interactive_reply_of(const struct interactive *t)
{
    return (struct interactive_reply){
        .tokens = (int64_t)t->tokens.count,
        .input_tokens = t->prompt.input_tokens,
        .history_tokens = t->prompt.base,
    };
}

void interactive_fail(struct interactive *t, const struct api_error *e)
{
    completion_count_refusal(e->status);
    log_debug("turn refused", "status=%d code=%s param=%s", e->status, e->code ? e->code : "",
              e->param);
    bool has_begun = t->exchange && http_respond_has_begun(t->exchange);
    if (has_begun && completion_is_left_to_hop(&t->marks, e)) {
        http_respond_abort(t->exchange);
    } else if (has_begun) {
        struct interactive_reply reply = interactive_reply_of(t);
        buf_clear(&t->out);
        interactive_reply_print_error(&t->out, &reply, e);
        buf_append_char(&t->out, '\n');
        http_respond_end(t->exchange, t->out.data, t->out.len);
    } else if (t->exchange) {
        completion_respond_error(t->exchange, e, t->was_begun);
    }
    interactive_close(t);
}

void interactive_respond_json(struct interactive *t)
{
    metric_add(&agent_metrics.requests_done_total, 1);
    if (t->exchange) http_respond(t->exchange, 200, JSON_TYPE, buf_str(&t->out));
    interactive_close(t);
}

void interactive_respond_nothing(struct interactive *t)
{
    struct interactive_reply reply = {.text = STR(""), .finish = FINISH_STOP};
    interactive_reply_print(&t->out, &reply);
    if (t->request.stream) buf_append_char(&t->out, '\n');
    interactive_respond_json(t);
}

/* ---- the queue ---- */

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
    t->ticket = (struct session_ticket){
        .on_turn = interactive_on_turn, .arg = t, .is_fork = r->fork_of >= 0};
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
    if (rc == 1) interactive_on_turn(t);
}

/* ---- cancelling ---- */

/* Rule 2: what was sampled stays. Between the states before and after RUNNING there is nothing to
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
        if (front->on_turn == interactive_on_turn) stop_turn(front->arg);
    }
    interactive_respond_nothing(t);
}

int interactive_stop(struct session_service *s, const struct abort_target *target)
{
    int count = 0;
    list_each (t, &s->turns, struct interactive, link) {
        bool is_read = t->state > INTERACTIVE_PARSING && t->state <= INTERACTIVE_RUNNING;
        struct abort_candidate candidate = {
            .tenant = t->caller.queue_tenant,
            .session_id = is_read ? t->request.session_id : -1,
            .request_id = t->exchange ? http_router_request_id(t->exchange) : STR(""),
        };
        if (t->is_delete || t->state > INTERACTIVE_RUNNING) continue;
        if (!abort_target_matches(target, &candidate)) continue;
        stop_turn(t);
        count++;
    }
    return count;
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
    if (t->state == INTERACTIVE_RUNNING) interactive_respond_piece(t);
}

/* ---- the beginning ---- */

static void run_parse(struct text_job *job) // worker thread
{
    struct interactive *t = list_entry(job, struct interactive, job);
    const struct request_limits *limits = &t->service->completions->limits;
    struct str body = buf_str(&t->body);
    t->job_status = resume_body_split(&t->hop, limits->vocab_size, &body, &t->record, &t->error);
    if (t->job_status == 0)
        t->job_status = interactive_request_parse(body, limits, &t->request, &t->error);
    if (t->job_status == 0 && t->hop.is_resume && !interactive_is_resumable(t))
        t->job_status = resume_unsupported_error(
            &t->error, "A turn without stream, or of a session without id");
    if (t->job_status == 0 && t->record.phase > RESUME_BEGUN) // a turn ends with a single line
        t->job_status = resume_contradiction_error(&t->error);
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
        interactive_respond_nothing(t); // it ends what never began
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
    completion_log_begin(x, "turn");
    session_service_identify(s, http_exchange_request(x), &t->caller);
    buf_init(&t->body, BUF_MAX_INTERNAL);
    buf_init(&t->text, BUF_MAX_INTERNAL);
    buf_init(&t->answer, BUF_MAX_INTERNAL);
    buf_init(&t->written, BUF_MAX_INTERNAL);
    buf_init(&t->out, BUF_MAX_INTERNAL);
    list_push_back(&s->turns, &t->link);
    completion_service_enter(s->completions);
    http_exchange_watch(x, on_gone, on_drain, t);
    return t;
}

void interactive_start(struct session_service *s, struct http_exchange *x)
{
    metric_add(&agent_metrics.requests_total, 1);
    struct dispatch_ticket dispatch;
    if (!completion_dispatch(s->completions, x, &dispatch)) return;
    /* A turn that drains may still be cancelled. */
    if (s->completions->phase == SERVICE_LOADING) {
        dispatch_end(&dispatch, clock_ms());
        completion_refuse(s->completions, x);
        return;
    }
    struct interactive *t = create(s, x);
    t->dispatch = dispatch;
    const struct http_request *request = http_exchange_request(x);
    struct str body = request->body;
    if (resume_headers_read(request, s->join_key, &t->hop, &t->error) != 0) {
        interactive_fail(t, &t->error);
        return;
    }
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
        if (!t->wants_retry) continue;
        if (t->state == INTERACTIVE_SAVING) {
            interactive_save_again(t);
        } else {
            interactive_open(t);
        }
    }
}

/* Turns that a worker or Redis has end when they give them back. */
void interactive_abort(struct session_service *s)
{
    bool found;
    do { // closing one may begin another, or end it
        found = false;
        list_each (t, &s->turns, struct interactive, link) {
            bool is_waiting = t->state == INTERACTIVE_SAVING && t->wants_retry;
            if (!t->exchange && t->state != INTERACTIVE_RUNNING && !is_waiting) continue;
            bool is_held = t->state == INTERACTIVE_BUILDING || t->state == INTERACTIVE_SAVING ||
                           (t->state == INTERACTIVE_OPENING && !t->wants_retry) ||
                           (t->state == INTERACTIVE_FORKING && !t->source);
            completion_error_unavailable(s->completions, &t->error);
            found = true;
            if (!is_held) {
                interactive_fail(t, &t->error);
                break;
            }
            if (t->exchange && http_respond_has_begun(t->exchange)) {
                http_respond_abort(t->exchange);
            } else if (t->exchange) {
                completion_respond_error(t->exchange, &t->error, t->was_begun);
            }
            t->exchange = NULL;
            if (is_waiting) interactive_stop_saving(t);
            break;
        }
    } while (found);
}
