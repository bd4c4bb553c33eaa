#include "tests/sim/sim_agent.h"

#include "shared/base/check.h"

#include <math.h>
#include <stdlib.h>

#define CHUNK_MAX   8192 // prompt tokens in a step
#define CHUNK_MIN   4
#define CHUNK_SHARE 0.6 // of a step without prompts that a chunk beside answers may add
#define CROWD       4.0 // prompts for each answer: beyond it the chunk grows
#define MIXED_RUN   24  // steps with prompts, then one without
#define ALIKE_MAX   8   // steps of a run that are measured
#define US          1e6

/* Beside answers, a chunk of prompt takes its own time and a step. */
static void set_bound(struct sim_agents *all, uint32_t agent)
{
    const struct sim_agent *a = &all->agents[agent];
    double token_s = 1 / (all->model.prefill_per_s * a->speed), crowd = 1;
    double answers = (double)a->decoding.count,
           prompts = a->prefilling.count + a->waiting.count + 1;
    if (answers > 0) {
        if (prompts > CROWD * answers) crowd = prompts / (CROWD * answers);
        token_s *= 1 + 1 / (CHUNK_SHARE * crowd);
    }
    double left = (double)a->left - a->chunk_prefill;
    all->bound_left[agent] = left > 0 ? left : 0;
    all->bound_s[agent] = token_s;
}

void sim_agents_init(struct sim_agents *a, const struct sim_agent_model *model, uint32_t count)
{
    CHECK(model->batch > 0 && model->batch <= SIM_BATCH_MAX);
    a->model = *model;
    a->count = count;
    a->agents = xcalloc(count, sizeof *a->agents);
    a->peers = xcalloc((size_t)count * SIM_PROXIES_MAX, sizeof *a->peers);
    a->bound_left = xcalloc(count, sizeof *a->bound_left);
    a->bound_s = xcalloc(count, sizeof *a->bound_s);
    a->decoding_keys = xcalloc((size_t)count * (size_t)model->batch, sizeof *a->decoding_keys);
    for (uint32_t i = 0; i < count; i++) {
        a->agents[i].speed = 1;
        a->agents[i].decoding.keys = a->decoding_keys + (size_t)i * (size_t)model->batch;
        set_bound(a, i);
    }
}

void sim_agents_deinit(struct sim_agents *a)
{
    free(a->agents);
    free(a->peers);
    free(a->bound_left);
    free(a->bound_s);
    free(a->decoding_keys);
}

int sim_agent_running(const struct sim_agent *a)
{
    return (int)a->decoding.count + (int)a->prefilling.count;
}

static double decode_step_s(const struct sim_agents *all, const struct sim_agent *a, double answers)
{
    return (all->model.base_s + all->model.slope_s * answers) / a->speed;
}

/* Prompt tokens in a step beside `answers`, for `prompts` in all. */
static double chunk_tokens(const struct sim_agents *all, double answers, double prompts)
{
    const struct sim_agent_model *m = &all->model;
    if (answers == 0) return CHUNK_MAX;
    double tokens = CHUNK_SHARE * (m->base_s + m->slope_s * answers) * m->prefill_per_s;
    double crowd = prompts / (CROWD * answers);
    if (crowd > 1) tokens *= crowd;
    return tokens > CHUNK_MAX ? CHUNK_MAX : tokens < CHUNK_MIN ? CHUNK_MIN : floor(tokens);
}

/* ---- counters of proxies ---- */

static void note_accepted(struct sim_agent_peer *p, uint64_t counter)
{
    if (counter <= p->high) {
        for (int i = 0; i < p->gap_count; i++) {
            if (p->gaps[i] != counter) continue;
            memmove(&p->gaps[i], &p->gaps[i + 1], (size_t)(--p->gap_count - i) * sizeof *p->gaps);
            return;
        }
        return;
    }
    /* Only the newest are kept: what is older counts as accepted. */
    uint64_t first = p->high + 1;
    if (counter - first > SIM_GAPS_MAX) first = counter - SIM_GAPS_MAX;
    for (; first < counter; first++) {
        if (p->gap_count == SIM_GAPS_MAX)
            memmove(&p->gaps[0], &p->gaps[1], (size_t)--p->gap_count * sizeof *p->gaps);
        p->gaps[p->gap_count++] = first;
    }
    p->high = counter;
}

