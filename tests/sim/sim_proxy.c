#include "tests/sim/sim_proxy.h"

#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/hash.h"
#include "tests/sim/sim_hearing.h"

#include <math.h>
#include <stdlib.h>

#define ATTEMPTS_MAX   3
#define TICK_US        20000 // of a proxy whose queue isn't empty
#define WIRE_MIN_US    200
#define WIRE_SPREAD_US 1000
#define DELAY_US       1000 // of reports, at the nearest proxy; others are up to 8 times as far
#define TIMED_EVERY    16   // decisions: the clock costs as much as one
#define MODEL          str_of("m")

static uint64_t now_ms(const struct sim_proxies *p)
{
    return p->calendar->now_us / 1000 + 1;
}

static uint64_t now_ns(const struct sim_proxies *p)
{
    return p->calendar->now_us * 1000 + 1000000;
}

void sim_proxies_init(struct sim_proxies *p, uint32_t count, uint64_t seed, uint64_t prefix_entries)
{
    CHECK(count > 0 && count <= SIM_PROXIES_MAX);
    p->count = count;
    p->proxies = xcalloc(count, sizeof *p->proxies);
    p->reports = xcalloc(SIM_REPORTS, sizeof *p->reports);
    p->wire = xcalloc(p->agents->count, sizeof *p->wire);
    for (uint32_t i = 0; i < count; i++) {
        struct sim_proxy *x = &p->proxies[i];
        rng_init(&x->rng, seed + 1000 + i);
        route_state_init(&x->state, seed + i);
        ledger_init(&x->ledger);
        model_stats_init(&x->stats);
        retry_budget_init(&x->retries);
        x->delay_us = DELAY_US + rng_below(&x->rng, 7 * DELAY_US);
        if (p->has_affinity) x->prefixes = prefix_table_create_keyed(prefix_entries, seed + i);
        sim_hearing_init(p, x);
    }
}

void sim_proxies_deinit(struct sim_proxies *p)
{
    for (uint32_t i = 0; i < p->count; i++) {
        struct sim_proxy *x = &p->proxies[i];
        sim_hearing_deinit(p, x);
        model_stats_deinit(&x->stats);
        prefix_table_destroy(x->prefixes);
    }
    free(p->proxies);
    free(p->reports);
    free(p->wire);
    p->proxies = NULL;
}

void sim_proxies_report(struct sim_proxies *p, uint32_t agent)
{
    for (uint32_t i = 0; i < p->count; i++) { // nobody may be a whole ring behind
        struct sim_proxy *x = &p->proxies[i];
        if (p->report_count - x->report >= SIM_REPORTS) sim_hearing_catch_up(p, x);
        CHECK(p->report_count - x->report < SIM_REPORTS);
    }
    struct sim_report *r = &p->reports[p->report_count++ % SIM_REPORTS];
    r->time_us = p->calendar->now_us;
    r->agent = agent;
    r->load = sim_agent_load(p->agents, agent);
    r->version = p->has_affinity ? sim_cache_version(p->caches, agent) : 0;
    memcpy(r->peers, sim_agent_peer_of(p->agents, agent, 0), p->count * sizeof *r->peers);
}

/* ---- choosing ---- */

/* The prompt, as the proxy sees it: canonical bytes and the marks of its chain. */
struct view {
    struct prefix_mark marks[SIM_CHAIN_MAX];
    int count;
    double bytes;
    struct model_estimate estimate;
};

static void look_at(struct sim_proxies *p, const struct sim_request *q, struct view *v)
{
    double ratio = sim_workload_bytes_per_token(p->work, q->session);
    v->bytes = q->prompt * ratio;
    v->estimate = model_stats_get(&p->proxies[q->proxy].stats, MODEL);
    v->count = 0;
    if (!p->has_affinity) return;
    struct sim_link links[SIM_CHAIN_MAX];
    v->count = sim_workload_chain(p->work, q->session, q->turn, links);
    for (int i = 0; i < v->count; i++)
        v->marks[i] = (struct prefix_mark){.hash = links[i].hash, .bytes = links[i].bytes};
}

