/* Filters, candidates and what gives way; the policies' own choices are in test_route_policies.c.
 */
#include "proxy/route.h"

#include "shared/base/check.h"
#include "tests/proxy_fleet.h"
#include "tests/test.h"

#define NOW      1000000ull
#define POLICIES 6

static struct fleet *f;
static struct route_state state;
static struct route_request request;
static struct route_choice choice;

static void begin(int agents)
{
    f = proxy_fleet_make(agents);
    route_state_init(&state, 42);
    request = (struct route_request){
        .prompt_tokens = 100, .output_tokens = 100, .probing_allowed = true, .now_ms = NOW};
}

static void end(void)
{
    proxy_fleet_free(f);
}

static enum route_verdict choose_by(const struct route_policy *policy)
{
    return route_choose(policy, &state, f, fleet_find_model(f, STR("m")), &request, &choice);
}

/* The index of the one picked by `policy`; -1: full, -2: nobody. */
static int pick_by(const struct route_policy *policy)
{
    enum route_verdict verdict = choose_by(policy);
    EXPECT((verdict == ROUTE_PICKED) == (choice.agent != NULL));
    if (verdict == ROUTE_FULL) return -1;
    if (verdict == ROUTE_NOBODY) return -2;
    return fleet_find_cell(f, choice.agent->cell);
}

static void set_full(int index, bool full)
{
    f->agents[index]->capacity = 4;
    atomic_store(&f->agents[index]->cell->in_flight, full ? 1 : 0);
    atomic_store(&f->agents[index]->cell->others_in_flight, full ? 3 : 0);
}

/* ---- filters ---- */

static void test_filters(void)
{
    for (int policy = 0; policy < POLICIES; policy++) {
        const struct route_policy *p = route_policy_at(policy);
        begin(7);
        f->agents[0]->draining = true;
        f->agents[1]->state = FLEET_SUSPECT;
        route_exclude(&request.excluded, f->agents[2]->cell);
        proxy_fleet_break(f, 3, NOW);
        set_full(4, true);
        f->agents[5]->context_len = 99;
        for (int i = 0; i < 20; i++)
            EXPECT_INT(pick_by(p), 6);
        set_full(6, true);
        EXPECT_INT(pick_by(p), -1); // wait: rather than ask one in doubt or one too short
        set_full(6, false);
        f->agents[6]->draining = true;
        set_full(4, false);
        f->agents[4]->draining = true;
        EXPECT_INT(pick_by(p), 5); // the estimate may be wrong
        f->agents[5]->draining = true;
        EXPECT_INT(pick_by(p), 1); // the suspect, as last resort
        f->agents[1]->draining = true;
        EXPECT_INT(pick_by(p), -2); // never a draining one
        end();
    }
}

static void test_capacity_counts_all_we_know(void)
{
    begin(1);
    set_full(0, true);
    EXPECT_INT(pick_by(&route_affinity), -1);
    atomic_store(&f->agents[0]->cell->others_in_flight, 2);
    EXPECT_INT(pick_by(&route_affinity), 0);
    f->agents[0]->capacity = 0; // unknown: never full
    atomic_store(&f->agents[0]->cell->others_in_flight, 2000);
    EXPECT_INT(pick_by(&route_affinity), 0);
    end();
}

static void test_full_may_be_allowed(void)
{
    begin(4);
    for (int i = 0; i < 4; i++)
        set_full(i, true);
    EXPECT_INT(pick_by(&route_affinity), -1);
    request.full_allowed = true;
    EXPECT(pick_by(&route_affinity) >= 0);
    set_full(2, false);
    for (int i = 0; i < 20; i++)
        EXPECT_INT(pick_by(&route_affinity), 2); // a free one is found though, half or not
    end();
}

/* In a large fleet where hardly anybody is free. */
static void test_the_last_free_one_is_found(void)
{
    begin(1000);
    for (int i = 0; i < 1000; i++)
        set_full(i, i != 777);
    for (int i = 0; i < 10; i++)
        EXPECT_INT(pick_by(&route_affinity), 777);
    end();
}

static void test_suspects(void)
{
    begin(3);
    f->agents[0]->state = f->agents[1]->state = FLEET_SUSPECT;
    request.pinned = f->agents[1]->cell; // its session may stay
    request.pinned_cached_tokens = 90;
    EXPECT_INT(pick_by(&route_affinity), 1);
    request.pinned = NULL;
    request.hits[0] = (struct route_hit){f->agents[1]->cell, 90}; // a cache is no reason
    request.hit_count = 1;
    EXPECT_INT(pick_by(&route_affinity), 2);
    end();
}