/* ---- steps ---- */

static void schedule(struct sim_agents *all, uint32_t agent)
{
    struct sim_agent *a = &all->agents[agent];
    double end = ceil(a->step_begin_us + a->step_us * a->step_count);
    uint64_t at = (uint64_t)end;
    if (at < all->calendar->now_us) at = all->calendar->now_us; // rounding of a step that is over
    sim_calendar_add(all->calendar, at, all->event_kind, agent, ++a->stamp);
}

static void admit(struct sim_agents *all, uint32_t agent)
{
    struct sim_agent *a = &all->agents[agent];
    const struct sim_agent_model *m = &all->model;
    while (a->waiting.first && sim_agent_running(a) < m->batch) {
        uint32_t slot = a->waiting.first;
        struct sim_request *q = sim_request_at(all->requests, slot);
        if (!sim_cache_hold(all->caches, agent, q->session, q->prompt + q->answer)) {
            CHECK(sim_agent_running(a) > 0); // one alone always fits
            return;
        }
        q->cached = sim_cache_find(all->caches, agent, q->session, q->prompt);
        a->left += (int64_t)(q->prompt - q->cached) - q->left;
        q->left = q->prompt - q->cached;
        q->state = SIM_REQUEST_PREFILLING;
        a->work_s +=
            (q->left / m->prefill_per_s + q->answer * (m->base_s / m->batch + m->slope_s)) /
            a->speed;
        sim_fifo_pop(&a->waiting, all->requests);
        sim_fifo_push(&a->prefilling, all->requests, slot);
    }
}

/* The next step, or as many as are alike. */
static void plan(struct sim_agents *all, uint32_t agent)
{
    struct sim_agent *a = &all->agents[agent];
    admit(all, agent);
    double answers = (double)a->decoding.count, prompts = a->prefilling.count;
    bool takes_prompts = prompts > 0 && (answers == 0 || a->mixed < MIXED_RUN);
    a->chunk_prefill = 0;
    a->step_count = 0;
    a->step_us = decode_step_s(all, a, answers) * US;
    if (takes_prompts) {
        double budget = chunk_tokens(all, answers, prompts);
        for (uint32_t s = a->prefilling.first; s && a->chunk_prefill < budget;) {
            const struct sim_request *q = sim_request_at(all->requests, s);
            a->chunk_prefill = fmin(budget, a->chunk_prefill + q->left);
            s = q->next;
        }
        a->step_us += a->chunk_prefill / (all->model.prefill_per_s * a->speed) * US;
        a->step_count = 1;
        a->mixed++;
    } else if (answers > 0) {
        uint64_t last = a->decoding.keys[0] >> 32;
        CHECK(last > a->steps);
        a->step_count = prompts > 0 ? 1 : (uint32_t)(last - a->steps);
        a->mixed = 0;
    } else {
        a->stamp++;
        set_bound(all, agent);
        return;
    }
    set_bound(all, agent);
    schedule(all, agent);
}

static void finish(struct sim_agents *all, uint32_t agent, uint32_t slot)
{
    struct sim_request *q = sim_request_at(all->requests, slot);
    sim_cache_release(all->caches, agent, q->session, q->prompt + q->answer);
    struct sim_agent_peer *peer = sim_agent_peer_of(all, agent, q->proxy);
    CHECK(peer->active > 0);
    peer->active--;
    all->on_finished(all->arg, slot);
}

static void start_answer(struct sim_agents *all, uint32_t agent, uint32_t slot)
{
    struct sim_agent *a = &all->agents[agent];
    struct sim_request *q = sim_request_at(all->requests, slot);
    sim_cache_publish(all->caches, agent, q->session, q->turn, q->prompt);
    q->state = SIM_REQUEST_DECODING;
    all->on_first_token(all->arg, slot);
    if (q->answer == 1) {
        finish(all, agent, slot);
        return;
    }
    CHECK(a->steps + q->answer < UINT32_MAX);
    min_heap_push(&a->decoding, (a->steps + q->answer - 1) << 32 | slot);
}

/* By the engine's own code. A long run of steps that are all alike says no more than a short one. */
static void measure(struct sim_agent *a)
{
    uint32_t count = a->step_count < ALIKE_MAX ? a->step_count : ALIKE_MAX;
    for (uint32_t i = 0; i < count; i++)
        step_cost_measure(&a->cost, (int)a->decoding.count, (int)a->chunk_prefill, a->step_us / US);
}