/* As exchange_place.c does it. */
static void look_up_affinity(struct sim_proxies *p, const struct sim_request *q,
                             const struct view *v, struct route_request *r,
                             struct prefix_crowd *crowd)
{
    struct sim_proxy *x = &p->proxies[q->proxy];
    const struct sim_session *s = &p->work->sessions[q->session];
    struct prefix_match match[PREFIX_MATCHES];
    if (s->pin) {
        r->pinned = x->known[s->pin - 1].cell;
        struct prefix_match own;
        if (prefix_table_match_column(x->prefixes, v->marks, v->count, s->pin - 1, r->now_ms, &own))
            r->pinned_cached_tokens = own.cached_tokens;
    }
    if (prefix_table_match_crowd(x->prefixes, v->marks, v->count, crowd)) r->crowd = crowd;
    int count = prefix_table_match(x->prefixes, v->marks, v->count, r->now_ms, match);
    for (int i = 0; i < count; i++) {
        const struct fleet_cell *cell = x->known[match[i].column].cell;
        if (cell == r->pinned) continue;
        r->hits[r->hit_count++] = (struct route_hit){cell, match[i].cached_tokens};
    }
}

static enum route_verdict choose_by_policy(struct sim_proxies *p, const struct sim_request *q,
                                           const struct view *v, struct route_choice *out)
{
    struct sim_proxy *x = &p->proxies[q->proxy];
    struct route_request r = {
        .prompt_tokens = model_estimate_prompt(&v->estimate, v->bytes, 0),
        .output_tokens = model_estimate_output(&v->estimate, 0),
        .key = hash_mix(q->session + 1),
        .excluded = q->excluded,
        .probing_allowed = true,
        .now_ms = now_ms(p),
    };
    bool is_timed = p->result->route_samples * TIMED_EVERY <= p->result->offered;
    uint64_t begun = is_timed ? clock_ns() : 0;
    struct prefix_crowd crowd;
    if (p->has_affinity) look_up_affinity(p, q, v, &r, &crowd);
    enum route_verdict verdict = ROUTE_NOBODY;
    if (x->model) verdict = route_choose(p->policy, &x->state, x->fleet, x->model, &r, out);
    if (is_timed) {
        p->result->route_ns += clock_ns() - begun;
        p->result->route_samples++;
    }
    return verdict;
}

static enum route_verdict choose_by_hash(struct sim_proxies *p, const struct sim_request *q,
                                         struct route_choice *out)
{
    struct sim_proxy *x = &p->proxies[q->proxy];
    uint16_t first[RENDEZVOUS_FIRST];
    if (!x->model) return ROUTE_NOBODY;
    int count = rendezvous_first(x->fleet, x->model, hash_mix(q->session + 1), first);
    for (int i = 0; i < count; i++) {
        struct fleet_agent *a = x->fleet->agents[first[i]];
        bool is_excluded = false;
        for (int e = 0; e < q->excluded.count; e++)
            is_excluded |= q->excluded.cells[e] == a->cell;
        if (is_excluded) continue;
        *out = (struct route_choice){.agent = a};
        return ROUTE_PICKED;
    }
    return ROUTE_NOBODY;
}

/* Everyone's true state, and what is on the wire to them. Those with the session's history first:
 * who can't be better than they are by a glance needs no forecast. */
