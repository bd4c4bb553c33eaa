#include "tests/sim/sim_hearing.h"

#include "shared/base/check.h"
#include "shared/net/agent_record.h"

#include <stdlib.h>

#define REFUSED_GONE 2
#define SWEEP_US     250000ull
#define PROBE_US     1000000ull
#define MODEL_NAME   "m"

static uint64_t now_ms(const struct sim_proxies *p)
{
    return p->calendar->now_us / 1000 + 1; // 0 means never
}

/* ---- the fleet ---- */

static struct fleet_agent *make_facts(const struct sim_proxies *p, uint32_t agent,
                                      struct fleet_cell *cell, enum fleet_state state)
{
    static const char *const models[] = {MODEL_NAME};
    char id[24];
    snprintf(id, sizeof id, "agent-%04u", agent);
    struct fleet_agent facts = {
        .id = id,
        .url = "http://127.0.0.1:1",
        .host = "127.0.0.1",
        .path = "",
        .port = 1,
        .state = state,
        .capacity = p->agents->model.batch,
        .context_len = SIM_CONTEXT_TOKENS + 8192,
        .cell = cell,
        .model_count = 1,
    };
    return fleet_agent_create(&facts, models);
}

static void publish(struct sim_proxies *p, struct sim_proxy *x)
{
    struct fleet_agent *agents[FLEET_AGENTS_MAX];
    int count = 0;
    for (uint32_t i = 0; i < p->agents->count; i++) {
        if (x->known[i].facts) agents[count++] = fleet_agent_ref(x->known[i].facts);
    }
    fleet_unref(x->fleet);
    x->fleet = fleet_create_take(agents, count);
    x->model = fleet_find_model(x->fleet, str_of(MODEL_NAME));
}

static void set_state(struct sim_proxies *p, struct sim_proxy *x, uint32_t agent,
                      enum fleet_state state)
{
    struct sim_acquaintance *k = &x->known[agent];
    fleet_agent_unref(k->facts);
    k->facts = make_facts(p, agent, k->cell, state);
}

void sim_hearing_init(struct sim_proxies *p, struct sim_proxy *x)
{
    x->known = xcalloc(p->agents->count, sizeof *x->known);
    for (uint32_t i = 0; i < p->agents->count; i++) {
        x->known[i].cell = fleet_cell_create();
        x->known[i].cell->column = (int)i;
        set_state(p, x, i, FLEET_UP);
    }
    publish(p, x);
}

void sim_hearing_deinit(struct sim_proxies *p, struct sim_proxy *x)
{
    fleet_unref(x->fleet);
    for (uint32_t i = 0; i < p->agents->count; i++) {
        fleet_agent_unref(x->known[i].facts);
        fleet_cell_unref(x->known[i].cell);
    }
    free(x->known);
}

static void lose(struct sim_proxies *p, struct sim_proxy *x, uint32_t agent)
{
    struct sim_acquaintance *k = &x->known[agent];
    if (!k->facts) return;
    fleet_agent_unref(k->facts);
    k->facts = NULL;
    fleet_cell_forget_report(k->cell);
    if (x->prefixes) prefix_table_clear_column(x->prefixes, (int)agent);
    k->version = sim_cache_version(p->caches, agent); // it held nothing when it went
    publish(p, x);
}

void sim_hearing_note_refused(struct sim_proxies *p, struct sim_proxy *x, uint32_t agent)
{
    if (++x->known[agent].refused >= REFUSED_GONE) lose(p, x, agent);
}

/* ---- reports ---- */

static void fetch_prefixes(struct sim_proxies *p, struct sim_proxy *x, uint32_t agent)
{
    struct sim_acquaintance *k = &x->known[agent];
    const struct sim_cache_agent *a = &p->caches->agents[agent];
    uint64_t to = sim_cache_version(p->caches, agent);
    CHECK(k->version >= a->log_first);
    for (uint64_t v = k->version; v < to; v++) {
        const struct sim_cache_change *c = &a->log[v - a->log_first];
        if (c->tokens) {
            prefix_table_add(x->prefixes, c->hash, (int)agent, c->tokens);
        } else {
            prefix_table_remove(x->prefixes, c->hash, (int)agent);
        }
    }
    k->version = to;
    k->fetch_us = p->calendar->now_us + SIM_FETCH_US;
    uint64_t oldest = to;
    for (uint32_t i = 0; i < p->count; i++) {
        if (p->proxies[i].known[agent].version < oldest)
            oldest = p->proxies[i].known[agent].version;
    }
    sim_cache_trim(p->caches, agent, oldest);
}

static void hear(struct sim_proxies *p, struct sim_proxy *x, const struct sim_report *r)
{
    static struct agent_load load; // large, and its lists stay empty
    struct sim_acquaintance *k = &x->known[r->agent];
    const struct sim_agent_peer *peer = &r->peers[x - p->proxies];
    load.running = r->load.running;
    load.waiting = r->load.waiting;
    load.prefill_tokens_waiting = r->load.left;
    load.kv_used_share = r->load.kv_share;
    load.prefill_tokens_per_s = r->load.prefill_per_s;
    load.inter_token_s = r->load.step_s;
    load.inter_token_slope_s = r->load.slope_s;
    load.prefix_version = r->version;
    struct fleet_own_report own = {.high = peer->high,
                                   .gaps = peer->gaps,
                                   .gap_count = peer->gap_count,
                                   .active = peer->active};
    k->heard_us = p->calendar->now_us;
    if (!k->facts || k->facts->state != FLEET_UP) {
        bool is_new = !k->facts;
        set_state(p, x, r->agent, FLEET_UP);
        if (is_new) fleet_cell_set_birth(k->cell, now_ms(p));
        publish(p, x);
    }
    k->refused = 0;
    fleet_cell_report(k->cell, &load, &own, now_ms(p));
    if (x->prefixes && r->version > k->version && p->calendar->now_us >= k->fetch_us)
        fetch_prefixes(p, x, r->agent);
}

static void sweep_leases(struct sim_proxies *p, struct sim_proxy *x)
{
    uint64_t now = p->calendar->now_us;
    bool changed = false;
    if (now < x->swept_us + SWEEP_US) return;
    x->swept_us = now;
    for (uint32_t i = 0; i < p->agents->count; i++) {
        struct sim_acquaintance *k = &x->known[i];
        if (!k->facts || now < k->heard_us + SIM_LEASE_US) continue;
        if (k->facts->state == FLEET_UP) {
            set_state(p, x, i, FLEET_SUSPECT);
            changed = true;
        } else if (now > k->heard_us + SIM_LEASE_US + PROBE_US &&
                   p->agents->agents[i].health == SIM_AGENT_DOWN) {
            lose(p, x, i); // the probe found nobody
        }
    }
    if (changed) publish(p, x);
}

void sim_hearing_catch_up(struct sim_proxies *p, struct sim_proxy *x)
{
    uint64_t now = p->calendar->now_us;
    while (x->report < p->report_count) {
        const struct sim_report *r = &p->reports[x->report % SIM_REPORTS];
        if (r->time_us + x->delay_us > now) break;
        x->report++;
        hear(p, x, r);
    }
    sweep_leases(p, x);
}
