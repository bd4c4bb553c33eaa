/* embedding.c - the conversation between one HTTP request and the engine requests of its inputs.
 *
 *     start ─► PARSING ──on_parsed──► RUNNING ──the last vector──► CLOSED
 *       │         │ 400                  │ 500, 503, 499, the client left   ▲
 *       └ 503 ────┴──────────────────────┴──────────────────────────────────┘
 *
 * Rules:
 *  1. embedding_close() is the only way to CLOSED; it cancels what the engine still does.
 *  2. While a worker has the job, body, request and error are the worker's; the struct stays until
 *     on_parsed even when it is CLOSED.
 *  3. Nothing is written before all vectors are there: every failure is an ordinary answer. Each vector
 *     is printed when it comes, so that the last one doesn't find the loop with all of that to do. */
#define LOG_MODULE "embedding"
#include "agent/embedding.h"

#include "agent/agent_metrics.h"
#include "agent/embedding_request.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/net/http_router.h"
#include "shared/net/peer_trust.h"

#include <inttypes.h>
#include <stdlib.h>

enum embedding_state { EMBEDDING_PARSING, EMBEDDING_RUNNING, EMBEDDING_CLOSED };

struct embedding;

struct embedding_call {
    struct embedding *owner;
    uint64_t engine_id; // 0: not with the engine
};

struct embedding {
    struct text_job job;
    struct embedding_service *service;
    struct list link; // service->live
    enum embedding_state state;
    struct http_exchange *exchange; // NULL: answered, or gone
    uint64_t tenant, started_ms;
    uint64_t deadline_ms; // of all inputs; 0: none
    struct dispatch_ticket dispatch;
    bool was_begun;

    // The job's (rule 2)
    bool job_pending;
    struct buf body;
    struct embedding_request request;
    struct api_error error;
    int parse_status;

    struct embedding_call *calls; // [request.count]
    struct buf *vectors;          // [request.count], printed
    size_t next, open, done;      // inputs: the next to submit, with the engine, ended
    int64_t prompt_tokens, cached_tokens;
};

/* ---- end of life ---- */

static void embedding_free(struct embedding *m)
{
    for (size_t i = 0; m->vectors && i < m->request.count; i++)
        buf_deinit(&m->vectors[i]);
    free(m->vectors);
    free(m->calls);
    embedding_request_deinit(&m->request);
    buf_deinit(&m->body);
    free(m);
}

static void embedding_close(struct embedding *m)
{
    struct completion_service *s = m->service->completions;
    CHECK(m->state != EMBEDDING_CLOSED);
    m->state = EMBEDDING_CLOSED;
    m->exchange = NULL;
    for (size_t i = 0; m->calls && i < m->next; i++) {
        if (m->calls[i].engine_id) engine_bridge_cancel(s->bridge, m->calls[i].engine_id);
    }
    list_remove(&m->link);
    dispatch_end(&m->dispatch, clock_ms());
    if (m->job_pending) {
        text_job_cancel(&m->job);
    } else {
        embedding_free(m);
    }
    completion_service_leave(s);
}

static void embedding_fail(struct embedding *m, const struct api_error *e)
{
    completion_count_refusal(e->status);
    log_debug("embeddings refused", "status=%d code=%s", e->status, e->code ? e->code : "");
    completion_respond_error(m->exchange, e, m->was_begun);
    embedding_close(m);
}

static void on_gone(void *arg)
{
    metric_add(&agent_metrics.requests_gone_total, 1);
    embedding_close(arg);
}

static void respond(struct embedding *m)
{
    struct buf body;
    buf_init(&body, BUF_MAX_INTERNAL);
    embedding_print_answer(m->vectors, m->request.count,
                           str_of(m->service->completions->limits.model), m->prompt_tokens, &body);
    completion_add_usage(m->exchange, &m->dispatch, m->prompt_tokens, 0, m->cached_tokens);
    http_respond(m->exchange, 200, "application/json", buf_str(&body));
    buf_deinit(&body);
    metric_add(&agent_metrics.requests_done_total, 1);
    metric_add(&agent_metrics.cached_tokens_total, m->cached_tokens);
    metric_observe(&agent_metrics.request_seconds, (double)(clock_ms() - m->started_ms) / 1000);
    log_debug("embeddings done", "inputs=%zu tokens=%" PRId64, m->request.count, m->prompt_tokens);
    embedding_close(m);
}

/* ---- the engine ---- */

static void submit_more(struct embedding *m);

static void on_event(void *arg, const struct engine_event *event)
{
    struct embedding_call *call = arg;
    struct embedding *m = call->owner;
    if (event->kind == ENGINE_EVENT_TOKENS) return;
    call->engine_id = 0;
    m->open--;
    dispatch_leave_engine(&m->dispatch);
    if (!event->embedding) {
        struct api_error e = {0};
        completion_error_event(m->service->completions, event, &e);
        embedding_fail(m, &e);
        return;
    }
    embedding_print(&m->request, event->embedding, &m->vectors[call - m->calls]);
    m->cached_tokens += event->cached_tokens;
    m->done++;
    submit_more(m);
}

