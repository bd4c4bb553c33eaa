/* exchange_resume.c - the agent of a stream is lost, and the stream goes on.
 *
 * The client's stream stands between two events (hop_stream.c throws a torn one away), and what was
 * committed of it is known: seed, token ids, bytes of text. Another agent gets the request again,
 * with that record before it, and goes on behind it. The client sees a pause.
 *
 * Rules:
 *  1. The request's bytes are kept for this, within --resume-bytes for all; beyond it a stream is
 *     not resumable.
 *  2. Whoever can't take it now (429, 503, connect failures) is no reason to give up: others are
 *     asked, and all of them again, for RESUME_MS. The agents' 4xx are final.
 *  3. Nobody waits in the queue for it: its client has waited, and its slot is lost with its agent.
 *  4. An answer may be resumed as often as its agents are lost, RESUMES_MAX times. */
#define LOG_MODULE "exchange"
#include "proxy/exchange_state.h"

#include "proxy/proxy.h"
#include "proxy/proxy_metrics.h"
#include "shared/base/check.h"
#include "shared/base/log.h"

#define RESUME_MS   15000
#define RESUMES_MAX 16

/* ---- what it costs ---- */

void exchange_charge_resume(struct exchange *e)
{
    if (!e->is_resumable) return;
    struct hop_budget *budget = &e->worker->proxy->resume_budget;
    if (hop_budget_take(budget, e->body.len)) {
        e->resume_charged = e->body.len;
    } else {
        e->is_resumable = false;
        metric_add(&proxy_metrics.resume_over_budget_total, 1);
    }
}

void exchange_uncharge_resume(struct exchange *e)
{
    if (e->resume_charged > 0) {
        hop_budget_give(&e->worker->proxy->resume_budget, e->resume_charged);
    }
    e->resume_charged = 0;
}

/* ---- going on ---- */

bool exchange_can_resume(const struct exchange *e)
{
    return e->is_hop && e->is_resumable && hop_stream_can_resume(&e->hop) &&
           e->resumes < RESUMES_MAX && proxy_phase(e->worker->proxy) != PROXY_CLOSING;
}

/* Tenant and session are the client's, and read from its request again. */
static bool prepare(struct exchange *e)
{
    struct api_error error;
    buf_deinit(&e->resume_body);
    buf_init(&e->resume_body, BUF_MAX_INTERNAL);
    hop_stream_print_resume(&e->hop, &e->resume_body);
    if (buf_append(&e->resume_body, e->body.data, e->body.len) < 0) return false;
    return exchange_open_prelude(e, &error) == 0;
}

void exchange_begin_resume(struct exchange *e, const struct http_failure *failure)
{
    log_info("stream resumes", "id=" STR_FMT " agent=%s tokens=%u reason=\"%s\"",
             STR_ARG(http_router_request_id(e->client)), e->at.agent->id,
             hop_stream_token_count(&e->hop), failure->text);
    metric_add(&proxy_metrics.resumes_total, 1);
    exchange_note_failure(e, failure);
    exchange_record_failure(e, failure->text);
    exchange_set_state(e, EXCHANGE_RESUMING);
    struct fleet_agent *lost = fleet_agent_ref(e->at.agent);
    exchange_end_attempt(e, LEDGER_FAILED);
    e->resumes++;
    e->resume_until_ms = uv_now(e->worker->loop) + RESUME_MS;
    if (!prepare(e)) {
        fleet_agent_unref(lost);
        exchange_cut_stream(e, "the request can't be read again");
        return;
    }
    route_exclude(&e->pre->excluded, lost->cell);
    bool is_hard = e->affinity && e->affinity->kind == SESSION_HARD;
    enum affinity_step step = is_hard ? affinity_again(e->affinity, true) : AFFINITY_GO;
    fleet_agent_unref(lost);
    if (step != AFFINITY_WAIT) exchange_try_resume(e);
}

/* The owner of a hard session, once it is claimed; NULL: not yet, or it isn't there. */
static struct fleet_agent *locate_owner(struct exchange *e)
{
    struct affinity *a = e->affinity;
    if (a->step != AFFINITY_GO) return NULL;
    if (!a->is_claimed) {
        bool is_probe;
        struct fleet_agent *agent =
            a->is_bound ? affinity_find_owner(a) : exchange_choose_now(e, &is_probe);
        if (!agent) return NULL;
        a->step = affinity_claim(a, agent);
    }
    return a->step == AFFINITY_GO ? affinity_find_owner(a) : NULL;
}

void exchange_try_resume(struct exchange *e)
{
    if (e->at.call) return;
    struct affinity *a = e->affinity;
    if (a && a->step == AFFINITY_FAILED) {
        exchange_cut_stream(e, a->error.message);
        return;
    }
    if (uv_now(e->worker->loop) >= e->resume_until_ms) {
        exchange_cut_stream(e, "no agent could go on with it");
        return;
    }
    bool is_probe = false;
    struct fleet_agent *agent = a ? locate_owner(e) : exchange_choose_now(e, &is_probe);
    if (agent) {
        exchange_call(e, agent, is_probe);
        return;
    }
    e->pre->excluded.count = 0; // with the next sweep everybody is asked again
}

/* This one couldn't. Each is excluded once, so that this ends; then all are asked with the next
 * sweep. */
static void try_next(struct exchange *e, enum ledger_outcome outcome)
{
    struct fleet_agent *failed = fleet_agent_ref(e->at.agent);
    exchange_end_attempt(e, outcome);
    if (e->pre->excluded.count < ROUTE_EXCLUDED_MAX) {
        route_exclude(&e->pre->excluded, failed->cell);
    }
    enum affinity_step step = e->affinity ? affinity_again(e->affinity, true) : AFFINITY_GO;
    fleet_agent_unref(failed);
    if (step == AFFINITY_FAILED || (step == AFFINITY_GO && !e->affinity)) exchange_try_resume(e);
}

void exchange_resume_failed(struct exchange *e)
{
    exchange_note_failure(e, e->at.failure);
    exchange_record_failure(e, e->at.failure->text);
    bool is_ours = http_failure_is_ours(e->at.failure);
    try_next(e, is_ours ? LEDGER_ABANDONED : LEDGER_FAILED);
}

void exchange_take_resumed_head(struct exchange *e)
{
    int status = e->at.status;
    if (status == 200 && !e->at.not_started) {
        exchange_set_state(e, EXCHANGE_STREAMING);
        e->relay.upstream = e->at.call;
        if (e->relay.paused) http_call_pause(e->at.call);
        exchange_expect_life(e);
        exchange_close_prelude(e);
        return;
    }
    bool is_refusal = status == 429 || status == 502 || status == 503 || status == 504 ||
                      (status == 409 && e->at.not_started);
    if (is_refusal) {
        try_next(e, LEDGER_ABANDONED);
    } else {
        exchange_record_failure(e, http_status_text(status));
        exchange_end_attempt(e, LEDGER_ABANDONED); // it answers, and that is all one can want
        exchange_cut_stream(e, "the agent can't go on with it");
    }
}
