#include "proxy/ledger.h"

#include "shared/base/check.h"
#include "shared/base/hash.h"

#define NS_PER_MS 1000000u

void ledger_init(struct ledger *l)
{
    list_init(&l->entries);
    l->count = 0;
}

void ledger_take(struct ledger *l, struct ledger_entry *e, struct fleet_cell *cell, double tokens,
                 bool is_probe, uint64_t now_ns)
{
    CHECK(!e->cell);
    e->cell = fleet_cell_ref(cell);
    e->started_ns = now_ns;
    e->is_probe = is_probe;
    list_push_back(&l->entries, &e->link);
    l->count++;
    fleet_cell_take(cell, &e->dispatch, tokens);
    e->counter = e->dispatch.counter;
}

/* It has proven itself, or is back from the dead: more work comes step by step. */
static void note_success(struct ledger_entry *e, uint64_t now_ms)
{
    bool closed = breaker_success(&e->cell->breaker, e->is_probe, now_ms);
    e->is_probe = false;
    if (closed) fleet_cell_set_birth(e->cell, now_ms);
}

void ledger_note_started(struct ledger_entry *e, uint64_t now_ns)
{
    if (!e->cell || !e->dispatch.is_unstarted) return;
    fleet_cell_note_started(e->cell, &e->dispatch);
    if (e->is_probe) note_success(e, now_ns / NS_PER_MS);
}

static void note_outcome(struct ledger_entry *e, enum ledger_outcome outcome, uint64_t now_ns)
{
    struct fleet_cell *cell = e->cell;
    uint64_t now_ms = now_ns / NS_PER_MS;
    double jitter = (double)(hash_mix(now_ns ^ e->counter) >> 11) * 0x1p-53;
    switch (outcome) {
    case LEDGER_SERVED:
        note_success(e, now_ms);
        fleet_cell_note_outcome(cell, false, now_ms);
        fleet_cell_add_latency(cell, (double)(now_ns - e->started_ns) / 1e9, now_ms);
        return;
    case LEDGER_FAILED:
    case LEDGER_ERRORED:
        (void)breaker_failure(&cell->breaker, e->is_probe, outcome == LEDGER_FAILED, jitter,
                              now_ms);
        fleet_cell_note_outcome(cell, true, now_ms);
        return;
    case LEDGER_ABANDONED:
        breaker_neutral(&cell->breaker, e->is_probe);
        return;
    }
    UNREACHABLE();
}

void ledger_release(struct ledger *l, struct ledger_entry *e, enum ledger_outcome outcome,
                    uint64_t now_ns)
{
    if (!e->cell) return;
    struct fleet_cell *cell = e->cell;
    fleet_cell_release(cell, &e->dispatch);
    note_outcome(e, outcome, now_ns);
    e->is_probe = false;
    list_remove(&e->link);
    l->count--;
    e->cell = NULL;
    fleet_cell_unref(cell);
}

void ledger_check(const struct ledger *l)
{
    int count = 0;
    list_each (e, &l->entries, struct ledger_entry, link) {
        CHECK(e->cell && atomic_load(&e->cell->in_flight) > 0);
        CHECK(e->counter == e->dispatch.counter && e->counter > 0);
        count++;
    }
    CHECK(count == l->count);
}
