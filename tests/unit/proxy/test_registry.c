/* The registry with a clock of our own: `now` is what the test says. */
#include "proxy/registry.h"

#include "shared/base/check.h"
#include "shared/base/log.h"
#include "shared/base/rng.h"
#include "tests/test.h"

static struct registry r;
static uint64_t now;

static void begin(void)
{
    registry_init(&r);
    now = 1000000;
}

static void end(void)
{
    registry_check(&r);
    registry_deinit(&r);
}

static struct agent_record record_of(const char *id, int port)
{
    struct agent_record a = {.start_ms = 1, .capacity = 4, .model_count = 1};
    snprintf(a.id, sizeof a.id, "%s", id);
    snprintf(a.incarnation, sizeof a.incarnation, "first");
    snprintf(a.url, sizeof a.url, "http://127.0.0.1:%d", port);
    snprintf(a.models[0], sizeof a.models[0], "m");
    return a;
}

static int hear_record(enum registry_source source, const struct agent_record *a, uint64_t mark)
{
    return registry_hear(&r, source, a, AGENT_LEASE_MS, mark, now, NULL);
}

static void hear(const char *id, int port)
{
    struct agent_record a = record_of(id, port);
    EXPECT_INT(hear_record(REGISTRY_HTTP, &a, 0), 0);
}

static void pass(uint64_t ms)
{
    for (uint64_t step = 100; ms > 0; ms -= step) {
        if (step > ms) step = ms;
        now += step;
        registry_tick(&r, now);
    }
}

/* "up", "suspect", ... or "unknown". */
static const char *state(const char *id)
{
    const struct registry_member *m = registry_find(&r, id);
    return m ? registry_state_name(m) : "unknown";
}

static const struct fleet_agent *in_fleet(const char *id)
{
    struct fleet *f = registry_fleet(&r);
    fleet_check(f);
    for (int i = 0; i < f->count; i++) {
        if (strcmp(f->agents[i]->id, id) == 0) return f->agents[i];
    }
    return NULL;
}

/* Probe whoever is due; returns how many were. */
static int probe_all(enum registry_probe result)
{
    int count = 0;
    struct registry_member *m;
    while ((m = registry_next_probe(&r, now))) {
        char id[AGENT_ID_BYTES];
        snprintf(id, sizeof id, "%s", m->record.id);
        registry_probed(&r, id, result, NULL, -1, now);
        NEED(++count < 10000);
    }
    return count;
}

static void test_beats_keep_an_agent(void)
{
    begin();
    hear("a", 1);
    EXPECT_STR(state("a"), "up");
    for (int i = 0; i < 100; i++) {
        pass(AGENT_BEAT_MS);
        hear("a", 1);
        EXPECT_INT(probe_all(REGISTRY_PROBE_OK), 0); // a leased agent is left alone
    }
    EXPECT_STR(state("a"), "up");
    const struct fleet_agent *a = in_fleet("a");
    NEED(a);
    EXPECT_STR(a->host, "127.0.0.1");
    EXPECT_INT(a->port, 1);
    EXPECT_INT(a->capacity, 4);
    end();
}

static void test_unchanged_beats_publish_nothing(void)
{
    begin();
    hear("a", 1);
    struct fleet *before = registry_fleet(&r);
    pass(1000);
    hear("a", 1);
    EXPECT(registry_fleet(&r) == before);
    struct agent_record a = record_of("a", 1);
    a.draining = true;
    EXPECT_INT(hear_record(REGISTRY_HTTP, &a, 0), 0);
    EXPECT(registry_fleet(&r) != before);
    EXPECT_STR(state("a"), "draining");
    EXPECT(in_fleet("a")->draining);
    end();
}

