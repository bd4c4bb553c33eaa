#include "tests/sim/sim_run.h"

#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/hash.h"

#include <math.h>
#include <stdlib.h>
#include <sys/resource.h>

#define REPORT_US   250000ull
#define WINDOW_US   60000000ull // of the imbalance
#define WARM_SHARE  0.2         // of the sessions, whose requests aren't counted: caches are cold
#define LOST_SHARE  0.06        // evicted before its next turn, or at another agent
#define AGENT_QUEUE 256

enum event_kind {
    EVENT_SESSION, // the next session comes
    EVENT_TURN,    // a session sends its next message
    EVENT_ARRIVE,  // a request reaches its agent
    EVENT_STEP,    // an agent's step ends
    EVENT_REPORT,  // an agent's load report
    EVENT_TICK,    // a proxy looks at its queue
    EVENT_WINDOW,
};

struct fault {
    uint32_t session; // before this one comes
    uint32_t agent;
    enum sim_agent_health health; // from now on
};

struct run {
    const struct sim_setup *setup;
    const struct sim_scenario *scenario;
    struct sim_workload *work;
    struct sim_result *result;
    struct sim_calendar calendar;
    struct sim_requests requests;
    struct sim_caches caches;
    struct sim_agents agents;
    struct sim_proxies proxies;
    struct rng rng;        // arrivals
    double sessions_per_s; // at full load
    uint32_t started;
    struct fault *faults; // by session
    uint32_t fault_count, fault_next;
};

/* ---- sessions ---- */

static bool is_counting(const struct run *r)
{
    return r->started >= WARM_SHARE * r->work->session_count;
}

/* The last session has come: what is on its way is finished, nothing new begins. */
static bool is_closing(const struct run *r)
{
    return r->started == r->work->session_count;
}

static void send_turn(struct run *r, uint32_t session)
{
    struct sim_session *s = &r->work->sessions[session];
    struct sim_turn turn = sim_workload_turn(r->work, session, s->turn);
    uint32_t slot = sim_request_take(&r->requests);
    struct sim_request *q = sim_request_at(&r->requests, slot);
    q->session = session;
    q->turn = s->turn;
    /* Whoever balances between the proxies knows nothing of sessions. */
    q->proxy = (uint8_t)(hash_mix(((uint64_t)session << 16) + s->turn) % r->proxies.count);
    q->prompt = s->history + turn.message;
    q->answer = turn.answer;
    q->begun_us = r->calendar.now_us;
    q->is_counted = is_counting(r);
    r->result->offered++;
    sim_proxy_submit(&r->proxies, slot);
}

static void begin_session(struct run *r)
{
    uint32_t session = r->started++;
    double load = sim_scenario_load(r->scenario, (double)session / r->work->session_count);
    if (r->setup->load > 0) load = r->setup->load;
    if (r->started < r->work->session_count) {
        double pause_s = -log(1 - rng_unit(&r->rng)) / (load * r->sessions_per_s);
        sim_calendar_add(&r->calendar, r->calendar.now_us + (uint64_t)(pause_s * 1e6),
                         EVENT_SESSION, 0, 0);
    }
    send_turn(r, session);
}

static void on_failed(void *arg, uint32_t slot)
{
    struct run *r = arg;
    struct sim_request *q = sim_request_at(&r->requests, slot);
    struct sim_session *s = &r->work->sessions[q->session];
    r->result->errors++;
    r->result->abandoned += s->turns - s->turn - 1u;
    r->result->offered += s->turns - s->turn - 1u;
    s->turn = s->turns; // the user leaves
    sim_request_give(&r->requests, slot);
}

static void on_first_token(void *arg, uint32_t slot)
{
    struct run *r = arg;
    struct sim_request *q = sim_request_at(&r->requests, slot);
    struct sim_result *out = r->result;
    sim_proxy_note_first_token(&r->proxies, slot);
    if (q->first_us) return; // resumed
    q->first_us = r->calendar.now_us;
    struct sim_session *s = &r->work->sessions[q->session];
    if (q->is_counted) {
        sim_histogram_add(&out->first_token, (double)(q->first_us - q->begun_us) / 1e6);
        sim_histogram_add(&out->queue, (double)(q->sent_us - q->begun_us) / 1e6);
        out->prompt_tokens += q->prompt;
        out->cached_tokens += q->cached;
        out->expected_error += fabs(q->expected - q->cached);
        if (q->turn > 0) out->follow_ups++;
        if (q->turn > 0 && s->last != q->agent + 1) out->moved++;
    }
    s->last = (uint16_t)(q->agent + 1);
}

static void on_finished(void *arg, uint32_t slot)
{
    struct run *r = arg;
    struct sim_request *q = sim_request_at(&r->requests, slot);
    struct sim_session *s = &r->work->sessions[q->session];
    uint64_t now = r->calendar.now_us;
    sim_proxy_note_finished(&r->proxies, slot);
    if (q->is_counted) sim_histogram_add(&r->result->whole, (double)(now - q->begun_us) / 1e6);
    r->result->served++;
    struct sim_turn turn = sim_workload_turn(r->work, q->session, q->turn);
    s->history += turn.message + turn.answer;
    if (++s->turn < s->turns) {
        sim_calendar_add(&r->calendar, now + (uint64_t)(turn.pause_s * 1e6), EVENT_TURN, q->session,
                         0);
    }
    sim_request_give(&r->requests, slot);
}

