#include "agent/text_exchange.h"

#include "agent/agent_metrics.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"

#include <stdlib.h>

struct text_exchange {
    struct text_job job;
    struct completion_service *service;
    struct http_exchange *exchange; // NULL: the client left
    enum text_request_kind kind;
    int64_t now_s;
    struct buf body, answer; // the job's, until on_done
    struct api_error error;
    int status; // of text_request_answer
};

static void run(struct text_job *job) // worker thread
{
    struct text_exchange *t = (struct text_exchange *)job;
    t->status = text_request_answer(t->kind, buf_str(&t->body), &t->service->limits,
                                    &t->service->prompts, t->now_s, &t->answer, &t->error);
}

static void on_done(struct text_job *job)
{
    struct text_exchange *t = (struct text_exchange *)job;
    struct completion_service *s = t->service;
    struct http_exchange *x = t->exchange;
    if (x && atomic_load(&job->cancelled)) {
        completion_error_unavailable(s, &t->error);
        completion_respond_error(x, &t->error, false);
    } else if (x && t->status != 0) {
        completion_count_refusal(t->error.status);
        api_error_respond(x, &t->error);
    } else if (x) {
        http_respond(x, 200, "application/json", buf_str(&t->answer));
    }
    buf_deinit(&t->body);
    buf_deinit(&t->answer);
    free(t);
    completion_service_leave(s);
}

static void on_gone(void *arg)
{
    struct text_exchange *t = arg;
    t->exchange = NULL;
    text_job_cancel(&t->job);
}

void text_exchange_start(struct completion_service *s, struct http_exchange *x,
                         enum text_request_kind kind)
{
    metric_add(&agent_metrics.requests_total, 1);
    if (s->phase != SERVICE_OPEN) {
        completion_refuse(s, x);
        return;
    }
    struct text_exchange *t = xcalloc(1, sizeof *t);
    struct str body = http_exchange_request(x)->body;
    t->job = (struct text_job){.run = run, .done = on_done};
    t->service = s;
    t->exchange = x;
    t->kind = kind;
    t->now_s = clock_wall_ms() / 1000;
    buf_init(&t->body, BUF_MAX_INTERNAL);
    buf_init(&t->answer, BUF_MAX_INTERNAL);
    buf_append(&t->body, body.data, body.len); // the exchange may end while a worker reads
    if (text_worker_submit(s->worker, &t->job) == 0) {
        completion_service_enter(s);
        http_exchange_watch(x, on_gone, NULL, t);
        return;
    }
    completion_error_queue_full(s, &t->error);
    completion_respond_error(x, &t->error, false);
    buf_deinit(&t->body);
    free(t);
}