static void test_expiry_is_suspicion_and_the_probe_decides(void)
{
    begin();
    hear("a", 1);
    hear("b", 2);
    hear("c", 3);
    hear("d", 4);
    pass(3000);
    hear("b", 2);
    hear("c", 3);
    hear("d", 4);
    pass(600);
    EXPECT_STR(state("a"), "suspect");
    EXPECT_INT(in_fleet("a")->state, FLEET_SUSPECT); // still there, as last resort
    struct fleet_cell *cell = registry_find(&r, "a")->cell;
    EXPECT(!atomic_load(&cell->gone));
    EXPECT_INT(probe_all(REGISTRY_PROBE_FAILED), 1);
    EXPECT_STR(state("a"), "down");
    EXPECT(!in_fleet("a"));
    EXPECT(in_fleet("b") != NULL);
    EXPECT(atomic_load(&cell->gone)); // what waits there may go elsewhere
    hear("a", 1);
    EXPECT(!atomic_load(&cell->gone));
    end();
}

static void test_a_probed_agent_lives_on_for_a_while(void)
{
    begin();
    hear("a", 1);
    pass(AGENT_LEASE_MS + 100);
    EXPECT_STR(state("a"), "suspect");
    EXPECT_INT(probe_all(REGISTRY_PROBE_OK), 1);
    EXPECT_STR(state("a"), "up");
    for (int i = 0; i < 29; i++) {
        pass(1000);
        probe_all(REGISTRY_PROBE_OK);
        EXPECT_STR(state("a"), "up");
    }
    pass(2000);
    EXPECT_STR(state("a"), "unknown"); // healthy, but it beats no more
    end();
}

static void test_beat_after_suspicion(void)
{
    begin();
    hear("a", 1);
    pass(AGENT_LEASE_MS + 100);
    EXPECT_STR(state("a"), "suspect");
    hear("a", 1);
    EXPECT_STR(state("a"), "up");
    EXPECT_INT(probe_all(REGISTRY_PROBE_FAILED), 0);
    end();
}

static void test_two_refused_connects_kill_at_once(void)
{
    begin();
    hear("a", 1);
    struct fleet_agent *a = fleet_agent_ref((struct fleet_agent *)in_fleet("a"));
    registry_note_refused(&r, a, now);
    EXPECT(in_fleet("a") != NULL);
    registry_note_reached(a); // a connect in between: it was a hiccup
    registry_note_refused(&r, a, now);
    EXPECT(in_fleet("a") != NULL);
    registry_note_refused(&r, a, now);
    EXPECT(!in_fleet("a"));
    EXPECT_STR(state("a"), "down");
    registry_note_refused(&r, a, now);    // a straggler
    EXPECT(!atomic_load(&a->cell->gone)); // its machine lives: open connections know best
    pass(500);
    hear("a", 1); // the next beat brings it back
    EXPECT_STR(state("a"), "up");
    EXPECT_INT(atomic_load(&a->cell->refused), 0);
    fleet_agent_unref(a);
    end();
}

static void test_a_refused_connect_calls_for_a_probe(void)
{
    begin();
    hear("a", 1);
    registry_note_refused(&r, in_fleet("a"), now);
    EXPECT_INT(probe_all(REGISTRY_PROBE_REFUSED), 1); // that is the second
    EXPECT(!in_fleet("a"));
    end();
}

static void test_an_unreachable_agent_is_suspect_while_it_beats(void)
{
    begin();
    hear("a", 1);
    registry_note_unreachable(&r, in_fleet("a"), now);
    EXPECT_STR(state("a"), "up");
    EXPECT_INT(probe_all(REGISTRY_PROBE_FAILED), 1);
    EXPECT_STR(state("a"), "suspect");
    for (int i = 0; i < 10; i++) {
        pass(1000);
        hear("a", 1);
        EXPECT_INT(probe_all(REGISTRY_PROBE_FAILED), 1);
        EXPECT_STR(state("a"), "suspect"); // it beats: not dead
    }
    pass(1000);
    EXPECT_INT(probe_all(REGISTRY_PROBE_OK), 1);
    EXPECT_STR(state("a"), "up");
    EXPECT_INT(probe_all(REGISTRY_PROBE_OK), 0);
    end();
}

