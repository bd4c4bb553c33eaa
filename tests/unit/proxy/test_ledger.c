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
    ledger_take(&l, &e, c, 40, false, 1000000000);
    ledger_check(&l);
    EXPECT_INT(e.counter, 1);
    EXPECT_INT(atomic_load(&c->in_flight), 1);
    EXPECT_INT(atomic_load(&c->unseen_tokens), 40);
    ledger_release(&l, &e, LEDGER_SERVED, 3500000000);
    ledger_release(&l, &e, LEDGER_FAILED, 4000000000); // the second does nothing
    ledger_check(&l);
    EXPECT_INT(atomic_load(&c->in_flight), 0);
    EXPECT_INT(l.count, 0);
    EXPECT_INT(c->latency_count, 1);
    EXPECT(c->latency_s[0] == 2.5);
    EXPECT_INT(atomic_load(&c->unseen_tokens), 0);
    EXPECT_INT(atomic_load(&c->failed_total), 0);
    fleet_cell_unref(c);
}

static void test_outcomes(void)
{
    struct ledger l;
    ledger_init(&l);
    struct fleet_cell *c = fleet_cell_create();
    struct ledger_entry e = {.cell = NULL};
    ledger_take(&l, &e, c, 1, false, 0);
    ledger_release(&l, &e, LEDGER_FAILED, 1);
    ledger_take(&l, &e, c, 1, false, 2);
    ledger_release(&l, &e, LEDGER_ABANDONED, 3);
    ledger_take(&l, &e, c, 1, false, 3);
    ledger_release(&l, &e, LEDGER_ERRORED, 4);
    EXPECT_INT(atomic_load(&c->failed_total), 2);
    EXPECT_INT(atomic_load(&c->dispatched_total), 3);
    EXPECT_INT(e.counter, 3);        // grows with every dispatch
    EXPECT_INT(c->latency_count, 0); // a failure that came fast is no good latency
    fleet_cell_unref(c);
}

/* ---- what the breaker hears ---- */

#define MS 1000000ull

static enum breaker_state state_at(const struct fleet_cell *c, uint64_t now_ms)
{
    return breaker_state(&c->breaker, now_ms);
}

static void finish(struct ledger *l, struct fleet_cell *c, enum ledger_outcome outcome,
                   uint64_t now_ms)
{
    struct ledger_entry e = {.cell = NULL};
    ledger_take(l, &e, c, 1, false, now_ms * MS);
    ledger_release(l, &e, outcome, now_ms * MS);
}

/* A probe at `now_ms`, of a breaker that is half-open then. */
static void start_probe(struct ledger *l, struct ledger_entry *e, struct fleet_cell *c,
                        uint64_t now_ms)
{
    EXPECT_INT(state_at(c, now_ms), BREAKER_HALF_OPEN);
    NEED(breaker_admit(&c->breaker, now_ms));
    ledger_take(l, e, c, 1, true, now_ms * MS);
}

static void test_outcomes_move_the_breaker(void)
{
    struct ledger l;
    ledger_init(&l);
    struct fleet_cell *c = fleet_cell_create();
    struct ledger_entry e = {.cell = NULL};
    for (int i = 0; i < 20; i++)
        finish(&l, c, LEDGER_ABANDONED, 1000);
    EXPECT_INT(state_at(c, 1000), BREAKER_CLOSED);
    for (int i = 0; i < 3; i++)
        finish(&l, c, LEDGER_FAILED, 1000);
    EXPECT_INT(state_at(c, 1000), BREAKER_OPEN);
    start_probe(&l, &e, c, 5000);
    ledger_release(&l, &e, LEDGER_ABANDONED, 5000 * MS); // its client left: somebody else may
    start_probe(&l, &e, c, 5000);
    ledger_release(&l, &e, LEDGER_FAILED, 5000 * MS);
    EXPECT_INT(state_at(c, 5000), BREAKER_OPEN);
    start_probe(&l, &e, c, 9000);
    ledger_release(&l, &e, LEDGER_SERVED, 9500 * MS);
    EXPECT_INT(state_at(c, 9500), BREAKER_CLOSED);
    EXPECT_INT(atomic_load(&c->birth_ms), 9500); // slow start
    for (int i = 0; i < 10; i++)
        finish(&l, c, LEDGER_ERRORED, 10000);
    EXPECT_INT(state_at(c, 10000), BREAKER_OPEN);
    EXPECT_INT(l.count, 0);
    fleet_cell_unref(c);
}

/* A stream may run for an hour: its first byte is proof enough. */
static void test_a_probe_succeeds_with_its_first_byte(void)
{
    struct ledger l;
    ledger_init(&l);
    struct fleet_cell *c = fleet_cell_create();
    struct ledger_entry e = {.cell = NULL};
    for (int i = 0; i < 3; i++)
        finish(&l, c, LEDGER_FAILED, 1000);
    start_probe(&l, &e, c, 5000);
    ledger_note_started(&e, 6000 * MS);
    EXPECT_INT(state_at(c, 6000), BREAKER_CLOSED);
    ledger_note_started(&e, 7000 * MS);
    EXPECT_INT(atomic_load(&c->birth_ms), 6000);
    ledger_release(&l, &e, LEDGER_ABANDONED, 8000 * MS);
    EXPECT_INT(state_at(c, 8000), BREAKER_CLOSED);
    ledger_note_started(&e, 9000 * MS); // released: nothing
    fleet_cell_unref(c);
}

/* The agent may be forgotten while its requests still run. */
static void test_entry_keeps_the_cell(void)
{
    struct ledger l;
    ledger_init(&l);
    struct fleet_cell *c = fleet_cell_create();
    struct ledger_entry e = {.cell = NULL};
    ledger_take(&l, &e, c, 1, false, 0);
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
            ledger_release(&l, e, (enum ledger_outcome)rng_below(&rng, 4), 0);
        } else {
            struct fleet_cell *c = cells[rng_below(&rng, CELLS)];
            ledger_take(&l, e, c, rng_below(&rng, 3000), false, 0);
            if (rng_below(&rng, 3) == 0) ledger_note_started(e, 0);
        }
        if (round % 100) continue;
        ledger_check(&l);
        for (int i = 0; i < CELLS; i++)
            fleet_cell_check(cells[i]);
    }
    int sum = 0;
    for (int i = 0; i < CELLS; i++)
        sum += atomic_load(&cells[i]->in_flight);
    EXPECT_INT(sum, l.count);
    for (int i = 0; i < ENTRIES; i++)
        ledger_release(&l, &entries[i], LEDGER_ABANDONED, 0);
    for (int i = 0; i < CELLS; i++) {
        EXPECT_INT(atomic_load(&cells[i]->in_flight), 0);
        EXPECT_INT(atomic_load(&cells[i]->unseen_tokens), 0);
        EXPECT_INT(atomic_load(&cells[i]->unstarted_tokens), 0);
        fleet_cell_unref(cells[i]);
    }
    EXPECT_INT(l.count, 0);
}

int main(void)
{
    RUN(test_one_entry_one_release);
    RUN(test_outcomes);
    RUN(test_outcomes_move_the_breaker);
    RUN(test_a_probe_succeeds_with_its_first_byte);
    RUN(test_entry_keeps_the_cell);
    RUN(test_random_history_ends_at_zero);
    return TEST_END();
}
