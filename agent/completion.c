/* completion.c - the conversation between one HTTP request and its engine requests.
 *
 *     completion_start ─► PREPARING ──on_ready─────► RUNNING ──on_event, the last──► CLOSED
 *           │                │ 4xx: bad request         │ 500 or an error event: engine failed   ▲
 *           │ 503: not open  │ 429: engine's queue full │ nothing: on_gone, the client left      │
 *           └ 429: too many  └──────────────────────────┴────────────────────────────────────────┘
 *
 * Rules:
 *  1. completion_close() is the only way to CLOSED; it cancels what the engine still does, so a
 *     client that leaves frees its slots within a step.
 *  2. While a worker has the job, the job's fields are the worker's; the struct stays until
 *     on_prepared or on_compiled even when it is CLOSED.
 *  3. The exchange is dead once answered or gone, and `exchange` is NULL then.
 *  4. Until the engine has accepted every prompt nothing is written, so refusals are ordinary JSON
 *     answers. From then on a stream has its head out and errors are events.
 *  5. A stream that goes on from elsewhere has its head out when the engine has told what the client
 *     has had: until then a wrong record is refused. A stream that could go on elsewhere is cut when
 *     the engine fails, so that it does.
 *  6. A slow reader: above PENDING_MAX text gathers in the answer (bounded by max_tokens) and goes
 *     out as fewer, larger events. */
#define LOG_MODULE "completion"
#include "agent/completion.h"

#include "agent/abort_target.h"
#include "agent/agent_metrics.h"
#include "agent/answer.h"
#include "agent/chat_response.h"
#include "agent/engine_state.h"
#include "agent/prefix_index.h"
#include "agent/resume_record.h"
#include "agent/text_log.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/base/rng.h"
#include "shared/net/api_error.h"
#include "shared/net/http_router.h"
#include "shared/net/peer_trust.h"
#include "shared/net/trace.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PENDING_MAX   ((size_t)256 << 10)
#define COMPILING_MAX ((size_t)64 << 20) // bytes of bodies; as trees they are many times that
#define JSON_TYPE     "application/json"
#define STREAM_TYPE   "text/event-stream; charset=utf-8"

enum completion_state { COMPLETION_PREPARING, COMPLETION_RUNNING, COMPLETION_CLOSED };

/* An engine request. */
struct completion_call {
    struct completion *owner;
    size_t index;       // its candidate in the answer
    uint64_t engine_id; // 0: not with the engine
    struct text_log log;
};

struct completion {
    struct text_job job;
    struct completion_service *service;
    struct list link; // service->live
    enum completion_state state;
    struct http_exchange *exchange; // rule 3
    uint64_t started_ms, first_token_ms;

    // The job (rule 2)
    bool job_pending; // loop
    const struct completion_route *route;
    struct buf body;
    size_t body_bytes;
    struct chat_request request;
    struct prompt_set prompts;
    struct api_error error;
    int prepare_status;

    char id[48];
    uint64_t tenant;
    int64_t session_id; // once accepted; -1: none
    struct dispatch_ticket dispatch;
    bool was_begun;                // the engine has seen it
    char *prefix_header;           // x-lm-prefix, owned; NULL: none
    struct answer answer;          // empty until accepted
    struct completion_call *calls; // [answer.count]
    struct buf out;                // scratch for what is written next
    bool is_stream;                // once accepted
    bool is_blocked;               // rule 6
    bool is_aborted;               // POST /abort_request: it ends with what it has

    struct resume_headers hop;
    struct resume_record record; // the job's; with hop.is_resume
    int64_t now_s;               // for the template
};

/* ---- end of life ---- */

static void completion_free(struct completion *c)
{
    answer_deinit(&c->answer);
    free(c->calls);
    prompt_set_deinit(&c->prompts);
    chat_request_deinit(&c->request);
    resume_record_deinit(&c->record);
    buf_deinit(&c->body);
    buf_deinit(&c->out);
    free(c->prefix_header);
    free(c);
}

void completion_service_enter(struct completion_service *s)
{
    s->live_count++;
    metric_set(&agent_metrics.completions_live, s->live_count);
}

void completion_service_leave(struct completion_service *s)
{
    s->live_count--;
    metric_set(&agent_metrics.completions_live, s->live_count);
    if (s->on_leave) s->on_leave(s->leave_arg);
    if (s->live_count == 0 && s->on_idle) s->on_idle(s->arg);
}