/* Redis keeps a record for a lease's time after its writer died: reading it again proves nothing.
 */
static void test_an_old_beat_read_again_revives_nobody(void)
{
    begin();
    struct agent_record a = record_of("a", 1);
    EXPECT_INT(hear_record(REGISTRY_REDIS, &a, 77), 0);
    registry_note_refused(&r, in_fleet("a"), now);
    struct fleet_agent *kept = fleet_agent_ref((struct fleet_agent *)in_fleet("a"));
    registry_note_refused(&r, kept, now);
    EXPECT_STR(state("a"), "down");
    pass(1000);
    EXPECT_INT(hear_record(REGISTRY_REDIS, &a, 77), 0);
    EXPECT_STR(state("a"), "down");
    EXPECT_INT(hear_record(REGISTRY_REDIS, &a, 50),
               0); // another mark, even a smaller one, is a beat
    EXPECT_STR(state("a"), "up");
    fleet_agent_unref(kept);
    end();
}

static void test_the_dead_are_forgotten(void)
{
    begin();
    hear("a", 1);
    struct fleet_agent *a = fleet_agent_ref((struct fleet_agent *)in_fleet("a"));
    registry_note_refused(&r, a, now);
    registry_note_refused(&r, a, now);
    pass(2 * AGENT_LEASE_MS);
    EXPECT_STR(state("a"), "down");
    pass(1000);
    EXPECT_STR(state("a"), "unknown");
    EXPECT_INT(r.count, 0);
    fleet_agent_unref(a);
    end();
}

static void test_incarnations(void)
{
    begin();
    struct agent_record old = record_of("a", 1), new = record_of("a", 1);
    old.load.running = 3;
    old.load.sequence = 900;
    new.start_ms = 2;
    new.load.sequence = 1;
    snprintf(new.incarnation, sizeof new.incarnation, "second");
    EXPECT_INT(hear_record(REGISTRY_HTTP, &old, 0), 0);
    EXPECT_INT(fleet_cell_load(in_fleet("a")->cell), 3);
    EXPECT_INT(hear_record(REGISTRY_HTTP, &new, 0), 0);  // restarted: newer wins at once
    EXPECT_INT(fleet_cell_load(in_fleet("a")->cell), 0); // and its numbers begin anew
    EXPECT_INT(hear_record(REGISTRY_HTTP, &old, 0), E_BUSY);
    EXPECT_INT(hear_record(REGISTRY_REDIS, &old, 5), E_BUSY);
    EXPECT_STR(registry_find(&r, "a")->record.incarnation, "second");
    struct agent_record twin = new; // started in the same millisecond, elsewhere
    snprintf(twin.incarnation, sizeof twin.incarnation, "twin");
    EXPECT_INT(hear_record(REGISTRY_HTTP, &twin, 0), E_BUSY);
    pass(AGENT_LEASE_MS + 100);
    EXPECT_INT(hear_record(REGISTRY_HTTP, &twin, 0), 0);
    end();
}

static void test_one_url_is_one_agent(void)
{
    begin();
    struct agent_record a = record_of("a", 1), b = record_of("b", 1);
    b.start_ms = 5;
    EXPECT_INT(hear_record(REGISTRY_HTTP, &a, 0), 0);
    EXPECT_INT(hear_record(REGISTRY_HTTP, &b, 0), 0); // the process was restarted under another id
    EXPECT_STR(state("a"), "unknown");
    EXPECT_STR(state("b"), "up");
    EXPECT_INT(hear_record(REGISTRY_HTTP, &a, 0), E_BUSY);
    hear("c", 3);
    struct agent_record moved = record_of("c", 4);
    EXPECT_INT(hear_record(REGISTRY_HTTP, &moved, 0), 0);
    EXPECT_INT(in_fleet("c")->port, 4);
    snprintf(moved.url, sizeof moved.url, "ftp://x");
    EXPECT(hear_record(REGISTRY_HTTP, &moved, 0) < 0);
    EXPECT_INT(in_fleet("c")->port, 4);
    end();
}