static enum route_verdict choose_by_oracle(struct sim_proxies *p, const struct sim_request *q,
                                           double cost, uint32_t *out)
{
    const struct sim_session *s = &p->work->sessions[q->session];
    const uint32_t *systems = sim_cache_system_row(p->caches, s->system);
    double best = INFINITY;
    for (uint32_t slot = s->cache_head; slot; slot = p->caches->entries[slot].next) {
        uint32_t i = p->caches->entries[slot].agent;
        if (!p->proxies[q->proxy].known[i].facts) continue;
        double uncached = q->prompt - sim_cache_find(p->caches, i, q->session, q->prompt);
        double seconds = sim_agent_forecast(p->agents, i, cost * uncached + p->wire[i].tokens);
        if (seconds >= best) continue;
        best = seconds;
        *out = i;
    }
    double system_tokens = p->work->system_tokens[s->system];
    if (system_tokens >= q->prompt) system_tokens = 0;
    for (uint32_t i = 0; i < p->agents->count; i++) {
        if (!p->proxies[q->proxy].known[i].facts) continue; // it may route to whom the proxy knows
        double uncached = q->prompt - (systems[i] ? system_tokens : 0);
        double ahead = p->wire[i].tokens;
        if (sim_agents_bound(p->agents, i, cost * uncached + ahead) >= best) continue;
        uncached = q->prompt - sim_cache_find(p->caches, i, q->session, q->prompt);
        const struct sim_agent *a = &p->agents->agents[i];
        double seconds = sim_agent_forecast(p->agents, i, cost * uncached + ahead) +
                         1e-6 * (sim_agent_running(a) + (int)p->wire[i].count);
        if (seconds >= best) continue;
        best = seconds;
        *out = i;
    }
    return best < INFINITY ? ROUTE_PICKED : ROUTE_NOBODY;
}

/* What route.c learns from those it looks at, of everybody. */
static double learn_cost(struct sim_proxies *p)
{
    uint32_t busy = 0;
    for (uint32_t i = 0; i < p->agents->count; i++)
        busy += p->agents->bound_left[i] > 0;
    p->crowded += 0.01 * ((double)busy / p->agents->count - p->crowded);
    double idle = 1 - p->crowded, max = route_weights_default.crowding_max;
    return idle * max > 1 ? 1 / idle : max;
}

static enum route_verdict choose(struct sim_proxies *p, const struct sim_request *q,
                                 const struct view *v, struct route_choice *out)
{
    uint32_t agent = 0;
    if (p->picker == SIM_PICK_POLICY) return choose_by_policy(p, q, v, out);
    if (p->picker == SIM_PICK_SESSION_HASH) return choose_by_hash(p, q, out);
    double cost = p->picker == SIM_PICK_SPARING ? learn_cost(p) : 1;
    enum route_verdict verdict = choose_by_oracle(p, q, cost, &agent);
    *out = (struct route_choice){.agent = p->proxies[q->proxy].known[agent].facts};
    if (verdict == ROUTE_PICKED && !out->agent) return ROUTE_NOBODY;
    return verdict;
}

/* ---- dispatch ---- */

static void dispatch(struct sim_proxies *p, uint32_t slot, const struct view *v,
                     const struct route_choice *choice)
{
    struct sim_request *q = sim_request_at(p->requests, slot);
    struct sim_proxy *x = &p->proxies[q->proxy];
    struct fleet_cell *cell = choice->agent->cell;
    q->agent = (uint16_t)cell->column;
    q->state = SIM_REQUEST_SENT;
    q->sent_us = p->calendar->now_us;
    q->expected = choice->cached_tokens;
    q->attempts++;
    double tokens = model_estimate_prompt(&v->estimate, v->bytes, 0) - choice->cached_tokens;
    ledger_take(&x->ledger, &q->entry, cell, fmax(1, tokens), choice->is_probe, now_ns(p));
    q->counter = q->entry.counter;
    if (x->prefixes)
        prefix_table_predict(x->prefixes, v->marks, v->count, 1 / v->estimate.bytes_per_token,
                             cell->column, now_ms(p));
    q->left = q->prompt - sim_cache_find(p->caches, q->agent, q->session, q->prompt);
    p->wire[q->agent].count++;
    p->wire[q->agent].tokens += q->left;
    uint64_t wire_us = WIRE_MIN_US + rng_below(&x->rng, WIRE_SPREAD_US);
    sim_calendar_add(p->calendar, p->calendar->now_us + wire_us, p->arrive_kind, slot, 0);
}

