/* exchange_place.c - which agent gets a request, and when.
 *
 * Rules:
 *  1. Who comes while others of the same lane wait, waits behind them.
 *  2. A lane is what requests wait for together: a model's slots, or one agent's, for those that
 *     must go there.
 *  3. The agent is chosen when a slot is free, not when the request comes.
 *  4. A hard session is claimed before anything is sent, so that two proxies can't open it at two
 *     agents; whoever comes second adopts the first one's choice. */
#define LOG_MODULE "exchange"
#include "proxy/exchange_state.h"

#include "proxy/prefix_table.h"
#include "proxy/proxy.h"
#include "proxy/proxy_metrics.h"
#include "proxy/rendezvous.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"

#include <stdio.h>

#define LANE_BYTES 400
#define CLAIMS_MAX 4

/* ---- its session ---- */

static void on_located(void *arg)
{
    struct exchange *e = arg;
    exchange_advance(e);
}

static void describe_session(struct exchange *e, struct affinity_input *in)
{
    const struct peek *peek = &e->pre->peek;
    const struct conversation *c = &e->pre->conversation;
    bool is_interactive = e->route == PEEK_INTERACTIVE;
    in->ident = (struct session_ident_input){
        .headers = &e->request->headers,
        .model = e->model,
        .tenant = str_of(e->pre->tenant),
        .conversation_id = is_interactive ? c->id : -1,
        .conversation = peek->conversation,
        .previous_response_id = peek->previous_response_id,
        .prompt_cache_key = peek->prompt_cache_key,
        .fingerprint = peek->fingerprint,
    };
    if (!is_interactive && peek->session_text.data) {
        in->ident.session_id = peek->session_text;
    } else if (!is_interactive && peek->has_session_id && peek->session_id >= 0) {
        in->ident.session_id = peek->session_raw;
    }
    in->use = c->is_cancel ? AFFINITY_USE_CANCEL : AFFINITY_USE_TURN;
    in->is_allotted = c->is_allotted;
    in->is_end = c->is_end;
    in->is_bare_end = c->is_bare_end;
    in->is_first = !peek->has_answer;
    in->on_ready = on_located;
    in->arg = e;
}

static void follow(struct exchange *e, enum affinity_step step)
{
    switch (step) {
    case AFFINITY_GO:
        exchange_advance(e);
        return;
    case AFFINITY_WAIT:
        return;
    case AFFINITY_FAILED:
        exchange_fail(e, &e->affinity->error);
        return;
    }
    UNREACHABLE();
}

void exchange_locate(struct exchange *e)
{
    struct affinity_input in = {.is_end = false};
    describe_session(e, &in);
    e->affinity = exchange_spares_take_affinity(e->worker->spares);
    follow(e, affinity_begin(e->worker->affinity, e->affinity, &in));
}

void exchange_locate_again(struct exchange *e, bool may_have_begun)
{
    exchange_set_state(e, EXCHANGE_LOCATING);
    follow(e, affinity_again(e->affinity, may_have_begun));
}

/* ---- the choice ---- */

static void add_hits(struct exchange *e, const struct fleet *fleet, struct route_request *r,
                     struct prefix_crowd *crowd)
{
    const struct peek *peek = &e->pre->peek;
    struct prefix_table *table = e->worker->proxy->prefix_table;
    struct prefix_match matches[PREFIX_MATCHES];
    if (prefix_table_match_crowd(table, peek->marks, peek->mark_count, crowd)) r->crowd = crowd;
    int count = prefix_table_match(table, peek->marks, peek->mark_count, r->now_ms, matches);
    for (int i = 0; i < count; i++) {
        int index = fleet_find_column(fleet, matches[i].column);
        if (index < 0) continue;
        r->hits[r->hit_count++] =
            (struct route_hit){fleet->agents[index]->cell, matches[i].cached_tokens};
    }
}

/* A soft session's agent. What it has cached is known by its report; of one that makes none, that it
 * has seen all but the last message is a guess that costs little when it is wrong. */
static void add_pin(struct exchange *e, struct route_request *r)
{
    const struct fleet_agent *owner = affinity_find_owner(e->affinity);
    if (!owner) return;
    const struct peek *peek = &e->pre->peek;
    struct prefix_match match;
    bool is_known =
        prefix_table_match_column(e->worker->proxy->prefix_table, peek->marks, peek->mark_count,
                                  owner->cell->column, r->now_ms, &match);
    r->pinned = owner->cell;
    r->pinned_cached_tokens = is_known ? match.cached_tokens : 0;
}

