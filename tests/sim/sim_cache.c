#include "tests/sim/sim_cache.h"

#include "shared/base/check.h"

#include <stdlib.h>
#include <string.h>

#define LOG_MAX (1u << 20) // changes of an agent that no proxy has fetched yet

void sim_caches_init(struct sim_caches *c, struct sim_workload *work, uint32_t agents,
                     uint64_t capacity, bool has_log)
{
    *c = (struct sim_caches){.work = work,
                             .agent_count = agents,
                             .capacity = capacity,
                             .has_log = has_log,
                             .used = 1,
                             .entry_capacity = 1024};
    c->entries = xcalloc(c->entry_capacity, sizeof *c->entries);
    c->systems = xcalloc((size_t)agents * work->system_count, sizeof *c->systems);
    c->agents = xcalloc(agents, sizeof *c->agents);
}

void sim_caches_deinit(struct sim_caches *c)
{
    for (uint32_t a = 0; a < c->agent_count; a++)
        free(c->agents[a].log);
    free(c->entries);
    free(c->systems);
    free(c->agents);
    *c = (struct sim_caches){0};
}

/* ---- entries ---- */

static uint32_t entry_take(struct sim_caches *c)
{
    uint32_t slot = c->free_head;
    if (slot) {
        c->free_head = c->entries[slot].next;
        return slot;
    }
    if (c->used == c->entry_capacity) {
        c->entry_capacity *= 2;
        c->entries = xrealloc_array(c->entries, c->entry_capacity, sizeof *c->entries);
    }
    return c->used++;
}

static void entry_give(struct sim_caches *c, uint32_t slot)
{
    c->entries[slot] = (struct sim_cache_entry){.next = c->free_head};
    c->free_head = slot;
}

static uint32_t *system_slot(const struct sim_caches *c, uint32_t agent, uint32_t system)
{
    return &c->systems[(size_t)system * c->agent_count + agent];
}

static uint32_t find_session(const struct sim_caches *c, uint32_t agent, uint32_t session)
{
    uint32_t slot = c->work->sessions[session].cache_head;
    while (slot && c->entries[slot].agent != agent)
        slot = c->entries[slot].next;
    return slot;
}

/* ---- LRU ---- */

static void lru_remove(struct sim_caches *c, uint32_t slot)
{
    struct sim_cache_entry *e = &c->entries[slot];
    struct sim_cache_agent *a = &c->agents[e->agent];
    if (!e->is_listed) return;
    if (e->newer) {
        c->entries[e->newer].older = e->older;
    } else {
        a->newest = e->older;
    }
    if (e->older) {
        c->entries[e->older].newer = e->newer;
    } else {
        a->oldest = e->newer;
    }
    e->newer = e->older = 0;
    e->is_listed = false;
}

static void lru_add(struct sim_caches *c, uint32_t slot, bool as_newest)
{
    struct sim_cache_entry *e = &c->entries[slot];
    struct sim_cache_agent *a = &c->agents[e->agent];
    CHECK(!e->is_listed && e->held == 0 && e->children == 0);
    e->is_listed = true;
    uint32_t other = as_newest ? a->newest : a->oldest;
    e->older = as_newest ? other : 0;
    e->newer = as_newest ? 0 : other;
    if (!other) {
        a->newest = a->oldest = slot;
    } else if (as_newest) {
        c->entries[other].newer = a->newest = slot;
    } else {
        c->entries[other].older = a->oldest = slot;
    }
}

/* ---- log ---- */

static void log_add(struct sim_caches *c, uint32_t agent, uint64_t hash, uint32_t tokens)
{
    struct sim_cache_agent *a = &c->agents[agent];
    if (!c->has_log) return;
    if (a->log_count == a->log_capacity) {
        a->log_capacity = a->log_capacity ? 2 * a->log_capacity : 64;
        CHECK(a->log_capacity <= LOG_MAX);
        a->log = xrealloc_array(a->log, a->log_capacity, sizeof *a->log);
    }
    a->log[a->log_count++] = (struct sim_cache_change){hash, tokens};
}

/* Links from..to of the chain, without the system prompt's. */
static void log_links(struct sim_caches *c, const struct sim_cache_entry *e, int from, int to,
                      bool is_live)
{
    struct sim_link links[SIM_CHAIN_MAX];
    if (!c->has_log || from >= to) return;
    int count = sim_workload_chain(c->work, e->owner, e->turn, links);
    CHECK(to <= count);
    for (int i = from > 1 ? from : 1; i < to; i++)
        log_add(c, e->agent, links[i].hash, is_live ? links[i].tokens : 0);
}

