#include "proxy/fleet.h"

#include "shared/base/check.h"
#include "tests/proxy_fleet.h"
#include "tests/test.h"

static void test_index_of_models(void)
{
    static const char *const some[] = {"zeta", "alpha", "zeta", "beta/x"};
    static const char *const other[] = {"alpha"};
    struct fleet_agent *agents[] = {
        proxy_fleet_agent("n2", some, 4),
        proxy_fleet_agent("n0", other, 1),
        proxy_fleet_agent("n1", NULL, 0),
    };
    struct fleet *f = fleet_create_take(agents, 3);
    fleet_check(f);
    EXPECT_STR(f->agents[0]->id, "n0");
    EXPECT_STR(f->agents[2]->id, "n2");
    EXPECT_INT(f->model_count, 3);
    const struct fleet_model *alpha = fleet_find_model(f, STR("alpha"));
    NEED(alpha);
    EXPECT_INT(alpha->count, 2);
    EXPECT_INT(alpha->agents[0], 0);
    EXPECT_INT(alpha->agents[1], 2);
    EXPECT_INT(fleet_find_model(f, STR("zeta"))->count, 1); // listed twice by one agent
    EXPECT_INT(fleet_find_model(f, STR("beta/x"))->agents[0], 2);
    EXPECT(!fleet_find_model(f, STR("alph")));
    EXPECT(!fleet_find_model(f, STR("alphabet")));
    EXPECT(!fleet_find_model(f, STR("")));
    EXPECT(!fleet_find_model(f, (struct str){"alpha\0x", 7}));
    fleet_unref(f);
}

static void test_empty(void)
{
    struct fleet *f = fleet_create_take(NULL, 0);
    fleet_check(f);
    EXPECT(fleet_is_empty(f));
    EXPECT(!fleet_find_model(f, STR("m")));
    fleet_unref(f);
    fleet_unref(NULL);
}

static void test_full_and_many_models(void)
{
    struct fleet_agent *agents[FLEET_AGENTS_MAX];
    for (int i = 0; i < FLEET_AGENTS_MAX; i++) {
        char id[16], names[8][16];
        const char *models[8];
        snprintf(id, sizeof id, "n%d", i);
        for (int m = 0; m < 8; m++) {
            snprintf(names[m], sizeof names[m], "m%d", (i + m) % 64);
            models[m] = names[m];
        }
        agents[i] = proxy_fleet_agent(id, models, 8);
    }
    struct fleet *f = fleet_create_take(agents, FLEET_AGENTS_MAX);
    fleet_check(f);
    EXPECT_INT(f->model_count, 64);
    EXPECT_INT(fleet_find_model(f, STR("m17"))->count, FLEET_AGENTS_MAX * 8 / 64);
    fleet_unref(f);
}

/* Whoever holds a picture, or an agent of it, keeps what he holds. */
static void test_references(void)
{
    struct fleet *f = proxy_fleet_make(2);
    struct fleet *kept = fleet_ref(f);
    struct fleet_agent *agent = fleet_agent_ref(f->agents[1]);
    struct fleet_cell *cell = fleet_cell_ref(agent->cell);
    fleet_unref(f);
    fleet_check(kept);
    fleet_unref(kept);
    EXPECT_STR(agent->id, "a1");
    fleet_agent_unref(agent);
    EXPECT_INT(atomic_load(&cell->refs), 1);
    fleet_cell_unref(cell);
}

static void test_columns(void)
{
    struct fleet *f = proxy_fleet_make(12); // by id: a0, a1, a10, a11, a2, ...
    for (int i = 0; i < f->count; i++) {
        EXPECT_INT(fleet_find_cell(f, f->agents[i]->cell), i);
        EXPECT_INT(fleet_find_column(f, f->agents[i]->cell->column), i);
    }
    EXPECT_INT(fleet_find_column(f, 12), -1);
    EXPECT_INT(fleet_find_column(f, -1), -1);
    EXPECT_INT(fleet_find_column(f, FLEET_AGENTS_MAX), -1);
    struct fleet_cell *gone = fleet_cell_create();
    EXPECT_INT(fleet_find_cell(f, gone), -1);
    gone->column = 3; // reused since: that agent is another one
    EXPECT_INT(fleet_find_cell(f, gone), -1);
    fleet_cell_unref(gone);
    f->agents[5]->cell->column = -1;
    EXPECT_INT(fleet_find_cell(f, f->agents[5]->cell), 5); // without columns it takes longer
    fleet_unref(f);
}

static void test_agents_of_a_model(void)
{
    uint16_t agents[] = {1, 4, 5, 9};
    struct fleet_model m = {.agents = agents, .count = 4};
    for (int i = 0; i < 12; i++)
        EXPECT(fleet_model_has(&m, i) == (i == 1 || i == 4 || i == 5 || i == 9));
    m.count = 0;
    EXPECT(!fleet_model_has(&m, 1));
}

int main(void)
{
    RUN(test_index_of_models);
    RUN(test_empty);
    RUN(test_full_and_many_models);
    RUN(test_references);
    RUN(test_columns);
    RUN(test_agents_of_a_model);
    return TEST_END();
}