/* ---- faults ---- */

static int compare_faults(const void *a, const void *b)
{
    const struct fault *left = a, *right = b;
    if (left->session != right->session) return left->session < right->session ? -1 : 1;
    return (left->agent > right->agent) - (left->agent < right->agent);
}

static void add_fault(struct run *r, uint32_t agent, double from, double during,
                      enum sim_agent_health health)
{
    uint32_t sessions = r->work->session_count;
    r->faults[r->fault_count++] = (struct fault){(uint32_t)(from * sessions), agent, health};
    r->faults[r->fault_count++] =
        (struct fault){(uint32_t)((from + during) * sessions), agent, SIM_AGENT_UP};
}

/* Agents are chosen from the end of the fleet's order for loss and from its middle for breaking;
 * the slow ones stand at its beginning. */
static void plan_faults(struct run *r)
{
    const struct sim_scenario *s = r->scenario;
    uint32_t count = r->agents.count;
    uint32_t slow = (uint32_t)(s->slow_share * count), lost = (uint32_t)(s->lost_share * count);
    uint32_t broken = (uint32_t)ceil(s->broken_share * count);
    CHECK(slow + lost + broken <= count);
    for (uint32_t i = 0; i < slow; i++)
        r->agents.agents[i].speed = 0.5;
    r->faults = xcalloc(2 * (lost + broken) + 1, sizeof *r->faults);
    for (uint32_t i = 0; i < lost; i++)
        add_fault(r, count - 1 - i, SIM_LOST_AT + SIM_LOST_SPREAD * i / lost, SIM_LOST_FOR,
                  SIM_AGENT_DOWN);
    for (uint32_t i = 0; i < broken; i++)
        add_fault(r, slow + i, SIM_BROKEN_AT, SIM_BROKEN_FOR,
                  i % 2 ? SIM_AGENT_SHUT : SIM_AGENT_BROKEN);
    qsort(r->faults, r->fault_count, sizeof *r->faults, compare_faults);
}

static void apply_fault(struct run *r, const struct fault *f)
{
    struct sim_agent *a = &r->agents.agents[f->agent];
    if (f->health == SIM_AGENT_UP && a->health == SIM_AGENT_DOWN) {
        sim_agent_start(&r->agents, f->agent);
        return;
    }
    if (f->health != SIM_AGENT_DOWN) {
        a->health = f->health;
        return;
    }
    struct sim_fifo lost = {0};
    sim_agent_kill(&r->agents, f->agent, &lost);
    for (uint32_t slot; (slot = sim_fifo_pop(&lost, &r->requests)) != 0;)
        sim_proxy_note_lost(&r->proxies, slot);
}

/* ---- the loop ---- */

static void close_window(struct run *r)
{
    double most = 0, sum = 0;
    uint32_t up = 0;
    for (uint32_t i = 0; i < r->agents.count; i++) {
        struct sim_agent *a = &r->agents.agents[i];
        if (a->health == SIM_AGENT_UP) {
            most = fmax(most, a->work_s);
            sum += a->work_s;
            up++;
        }
        a->work_s = 0;
    }
    if (is_counting(r) && !is_closing(r) && sum > 0) {
        r->result->imbalance_sum += most * up / sum;
        r->result->windows++;
    }
    sim_calendar_add(&r->calendar, r->calendar.now_us + WINDOW_US, EVENT_WINDOW, 0, 0);
}

static void on_event(struct run *r, const struct sim_event *e)
{
    switch ((enum event_kind)e->kind) {
    case EVENT_SESSION:
        while (r->fault_next < r->fault_count && r->faults[r->fault_next].session <= r->started)
            apply_fault(r, &r->faults[r->fault_next++]);
        begin_session(r);
        break;
    case EVENT_TURN:
        if (!is_closing(r)) send_turn(r, e->subject);
        break;
    case EVENT_ARRIVE:
        sim_proxy_arrive(&r->proxies, e->subject);
        break;
    case EVENT_STEP:
        sim_agent_advance(&r->agents, e->subject, e->stamp);
        break;
    case EVENT_REPORT:
        if (r->agents.agents[e->subject].health != SIM_AGENT_DOWN)
            sim_proxies_report(&r->proxies, e->subject);
        sim_calendar_add(&r->calendar, r->calendar.now_us + REPORT_US, EVENT_REPORT, e->subject, 0);
        break;
    case EVENT_TICK:
        sim_proxy_tick(&r->proxies, e->subject);
        break;
    case EVENT_WINDOW:
        close_window(r);
        break;
    }
}