static void test_agents_of_other_models_and_strangers(void)
{
    static const char *const m[] = {"m"}, *const other[] = {"other"};
    struct fleet_agent *agents[] = {proxy_fleet_agent("a", m, 1), proxy_fleet_agent("b", other, 1)};
    begin(1);
    fleet_unref(f);
    f = fleet_create_take(agents, 2);
    request.pinned = f->agents[1]->cell; // it served the model once
    struct fleet_cell *stranger = fleet_cell_create();
    request.hits[0] = (struct route_hit){stranger, 100};
    request.hit_count = 1;
    EXPECT_INT(pick_by(&route_affinity), 0);
    EXPECT_INT(choice.affinity, ROUTE_AFFINITY_MOVED);
    fleet_cell_unref(stranger);
    end();
}

/* ---- breakers ---- */

static void test_half_open_is_probed_once(void)
{
    for (int policy = 0; policy < POLICIES; policy++) {
        const struct route_policy *p = route_policy_at(policy);
        begin(4);
        proxy_fleet_break(f, 2, NOW);
        for (int i = 0; i < 50; i++)
            EXPECT(pick_by(p) != 2);
        request.now_ms = NOW + BREAKER_OPEN_MS;
        request.probing_allowed = false;
        for (int i = 0; i < 50; i++)
            EXPECT(pick_by(p) != 2);
        request.probing_allowed = true;
        int probes = 0;
        for (int i = 0; i < 50; i++) {
            int picked = pick_by(p);
            EXPECT((picked == 2) == choice.is_probe);
            probes += choice.is_probe;
            if (choice.is_probe && probes == 1) route_give_back(&choice); // not sent after all
        }
        EXPECT_INT(probes, 2);
        end();
    }
}

static void test_sessions_probe_rarely_elsewhere(void)
{
    begin(4);
    request.pinned = f->agents[0]->cell;
    proxy_fleet_break(f, 2, NOW);
    request.now_ms = NOW + BREAKER_OPEN_MS;
    int probes = 0;
    for (int i = 0; i < 800; i++) {
        (void)pick_by(&route_affinity);
        probes += choice.is_probe;
        route_give_back(&choice);
    }
    /* In half of the choices it is among those looked at, and one of eight of these is a probe. */
    EXPECT(probes > 15 && probes < 130);
    request.pinned = f->agents[2]->cell; // its own sessions come home first
    EXPECT_INT(pick_by(&route_affinity), 2);
    EXPECT(choice.is_probe);
    end();
}

static void test_panic(void)
{
    begin(8);
    for (int i = 0; i < 4; i++)
        proxy_fleet_break(f, i, NOW);
    for (int i = 0; i < 100; i++)
        EXPECT(pick_by(&route_affinity) >= 4); // half of them: breakers hold
    proxy_fleet_break(f, 4, NOW);
    int counts[8] = {0};
    for (int i = 0; i < 400; i++) {
        int picked = pick_by(&route_affinity);
        NEED(picked >= 0);
        EXPECT(!choice.is_probe);
        counts[picked]++;
    }
    for (int i = 0; i < 8; i++)
        EXPECT(counts[i] > 10);
    request.probing_allowed = false; // what mustn't fail goes to those that work
    for (int i = 0; i < 100; i++)
        EXPECT(pick_by(&route_affinity) >= 5);
    for (int i = 5; i < 8; i++)
        proxy_fleet_break(f, i, NOW);
    EXPECT_INT(pick_by(&route_affinity), -2);
    end();
}

static void test_panic_in_a_large_fleet(void)
{
    begin(500);
    for (int i = 0; i < 150; i++)
        proxy_fleet_break(f, i, NOW);
    for (int i = 0; i < 200; i++)
        EXPECT(pick_by(&route_affinity) >= 150); // 30 %
    for (int i = 150; i < 400; i++)
        proxy_fleet_break(f, i, NOW);
    int open = 0;
    for (int i = 0; i < 200; i++)
        open += pick_by(&route_affinity) < 400; // 80 %
    EXPECT(open > 100);
    end();
}

static void test_an_only_agent_is_always_asked(void)
{
    begin(1);
    proxy_fleet_break(f, 0, NOW);
    EXPECT_INT(pick_by(&route_affinity), 0); // its breaker can't help anybody
    f->agents[0]->state = FLEET_SUSPECT;
    EXPECT_INT(pick_by(&route_affinity), 0);
    end();
}

enum { THREADS = 4, CHOICES = 3000 };

static atomic_int probes_of_all;

static void *choose_much(void *arg)
{
    struct route_state *own = arg;
    struct route_request mine = request;
    struct route_choice picked;
    for (int i = 0; i < CHOICES; i++) {
        mine.key = rng_u64(&own->rng);
        const struct fleet_model *model = fleet_find_model(f, STR("m"));
        NEED(route_choose(&route_affinity, own, f, model, &mine, &picked) == ROUTE_PICKED);
        atomic_fetch_add(&probes_of_all, picked.is_probe);
    }
    return NULL;
}