/* Its beat doesn't show that its certificate is trusted: it is asked, once, and again where it is
 * another process. */
static void test_https_is_asked_first(void)
{
    begin();
    struct agent_record a = record_of("a", 1);
    snprintf(a.url, sizeof a.url, "https://127.0.0.1:1");
    EXPECT_INT(hear_record(REGISTRY_HTTP, &a, 0), 0);
    EXPECT_INT(in_fleet("a")->scheme, HTTP_TLS);
    EXPECT(registry_next_probe(&r, now) == registry_find(&r, "a"));
    registry_probed(&r, "a", REGISTRY_PROBE_FAILED, NULL, -1, now);
    EXPECT_STR(state("a"), "suspect");
    now += REGISTRY_PROBE_MS;
    EXPECT_INT(hear_record(REGISTRY_HTTP, &a, 0), 0); // it beats, and stays suspect
    EXPECT_STR(state("a"), "suspect");
    EXPECT(registry_next_probe(&r, now) == registry_find(&r, "a"));
    registry_probed(&r, "a", REGISTRY_PROBE_OK, NULL, -1, now);
    EXPECT_STR(state("a"), "up");
    now += 2 * REGISTRY_PROBE_MS;
    EXPECT_INT(hear_record(REGISTRY_HTTP, &a, 0), 0);
    EXPECT(!registry_next_probe(&r, now)); // a beat is enough from here on
    snprintf(a.incarnation, sizeof a.incarnation, "later");
    a.start_ms++;
    EXPECT_INT(hear_record(REGISTRY_HTTP, &a, 0), 0);
    EXPECT(registry_next_probe(&r, now) == registry_find(&r, "a"));
    registry_probed(&r, "a", REGISTRY_PROBE_OK, NULL, -1, now);
    hear("b", 2); // plain: its beat is all that is needed
    EXPECT(!registry_next_probe(&r, now));
    end();

    begin(); // known from the last process, which may have trusted somebody else
    EXPECT_INT(registry_recall(&r, REGISTRY_HTTP, &a, now, NULL), 0);
    EXPECT_INT(hear_record(REGISTRY_HTTP, &a, 0), 0);
    EXPECT(registry_next_probe(&r, now) == registry_find(&r, "a"));
    end();
}

static void test_two_sources(void)
{
    begin();
    struct agent_record a = record_of("a", 1);
    hear("a", 1);
    EXPECT_INT(hear_record(REGISTRY_REDIS, &a, 1), 0);
    registry_lease_ended(&r, REGISTRY_REDIS, "a", now);
    pass(1000);
    EXPECT_STR(state("a"), "up"); // by HTTP
    EXPECT_INT(hear_record(REGISTRY_REDIS, &a, 2), 0);
    pass(3000);
    EXPECT_STR(state("a"), "up"); // by Redis
    registry_lease_ended(&r, REGISTRY_REDIS, "a", now);
    pass(100);
    EXPECT_STR(state("a"), "suspect");
    end();
}