static void enqueue(struct sim_proxies *p, uint32_t slot)
{
    struct sim_request *q = sim_request_at(p->requests, slot);
    struct sim_proxy *x = &p->proxies[q->proxy];
    if (x->queue.count >= SIM_QUEUE_MAX && !q->must_run) {
        p->result->expired++;
        p->on_failed(p->arg, slot);
        return;
    }
    q->state = SIM_REQUEST_QUEUED;
    q->sent_us = p->calendar->now_us;
    sim_fifo_push(&x->queue, p->requests, slot);
    if (x->is_ticking) return;
    x->is_ticking = true;
    sim_calendar_add(p->calendar, p->calendar->now_us + TICK_US, p->tick_kind, q->proxy, 0);
}

/* True: it left for an agent, or failed. */
static bool try_to_send(struct sim_proxies *p, uint32_t slot)
{
    struct sim_request *q = sim_request_at(p->requests, slot);
    struct route_choice choice;
    struct view v;
    look_at(p, q, &v);
    switch (choose(p, q, &v, &choice)) {
    case ROUTE_PICKED:
        dispatch(p, slot, &v, &choice);
        return true;
    case ROUTE_NOBODY:
        if (q->excluded.count == 0) break;
        q->excluded.count = 0; // those that failed may be all there are
        return try_to_send(p, slot);
    case ROUTE_FULL:
        return false;
    }
    if (q->must_run) return false;
    p->on_failed(p->arg, slot);
    return true;
}

/* Those who wait go first; one that can't go doesn't let others pass. */
static void serve_queue(struct sim_proxies *p, struct sim_proxy *x)
{
    while (x->queue.first) {
        uint32_t slot = x->queue.first;
        struct sim_request *q = sim_request_at(p->requests, slot);
        if (p->calendar->now_us - q->sent_us > SIM_QUEUE_WAIT_US && !q->must_run) {
            sim_fifo_pop(&x->queue, p->requests);
            p->result->expired++;
            p->on_failed(p->arg, slot);
            continue;
        }
        uint32_t next = q->next;
        if (!try_to_send(p, slot)) return;
        /* It has left, and may stand in other lists by now. */
        x->queue.first = next;
        if (!next) x->queue.last = 0;
        x->queue.count--;
    }
}

void sim_proxy_submit(struct sim_proxies *p, uint32_t slot)
{
    struct sim_request *q = sim_request_at(p->requests, slot);
    struct sim_proxy *x = &p->proxies[q->proxy];
    sim_hearing_catch_up(p, x);
    if (q->attempts == 0) retry_budget_note_request(&x->retries);
    if (x->queue.first || !try_to_send(p, slot)) enqueue(p, slot);
}

void sim_proxy_tick(struct sim_proxies *p, uint32_t proxy)
{
    struct sim_proxy *x = &p->proxies[proxy];
    x->is_ticking = false;
    sim_hearing_catch_up(p, x);
    serve_queue(p, x);
    if (!x->queue.first || x->is_ticking) return;
    x->is_ticking = true;
    sim_calendar_add(p->calendar, p->calendar->now_us + TICK_US, p->tick_kind, proxy, 0);
}

/* ---- outcomes ---- */

static void send_again(struct sim_proxies *p, uint32_t slot, bool is_free)
{
    struct sim_request *q = sim_request_at(p->requests, slot);
    struct sim_proxy *x = &p->proxies[q->proxy];
    bool may = q->attempts < ATTEMPTS_MAX && (is_free || retry_budget_take(&x->retries));
    if (!may && !q->must_run) {
        p->on_failed(p->arg, slot);
        return;
    }
    p->result->retries++;
    if (q->excluded.count < ROUTE_EXCLUDED_MAX)
        route_exclude(&q->excluded, x->known[q->agent].cell);
    sim_proxy_submit(p, slot);
}