uint64_t sim_cache_version(const struct sim_caches *c, uint32_t agent)
{
    return c->agents[agent].log_first + c->agents[agent].log_count;
}

void sim_cache_trim(struct sim_caches *c, uint32_t agent, uint64_t version)
{
    struct sim_cache_agent *a = &c->agents[agent];
    if (version <= a->log_first) return;
    uint64_t drop = version - a->log_first;
    CHECK(drop <= a->log_count);
    a->log_count -= (uint32_t)drop;
    a->log_first = version;
    memmove(a->log, a->log + drop, a->log_count * sizeof *a->log);
}

/* ---- removal ---- */

static void remove_entry(struct sim_caches *c, uint32_t slot)
{
    struct sim_cache_entry *e = &c->entries[slot];
    struct sim_cache_agent *a = &c->agents[e->agent];
    CHECK(e->held == 0 && e->children == 0);
    lru_remove(c, slot);
    a->idle -= e->size;
    if (e->is_system) {
        *system_slot(c, e->agent, e->owner) = 0;
        if (e->ready) log_add(c, e->agent, sim_workload_system_hash(c->work, e->owner), 0);
        entry_give(c, slot);
        return;
    }
    log_links(c, e, 0, e->links, false);
    struct sim_session *s = &c->work->sessions[e->owner];
    uint32_t *link = &s->cache_head;
    while (*link != slot)
        link = &c->entries[*link].next;
    *link = e->next;
    uint32_t system = *system_slot(c, e->agent, s->system);
    struct sim_cache_entry *parent = &c->entries[system];
    CHECK(system && parent->children > 0);
    /* Leaves go first; what they stood on was used as long ago as the last of them. */
    if (--parent->children == 0 && parent->held == 0) lru_add(c, system, false);
    entry_give(c, slot);
}

static bool make_room(struct sim_caches *c, uint32_t agent, uint64_t tokens)
{
    struct sim_cache_agent *a = &c->agents[agent];
    if (a->held + tokens > c->capacity) return false;
    while (a->held + a->idle + tokens > c->capacity) {
        CHECK(a->oldest);
        remove_entry(c, a->oldest);
    }
    return true;
}

void sim_cache_clear(struct sim_caches *c, uint32_t agent)
{
    struct sim_cache_agent *a = &c->agents[agent];
    CHECK(a->held == 0);
    while (a->oldest)
        remove_entry(c, a->oldest);
    CHECK(a->idle == 0);
}

/* ---- use ---- */

uint32_t sim_cache_find(const struct sim_caches *c, uint32_t agent, uint32_t session,
                        uint32_t prompt)
{
    uint32_t slot = find_session(c, agent, session), ready = 0;
    if (slot) ready = c->entries[slot].ready;
    if (!ready) {
        uint32_t system = *system_slot(c, agent, c->work->sessions[session].system);
        if (system) ready = c->entries[system].ready;
    }
    if (ready >= prompt) ready = prompt - 1;
    return ready / SIM_BLOCK_TOKENS * SIM_BLOCK_TOKENS;
}

static void hold_entry(struct sim_caches *c, uint32_t slot)
{
    struct sim_cache_entry *e = &c->entries[slot];
    if (e->held++ > 0) return;
    lru_remove(c, slot);
    c->agents[e->agent].idle -= e->size;
    c->agents[e->agent].held += e->size;
}

static void let_go(struct sim_caches *c, uint32_t slot)
{
    struct sim_cache_entry *e = &c->entries[slot];
    CHECK(e->held > 0);
    if (--e->held > 0) return;
    c->agents[e->agent].held -= e->size;
    c->agents[e->agent].idle += e->size;
    if (e->children == 0) lru_add(c, slot, true);
}

static uint32_t hold_system(struct sim_caches *c, uint32_t agent, uint32_t system)
{
    uint32_t *slot = system_slot(c, agent, system);
    if (!*slot) {
        *slot = entry_take(c);
        c->entries[*slot] = (struct sim_cache_entry){.owner = system,
                                                     .size = c->work->system_tokens[system],
                                                     .agent = (uint16_t)agent,
                                                     .held = 1,
                                                     .is_system = true};
        c->agents[agent].held += c->entries[*slot].size;
    } else {
        hold_entry(c, *slot);
    }
    return *slot;
}