static void completion_close(struct completion *c)
{
    struct completion_service *s = c->service;
    CHECK(c->state != COMPLETION_CLOSED);
    c->state = COMPLETION_CLOSED;
    c->exchange = NULL;
    for (size_t i = 0; c->calls && i < c->answer.count; i++) {
        if (c->calls[i].engine_id) engine_bridge_cancel(s->bridge, c->calls[i].engine_id);
    }
    list_remove(&c->link);
    dispatch_end(&c->dispatch, clock_ms());
    if (c->job_pending) {
        text_job_cancel(&c->job);
    } else {
        completion_free(c);
    }
    completion_service_leave(s);
}

/* ---- proxies ---- */

static int begin_dispatch(struct completion_service *s, const struct http_request *request,
                          struct dispatch_ticket *ticket)
{
    struct str header = http_headers_get(&request->headers, "x-lm-dispatch");
    struct dispatch d = {0};
    if (header.data && peer_is_fleet(request, s->join_key) && dispatch_parse(header, &d) != 0)
        log_warn("x-lm-dispatch is malformed", "peer=%s", request->peer);
    return dispatch_begin(&s->dispatches, &d, clock_ms(), ticket);
}

void completion_dispatch_refused(struct completion_service *s, struct http_exchange *x)
{
    struct dispatch_ticket ticket;
    if (begin_dispatch(s, http_exchange_request(x), &ticket) == 0)
        dispatch_end(&ticket, clock_ms());
}

bool completion_dispatch(struct completion_service *s, struct http_exchange *x,
                         struct dispatch_ticket *ticket)
{
    struct api_error e;
    if (begin_dispatch(s, http_exchange_request(x), ticket) == 0) return true;
    api_error_set(&e, 409, "duplicate_request", NULL,
                  "An attempt of this request runs here already, or a later one did.");
    metric_add(&agent_metrics.requests_duplicate_total, 1);
    completion_respond_error(x, &e, false);
    return false;
}

void completion_respond_error(struct http_exchange *x, const struct api_error *e, bool was_begun)
{
    if (!was_begun) http_exchange_add_header(x, STR("x-lm-not-started"), STR("1"));
    api_error_respond(x, e);
}

void completion_add_usage(struct http_exchange *x, const struct dispatch_ticket *ticket,
                          int64_t prompt_tokens, int64_t completion_tokens, int64_t cached_tokens)
{
    char text[80];
    if (!ticket->table) return;
    snprintf(text, sizeof text, "%" PRId64 ",%" PRId64 ",%" PRId64, prompt_tokens,
             completion_tokens, cached_tokens);
    http_exchange_add_header(x, STR("x-lm-usage"), str_of(text));
}

static void set_processing_header(struct completion *c)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, clock_ms() - c->started_ms);
    http_exchange_add_header(c->exchange, STR("openai-processing-ms"), str_of(text));
}

void completion_error_unavailable(const struct completion_service *s, struct api_error *e)
{
    api_error_set(e, 503, "service_unavailable", NULL, "%s",
                  s->phase == SERVICE_LOADING ? "The model is still loading. Please retry shortly."
                                              : "The server is shutting down. Please retry.");
    e->retry_after_s = 1;
}

void completion_count_refusal(int status)
{
    struct agent_metrics *m = &agent_metrics;
    struct metric *counter = status == 429   ? &m->requests_queue_full_total
                             : status == 503 ? &m->requests_unavailable_total
                             : status < 500  ? &m->requests_invalid_total
                                             : &m->requests_failed_total;
    metric_add(counter, 1);
}

bool completion_is_left_to_hop(const struct stream_marks *marks, const struct api_error *e)
{
    bool is_ours = e->status == 500 || (e->code && strcmp(e->code, "service_unavailable") == 0);
    return is_ours && marks->is_on && marks->is_resumable;
}

void completion_log_begin(const struct http_exchange *x, const char *id)
{
    const struct http_request *request = http_exchange_request(x);
    struct str trace = trace_parse(http_headers_get(&request->headers, "traceparent"));
    if (!trace.data) trace = STR("");
    log_debug("request begins", "id=%s request=" STR_FMT " trace=" STR_FMT, id,
              STR_ARG(http_router_request_id(x)), STR_ARG(trace));
}