void sim_proxy_arrive(struct sim_proxies *p, uint32_t slot)
{
    struct sim_request *q = sim_request_at(p->requests, slot);
    struct sim_proxy *x = &p->proxies[q->proxy];
    p->wire[q->agent].count--;
    p->wire[q->agent].tokens -= q->left;
    switch (sim_agent_accept(p->agents, slot)) {
    case SIM_AGENT_TAKEN:
        if (sim_agent_has_news(p->agents, q->agent)) sim_proxies_report(p, q->agent);
        return;
    case SIM_AGENT_BUSY:
        ledger_release(&x->ledger, &q->entry, LEDGER_ABANDONED, now_ns(p));
        send_again(p, slot, false);
        return;
    case SIM_AGENT_ERROR: // work may have begun: never sent twice
        ledger_release(&x->ledger, &q->entry, LEDGER_ERRORED, now_ns(p));
        p->on_failed(p->arg, slot);
        return;
    case SIM_AGENT_CLOSED:
        ledger_release(&x->ledger, &q->entry, LEDGER_FAILED, now_ns(p));
        send_again(p, slot, true);
        return;
    case SIM_AGENT_REFUSED:
        ledger_release(&x->ledger, &q->entry, LEDGER_FAILED, now_ns(p));
        sim_hearing_note_refused(p, x, q->agent);
        send_again(p, slot, true);
        return;
    }
}

void sim_proxy_note_first_token(struct sim_proxies *p, uint32_t slot)
{
    struct sim_request *q = sim_request_at(p->requests, slot);
    struct sim_proxy *x = &p->proxies[q->proxy];
    ledger_note_started(&q->entry, now_ns(p));
    x->known[q->agent].refused = 0;
    q->must_run = true;
    if (p->has_affinity) p->work->sessions[q->session].pin = (uint16_t)(q->agent + 1);
}

void sim_proxy_note_finished(struct sim_proxies *p, uint32_t slot)
{
    struct sim_request *q = sim_request_at(p->requests, slot);
    struct sim_proxy *x = &p->proxies[q->proxy];
    ledger_release(&x->ledger, &q->entry, LEDGER_SERVED, now_ns(p));
    double ratio = sim_workload_bytes_per_token(p->work, q->session);
    model_stats_note(&x->stats, MODEL, q->prompt * ratio, q->prompt, q->emitted + q->answer);
    if (x->queue.first) serve_queue(p, x);
}

void sim_proxy_note_lost(struct sim_proxies *p, uint32_t slot)
{
    struct sim_request *q = sim_request_at(p->requests, slot);
    struct sim_proxy *x = &p->proxies[q->proxy];
    ledger_release(&x->ledger, &q->entry, LEDGER_FAILED, now_ns(p));
    if (q->must_run) p->result->resumed++;
    q->attempts = q->must_run ? 0 : q->attempts; // what a lost agent had isn't the request's fault
    send_again(p, slot, true);
}

void sim_proxies_check(struct sim_proxies *p)
{
    for (uint32_t i = 0; i < p->count; i++) {
        struct sim_proxy *x = &p->proxies[i];
        ledger_check(&x->ledger);
        CHECK(x->ledger.count == 0 && x->queue.count == 0);
        for (uint32_t a = 0; a < p->agents->count; a++) {
            fleet_cell_check(x->known[a].cell);
            CHECK(atomic_load(&x->known[a].cell->in_flight) == 0);
            CHECK(atomic_load(&x->known[a].cell->unseen_tokens) == 0);
        }
        if (x->prefixes) prefix_table_check(x->prefixes);
    }
    for (uint32_t a = 0; a < p->agents->count; a++)
        CHECK(p->wire[a].count == 0 && fabs(p->wire[a].tokens) < 0.5);
}