static int submit(struct embedding *m, size_t index, struct error *err)
{
    const struct token_list *ids = &m->request.inputs[index];
    struct embedding_call *call = &m->calls[index];
    struct engine_request request = {
        .prompt = ids->ids,
        .prompt_count = ids->count,
        .pool = m->service->pool,
        .tenant = m->tenant,
        .deadline_ms = m->deadline_ms,
        .sampling = {.top_p = 1},
        .max_tokens = 1,
    };
    call->owner = m;
    int rc = engine_bridge_submit(m->service->completions->bridge, &request, on_event, call, err);
    if (rc != 0) return rc;
    call->engine_id = request.id;
    m->open++;
    m->was_begun = true;
    dispatch_enter_engine(&m->dispatch);
    return 0;
}

/* May end m. A queue that is full is no reason to fail while inputs of ours are in it. */
static void submit_more(struct embedding *m)
{
    struct completion_service *s = m->service->completions;
    size_t window = (size_t)s->max_batch_size;
    while (m->next < m->request.count && m->open < window) {
        struct error err = {0};
        int rc = submit(m, m->next, &err);
        if (rc == E_BUSY && m->open > 0) return;
        if (rc != 0) {
            struct api_error e = {0};
            completion_error_submit(s, rc, &err, &e);
            embedding_fail(m, &e);
            return;
        }
        m->prompt_tokens += (int64_t)m->request.inputs[m->next].count;
        m->next++;
    }
    if (m->done == m->request.count) respond(m);
}

/* ---- the beginning ---- */

static void run_parse(struct text_job *job) // worker thread
{
    struct embedding *m = list_entry(job, struct embedding, job);
    const struct completion_service *s = m->service->completions;
    m->parse_status = embedding_request_parse(buf_str(&m->body), &s->limits, &s->prompts,
                                              m->service->hidden, &m->request, &m->error);
    buf_deinit(&m->body);
}

static void on_parsed(struct text_job *job)
{
    struct embedding *m = list_entry(job, struct embedding, job);
    m->job_pending = false;
    if (m->state == EMBEDDING_CLOSED) {
        embedding_free(m);
    } else if (m->parse_status != 0) {
        embedding_fail(m, &m->error);
    } else if (m->service->completions->phase != SERVICE_OPEN) {
        completion_error_unavailable(m->service->completions, &m->error);
        embedding_fail(m, &m->error);
    } else {
        m->state = EMBEDDING_RUNNING;
        m->deadline_ms = completion_deadline(m->service->completions);
        m->calls = xcalloc(m->request.count, sizeof *m->calls);
        m->vectors = xcalloc(m->request.count, sizeof *m->vectors);
        for (size_t i = 0; i < m->request.count; i++)
            buf_init(&m->vectors[i], BUF_MAX_INTERNAL);
        submit_more(m);
    }
}

static void refuse_model(struct embedding_service *s, struct http_exchange *x)
{
    struct api_error e;
    api_error_set(&e, 400, "unsupported_model", "model",
                  "Unsupported by this model: its files don't say that it was trained for "
                  "embeddings. --embedding mean or last makes the server give them all the same.");
    completion_count_refusal(e.status);
    completion_dispatch_refused(s->completions, x);
    completion_respond_error(x, &e, false);
}

void embedding_service_init(struct embedding_service *s, struct completion_service *completions)
{
    *s = (struct embedding_service){.completions = completions};
    list_init(&s->live);
}

void embedding_start(struct embedding_service *s, struct http_exchange *x)
{
    struct dispatch_ticket dispatch;
    metric_add(&agent_metrics.requests_total, 1);
    if (s->completions->phase == SERVICE_OPEN && s->pool == ENGINE_POOL_NONE) {
        refuse_model(s, x);
        return;
    }
    if (!completion_dispatch(s->completions, x, &dispatch)) return;
    if (s->completions->phase != SERVICE_OPEN) {
        dispatch_end(&dispatch, clock_ms());
        completion_refuse(s->completions, x);
        return;
    }
    struct embedding *m = xcalloc(1, sizeof *m);
    const struct http_request *request = http_exchange_request(x);
    m->service = s;
    m->exchange = x;
    m->dispatch = dispatch;
    m->tenant = peer_tenant(request, s->completions->join_key);
    m->started_ms = clock_ms();
    m->job = (struct text_job){.run = run_parse, .done = on_parsed};
    completion_log_begin(x, "embeddings");
    buf_init(&m->body, BUF_MAX_INTERNAL);
    buf_append(&m->body, request->body.data, request->body.len);
    list_push_back(&s->live, &m->link);
    completion_service_enter(s->completions);
    http_exchange_watch(x, on_gone, NULL, m);
    m->job_pending = text_worker_submit(s->completions->worker, &m->job) == 0;
    if (m->job_pending) return;
    completion_error_queue_full(s->completions, &m->error);
    embedding_fail(m, &m->error);
}

/* ---- ended by others ---- */

int embedding_stop(struct embedding_service *s, const struct abort_target *target)
{
    int count = 0;
    list_each_safe (m, &s->live, struct embedding, link) {
        struct abort_candidate candidate = {
            .tenant = m->tenant,
            .session_id = -1,
            .request_id = http_router_request_id(m->exchange),
        };
        if (!abort_target_matches(target, &candidate)) continue;
        struct api_error e = {0}; // m->error may be a worker's (rule 2)
        completion_error_aborted(&e);
        m->was_begun = true; // nobody shall try it elsewhere
        embedding_fail(m, &e);
        count++;
    }
    return count;
}

void embedding_abort(struct embedding_service *s)
{
    list_each_safe (m, &s->live, struct embedding, link) {
        struct api_error e = {0};
        completion_error_unavailable(s->completions, &e);
        embedding_fail(m, &e);
    }
}