/* Answer with an error, in whatever way the answer's state still allows. */
static void completion_fail(struct completion *c, const struct api_error *e)
{
    completion_count_refusal(e->status);
    log_debug("request refused", "id=%s status=%d code=%s param=%s", c->id, e->status,
              e->code ? e->code : "", e->param);
    if (http_respond_has_begun(c->exchange) && completion_is_left_to_hop(&c->answer.marks, e)) {
        http_respond_abort(c->exchange);
    } else if (http_respond_has_begun(c->exchange)) {
        buf_clear(&c->out);
        if (c->route->printer->error)
            c->route->printer->error(&c->out, &c->answer.head, e);
        else
            api_error_print_event(&c->out, e);
        http_respond_end(c->exchange, c->out.data, c->out.len);
    } else {
        set_processing_header(c);
        completion_respond_error(c->exchange, e, c->was_begun);
    }
    completion_close(c);
}

static void on_gone(void *arg)
{
    struct completion *c = arg;
    metric_add(&agent_metrics.requests_gone_total, 1);
    log_debug("client left", "id=%s", c->id);
    completion_close(c);
}

static void completion_done(struct completion *c)
{
    uint64_t now_ms = clock_ms();
    struct response_usage usage = answer_usage(&c->answer);
    int64_t tokens = usage.completion_tokens;
    metric_add(&agent_metrics.cached_tokens_total, usage.cached_tokens);
    metric_add(&agent_metrics.requests_done_total, 1);
    metric_add(&agent_metrics.completion_tokens_total, tokens);
    metric_observe(&agent_metrics.request_seconds, (double)(now_ms - c->started_ms) / 1000);
    if (tokens > 1) {
        double span_s = (double)(now_ms - c->first_token_ms) / 1000;
        metric_observe(&agent_metrics.inter_token_seconds, span_s / (double)(tokens - 1));
    }
    log_debug("request done", "id=%s candidates=%zu tokens=%" PRId64 " ms=%" PRIu64, c->id,
              c->answer.count, tokens, now_ms - c->started_ms);
    completion_close(c);
}

/* ---- answering ---- */

static void respond_whole(struct completion *c)
{
    struct response_usage usage = answer_usage(&c->answer);
    answer_print_whole(&c->answer, &c->out);
    set_processing_header(c);
    completion_add_usage(c->exchange, &c->dispatch, usage.prompt_tokens, usage.completion_tokens,
                         usage.cached_tokens);
    http_respond(c->exchange, 200, JSON_TYPE, buf_str(&c->out));
    completion_done(c);
}

static void begin_stream(struct completion *c)
{
    set_processing_header(c);
    http_exchange_add_header(c->exchange, STR("cache-control"), STR("no-cache"));
    http_exchange_add_header(c->exchange, STR("x-accel-buffering"), STR("no"));
    if (c->answer.marks.is_resumable)
        http_exchange_add_header(c->exchange, STR("x-lm-resumable"), STR("1"));
    http_respond_begin(c->exchange, 200, STREAM_TYPE, true);
}

static void respond_stream(struct completion *c)
{
    bool is_last = c->answer.open == 0;
    if (!http_respond_has_begun(c->exchange)) begin_stream(c);
    if (c->is_blocked && !is_last) return;
    buf_clear(&c->out);
    answer_print_events(&c->answer, &c->out);
    if (!is_last) {
        if (c->out.len == 0) return;
        c->is_blocked = http_respond_write(c->exchange, c->out.data, c->out.len) > PENDING_MAX;
        return;
    }
    /* [DONE] and the closing chunk in one write: clients close the connection after [DONE], and a
     * closing chunk that comes later would find nobody. */
    http_respond_end(c->exchange, c->out.data, c->out.len);
    completion_done(c);
}

static void completion_advance(struct completion *c)
{
    if (c->is_stream) {
        respond_stream(c);
    } else if (c->answer.open == 0) {
        respond_whole(c);
    }
}

static void on_drain(void *arg)
{
    struct completion *c = arg;
    c->is_blocked = false;
    if (c->state == COMPLETION_RUNNING) completion_advance(c);
}

/* ---- the engine's events ---- */