/* r->crowd points to `crowd`, if at all. */
static void make_request(struct exchange *e, const struct fleet *fleet, struct route_request *r,
                         struct prefix_crowd *crowd)
{
    *r = (struct route_request){
        .prompt_tokens = e->prompt_tokens,
        .output_tokens = e->output_tokens,
        .excluded = e->pre->excluded,
        .now_ms = clock_ms(),
        .probing_allowed = true,
        .ours_only = e->state == EXCHANGE_RESUMING,
    };
    add_hits(e, fleet, r, crowd);
    if (!e->affinity) return;
    r->key = e->affinity->key;
    if (e->affinity->kind == SESSION_HARD) {
        r->probing_allowed = false;
    } else {
        add_pin(e, r);
    }
}

static enum route_verdict choose(struct exchange *e, struct route_choice *out)
{
    struct worker *w = e->worker;
    struct fleet *fleet = worker_fleet(w);
    const struct fleet_model *model = fleet_find_model(fleet, e->model);
    if (!model || e->pre->excluded.count == ROUTE_EXCLUDED_MAX) return ROUTE_NOBODY;
    if (e->affinity && e->affinity->rendezvous_only) {
        uint16_t first[RENDEZVOUS_FIRST];
        if (rendezvous_first(fleet, model, e->affinity->key, first) > 0) {
            *out = (struct route_choice){.agent = fleet->agents[first[0]]};
            return ROUTE_PICKED;
        }
    }
    struct route_request r;
    struct prefix_crowd crowd;
    make_request(e, fleet, &r, &crowd);
    r.full_allowed = e->pre->full_allowed;
    return route_choose(w->proxy->policy, &w->route, fleet, model, &r, out);
}

struct fleet_agent *exchange_choose_now(struct exchange *e, bool *is_probe)
{
    struct route_choice choice;
    e->pre->full_allowed = true;
    *is_probe = false;
    if (choose(e, &choice) != ROUTE_PICKED) return NULL;
    *is_probe = choice.is_probe;
    e->cached_tokens = choice.cached_tokens;
    return choice.agent;
}

/* ---- waiting ---- */

/* The name of what e waits for; owner NULL: any agent of the model. */
static struct str lane_of(const struct exchange *e, const struct fleet_agent *owner,
                          char text[LANE_BYTES])
{
    int len = owner ? snprintf(text, LANE_BYTES, "%s@" STR_FMT, owner->id, STR_ARG(e->model))
                    : snprintf(text, LANE_BYTES, STR_FMT, STR_ARG(e->model));
    size_t most = LANE_BYTES - 1;
    return (struct str){text, (size_t)len < most ? (size_t)len : most};
}

static void fail_full(struct exchange *e, struct str lane)
{
    struct api_error error;
    admission_set_full(&error, admission_retry_after_s(&e->worker->admission, lane,
                                                       e->pre->ticket.class, clock_ms()));
    metric_add(&proxy_metrics.queue_refused_total, 1);
    exchange_fail(e, &error);
}

static void enter_queue(struct exchange *e, struct str lane)
{
    uint64_t now_ns = clock_ns();
    if (admission_enter(&e->worker->admission, lane, &e->pre->ticket, now_ns / 1000000) < 0) {
        fail_full(e, lane);
        return;
    }
    if (e->queued_ns == 0) e->queued_ns = now_ns;
    metric_add(&proxy_metrics.queue_entered_total, 1);
    exchange_set_state(e, EXCHANGE_QUEUED);
}

void exchange_on_evicted(void *arg, struct admission_ticket *t)
{
    (void)arg;
    struct exchange *e = list_entry(t, struct exchange_prelude, ticket)->owner;
    char text[LANE_BYTES];
    fail_full(e, lane_of(e, NULL, text));
}

void exchange_on_expired(void *arg, struct admission_ticket *t)
{
    (void)arg;
    struct exchange *e = list_entry(t, struct exchange_prelude, ticket)->owner;
    char text[LANE_BYTES];
    struct api_error error;
    int wait_s = admission_retry_after_s(&e->worker->admission, lane_of(e, NULL, text),
                                         e->pre->ticket.class, clock_ms());
    admission_set_expired(&error, wait_s);
    metric_add(&proxy_metrics.queue_expired_total, 1);
    exchange_fail(e, &error);
}

/* ---- the place ---- */

static bool is_full(const struct fleet_agent *a)
{
    return fleet_cell_load(a->cell) >= fleet_agent_slots(a);
}