/* Workers share the picture, the cells and what is remembered of the rendezvous order. */
static void test_threads_send_one_probe(void)
{
    static struct route_state states[THREADS];
    pthread_t threads[THREADS];
    begin(40);
    proxy_fleet_break(f, 7, NOW);
    request.now_ms = NOW + BREAKER_OPEN_MS;
    for (int i = 0; i < THREADS; i++) {
        route_state_init(&states[i], (uint64_t)i);
        NEED(pthread_create(&threads[i], NULL, choose_much, &states[i]) == 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    EXPECT_INT(atomic_load(&probes_of_all), 1);
    end();
}

/* ---- candidates ---- */

static void test_everybody_gets_into_the_random_half(void)
{
    begin(40);
    int counts[40] = {0};
    for (int i = 0; i < 4000; i++) {
        int picked = pick_by(&route_affinity);
        NEED(picked >= 0);
        counts[picked]++;
    }
    for (int i = 0; i < 40; i++)
        EXPECT(counts[i] > 50 && counts[i] < 160);
    end();
}

/* An agent that has what we need is a candidate wherever it stands. */
static void test_affine_agents_are_candidates(void)
{
    begin(1000);
    request.prompt_tokens = 5000;
    for (int i = 0; i < 100; i++) {
        int at = i * 10 + 3;
        request.hits[0] = (struct route_hit){f->agents[at]->cell, 4900};
        request.hits[1] = (struct route_hit){f->agents[at + 1]->cell, 3000};
        request.hit_count = 2;
        EXPECT_INT(pick_by(&route_affinity), at);
        EXPECT(choice.cached_tokens == 4900);
        EXPECT_INT(choice.affinity, ROUTE_AFFINITY_HIT);
    }
    end();
}

static void test_choice_tells_what_came_of_affinity(void)
{
    for (int policy = 0; policy < POLICIES; policy++) {
        const struct route_policy *p = route_policy_at(policy);
        begin(2);
        EXPECT(pick_by(p) >= 0);
        EXPECT_INT(choice.affinity, ROUTE_AFFINITY_NONE);
        EXPECT(choice.seconds > 0);
        EXPECT(choice.cached_tokens == 0);
        request.pinned = f->agents[0]->cell;
        request.pinned_cached_tokens = 1e9; // no more than there are
        f->agents[1]->draining = true;
        EXPECT_INT(pick_by(p), 0);
        EXPECT_INT(choice.affinity, ROUTE_AFFINITY_HIT);
        EXPECT(choice.cached_tokens == 100);
        f->agents[1]->draining = false;
        f->agents[0]->draining = true;
        EXPECT_INT(pick_by(p), 1);
        EXPECT_INT(choice.affinity, ROUTE_AFFINITY_MOVED);
        end();
    }
}

static void test_same_seed_same_answers(void)
{
    for (int policy = 0; policy < POLICIES; policy++) {
        int first[500];
        for (int round = 0; round < 2; round++) {
            begin(9);
            for (int i = 0; i < 500; i++) {
                int picked = pick_by(route_policy_at(policy));
                if (round == 0) first[i] = picked;
                if (first[i] != picked) EXPECT_INT(picked, first[i]);
            }
            end();
        }
    }
}

static void test_names_match_the_choices(void)
{
    struct str names = STR(ROUTE_POLICY_NAMES), name;
    int count = 0;
    for (; str_split(&names, '|', &name); count++) {
        EXPECT(str_equal(name, str_of(route_policy_at(count)->name)));
        EXPECT(route_policy_find(route_policy_at(count)->name) == route_policy_at(count));
    }
    EXPECT_INT(count, POLICIES);
    EXPECT(!route_policy_find("affinit"));
}

int main(void)
{
    RUN(test_filters);
    RUN(test_capacity_counts_all_we_know);
    RUN(test_full_may_be_allowed);
    RUN(test_the_last_free_one_is_found);
    RUN(test_suspects);
    RUN(test_agents_of_other_models_and_strangers);
    RUN(test_half_open_is_probed_once);
    RUN(test_sessions_probe_rarely_elsewhere);
    RUN(test_threads_send_one_probe);
    RUN(test_panic);
    RUN(test_panic_in_a_large_fleet);
    RUN(test_an_only_agent_is_always_asked);
    RUN(test_everybody_gets_into_the_random_half);
    RUN(test_affine_agents_are_candidates);
    RUN(test_choice_tells_what_came_of_affinity);
    RUN(test_same_seed_same_answers);
    RUN(test_names_match_the_choices);
    return TEST_END();
}