void completion_error_event(const struct completion_service *s, const struct engine_event *event,
                            struct api_error *e)
{
    if (event->kind == ENGINE_EVENT_FAILED && event->error_code == E_TIMEOUT) {
        struct engine_stats stats;
        engine_stats(engine_bridge_engine(s->bridge), &stats);
        api_error_set(e, 503, "request_timeout", NULL,
                      "The request was not finished within %d seconds (--request-timeout). Please "
                      "retry later, or ask for fewer tokens.",
                      s->request_timeout_s);
        e->retry_after_s = engine_wait_s(&stats, s->max_batch_size);
    } else if (event->kind == ENGINE_EVENT_FAILED && event->error_code == E_INVALID) {
        resume_contradiction_error(e);
    } else if (event->kind == ENGINE_EVENT_FAILED) {
        bool too_long = event->error_code == E_CONTEXT_LENGTH || event->error_code == E_LIMIT;
        api_error_set(e, too_long ? 400 : 500, too_long ? "context_length_exceeded" : NULL, NULL,
                      "The request failed: %.*s.", (int)event->text_len, event->text);
    } else { // cancelled, and not by us: the engine is closing
        api_error_set(e, 503, "service_unavailable", NULL,
                      "The server is shutting down. Please retry.");
        e->retry_after_s = 1;
    }
}

static void on_event(void *arg, const struct engine_event *event)
{
    struct completion_call *call = arg;
    struct completion *c = call->owner;
    if (event->kind != ENGINE_EVENT_TOKENS) {
        call->engine_id = 0;
        dispatch_leave_engine(&c->dispatch);
    }
    bool was_cut = event->kind == ENGINE_EVENT_DONE && event->finish == FINISH_CANCELLED;
    if (event->kind == ENGINE_EVENT_FAILED || (was_cut && !c->is_aborted)) {
        struct api_error e = {0};
        completion_error_event(c->service, event, &e);
        completion_fail(c, &e);
        return;
    }
    answer_record(&c->answer, call->index, event);
    text_log_write(&call->log, "output", http_router_request_id(c->exchange),
                   (struct str){event->text, event->text_len});
    if (c->answer.is_contradicted) {
        struct api_error e = {0};
        resume_contradiction_error(&e);
        completion_fail(c, &e);
        return;
    }
    if (event->token_count > 0 && c->first_token_ms == 0) {
        c->first_token_ms = clock_ms();
        metric_observe(&agent_metrics.first_token_seconds,
                       (double)(c->first_token_ms - c->started_ms) / 1000);
    }
    completion_advance(c);
}

/* ---- handing over to the engine ---- */

void completion_error_queue_full(const struct completion_service *s, struct api_error *e)
{
    struct engine_stats stats;
    engine_stats(engine_bridge_engine(s->bridge), &stats);
    api_error_set(e, 429, "rate_limit_exceeded", NULL,
                  "The server's queue is full: %d requests run and %d wait. Please retry after the "
                  "time that the Retry-After header gives.",
                  stats.running, stats.waiting);
    e->retry_after_s = engine_wait_s(&stats, s->max_batch_size);
}

void completion_error_submit(const struct completion_service *s, int code, const struct error *err,
                             struct api_error *e)
{
    switch (code) {
    case E_BUSY:
        completion_error_queue_full(s, e);
        return;
    case E_CLOSED:
        api_error_set(e, 503, "service_unavailable", NULL, "The engine has stopped: %s.",
                      err->text);
        e->retry_after_s = 1;
        return;
    default: // the prompt and the parameters were checked, but the engine has the last word
        api_error_set(e, 400, code == E_CONTEXT_LENGTH ? "context_length_exceeded" : NULL, NULL,
                      "The engine refused the request: %s.", err->text);
    }
}

uint64_t completion_deadline(const struct completion_service *s)
{
    return s->request_timeout_s > 0 ? clock_ms() + (uint64_t)s->request_timeout_s * 1000 : 0;
}