bool sim_cache_hold(struct sim_caches *c, uint32_t agent, uint32_t session, uint32_t total)
{
    struct sim_session *s = &c->work->sessions[session];
    uint32_t system_tokens = c->work->system_tokens[s->system];
    uint32_t own = total > system_tokens ? total - system_tokens : 0;
    uint32_t slot = find_session(c, agent, session), system = *system_slot(c, agent, s->system);
    /* What is there already must not be evicted to make room for itself: held first. */
    uint64_t need = own + (system ? 0 : system_tokens);
    if (slot) {
        CHECK(c->entries[slot].held == 0);
        need = own > c->entries[slot].size ? own - c->entries[slot].size : 0;
        hold_entry(c, slot);
    }
    if (system) hold_entry(c, system);
    if (!make_room(c, agent, need)) {
        if (system) let_go(c, system);
        if (slot) let_go(c, slot);
        return false;
    }
    if (!system) system = hold_system(c, agent, s->system);
    if (!slot) {
        slot = entry_take(c);
        c->entries[slot] = (struct sim_cache_entry){
            .owner = session, .next = s->cache_head, .agent = (uint16_t)agent, .held = 1};
        s->cache_head = slot;
        c->entries[system].children++;
    }
    struct sim_cache_entry *e = &c->entries[slot];
    if (own > e->size) {
        c->agents[agent].held += own - e->size;
        e->size = own;
    }
    return true;
}

void sim_cache_publish(struct sim_caches *c, uint32_t agent, uint32_t session, uint32_t turn,
                       uint32_t prompt)
{
    struct sim_session *s = &c->work->sessions[session];
    uint32_t slot = find_session(c, agent, session), system = *system_slot(c, agent, s->system);
    CHECK(slot && system && c->entries[slot].held && c->entries[system].held);
    struct sim_cache_entry *e = &c->entries[slot];
    if (c->entries[system].ready == 0) {
        c->entries[system].ready = c->entries[system].size;
        log_add(c, agent, sim_workload_system_hash(c->work, s->system), c->entries[system].size);
    }
    e->ready = prompt > e->ready ? prompt : e->ready;
    e->turn = (uint16_t)turn;
    if (!c->has_log) return;
    struct sim_link links[SIM_CHAIN_MAX];
    int count = sim_workload_chain(c->work, session, turn, links);
    log_links(c, e, e->links, count, true);
    e->links = (uint16_t)count;
}

void sim_cache_release(struct sim_caches *c, uint32_t agent, uint32_t session, uint32_t total)
{
    struct sim_session *s = &c->work->sessions[session];
    uint32_t slot = find_session(c, agent, session), system = *system_slot(c, agent, s->system);
    CHECK(slot && system);
    struct sim_cache_entry *e = &c->entries[slot];
    if (total > e->ready) e->ready = total;
    let_go(c, slot);
    let_go(c, system);
    if (c->entries[slot].ready == 0) remove_entry(c, slot); // broke off before anything was there
    if (c->entries[system].ready == 0 && c->entries[system].held == 0 &&
        c->entries[system].children == 0)
        remove_entry(c, system);
}

double sim_cache_used_share(const struct sim_caches *c, uint32_t agent)
{
    return (double)c->agents[agent].held / (double)c->capacity;
}

void sim_cache_check(const struct sim_caches *c, uint32_t agent)
{
    const struct sim_cache_agent *a = &c->agents[agent];
    uint64_t listed = 0, held = 0, idle = 0;
    uint32_t last = 0;
    for (uint32_t slot = a->newest; slot; slot = c->entries[slot].older) {
        const struct sim_cache_entry *e = &c->entries[slot];
        CHECK(e->is_listed && e->agent == agent && e->newer == last);
        CHECK(e->held == 0 && e->children == 0);
        last = slot;
        listed++;
    }
    CHECK(a->oldest == last);
    for (uint32_t slot = 1; slot < c->used; slot++) {
        const struct sim_cache_entry *e = &c->entries[slot];
        if (e->agent != agent || e->size == 0) continue;
        *(e->held ? &held : &idle) += e->size;
        if (e->is_listed) listed--;
    }
    CHECK(listed == 0 && held == a->held && idle == a->idle && held + idle <= c->capacity);
}