/* The session is `agent`'s from here on. */
static void claim(struct exchange *e, struct fleet_agent *agent)
{
    exchange_set_state(e, EXCHANGE_CLAIMING);
    follow(e, affinity_claim(e->affinity, agent));
}

void exchange_on_claimed(struct exchange *e)
{
    if (e->affinity->step == AFFINITY_FAILED) {
        exchange_fail(e, &e->affinity->error);
        return;
    }
    struct fleet_agent *owner = affinity_find_owner(e->affinity);
    if (owner && e->affinity->is_claimed) {
        exchange_call(e, owner, false);
        return;
    }
    if (++e->pre->claims > CLAIMS_MAX) {
        exchange_fail_without_agent(e);
    } else if (e->affinity->is_bound && !owner) {
        exchange_locate_again(e, false); // somebody's who isn't in our picture
    } else {
        exchange_set_state(e, EXCHANGE_LOCATING);
        exchange_place(e);
    }
}

/* It waits no longer, if it did: before anything that may end e. */
static void leave_queue(struct exchange *e)
{
    if (!admission_is_waiting(&e->pre->ticket)) return;
    uint64_t now_ns = clock_ns();
    metric_observe(&proxy_metrics.queue_seconds, (double)(now_ns - e->queued_ns) / 1e9);
    admission_accept(&e->worker->admission, &e->pre->ticket, now_ns / 1000000);
}

/* A turn of a conversation whose agent is known. */
static enum admission_try place_at_owner(struct exchange *e)
{
    struct fleet_agent *owner = affinity_find_owner(e->affinity);
    if (!owner) {
        leave_queue(e);
        if (++e->pre->claims > CLAIMS_MAX) {
            exchange_fail_without_agent(e);
        } else {
            exchange_locate_again(e, false);
        }
        return ADMISSION_STARTED;
    }
    bool is_cancel = e->pre->conversation.is_cancel;
    if (is_full(owner) && !is_cancel && !e->pre->full_allowed) return ADMISSION_FULL;
    leave_queue(e);
    if (e->affinity->is_claimed) {
        exchange_call(e, owner, false);
    } else {
        claim(e, owner);
    }
    return ADMISSION_STARTED;
}

/* Offers e a slot. FULL: nothing has happened. */
static enum admission_try try_place(struct exchange *e)
{
    bool is_hard = e->affinity && e->affinity->kind == SESSION_HARD;
    if (is_hard && e->affinity->is_bound) return place_at_owner(e);
    struct route_choice choice;
    enum route_verdict verdict = choose(e, &choice);
    if (verdict == ROUTE_NOBODY && is_hard && e->pre->excluded.count > 0) {
        e->pre->excluded.count = 0; // who could do nothing for it then, may now: its claim waits
        verdict = choose(e, &choice);
    }
    if (verdict != ROUTE_FULL) leave_queue(e);
    switch (verdict) {
    case ROUTE_FULL:
        return ADMISSION_FULL;
    case ROUTE_NOBODY:
        exchange_fail_without_agent(e);
        return ADMISSION_STARTED;
    case ROUTE_PICKED:
        break;
    }
    e->cached_tokens = choice.cached_tokens;
    e->routed = choice.affinity;
    if (is_hard && !e->affinity->is_claimed) { // a cancel claims nothing
        route_give_back(&choice);
        claim(e, choice.agent);
    } else {
        exchange_call(e, choice.agent, choice.is_probe);
    }
    return ADMISSION_STARTED;
}

enum admission_try exchange_try_slot(void *arg, struct admission_ticket *t)
{
    (void)arg;
    return try_place(list_entry(t, struct exchange_prelude, ticket)->owner);
}

void exchange_place(struct exchange *e)
{
    if (e->affinity && e->affinity->step == AFFINITY_FAILED) {
        exchange_fail(e, &e->affinity->error);
        return;
    }
    struct admission *queue = &e->worker->admission;
    bool is_bound = e->affinity && e->affinity->is_bound;
    struct fleet_agent *owner = is_bound ? affinity_find_owner(e->affinity) : NULL;
    char text[LANE_BYTES];
    bool others_wait = queue->count > 0;
    if (others_wait) {
        struct str lane = lane_of(e, owner, text);
        others_wait = admission_next(queue, lane, clock_ms()) != NULL;
    }
    if (!others_wait) {
        if (try_place(e) == ADMISSION_STARTED) return;
        if (is_bound) owner = affinity_find_owner(e->affinity); // the picture may be another one
    }
    enter_queue(e, lane_of(e, owner, text));
}