static int submit(struct completion *c, struct completion_call *call, uint64_t group,
                  struct error *err)
{
    struct engine_request request = {
        .tenant = c->tenant,
        .group = group,
        .deadline_ms = completion_deadline(c->service),
        .grammar = c->prompts.grammar,
    };
    sampling_fields_apply(&c->request.fields, &request);
    request.shown = c->prompts.plan.shown;
    request.shown_count = c->prompts.plan.shown_count;
    if (!answer_request(&c->answer, call->index, &request)) return 0;
    struct engine_mark marks[ENGINE_MARKS_MAX];
    if (c->prefix_header && call->index == 0 && c->prompts.count == 1) {
        request.marks = marks;
        request.mark_count = prefix_marks_of(str_of(c->prefix_header), request.prompt_count, marks);
    }
    int rc = engine_bridge_submit(c->service->bridge, &request, on_event, call, err);
    if (rc != 0) return rc;
    call->engine_id = request.id;
    c->was_begun = true;
    dispatch_enter_engine(&c->dispatch);
    return 0;
}

static int submit_all(struct completion *c, struct api_error *e)
{
    size_t per_prompt = (size_t)c->request.candidates;
    c->calls = xcalloc(c->answer.count, sizeof *c->calls);
    for (size_t i = 0; i < c->answer.count; i++) {
        struct text_log log = {.id = c->id, .left = c->service->max_log_len};
        c->calls[i] = (struct completion_call){.owner = c, .index = i, .log = log};
    }
    for (size_t i = 0; i < c->answer.count; i++) {
        struct error err = {0};
        if (i % per_prompt == 0) c->service->groups++;
        int rc = submit(c, &c->calls[i], per_prompt > 1 ? c->service->groups : 0, &err);
        if (rc != 0) {
            completion_error_submit(c->service, rc, &err, e);
            return -1; // completion_close cancels those before it
        }
    }
    metric_add(&agent_metrics.prompt_tokens_total, answer_usage(&c->answer).prompt_tokens);
    return 0;
}

/* LMDeploy: a session that a conversation has open isn't for others. */
static bool is_occupied(struct completion *c, struct api_error *e)
{
    const struct completion_service *s = c->service;
    int64_t id = c->request.session_id;
    if (id < 0 || !s->session_is_held) return false;
    if (!s->session_is_held(s->session_arg, http_exchange_request(c->exchange), id)) return false;
    api_error_set(e, 400, "invalid_value", "session_id",
                  "The session_id `%" PRId64 "` is occupied.", id);
    return true;
}

/* The answer that the request is for, new or in the making. */
static int init_answer(struct completion *c, struct api_error *e)
{
    struct chat_request *r = &c->request;
    struct sampling_params *s = &r->fields.sampling;
    const struct resume_record *record = &c->record;
    bool is_resume = c->hop.is_resume;
    if (is_resume) {
        s->seed = record->seed;
        if (record->id[0]) snprintf(c->id, sizeof c->id, "%s", record->id);
    } else if (!r->fields.has_seed) {
        random_bytes(&s->seed, sizeof s->seed);
    }
    bool is_dated = is_resume && record->created_s >= 0;
    struct response_head head = {
        .printer = c->route->printer,
        .id = c->id,
        .created = is_dated ? record->created_s : clock_wall_ms() / 1000,
        .model = str_of(c->service->limits.model),
        .fingerprint = c->service->fingerprint,
        .repeats = r->repeats,
    };
    r->repeats = NULL;
    answer_init(&c->answer, &head, r, &c->prompts, c->service->prompts.tokenizer);
    if (is_resume && !answer_is_resumable(&c->answer))
        return resume_unsupported_error(e, "An answer with several choices, without stream, or "
                                           "that repeats its prompt");
    if (c->hop.wants_marks && r->stream)
        answer_mark(&c->answer, c->now_s, c->service->rope_by_length);
    if (is_resume) answer_resume(&c->answer, record);
    return 0;
}

static void log_prompts(const struct completion *c)
{
    for (size_t i = 0; text_log_is_on() && i < c->prompts.count; i++) {
        struct text_log log = {.id = c->id, .left = c->service->max_log_len};
        text_log_tokens(&log, "prompt", http_router_request_id(c->exchange),
                        c->service->prompts.tokenizer, c->prompts.items[i].ids,
                        c->prompts.items[i].count);
    }
}

