/* interactive_run.c - a turn whose history stands: its prompt, the engine's work, the answer, and
 * what is kept.
 *
 *   BUILDING ─┬─► RUNNING ─┬─► SAVING ─┬─► the last part of the answer ─► CLOSED
 *             ├─ 400       ├─ 429, 500 └─ 409: taken over meanwhile          ▲
 *             └─ no room   ├─ not interactive: the session ends ─────────────┤
 *                  │       └─ no room for a token ───────────────────────────┤
 *                  └─────────────────────────────────────────────────────────┘
 * Rules:
 *  1. The history changes in one place, commit(), when the engine has ended the turn. Whatever
 *     fails before leaves it as it was, a rewind included.
 *  2. The last part of an answer goes out after the turn was written down, or the deadline for
 *     that; if it wasn't, x-lm-durable: 0 says so.
 *  3. A turn that goes on from another agent has its head out when the engine has told what the
 *     client has had. If the other one had written it down, it takes that one's place.
 *  4. A turn that began without Redis may follow one of an agent that Redis believes to live. It is
 *     refused only if that one's lease hasn't ended after TRANSCRIPT_HELD_MS. */
#define LOG_MODULE "interactive"
#include "agent/agent_metrics.h"
#include "agent/interactive_turn.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/base/rng.h"
#include "shared/net/http_router.h"

#include <inttypes.h>
#include <stdio.h>

#define PENDING_MAX ((size_t)256 << 10)
#define JSON_TYPE   "application/json"
#define STREAM_TYPE "text/event-stream; charset=utf-8" // LMDeploy's, though lines of JSON follow

/* ---- answering ---- */

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
    if (t->caller.has_hop && t->number > 0) {
        char number[24];
        snprintf(number, sizeof number, "%" PRIu64, t->number);
        add_header(t, STR("x-lm-session-turn"), number);
    }
}

static void respond_whole(struct interactive *t)
{
    struct interactive_reply reply = interactive_reply_of(t);
    reply.text = buf_str(&t->text);
    reply.finish = t->finish;
    interactive_reply_print(&t->out, &reply);
    add_headers(t);
    if (t->is_undurable) add_header(t, STR("x-lm-durable"), "0");
    completion_add_usage(t->exchange, &t->dispatch, t->prompt.base + t->prompt.input_tokens,
                         (int64_t)t->tokens.count, t->cached_tokens);
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
    if (t->marks.is_resumable) add_header(t, STR("x-lm-resumable"), "1");
    http_respond_begin(t->exchange, 200, STREAM_TYPE, true);
}

static void print_usage(struct interactive *t)
{
    int64_t prompt = t->prompt.base + t->prompt.input_tokens;
    stream_marks_usage(&t->marks, &t->out, prompt, (int64_t)t->tokens.count, t->cached_tokens);
}

static void print_line(struct interactive *t, struct str text, enum finish_reason finish)
{
    bool is_last = finish != FINISH_NONE;
    if (is_last) print_usage(t);
    stream_marks_announce(&t->marks, &t->out, text.len, is_last ? RESUME_COMPLETE : RESUME_BEGUN);
    struct interactive_reply reply = interactive_reply_of(t);
    reply.text = text;
    reply.finish = finish;
    interactive_reply_print(&t->out, &reply);
    buf_append_char(&t->out, '\n');
}

void interactive_respond_piece(struct interactive *t)
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

/* A turn outside of interactive mode is its session's last. If it was a proxy that left, the session may
 * have gone on elsewhere, and isn't ours to end. */
static void end_session_of(struct interactive *t)
{
    if (t->exchange || !t->caller.has_hop) {
        interactive_end_session(t);
    } else {
        session_service_clear(t->service, t->session);
    }
}

/* There is no room for the prompt, or for a token behind it: LMDeploy's answer, and the
 * conversation stays as it is. */
static void interactive_full(struct interactive *t)
{
    t->finish = FINISH_LENGTH;
    t->tokens.count = 0;
    t->number = 0;
    if (!t->request.interactive_mode) end_session_of(t);
    if (!t->exchange) {
        interactive_close(t);
        return;
    }
    if (t->request.stream && !t->is_stream) begin_stream(t);
    interactive_done(t);
}