static void test_redis_lost(void)
{
    begin();
    for (int i = 0; i < 3; i++) {
        char id[8];
        snprintf(id, sizeof id, "n%d", i);
        struct agent_record a = record_of(id, i + 1);
        EXPECT_INT(hear_record(REGISTRY_REDIS, &a, 1), 0);
    }
    registry_set_source_lost(&r, REGISTRY_REDIS, true, now);
    for (int i = 0; i < 600; i++) { // ten minutes without Redis
        pass(1000);
        EXPECT_STR(state("n0"), "up");
        EXPECT_STR(state("n2"), "up");
        probe_all(REGISTRY_PROBE_OK);
    }
    /* One dies meanwhile: a timeout alone isn't believed now, three are. */
    for (int i = 0; i < 3; i++) {
        EXPECT(in_fleet("n1") != NULL);
        pass(1000);
        struct registry_member *m;
        while ((m = registry_next_probe(&r, now))) {
            char id[AGENT_ID_BYTES];
            snprintf(id, sizeof id, "%s", m->record.id);
            bool dead = strcmp(id, "n1") == 0;
            registry_probed(&r, id, dead ? REGISTRY_PROBE_FAILED : REGISTRY_PROBE_OK, NULL, -1,
                            now);
        }
    }
    EXPECT(!in_fleet("n1"));
    EXPECT(in_fleet("n0") != NULL);
    registry_set_source_lost(&r, REGISTRY_REDIS, false, now);
    pass(3000); // Redis is back and empty: agents have a lease's time to be heard again
    EXPECT_STR(state("n0"), "up");
    struct agent_record a = record_of("n0", 1);
    EXPECT_INT(hear_record(REGISTRY_REDIS, &a, 2), 0);
    pass(1000);
    EXPECT_STR(state("n0"), "up");
    EXPECT_STR(state("n2"), "suspect");
    end();
}

static void test_mass_loss_is_blamed_on_the_source(void)
{
    begin();
    for (int i = 0; i < 10; i++) {
        char id[8];
        snprintf(id, sizeof id, "n%d", i);
        hear(id, i + 1);
    }
    pass(AGENT_LEASE_MS + 100);
    for (int i = 0; i < 10; i++) {
        char id[8];
        snprintf(id, sizeof id, "n%d", i);
        EXPECT_STR(state(id), "up"); // all at once: not them
    }
    EXPECT_INT(probe_all(REGISTRY_PROBE_FAILED), 10); // one timeout isn't enough now
    EXPECT_STR(state("n0"), "suspect");
    EXPECT(in_fleet("n0") != NULL);
    pass(1000);
    EXPECT_INT(probe_all(REGISTRY_PROBE_OK), 10);
    EXPECT_STR(state("n0"), "up");
    end();
}

static void test_mass_death_is_seen_all_the_same(void)
{
    begin();
    hear("a", 1);
    hear("b", 2);
    pass(AGENT_LEASE_MS + 100);
    probe_all(REGISTRY_PROBE_REFUSED);
    pass(300);
    probe_all(REGISTRY_PROBE_REFUSED); // refused twice: that is no network trouble
    EXPECT(!in_fleet("a"));
    EXPECT(!in_fleet("b"));
    end();
}

static void probe_models(const char *url, enum registry_probe result, const char *model)
{
    char models[1][128];
    snprintf(models[0], sizeof models[0], "%s", model ? model : "");
    struct registry_member *m = registry_next_probe(&r, now);
    NEED(m && strcmp(m->record.url, url) == 0);
    registry_probed(&r, url, result, (const char(*)[128])models, model ? 1 : -1, now);
}

static void test_foreign_nodes(void)
{
    begin();
    const char *url = "http://10.0.0.1:23333";
    EXPECT_INT(registry_add_foreign(&r, url, NULL, 0, 2.5, now, NULL), 0);
    EXPECT_STR(state(url), "suspect");
    EXPECT(!fleet_find_model(registry_fleet(&r), STR("x")));
    probe_models(url, REGISTRY_PROBE_OK, "x");
    EXPECT_STR(state(url), "up");
    EXPECT(fleet_find_model(registry_fleet(&r), STR("x")) != NULL);
    EXPECT(in_fleet(url)->foreign && in_fleet(url)->speed == 2.5);
    for (int i = 0; i < 100; i++) { // it never beats, and stays
        pass(REGISTRY_FOREIGN_MS);
        probe_models(url, REGISTRY_PROBE_OK, "y");
    }
    EXPECT(fleet_find_model(registry_fleet(&r), STR("y")) != NULL);
    EXPECT(!fleet_find_model(registry_fleet(&r), STR("x")));
    pass(REGISTRY_FOREIGN_MS);
    probe_models(url, REGISTRY_PROBE_FAILED, NULL);
    EXPECT_STR(state(url), "suspect");
    pass(1000);
    probe_models(url, REGISTRY_PROBE_REFUSED, NULL);
    pass(1000);
    probe_models(url, REGISTRY_PROBE_REFUSED, NULL);
    EXPECT_STR(state(url), "down");
    EXPECT(!in_fleet(url));
    pass(100000);
    probe_models(url, REGISTRY_PROBE_OK, "y"); // and comes back by itself
    EXPECT_STR(state(url), "up");
    EXPECT(registry_remove(&r, url));
    EXPECT(!registry_remove(&r, url));
    EXPECT_STR(state(url), "unknown");
    end();
}