static void completion_accept(struct completion *c)
{
    struct chat_request *r = &c->request;
    log_prompts(c);
    struct api_error e = {0};
    if (is_occupied(c, &e) || init_answer(c, &e) != 0 || submit_all(c, &e) != 0) {
        completion_fail(c, &e);
        return;
    }
    c->state = COMPLETION_RUNNING;
    c->is_stream = r->stream;
    c->session_id = r->session_id;
    chat_request_deinit(r); // a long conversation's tree isn't kept while its answer is written
    if (c->record.ids.count > 0) return; // rule 5
    // At once: clients time the wait for the head, and the queue may be long.
    if (c->is_stream) begin_stream(c);
    completion_advance(c);
}

/* ---- routes ---- */

static int parse_chat(struct str body, const struct request_limits *limits,
                      struct chat_request *out, struct api_error *e)
{
    return chat_request_parse(COMPLETION_CHAT, body, limits, out, e);
}

static int parse_text(struct str body, const struct request_limits *limits,
                      struct chat_request *out, struct api_error *e)
{
    return chat_request_parse(COMPLETION_TEXT, body, limits, out, e);
}

const struct completion_route completion_chat = {
    .kind = COMPLETION_CHAT,
    .id_prefix = "chatcmpl-",
    .parse = parse_chat,
    .printer = &chat_response_printer,
};
const struct completion_route completion_text = {
    .kind = COMPLETION_TEXT,
    .id_prefix = "cmpl-",
    .parse = parse_text,
    .printer = &text_response_printer,
};

/* ---- preparing ---- */

static void run_prepare(struct text_job *job) // worker thread
{
    struct completion *c = list_entry(job, struct completion, job);
    const struct request_limits *limits = &c->service->limits;
    struct str body = buf_str(&c->body);
    c->now_s = clock_wall_ms() / 1000;
    c->prepare_status =
        resume_body_split(&c->hop, limits->vocab_size, &body, &c->record, &c->error);
    if (c->hop.is_resume) c->now_s = c->record.now_s;
    if (c->prepare_status == 0)
        c->prepare_status = c->route->parse(body, limits, &c->request, &c->error);
    buf_deinit(&c->body);
    if (c->prepare_status != 0) return;
    c->prepare_status =
        prompt_build(&c->request, &c->service->prompts, c->now_s, &c->prompts, &c->error);
    // Freeing what didn't fit takes milliseconds, which the loop shouldn't spend.
    if (c->prepare_status != 0) chat_request_deinit(&c->request);
}

static void run_compile(struct text_job *job) // the compiler's thread
{
    struct completion *c = list_entry(job, struct completion, job);
    c->prepare_status =
        prompt_compile(&c->request, &c->service->prompts, c->started_ms, &c->prompts, &c->error);
    if (c->prepare_status != 0) chat_request_deinit(&c->request);
}

static void fail_as_full(struct completion *c)
{
    struct api_error e = {0};
    completion_error_queue_full(c->service, &e);
    completion_fail(c, &e);
}

/* False: c is gone. */
static bool submit_job(struct completion *c, struct text_worker *w, void (*run)(struct text_job *),
                       void (*done)(struct text_job *))
{
    c->job.run = run;
    c->job.done = done;
    c->job_pending = text_worker_submit(w, &c->job) == 0;
    if (c->job_pending) return true;
    fail_as_full(c);
    return false;
}

/* All that workers do is done, or failed. */
static void on_ready(struct completion *c)
{
    metric_observe(&agent_metrics.prepare_seconds, (double)(clock_ms() - c->started_ms) / 1000);
    if (c->prepare_status != 0) {
        completion_fail(c, &c->error);
    } else if (c->service->phase != SERVICE_OPEN) {
        completion_error_unavailable(c->service, &c->error);
        completion_fail(c, &c->error);
    } else {
        completion_accept(c);
    }
}

/* False: nobody waits for it any more, and c is gone. */
static bool take_back(struct completion *c)
{
    c->job_pending = false;
    if (c->state != COMPLETION_CLOSED) return true;
    completion_free(c);
    return false;
}

static void on_compiled(struct text_job *job)
{
    struct completion *c = list_entry(job, struct completion, job);
    c->service->compiling_bytes -= c->body_bytes;
    if (take_back(c)) on_ready(c);
}

