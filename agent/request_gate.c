#include "agent/request_gate.h"

#include "agent/agent_metrics.h"
#include "agent/engine_state.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/net/http_router.h"
#include "shared/net/peer_trust.h"

struct request_gate_ticket {
    struct list link;
    struct request_gate *gate;
    struct http_exchange *exchange; // its arena has the ticket
    request_gate_start *start;
    void *arg;
    uint64_t since_ms;
};

static bool has_room(const struct request_gate *g)
{
    return g->max == 0 || g->service->live_count < g->max;
}

static void leave(struct request_gate_ticket *t)
{
    list_remove(&t->link);
    t->gate->waiting_count--;
    metric_set(&agent_metrics.requests_held, t->gate->waiting_count);
}

/* The next ones begin in a turn of their own: whoever leaves is in the middle of closing. */
static void on_pump(uv_timer_t *timer)
{
    struct request_gate *g = timer->data;
    while (g->waiting_count > 0 && has_room(g)) {
        struct request_gate_ticket *t = list_first(&g->waiting, struct request_gate_ticket, link);
        leave(t);
        http_exchange_watch(t->exchange, NULL, NULL, NULL);
        t->start(t->arg, t->exchange);
    }
}

static void on_leave(void *arg)
{
    struct request_gate *g = arg;
    if (g->waiting_count > 0 && !uv_is_closing((uv_handle_t *)&g->pump))
        uv_timer_start(&g->pump, on_pump, 0, 0);
}

void request_gate_init(struct request_gate *g, uv_loop_t *loop, struct completion_service *s,
                       int max, int waiting_max)
{
    *g = (struct request_gate){.service = s, .max = max, .waiting_max = waiting_max};
    list_init(&g->waiting);
    uv_timer_init(loop, &g->pump);
    g->pump.data = g;
    s->on_leave = on_leave;
    s->leave_arg = g;
}

void request_gate_close(struct request_gate *g)
{
    request_gate_refuse_all(g);
    if (!uv_is_closing((uv_handle_t *)&g->pump)) uv_close((uv_handle_t *)&g->pump, NULL);
}

/* ---- refusing ---- */

/* Proxies number what they send: this one has come, and is over. */
static void refuse(struct request_gate *g, struct http_exchange *x, const struct api_error *e)
{
    metric_add(&agent_metrics.requests_total, 1);
    completion_count_refusal(e->status);
    completion_dispatch_refused(g->service, x);
    completion_respond_error(x, e, false);
}

static void on_gone(void *arg)
{
    struct request_gate_ticket *t = arg;
    metric_add(&agent_metrics.requests_total, 1);
    metric_add(&agent_metrics.requests_gone_total, 1);
    completion_dispatch_refused(t->gate->service, t->exchange);
    leave(t);
}

static void refuse_full(struct request_gate *g, struct http_exchange *x,
                        const struct engine_stats *stats)
{
    struct api_error e;
    api_error_set(&e, 429, "rate_limit_exceeded", NULL,
                  "The server's queue is full: %d requests are answered "
                  "(--max-concurrent-requests) and %d wait. Please retry after the time that the "
                  "Retry-After header gives.",
                  g->service->live_count, g->waiting_count + stats->waiting);
    e.retry_after_s = engine_wait_s(stats, g->service->max_batch_size);
    refuse(g, x, &e);
}

void request_gate_enter(struct request_gate *g, struct http_exchange *x, request_gate_start *start,
                        void *arg)
{
    bool is_open = g->service->phase == SERVICE_OPEN; // else it is refused all the same
    if (!is_open || (g->waiting_count == 0 && has_room(g))) {
        start(arg, x);
        return;
    }
    struct engine_stats stats;
    engine_stats(engine_bridge_engine(g->service->bridge), &stats);
    if (g->waiting_count + stats.waiting >= g->waiting_max) {
        refuse_full(g, x, &stats);
        return;
    }
    struct request_gate_ticket *t = arena_alloc(http_exchange_arena(x), sizeof *t);
    *t = (struct request_gate_ticket){
        .gate = g, .exchange = x, .start = start, .arg = arg, .since_ms = clock_ms()};
    list_push_back(&g->waiting, &t->link);
    g->waiting_count++;
    metric_set(&agent_metrics.requests_held, g->waiting_count);
    http_exchange_watch(x, on_gone, NULL, t);
}

void request_gate_tick(struct request_gate *g)
{
    uint64_t timeout_ms = (uint64_t)g->service->request_timeout_s * 1000;
    uint64_t now_ms = clock_ms();
    list_each_safe (t, &g->waiting, struct request_gate_ticket, link) {
        if (timeout_ms == 0 || now_ms - t->since_ms < timeout_ms) return; // by age
        struct engine_event late = {.kind = ENGINE_EVENT_FAILED, .error_code = E_TIMEOUT};
        struct api_error e = {0};
        completion_error_event(g->service, &late, &e);
        leave(t);
        refuse(g, t->exchange, &e);
    }
}

void request_gate_refuse_all(struct request_gate *g)
{
    list_each_safe (t, &g->waiting, struct request_gate_ticket, link) {
        struct api_error e = {0};
        completion_error_unavailable(g->service, &e);
        leave(t);
        refuse(g, t->exchange, &e);
    }
}

int request_gate_abort(struct request_gate *g, const struct abort_target *target)
{
    int count = 0;
    list_each_safe (t, &g->waiting, struct request_gate_ticket, link) {
        const struct http_request *request = http_exchange_request(t->exchange);
        struct abort_candidate candidate = {
            .tenant = peer_tenant(request, g->service->join_key),
            .session_id = -1,
            .request_id = http_router_request_id(t->exchange),
        };
        if (!abort_target_matches(target, &candidate)) continue;
        struct api_error e = {0};
        completion_error_aborted(&e);
        leave(t);
        completion_dispatch_refused(g->service, t->exchange);
        metric_add(&agent_metrics.requests_total, 1);
        completion_respond_error(t->exchange, &e, true);
        count++;
    }
    return count;
}