void sim_agent_advance(struct sim_agents *all, uint32_t agent, uint32_t stamp)
{
    struct sim_agent *a = &all->agents[agent];
    if (stamp != a->stamp || a->step_count == 0) return;
    measure(a);
    a->steps += a->step_count;
    a->step_begin_us += a->step_us * a->step_count;
    a->step_count = 0;
    uint32_t budget = (uint32_t)a->chunk_prefill;
    while (budget > 0) {
        struct sim_request *q = sim_request_at(all->requests, a->prefilling.first);
        uint32_t tokens = q->left < budget ? q->left : budget;
        q->left -= tokens;
        budget -= tokens;
        a->left -= tokens;
        if (q->left == 0) start_answer(all, agent, sim_fifo_pop(&a->prefilling, all->requests));
    }
    while (a->decoding.count > 0 && a->decoding.keys[0] >> 32 <= a->steps)
        finish(all, agent, (uint32_t)min_heap_pop(&a->decoding));
    plan(all, agent);
}

/* A request has come in the middle of several steps: the present one ends first. */
static void cut(struct sim_agents *all, uint32_t agent)
{
    struct sim_agent *a = &all->agents[agent];
    if (a->step_count <= 1 || sim_agent_running(a) >= all->model.batch) return;
    double done = floor(((double)all->calendar->now_us - a->step_begin_us) / a->step_us);
    if (done < 0) done = 0;
    if (done + 1 >= a->step_count) return;
    a->steps += (uint64_t)done;
    a->step_begin_us += done * a->step_us;
    a->step_count = 1;
    schedule(all, agent);
}

/* ---- requests ---- */

enum sim_agent_verdict sim_agent_accept(struct sim_agents *all, uint32_t slot)
{
    struct sim_request *q = sim_request_at(all->requests, slot);
    struct sim_agent *a = &all->agents[q->agent];
    a->dispatches++;
    if (a->health == SIM_AGENT_DOWN) return SIM_AGENT_REFUSED;
    if (a->health == SIM_AGENT_SHUT) return SIM_AGENT_CLOSED;
    if (a->waiting.count >= (uint32_t)all->model.queue) return SIM_AGENT_BUSY;
    struct sim_agent_peer *peer = sim_agent_peer_of(all, q->agent, q->proxy);
    note_accepted(peer, q->counter);
    if (a->health == SIM_AGENT_BROKEN) return SIM_AGENT_ERROR;
    peer->active++;
    q->left = q->prompt - sim_cache_find(all->caches, q->agent, q->session, q->prompt);
    a->left += q->left;
    q->state = SIM_REQUEST_WAITING;
    sim_fifo_push(&a->waiting, all->requests, slot);
    if (a->step_count == 0) {
        a->step_begin_us = (double)all->calendar->now_us;
        plan(all, q->agent);
    } else {
        cut(all, q->agent);
        set_bound(all, q->agent);
    }
    return SIM_AGENT_TAKEN;
}

void sim_agent_kill(struct sim_agents *all, uint32_t agent, struct sim_fifo *lost)
{
    struct sim_agent *a = &all->agents[agent];
    double now = (double)all->calendar->now_us;
    if (a->step_count > 1) {
        double done = floor((now - a->step_begin_us) / a->step_us);
        a->steps += done < 0 ? 0 : done >= a->step_count ? a->step_count - 1 : (uint64_t)done;
    }
    for (uint32_t slot; (slot = sim_fifo_pop(&a->prefilling, all->requests)) != 0;) {
        sim_cache_release(all->caches, agent, sim_request_at(all->requests, slot)->session, 0);
        sim_fifo_push(lost, all->requests, slot);
    }
    while (a->decoding.count > 0) {
        uint64_t key = min_heap_pop(&a->decoding);
        struct sim_request *q = sim_request_at(all->requests, (uint32_t)key);
        uint32_t to_come = (uint32_t)((key >> 32) - a->steps);
        uint32_t sent = q->answer - to_come;
        q->emitted += sent;
        q->prompt += sent;
        q->answer = to_come;
        sim_cache_release(all->caches, agent, q->session, 0);
        sim_fifo_push(lost, all->requests, (uint32_t)key);
    }
    for (uint32_t slot; (slot = sim_fifo_pop(&a->waiting, all->requests)) != 0;)
        sim_fifo_push(lost, all->requests, slot);
    sim_cache_clear(all->caches, agent);
    a->health = SIM_AGENT_DOWN;
    a->left = 0;
    a->steps = 0;
    a->mixed = 0;
    a->step_count = 0;
    a->stamp++;
    a->chunk_prefill = 0;
    memset(sim_agent_peer_of(all, agent, 0), 0, SIM_PROXIES_MAX * sizeof *all->peers);
    set_bound(all, agent);
}

