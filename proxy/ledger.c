#include "proxy/ledger.h"

#include "shared/base/check.h"

void ledger_init(struct ledger *l)
{
    list_init(&l->entries);
    l->count = 0;
}

void ledger_take(struct ledger *l, struct ledger_entry *e, struct fleet_cell *cell, uint64_t now_ns)
{
    CHECK(!e->cell);
    e->cell = fleet_cell_ref(cell);
    e->started_ns = now_ns;
    list_push_back(&l->entries, &e->link);
    l->count++;
    int in_flight = atomic_fetch_add(&cell->in_flight, 1) + 1;
    if (in_flight > cell->peak) cell->peak = in_flight;
    atomic_fetch_add_explicit(&cell->dispatched_total, 1, memory_order_relaxed);
}

void ledger_release(struct ledger *l, struct ledger_entry *e, enum ledger_outcome outcome,
                    uint64_t now_ns)
{
    if (!e->cell) return;
    struct fleet_cell *cell = e->cell;
    CHECK(atomic_fetch_sub(&cell->in_flight, 1) > 0);
    if (outcome == LEDGER_SERVED) {
        fleet_cell_add_latency(cell, (double)(now_ns - e->started_ns) / 1e9);
    } else if (outcome == LEDGER_FAILED) {
        atomic_fetch_add_explicit(&cell->failed_total, 1, memory_order_relaxed);
    }
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
        count++;
    }
    CHECK(count == l->count);
}