/* The proxy has run out of descriptors: nobody else is to blame. */
static void test_probes_not_made_prove_nothing(void)
{
    begin();
    const char *url = "http://10.0.0.1:23333";
    EXPECT_INT(registry_add_foreign(&r, url, NULL, 0, 0, now, NULL), 0);
    probe_models(url, REGISTRY_PROBE_OK, "x");
    hear("a", 1);
    pass(AGENT_LEASE_MS + 100);
    for (int i = 0; i < 10; i++) {
        EXPECT_INT(probe_all(REGISTRY_PROBE_NOT_MADE), 2);
        pass(REGISTRY_PROBE_MS);
    }
    EXPECT_STR(state(url), "up");
    EXPECT_STR(state("a"), "suspect"); // no beat came, but it isn't dead
    EXPECT(in_fleet("a") && in_fleet(url));
    EXPECT(!atomic_load(&in_fleet("a")->cell->gone));
    end();
}

static void test_foreign_and_ours_at_one_url(void)
{
    begin();
    EXPECT_INT(registry_add_foreign(&r, "http://127.0.0.1:1", NULL, 0, 0, now, NULL), 0);
    hear("a", 1);
    EXPECT_INT(r.count, 1);
    EXPECT_INT(registry_add_foreign(&r, "http://127.0.0.1:1", NULL, 0, 0, now, NULL), 0);
    EXPECT_INT(r.count, 1);
    EXPECT_STR(state("a"), "up");
    end();
}

static void test_removed_by_an_operator(void)
{
    begin();
    hear("a", 1);
    EXPECT(registry_remove(&r, "http://127.0.0.1:1"));
    EXPECT(!in_fleet("a"));
    hear("a", 1); // it goes on beating: an operator's word weighs more
    EXPECT_STR(state("a"), "removed");
    EXPECT(!in_fleet("a"));
    struct agent_record again = record_of("a", 1);
    again.start_ms = 2;
    snprintf(again.incarnation, sizeof again.incarnation, "second");
    EXPECT_INT(hear_record(REGISTRY_HTTP, &again, 0), 0);
    EXPECT_STR(state("a"), "up"); // started anew: that was somebody's decision too
    end();
}

static void test_loads(void)
{
    begin();
    struct agent_record a = record_of("a", 1);
    a.load = (struct agent_load){.running = 4, .waiting = 2, .sequence = 10};
    EXPECT_INT(hear_record(REGISTRY_HTTP, &a, 0), 0);
    EXPECT_INT(fleet_cell_load(in_fleet("a")->cell), 6);
    struct agent_load load = {.running = 1, .sequence = 9};
    registry_report_load(&r, "a", &load, now); // older than what we have
    EXPECT_INT(fleet_cell_load(in_fleet("a")->cell), 6);
    load.sequence = 11;
    registry_report_load(&r, "a", &load, now);
    EXPECT_INT(fleet_cell_load(in_fleet("a")->cell), 1);
    registry_report_load(&r, "nobody", &load, now);
    end();
}

static void test_the_table_is_bounded(void)
{
    begin();
    for (int i = 0; i < FLEET_AGENTS_MAX; i++) {
        char id[16];
        snprintf(id, sizeof id, "n%d", i);
        hear(id, i + 1);
    }
    struct agent_record extra = record_of("extra", 9999);
    EXPECT_INT(hear_record(REGISTRY_HTTP, &extra, 0), E_LIMIT);
    EXPECT_INT(registry_add_foreign(&r, "http://x", NULL, 0, 0, now, NULL), E_LIMIT);
    EXPECT_INT(registry_fleet(&r)->count, FLEET_AGENTS_MAX);
    hear("n7", 8); // those who are there aren't hindered
    end();
}