void sim_agent_start(struct sim_agents *all, uint32_t agent)
{
    struct sim_agent *a = &all->agents[agent];
    CHECK(a->health == SIM_AGENT_DOWN);
    a->health = SIM_AGENT_UP;
    a->cost = (struct step_cost){0};
}

/* ---- what others see ---- */

bool sim_agent_has_news(const struct sim_agents *all, uint32_t agent)
{
    const struct sim_agent *a = &all->agents[agent];
    double news_s = all->model.news_s;
    return news_s > 0 && (double)(a->left - a->reported) > news_s * a->cost.prefill_tokens_per_s;
}

struct sim_load sim_agent_load(struct sim_agents *all, uint32_t agent)
{
    struct sim_agent *a = &all->agents[agent];
    a->reported = a->left;
    return (struct sim_load){
        .running = sim_agent_running(a),
        .waiting = (int)a->waiting.count,
        .left = a->left,
        .kv_share = sim_cache_used_share(all->caches, agent),
        .prefill_per_s = a->cost.prefill_tokens_per_s,
        .step_s = a->cost.inter_token_s,
        .slope_s = a->cost.inter_token_slope_s,
    };
}

double sim_agent_forecast(const struct sim_agents *all, uint32_t agent, double uncached)
{
    const struct sim_agent *a = &all->agents[agent];
    const struct sim_agent_model *m = &all->model;
    if (a->health != SIM_AGENT_UP) return INFINITY;
    double now = (double)all->calendar->now_us, rest_us = 0;
    if (a->step_count > 0) {
        double past_us = fmax(0, now - a->step_begin_us);
        rest_us = a->step_us - past_us + floor(past_us / a->step_us) * a->step_us;
        if (a->step_count == 1) rest_us = fmax(0, a->step_begin_us + a->step_us - now);
    }
    double ahead = (double)a->left - a->chunk_prefill;
    if (ahead < 0) ahead = 0;
    double tokens = ahead + uncached;
    double answers = (double)a->decoding.count + a->prefilling.count;
    double chunk = chunk_tokens(all, answers, a->prefilling.count + a->waiting.count + 1);
    double step_s = decode_step_s(all, a, answers), steps = ceil(tokens / chunk);
    if (answers > 0) steps += floor(steps / MIXED_RUN);
    double seconds = rest_us / US + steps * step_s + tokens / (m->prefill_per_s * a->speed);
    int excess = sim_agent_running(a) + (int)a->waiting.count + 1 - m->batch;
    if (excess > 0 && a->decoding.count > 0) {
        double first = (double)((a->decoding.keys[0] >> 32) - a->steps);
        seconds += (first + (excess - 1) * 200.0 / m->batch) * step_s;
    }
    return seconds;
}

void sim_agent_check(const struct sim_agents *all, uint32_t agent)
{
    const struct sim_agent *a = &all->agents[agent];
    const struct sim_fifo *queues[] = {&a->waiting, &a->prefilling};
    int64_t left = 0;
    int active = (int)a->decoding.count;
    for (int i = 0; i < 2; i++) {
        uint32_t count = 0;
        for (uint32_t s = queues[i]->first; s; s = sim_request_at(all->requests, s)->next) {
            left += sim_request_at(all->requests, s)->left;
            count++;
        }
        CHECK(count == queues[i]->count);
        active += (int)count;
    }
    CHECK(left == a->left && sim_agent_running(a) <= all->model.batch);
    for (int p = 0; p < SIM_PROXIES_MAX; p++)
        active -= sim_agent_peer_of(all, agent, (uint32_t)p)->active;
    CHECK(active == 0);
}