static void check_end(struct run *r)
{
    const struct sim_result *out = r->result;
    CHECK(is_closing(r) && r->requests.live == 0);
    CHECK(out->offered == out->served + out->errors + out->abandoned);
    uint64_t turns = 0; // a session that left has taken all of its own
    for (uint32_t i = 0; i < r->work->session_count; i++)
        turns += r->work->sessions[i].turn;
    CHECK(out->offered == turns);
    for (uint32_t i = 0; i < r->agents.count; i++) {
        sim_agent_check(&r->agents, i);
        CHECK(r->caches.agents[i].held == 0);
        if (i % 64 == 0) sim_cache_check(&r->caches, i);
    }
    sim_proxies_check(&r->proxies);
}

/* Requests per second that the fleet can serve with full batches, when what was said before is found
 * in a cache but for LOST_SHARE of a prompt. */
static double capacity_per_s(const struct run *r)
{
    const struct sim_agent_model *m = &r->agents.model;
    double speeds = 0;
    for (uint32_t i = 0; i < r->agents.count; i++)
        speeds += r->agents.agents[i].speed;
    double uncached = r->work->uncached_mean + LOST_SHARE * r->work->prompt_mean;
    double seconds =
        uncached / m->prefill_per_s + r->work->answer_mean * (m->base_s / m->batch + m->slope_s);
    return speeds / seconds;
}

static void set_up(struct run *r, const struct sim_row *row, const struct route_weights *weights)
{
    const struct sim_setup *s = r->setup;
    uint64_t seed = (uint64_t)s->seed;
    bool has_affinity = row->policy && row->policy == &route_affinity;
    struct sim_agent_model model = {.prefill_per_s = s->prefill_per_s,
                                    .base_s = s->base_ms / 1e3,
                                    .slope_s = s->slope_ms / 1e3,
                                    .news_s = s->news_s,
                                    .batch = (int)s->batch,
                                    .queue = AGENT_QUEUE};
    sim_calendar_init(&r->calendar);
    sim_requests_init(&r->requests);
    sim_caches_init(&r->caches, r->work, (uint32_t)s->agents, (uint64_t)s->kv_tokens, has_affinity);
    r->agents = (struct sim_agents){.caches = &r->caches,
                                    .requests = &r->requests,
                                    .calendar = &r->calendar,
                                    .event_kind = EVENT_STEP,
                                    .on_first_token = on_first_token,
                                    .on_finished = on_finished,
                                    .arg = r};
    sim_agents_init(&r->agents, &model, (uint32_t)s->agents);
    plan_faults(r);
    r->proxies = (struct sim_proxies){.picker = row->picker,
                                      .policy = row->policy,
                                      .has_affinity = has_affinity,
                                      .agents = &r->agents,
                                      .caches = &r->caches,
                                      .requests = &r->requests,
                                      .calendar = &r->calendar,
                                      .work = r->work,
                                      .result = r->result,
                                      .arrive_kind = EVENT_ARRIVE,
                                      .tick_kind = EVENT_TICK,
                                      .on_failed = on_failed,
                                      .arg = r};
    sim_proxies_init(&r->proxies, (uint32_t)s->proxies, seed, (uint64_t)s->prefix_entries);
    for (uint32_t i = 0; weights && i < r->proxies.count; i++)
        r->proxies.proxies[i].state.weights = *weights;
    rng_init(&r->rng, seed + 77);
    r->sessions_per_s = capacity_per_s(r) / r->work->turns_mean;
    sim_calendar_add(&r->calendar, 0, EVENT_SESSION, 0, 0);
    sim_calendar_add(&r->calendar, WINDOW_US, EVENT_WINDOW, 0, 0);
    for (uint32_t i = 0; i < r->agents.count; i++)
        sim_calendar_add(&r->calendar, hash_mix(seed + i) % REPORT_US, EVENT_REPORT, i, 0);
}

static void shut(struct run *r)
{
    sim_proxies_deinit(&r->proxies);
    sim_agents_deinit(&r->agents);
    sim_caches_deinit(&r->caches);
    sim_requests_deinit(&r->requests);
    sim_calendar_deinit(&r->calendar);
    free(r->faults);
    sim_workload_reset(r->work);
}

void sim_run(const struct sim_setup *setup, const struct sim_scenario *scenario,
             const struct sim_row *row, const struct route_weights *weights,
             struct sim_workload *work, struct sim_result *out)
{
    uint64_t begun_ns = clock_ns();
    *out = (struct sim_result){.scenario = scenario->name, .policy = row->name};
    struct run r = {.setup = setup, .scenario = scenario, .work = work, .result = out};
    set_up(&r, row, weights);
    struct sim_event e;
    while (!(is_closing(&r) && r.requests.live == 0) && sim_calendar_take(&r.calendar, &e))
        on_event(&r, &e);
    check_end(&r);
    out->simulated_s = (double)r.calendar.now_us / 1e6;
    shut(&r);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    out->memory_bytes = (uint64_t)usage.ru_maxrss * 1024;
    out->wall_s = (double)(clock_ns() - begun_ns) / 1e9;
}
