#include "proxy/ledger.h"

#include "shared/base/rng.h"
#include "tests/test.h"

static void test_one_entry_one_release(void)
{
    struct ledger l;
    ledger_init(&l);
    struct fleet_cell *c = fleet_cell_create();
    struct ledger_entry e = {.cell = NULL};
    ledger_release(&l, &e, LEDGER_SERVED, 0); // never taken: nothing
    ledger_take(&l, &e, c, 1000000000);
    ledger_check(&l);
    EXPECT_INT(atomic_load(&c->in_flight), 1);
    EXPECT_INT(c->peak, 1);
    ledger_release(&l, &e, LEDGER_SERVED, 3500000000);
    ledger_release(&l, &e, LEDGER_FAILED, 4000000000); // the second does nothing
    ledger_check(&l);
    EXPECT_INT(atomic_load(&c->in_flight), 0);
    EXPECT_INT(l.count, 0);
    EXPECT_INT(c->latency_count, 1);
    EXPECT(c->latency_s[0] == 2.5);
    EXPECT_INT(atomic_load(&c->failed_total), 0);
    fleet_cell_unref(c);
}

static void test_outcomes(void)
{
    struct ledger l;
    ledger_init(&l);
    struct fleet_cell *c = fleet_cell_create();
    struct ledger_entry e = {.cell = NULL};
    ledger_take(&l, &e, c, 0);
    ledger_release(&l, &e, LEDGER_FAILED, 1);
    ledger_take(&l, &e, c, 2);
    ledger_release(&l, &e, LEDGER_ABANDONED, 3);
    EXPECT_INT(atomic_load(&c->failed_total), 1);
    EXPECT_INT(atomic_load(&c->dispatched_total), 2);
    EXPECT_INT(c->latency_count, 0); // a failure that came fast is no good latency
    fleet_cell_unref(c);
}

/* The agent may be forgotten while its requests still run. */
static void test_entry_keeps_the_cell(void)
{
    struct ledger l;
    ledger_init(&l);
    struct fleet_cell *c = fleet_cell_create();
    struct ledger_entry e = {.cell = NULL};
    ledger_take(&l, &e, c, 0);
    fleet_cell_unref(c);
    EXPECT_INT(atomic_load(&e.cell->in_flight), 1);
    ledger_release(&l, &e, LEDGER_ABANDONED, 0);
    EXPECT(e.cell == NULL);
}

static void test_random_history_ends_at_zero(void)
{
    enum { ENTRIES = 64, CELLS = 5 };
    struct ledger l;
    struct rng rng;
    ledger_init(&l);
    rng_init(&rng, 9);
    struct fleet_cell *cells[CELLS];
    struct ledger_entry entries[ENTRIES] = {{.cell = NULL}};
    for (int i = 0; i < CELLS; i++)
        cells[i] = fleet_cell_create();
    for (int round = 0; round < 20000; round++) {
        struct ledger_entry *e = &entries[rng_below(&rng, ENTRIES)];
        if (e->cell) {
            ledger_release(&l, e, (enum ledger_outcome)rng_below(&rng, 3), 0);
        } else {
            ledger_take(&l, e, cells[rng_below(&rng, CELLS)], 0);
        }
        if (round % 100 == 0) ledger_check(&l);
    }
    int sum = 0;
    for (int i = 0; i < CELLS; i++)
        sum += atomic_load(&cells[i]->in_flight);
    EXPECT_INT(sum, l.count);
    for (int i = 0; i < ENTRIES; i++)
        ledger_release(&l, &entries[i], LEDGER_ABANDONED, 0);
    for (int i = 0; i < CELLS; i++) {
        EXPECT_INT(atomic_load(&cells[i]->in_flight), 0);
        fleet_cell_unref(cells[i]);
    }
    EXPECT_INT(l.count, 0);
}

int main(void)
{
    RUN(test_one_entry_one_release);
    RUN(test_outcomes);
    RUN(test_entry_keeps_the_cell);
    RUN(test_random_history_ends_at_zero);
    return TEST_END();
}