/* Reports say which of our dispatches they contain. */
static void test_own_requests_in_reports(void)
{
    begin();
    r.proxy = 0xabc;
    struct agent_record a = record_of("a", 1);
    uint64_t gaps[] = {2};
    struct agent_seen other = {.proxy = 0xdef, .high = 900, .active = 1};
    struct agent_seen own = {.proxy = 0xabc, .high = 3, .active = 2, .gap_count = 1};
    a.load = (struct agent_load){.running = 6, .sequence = 1};
    agent_load_add_seen(&a.load, &other, NULL);
    agent_load_add_seen(&a.load, &own, gaps);
    EXPECT_INT(hear_record(REGISTRY_HTTP, &a, 0), 0);
    struct fleet_cell *cell = fleet_cell_ref(in_fleet("a")->cell);
    EXPECT_INT(atomic_load(&cell->others_in_flight), 4);
    struct fleet_dispatch d[4];
    for (int i = 0; i < 4; i++)
        fleet_cell_take(cell, &d[i], 1 << i);
    a.load.sequence = 2;
    EXPECT_INT(hear_record(REGISTRY_HTTP, &a, 0), 0);
    EXPECT_INT(atomic_load(&cell->unseen_tokens), 2 + 8); // the gap, and the one above its highest
    struct agent_load none = {.running = 6, .sequence = 3}; // it has forgotten us
    registry_report_load(&r, "a", &none, now);
    EXPECT_INT(atomic_load(&cell->others_in_flight), 6);
    EXPECT_INT(atomic_load(&cell->unseen_tokens), 2 + 8);
    for (int i = 0; i < 4; i++)
        fleet_cell_release(cell, &d[i]);
    fleet_cell_unref(cell);
    end();
}

/* Each member has a column of the prefix table to itself, and one that leaves keeps the next from
 * inheriting what is predicted of it. */
static void test_columns(void)
{
    begin();
    hear("a", 1);
    hear("b", 2);
    int left = in_fleet("b")->cell->column;
    EXPECT(left >= 0 && left != in_fleet("a")->cell->column);
    EXPECT_INT(registry_add_foreign(&r, "http://x", NULL, 0, 0, now, NULL), 0);
    EXPECT(registry_remove(&r, "http://x"));
    struct agent_record b = record_of("b2", 2);
    b.start_ms = 5;
    EXPECT_INT(hear_record(REGISTRY_HTTP, &b, 0), 0); // takes b's place
    EXPECT(in_fleet("b2")->cell->column != left);
    for (int i = 0; i < 3 * FLEET_AGENTS_MAX; i++) { // columns of those who left are used again
        EXPECT_INT(registry_add_foreign(&r, "http://x", NULL, 0, 0, now, NULL), 0);
        int column = registry_find(&r, "http://x")->cell->column;
        EXPECT(column >= 0 && column < FLEET_AGENTS_MAX);
        EXPECT(column != in_fleet("a")->cell->column && column != in_fleet("b2")->cell->column);
        registry_check(&r);
        EXPECT(registry_remove(&r, "http://x"));
    }
    end();
}

static void test_who_comes_or_comes_back_is_young(void)
{
    begin();
    hear("a", 1);
    EXPECT_INT(atomic_load(&in_fleet("a")->cell->birth_ms), (long long)now);
    pass(2000);
    hear("a", 1);
    EXPECT_INT(atomic_load(&in_fleet("a")->cell->birth_ms), 1000000);
    struct agent_record again = record_of("a", 1);
    again.start_ms = 2;
    snprintf(again.incarnation, sizeof again.incarnation, "second");
    pass(1000);
    EXPECT_INT(hear_record(REGISTRY_HTTP, &again, 0), 0);
    EXPECT_INT(atomic_load(&in_fleet("a")->cell->birth_ms), (long long)now);
    end();
}