/* ---- what is kept ---- */

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
    if (saved == TRANSCRIPT_HELD && interactive_wait_for_other(t)) return; // rule 4
    t->session->is_safe = saved == TRANSCRIPT_SAVED;
    t->session->is_ours |= t->session->is_safe;
    if (saved != TRANSCRIPT_SAVED) t->is_undurable = true;
    if (saved == TRANSCRIPT_MOVED || saved == TRANSCRIPT_HELD) t->was_taken = true;
    save_ended(t);
}

static void write_down(struct interactive *t, bool was_opened)
{
    const struct session_history *h = &t->session->history; // with the turn
    session_transcript_append(t->service->transcript, t->redis_name, was_opened, h->serial - 1, h,
                              buf_str(&t->written), on_transcript_saved, t);
}

void interactive_save_again(struct interactive *t)
{
    t->wants_retry = false;
    write_down(t, false);
}

void interactive_stop_saving(struct interactive *t)
{
    t->wants_retry = false;
    t->is_undurable = true;
    save_ended(t);
}

static void run_save(struct text_job *job) // worker thread; the front ticket makes the session ours
{
    struct interactive *t = list_entry(job, struct interactive, job);
    const struct session_folder *f = &t->service->folder;
    struct session *session = t->session;
    struct error err = {0};
    int rc = E_LIMIT;
    if (session->file.size > 0) {
        rc = session_file_append(f, &session->file, buf_str(&t->written), &err);
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

static void save(struct interactive *t)
{
    struct session_service *s = t->service;
    t->state = INTERACTIVE_SAVING;
    t->saves_pending = 1; // nothing is answered before all have begun
    t->busy_until_ms = 0;
    t->session->is_safe = false;
    t->session->redis_name = t->redis_name;
    t->session->is_ours = t->exchange != NULL;
    if (s->transcript && t->redis_name) {
        t->saves_pending++;
        bool was_opened = t->is_opened;
        t->is_opened = false; // the append says so, too
        write_down(t, was_opened);
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

/* Rule 1. */
static void commit(struct interactive *t)
{
    struct session_service *s = t->service;
    struct session_history *h = &t->session->history;
    uint64_t base = h->serial - (t->replaces ? 1 : 0);
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
    session_record_print(&t->written, &step);
    if (t->replaces) t->session->file.size = 0; // it is written anew
    session_history_apply(h, &step);
    session_table_account(&s->table, t->session, bytes);
    buf_deinit(&messages);
    save(t);
}

static void turn_ended(struct interactive *t)
{
    if (t->request.interactive_mode) {
        commit(t);
    } else {
        end_session_of(t);
        interactive_done(t);
    }
}

/* ---- the engine ---- */

static struct str request_id_of(const struct interactive *t)
{
    return t->exchange ? http_router_request_id(t->exchange) : STR("");
}

static void record_event(struct interactive *t, const struct engine_event *event)
{
    size_t skip = event->text_len < t->skip_bytes ? event->text_len : t->skip_bytes;
    size_t first = (size_t)(event->completion_tokens - event->token_count);
    t->skip_bytes -= skip;
    buf_append(&t->text, event->text + skip, event->text_len - skip);
    stream_marks_sampled(&t->marks, first, event->tokens, (size_t)event->token_count);
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
    if (event->kind != ENGINE_EVENT_TOKENS) dispatch_leave_engine(&t->dispatch);
    t->cached_tokens = event->cached_tokens;
    if (event->kind == ENGINE_EVENT_FAILED) {
        t->engine_id = 0;
        on_failed_event(t, event);
        return;
    }
    record_event(t, event);
    text_log_write(&t->log, "output", request_id_of(t), (struct str){event->text, event->text_len});
    bool is_cut = t->hop.is_resume && t->text.len > 0 && (*t->text.data & 0xc0) == 0x80;
    if (t->skip_bytes > 0 || is_cut) { // all that the client has had comes at once
        t->engine_id = event->kind == ENGINE_EVENT_TOKENS ? t->engine_id : 0;
        resume_contradiction_error(&t->error);
        interactive_fail(t, &t->error);
        return;
    }
    if (t->request.stream && t->exchange && !t->is_stream) begin_stream(t); // rule 3
    if (event->kind == ENGINE_EVENT_TOKENS) {
        interactive_respond_piece(t);
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

static void log_prompt(struct interactive *t)
{
    struct text_log log = {.id = "turn", .left = t->service->completions->max_log_len};
    t->log = log;
    text_log_tokens(&log, "prompt", request_id_of(t), t->service->completions->prompts.tokenizer,
                    t->prompt.ids.ids, t->prompt.ids.count);
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
    request.resumed = t->record.ids.ids;
    request.resumed_count = t->record.ids.count;
    request.rope_positions = t->record.rope;
    log_prompt(t);
    int rc = engine_bridge_submit(t->service->completions->bridge, &request, on_event, t, err);
    if (rc != 0) return rc;
    t->engine_id = request.id;
    t->was_begun = true;
    dispatch_enter_engine(&t->dispatch);
    return 0;
}

bool interactive_is_resumable(const struct interactive *t)
{
    const struct interactive_request *r = &t->request;
    bool has_name = !r->interactive_mode || (!t->is_auto && r->session_id >= 0);
    return r->stream && !r->wants_nothing && has_name;
}

static void init_marks(struct interactive *t)
{
    struct stream_marks *m = &t->marks;
    const struct resume_record *record = &t->record;
    m->is_on = t->hop.wants_marks && t->request.stream;
    m->is_resumable = interactive_is_resumable(t);
    m->seed = t->request.fields.sampling.seed;
    m->now_s = t->now_s;
    m->created_s = t->hop.is_resume && record->created_s >= 0 ? record->created_s : t->now_s;
    snprintf(m->id, sizeof m->id, "%s", record->id[0] ? record->id : "turn");
    t->skip_bytes = record->bytes;
    m->rope = t->service->completions->rope_by_length ? (int)t->prompt.ids.count : 0;
    if (record->rope > 0) m->rope = record->rope;
    m->known = record->ids.count;
    m->bytes = record->bytes;
}

/* The prompt stands: everything that can be refused has been. */
static void run_turn(struct interactive *t)
{
    struct interactive_request *r = &t->request;
    const struct session_history *h = &t->session->history;
    if (t->hop.is_resume) {
        r->fields.sampling.seed = t->record.seed;
    } else if (!r->fields.has_seed) {
        uint64_t *seed = &r->fields.sampling.seed;
        *seed = h->seed;
        if (h->turn_count == 0) random_bytes(seed, sizeof *seed);
    }
    t->state = INTERACTIVE_RUNNING;
    t->number = h->serial + (t->replaces ? 0 : 1);
    init_marks(t);
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
    r->fields.stop_count = 0;                              // they pointed into it
    bool is_late = t->record.ids.count > 0 && !is_nothing; // rule 3
    if (r->stream && t->exchange && !is_late) begin_stream(t);
    if (is_nothing) {
        t->finish = FINISH_LENGTH;
        turn_ended(t);
    }
}

/* ---- building ---- */

static void
run_build(struct text_job *job) // worker thread; the front ticket makes the session ours
{
    struct interactive *t = list_entry(job, struct interactive, job);
    const struct session_history *h = &t->session->history;
    int base = t->request.rewind_to >= 0 ? (int)t->request.rewind_to : (int)h->ids.count;
    if (t->replaces) base = h->turn_count > 1 ? h->turns[h->turn_count - 2].end : 0;
    t->now_s = t->hop.is_resume ? t->record.now_s : clock_wall_ms() / 1000;
    t->job_status = session_prompt_build(&t->service->template, h, base, t->request.messages,
                                         t->now_s, &t->prompt, &t->error);
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

void interactive_build(struct interactive *t)
{
    struct session *session = t->session;
    if (!t->replaces && t->request.rewind_to > (int64_t)session->history.ids.count) {
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
