#include "proxy/route.h"

#include "shared/base/check.h"
#include "tests/proxy_fleet.h"
#include "tests/test.h"

enum { DRAWS = 20000 };

static void choose_many(const struct route_policy *policy, struct fleet *f, int draws, int counts[])
{
    struct route_state state;
    route_state_init(&state, 42);
    struct route_excluded none = {.count = 0};
    const struct fleet_model *model = fleet_find_model(f, STR("m"));
    NEED(model);
    for (int i = 0; i < draws; i++) {
        struct fleet_agent *a = route_choose(policy, &state, f, model, &none);
        NEED(a);
        for (int k = 0; k < f->count; k++)
            counts[k] += f->agents[k] == a;
    }
}

static bool is_near(int got, double want, double share)
{
    return got > want * (1 - share) && got < want * (1 + share);
}

static void set_load(struct fleet *f, int index, int own, int others)
{
    atomic_store(&f->agents[index]->cell->in_flight, own);
    atomic_store(&f->agents[index]->cell->others_in_flight, others);
}

static void test_least_load_picks_the_least(void)
{
    struct fleet *f = proxy_fleet_make(4);
    set_load(f, 0, 3, 0);
    set_load(f, 1, 0, 2);
    set_load(f, 2, 1, 0);
    set_load(f, 3, 1, 1);
    int counts[4] = {0};
    choose_many(&route_least_load, f, 100, counts);
    EXPECT_INT(counts[2], 100);
    proxy_fleet_free(f);
}

static void test_least_load_spreads_ties(void)
{
    struct fleet *f = proxy_fleet_make(5);
    set_load(f, 4, 1, 0);
    int counts[5] = {0};
    choose_many(&route_least_load, f, DRAWS, counts);
    for (int i = 0; i < 4; i++)
        EXPECT(is_near(counts[i], DRAWS / 4.0, 0.1));
    EXPECT_INT(counts[4], 0);
    proxy_fleet_free(f);
}

/* Requests that come and stay: fill follows capacity, so that all are equally full. */
static void test_least_load_fills_by_capacity(void)
{
    struct fleet *f = proxy_fleet_make(3);
    f->agents[0]->capacity = 10;
    f->agents[1]->capacity = 20;
    f->agents[2]->capacity = 70;
    struct route_state state;
    route_state_init(&state, 1);
    struct route_excluded none = {.count = 0};
    for (int i = 0; i < 100; i++) {
        struct fleet_agent *a =
            route_choose(&route_least_load, &state, f, fleet_find_model(f, STR("m")), &none);
        atomic_fetch_add(&a->cell->in_flight, 1);
    }
    EXPECT_INT(atomic_load(&f->agents[0]->cell->in_flight), 10);
    EXPECT_INT(atomic_load(&f->agents[1]->cell->in_flight), 20);
    EXPECT_INT(atomic_load(&f->agents[2]->cell->in_flight), 70);
    proxy_fleet_free(f);
}

static void test_least_load_knows_speed_of_foreign_nodes(void)
{
    struct fleet *f = proxy_fleet_make(2);
    f->agents[0]->speed = 3;
    f->agents[1]->speed = 1;
    struct route_state state;
    route_state_init(&state, 1);
    struct route_excluded none = {.count = 0};
    for (int i = 0; i < 400; i++) {
        struct fleet_agent *a =
            route_choose(&route_least_load, &state, f, fleet_find_model(f, STR("m")), &none);
        atomic_fetch_add(&a->cell->in_flight, 1);
    }
    EXPECT(is_near(atomic_load(&f->agents[0]->cell->in_flight), 300, 0.02));
    proxy_fleet_free(f);
}

static void test_round_robin_is_even(void)
{
    struct fleet *f = proxy_fleet_make(7);
    set_load(f, 3, 100, 100);
    int counts[7] = {0};
    choose_many(&route_round_robin, f, 700, counts);
    for (int i = 0; i < 7; i++)
        EXPECT_INT(counts[i], 100);
    proxy_fleet_free(f);
}

static void test_random_is_weighted_by_speed(void)
{
    struct fleet *f = proxy_fleet_make(3);
    int even[3] = {0};
    choose_many(&route_random, f, DRAWS, even);
    for (int i = 0; i < 3; i++)
        EXPECT(is_near(even[i], DRAWS / 3.0, 0.1));
    f->agents[0]->speed = 6;
    f->agents[1]->speed = 2; // the third weighs their mean: 4
    int counts[3] = {0};
    choose_many(&route_random, f, DRAWS, counts);
    EXPECT(is_near(counts[0], DRAWS / 2.0, 0.1));
    EXPECT(is_near(counts[1], DRAWS / 6.0, 0.1));
    EXPECT(is_near(counts[2], DRAWS / 3.0, 0.1));
    proxy_fleet_free(f);
}

static void test_same_seed_same_answers(void)
{
    for (int policy = 0; policy < 3; policy++) {
        struct fleet *f = proxy_fleet_make(9);
        int first[9] = {0}, second[9] = {0};
        choose_many(route_policy_at(policy), f, 500, first);
        choose_many(route_policy_at(policy), f, 500, second);
        EXPECT(memcmp(first, second, sizeof first) == 0);
        proxy_fleet_free(f);
    }
}

static void test_filters(void)
{
    struct fleet *f = proxy_fleet_make(4);
    const struct fleet_model *model = fleet_find_model(f, STR("m"));
    struct route_state state;
    route_state_init(&state, 3);
    for (int policy = 0; policy < 3; policy++) {
        const struct route_policy *p = route_policy_at(policy);
        struct route_excluded e = {.count = 0};
        f->agents[0]->draining = true;
        f->agents[1]->state = FLEET_SUSPECT;
        route_exclude(&e, f->agents[2]->cell);
        for (int i = 0; i < 20; i++)
            EXPECT(route_choose(p, &state, f, model, &e) == f->agents[3]);
        route_exclude(&e, f->agents[3]->cell);
        EXPECT(route_choose(p, &state, f, model, &e) ==
               f->agents[1]); // the suspect, as last resort
        route_exclude(&e, f->agents[1]->cell);
        EXPECT(route_choose(p, &state, f, model, &e) == NULL); // never a draining one
    }
    proxy_fleet_free(f);
}

static void test_names_match_the_choices(void)
{
    struct str names = STR(ROUTE_POLICY_NAMES), name;
    for (int i = 0; str_split(&names, '|', &name); i++)
        EXPECT(str_equal(name, str_of(route_policy_at(i)->name)));
}

int main(void)
{
    RUN(test_least_load_picks_the_least);
    RUN(test_least_load_spreads_ties);
    RUN(test_least_load_fills_by_capacity);
    RUN(test_least_load_knows_speed_of_foreign_nodes);
    RUN(test_round_robin_is_even);
    RUN(test_random_is_weighted_by_speed);
    RUN(test_same_seed_same_answers);
    RUN(test_filters);
    RUN(test_names_match_the_choices);
    return TEST_END();
}