static void test_only_leases_heard_here_are_passed_on(void)
{
    begin();
    struct agent_record a = record_of("a", 1);
    EXPECT_INT(hear_record(REGISTRY_REDIS, &a, 1), 0);
    EXPECT(!registry_next_unwritten(&r));
    hear("a", 1);
    struct registry_member *m = registry_next_unwritten(&r);
    EXPECT(m && strcmp(m->record.id, "a") == 0);
    EXPECT(!registry_next_unwritten(&r));
    end();
}

/* Anything may happen in any order; what holds must hold. */
static void test_random_history(void)
{
    begin();
    struct rng rng;
    rng_init(&rng, 11);
    for (int round = 0; round < 30000; round++) {
        char id[16];
        int n = (int)rng_below(&rng, 12);
        snprintf(id, sizeof id, "n%d", n);
        struct agent_record a = record_of(id, 1 + (int)rng_below(&rng, 12));
        a.start_ms = 1 + rng_below(&rng, 3);
        snprintf(a.incarnation, sizeof a.incarnation, "i%d", (int)a.start_ms);
        const struct fleet_agent *agent = in_fleet(id);
        switch (rng_below(&rng, 9)) {
        case 0:
        case 1:
            (void)!hear_record(REGISTRY_HTTP, &a, 0);
            break;
        case 2:
            (void)!hear_record(REGISTRY_REDIS, &a, 1 + rng_below(&rng, 50));
            break;
        case 3:
            if (agent) registry_note_refused(&r, agent, now);
            break;
        case 4:
            if (agent) registry_note_unreachable(&r, agent, now);
            break;
        case 5:
            probe_all((enum registry_probe)rng_below(&rng, 3));
            break;
        case 6:
            registry_set_source_lost(&r, REGISTRY_REDIS, rng_below(&rng, 2), now);
            break;
        case 7:
            registry_lease_ended(&r, REGISTRY_REDIS, id, now);
            break;
        case 8:
            if (rng_below(&rng, 10) == 0) {
                registry_remove(&r, a.url);
            } else {
                (void)!registry_add_foreign(&r, a.url, NULL, 0, 0, now, NULL);
            }
            break;
        }
        pass(rng_below(&rng, 400));
        registry_check(&r);
    }
    end();
}

int main(void)
{
    log_init("test", LOG_ERROR);
    RUN(test_beats_keep_an_agent);
    RUN(test_unchanged_beats_publish_nothing);
    RUN(test_expiry_is_suspicion_and_the_probe_decides);
    RUN(test_a_probed_agent_lives_on_for_a_while);
    RUN(test_beat_after_suspicion);
    RUN(test_two_refused_connects_kill_at_once);
    RUN(test_a_refused_connect_calls_for_a_probe);
    RUN(test_an_unreachable_agent_is_suspect_while_it_beats);
    RUN(test_an_old_beat_read_again_revives_nobody);
    RUN(test_the_dead_are_forgotten);
    RUN(test_incarnations);
    RUN(test_one_url_is_one_agent);
    RUN(test_https_is_asked_first);
    RUN(test_two_sources);
    RUN(test_redis_lost);
    RUN(test_mass_loss_is_blamed_on_the_source);
    RUN(test_mass_death_is_seen_all_the_same);
    RUN(test_foreign_nodes);
    RUN(test_probes_not_made_prove_nothing);
    RUN(test_foreign_and_ours_at_one_url);
    RUN(test_removed_by_an_operator);
    RUN(test_loads);
    RUN(test_the_table_is_bounded);
    RUN(test_own_requests_in_reports);
    RUN(test_columns);
    RUN(test_who_comes_or_comes_back_is_young);
    RUN(test_only_leases_heard_here_are_passed_on);
    RUN(test_random_history);
    return TEST_END();
}