/* A grammar has threads of its own: those who need none don't wait for it. */
static void on_prepared(struct text_job *job)
{
    struct completion *c = list_entry(job, struct completion, job);
    struct completion_service *s = c->service;
    if (!take_back(c)) return;
    if (c->prepare_status != 0 || !prompt_needs_grammar(&c->request)) {
        on_ready(c);
        return;
    }
    size_t bytes = c->body_bytes;
    if (s->compiling_bytes > 0 && s->compiling_bytes + bytes > COMPILING_MAX)
        fail_as_full(c);
    else if (submit_job(c, s->compiler, run_compile, on_compiled))
        s->compiling_bytes += bytes;
}

void completion_refuse(const struct completion_service *s, struct http_exchange *x)
{
    struct api_error e = {0};
    completion_error_unavailable(s, &e);
    completion_count_refusal(e.status);
    completion_respond_error(x, &e, false);
}

static char *prefix_header(const struct completion_service *s, const struct http_request *request)
{
    struct str value = http_headers_get(&request->headers, "x-lm-prefix");
    if (value.len == 0 || !peer_is_fleet(request, s->join_key)) return NULL;
    return xstrndup(value.data, value.len);
}

void completion_start(struct completion_service *s, struct http_exchange *x,
                      const struct completion_route *route)
{
    struct dispatch_ticket dispatch;
    metric_add(&agent_metrics.requests_total, 1);
    if (!completion_dispatch(s, x, &dispatch)) return;
    if (s->phase != SERVICE_OPEN) {
        dispatch_end(&dispatch, clock_ms());
        completion_refuse(s, x);
        return;
    }
    struct completion *c = xcalloc(1, sizeof *c);
    const struct http_request *request = http_exchange_request(x);
    struct str body = request->body;
    c->service = s;
    bool is_malformed = resume_headers_read(request, s->join_key, &c->hop, &c->error) != 0;
    c->tenant = peer_tenant(request, s->join_key);
    c->dispatch = dispatch;
    c->prefix_header = prefix_header(s, request);
    c->route = route;
    c->exchange = x;
    c->session_id = -1;
    c->started_ms = clock_ms();
    buf_init(&c->out, BUF_MAX_INTERNAL);
    buf_init(&c->body, BUF_MAX_INTERNAL);
    buf_append(&c->body, body.data, body.len); // the exchange may end while a worker reads
    c->body_bytes = body.len;
    size_t prefix = (size_t)snprintf(c->id, sizeof c->id, "%s", route->id_prefix);
    random_id(c->id + prefix, 29);
    completion_log_begin(x, c->id);

    list_push_back(&s->live, &c->link);
    completion_service_enter(s);
    http_exchange_watch(x, on_gone, on_drain, c);
    if (is_malformed) {
        completion_fail(c, &c->error);
        return;
    }
    submit_job(c, s->worker, run_prepare, on_prepared);
}

void completion_service_init(struct completion_service *s)
{
    memset(s, 0, sizeof *s);
    list_init(&s->live);
    dispatch_table_init(&s->dispatches);
}

void completion_service_deinit(struct completion_service *s)
{
    dispatch_table_deinit(&s->dispatches);
}

void completion_service_abort(struct completion_service *s)
{
    list_each_safe (c, &s->live, struct completion, link) {
        struct api_error e = {0}; // c->error may be a worker's (rule 2)
        completion_error_unavailable(s, &e);
        completion_fail(c, &e);
    }
}

/* ---- aborting ---- */

void completion_error_aborted(struct api_error *e)
{
    api_error_set(e, 499, "request_aborted", NULL,
                  "The request was aborted (POST /abort_request).");
}

static void completion_stop(struct completion *c)
{
    if (c->state == COMPLETION_PREPARING) {
        struct api_error e = {0};
        completion_error_aborted(&e);
        c->was_begun = true; // nobody shall try it elsewhere
        completion_fail(c, &e);
        return;
    }
    c->is_aborted = true;
    for (size_t i = 0; i < c->answer.count; i++) {
        if (c->calls[i].engine_id) engine_bridge_stop(c->service->bridge, c->calls[i].engine_id);
    }
}

int completion_service_stop(struct completion_service *s, const struct abort_target *target)
{
    int count = 0;
    list_each_safe (c, &s->live, struct completion, link) {
        struct abort_candidate candidate = {
            .tenant = c->tenant,
            .session_id = c->session_id,
            .id = str_of(c->id),
            .request_id = http_router_request_id(c->exchange),
        };
        if (!abort_target_matches(target, &candidate)) continue;
        completion_stop(c);
        count++;
    }
    return count;
}
