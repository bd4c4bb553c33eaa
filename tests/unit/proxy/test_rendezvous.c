#include "proxy/rendezvous.h"

#include "shared/base/check.h"
#include "shared/base/rng.h"
#include "tests/proxy_fleet.h"
#include "tests/test.h"

enum { KEYS = 20000 };

static const struct fleet_model *model_of(const struct fleet *f)
{
    return fleet_find_model(f, STR("m"));
}

static const struct fleet_agent *first_of(const struct fleet *f, uint64_t key)
{
    uint16_t first[RENDEZVOUS_FIRST];
    NEED(rendezvous_first(f, model_of(f), key, first) > 0);
    return f->agents[first[0]];
}

/* By the book: all ranks. */
static void test_first_are_the_highest_ranks(void)
{
    static const int sizes[] = {1, 2, 3, 8, 32, 33, 300}; // from 33 on they are remembered
    for (size_t s = 0; s < ARRAY_LEN(sizes); s++) {
        struct fleet *f = proxy_fleet_make(sizes[s]);
        for (uint64_t key = 1; key < 400; key++) {
            uint16_t first[RENDEZVOUS_FIRST];
            int count = rendezvous_first(f, model_of(f), key % 200, first);
            EXPECT_INT(count, sizes[s] < RENDEZVOUS_FIRST ? sizes[s] : RENDEZVOUS_FIRST);
            for (int i = 0; i < f->count; i++) {
                double rank = rendezvous_rank(key % 200, f->agents[i]);
                EXPECT(rank > 0);
                if (rank > rendezvous_rank(key % 200, f->agents[first[0]])) EXPECT(false);
                bool is_first = i == first[0];
                if (count > 1 && !is_first &&
                    rank > rendezvous_rank(key % 200, f->agents[first[1]]))
                    EXPECT(false);
            }
        }
        fleet_unref(f);
    }
}

static void test_spread_follows_the_weights(void)
{
    struct fleet *f = proxy_fleet_make(4);
    f->agents[0]->capacity = f->agents[1]->capacity = 16;
    f->agents[2]->capacity = 32;
    f->agents[3]->capacity = 64;
    int counts[4] = {0};
    struct rng rng;
    rng_init(&rng, 5);
    for (int i = 0; i < KEYS; i++) {
        const struct fleet_agent *a = first_of(f, rng_u64(&rng));
        for (int k = 0; k < 4; k++)
            counts[k] += f->agents[k] == a;
    }
    EXPECT(abs(counts[0] - KEYS / 8) < KEYS / 80);
    EXPECT(abs(counts[1] - KEYS / 8) < KEYS / 80);
    EXPECT(abs(counts[2] - KEYS / 4) < KEYS / 40);
    EXPECT(abs(counts[3] - KEYS / 2) < KEYS / 20);
    fleet_unref(f);
}

/* The agents of `f` but the one at `without`: another picture, as another proxy may see it. */
static struct fleet *picture_without(const struct fleet *f, int without)
{
    struct fleet_agent *agents[FLEET_AGENTS_MAX];
    int count = 0;
    for (int i = 0; i < f->count; i++)
        if (i != without) agents[count++] = fleet_agent_ref(f->agents[i]);
    return fleet_create_take(agents, count);
}

static void test_a_loss_moves_only_its_own(void)
{
    static const int sizes[] = {8, 33, 100};
    for (size_t s = 0; s < ARRAY_LEN(sizes); s++) {
        struct fleet *f = proxy_fleet_make(sizes[s]);
        struct fleet *less = picture_without(f, 3);
        struct rng rng;
        rng_init(&rng, 8);
        for (int i = 0; i < KEYS / 10; i++) {
            uint64_t key = rng_u64(&rng);
            const struct fleet_agent *before = first_of(f, key), *after = first_of(less, key);
            if (before != f->agents[3]) {
                EXPECT(before == after);
                continue;
            }
            uint16_t first[RENDEZVOUS_FIRST]; // its keys go to whom everybody knows as second
            NEED(rendezvous_first(f, model_of(f), key, first) == 2);
            EXPECT(f->agents[first[1]] == after);
        }
        fleet_unref(less);
        fleet_unref(f);
    }
}

static void test_who_takes_nothing_new_is_passed_over(void)
{
    struct fleet *f = proxy_fleet_make(3);
    f->agents[0]->draining = true;
    f->agents[2]->state = FLEET_SUSPECT;
    uint16_t first[RENDEZVOUS_FIRST];
    for (uint64_t key = 0; key < 100; key++) {
        EXPECT_INT(rendezvous_first(f, model_of(f), key, first), 1);
        EXPECT_INT(first[0], 1);
    }
    f->agents[1]->draining = true;
    EXPECT_INT(rendezvous_first(f, model_of(f), 1, first), 0);
    fleet_unref(f);
    f = proxy_fleet_make(40); // remembered as well
    for (int i = 0; i < 40; i++)
        f->agents[i]->draining = i != 7;
    for (int i = 0; i < 2; i++) {
        EXPECT_INT(rendezvous_first(f, model_of(f), 1, first), 1);
        EXPECT_INT(first[0], 7);
    }
    fleet_unref(f);
}

int main(void)
{
    RUN(test_first_are_the_highest_ranks);
    RUN(test_spread_follows_the_weights);
    RUN(test_a_loss_moves_only_its_own);
    RUN(test_who_takes_nothing_new_is_passed_over);
    return TEST_END();
}
