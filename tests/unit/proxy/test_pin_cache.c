#include "proxy/pin_cache.h"

#include "shared/base/check.h"
#include "shared/base/rng.h"
#include "tests/test.h"

static struct pin make(uint64_t key, enum session_kind kind, const char *agent, uint32_t turn)
{
    struct pin p = {.key = key, .kind = kind, .turn = turn};
    snprintf(p.owner.agent, sizeof p.owner.agent, "%s", agent);
    snprintf(p.owner.incarnation, sizeof p.owner.incarnation, "inc-of-%.20s", agent);
    return p;
}

static struct pin_cache *open_cache(uint32_t entries)
{
    struct pin_cache_options options = {
        .entries = entries, .soft_ttl_ms = 1000 * 1000, .hard_ttl_ms = 8000 * 1000};
    return pin_cache_create(&options);
}

static void test_put_and_get(void)
{
    struct pin_cache *c = open_cache(8);
    struct pin p = make(1, SESSION_SOFT, "a", 3), got;
    p.is_counted = true;
    p.refreshed_ms = 77;
    EXPECT(!pin_cache_get(c, 1, SESSION_SOFT, 100, &got));
    pin_cache_put(c, &p, 100);
    EXPECT(pin_cache_get(c, 1, SESSION_SOFT, 100, &got));
    EXPECT_STR(got.owner.agent, "a");
    EXPECT_STR(got.owner.incarnation, "inc-of-a");
    EXPECT(got.turn == 3 && got.is_counted && !got.is_unpublished && got.refreshed_ms == 77);
    p = make(1, SESSION_SOFT, "b", 4);
    pin_cache_put(c, &p, 200);
    EXPECT(pin_cache_get(c, 1, SESSION_SOFT, 200, &got) && got.turn == 4 && !got.is_counted);
    EXPECT_STR(got.owner.agent, "b");
    EXPECT_INT(pin_cache_count(c), 1);
    EXPECT(!pin_cache_get(c, 1, SESSION_HARD, 200, &got)); // another kind is another session
    p.owner.agent[0] = 0;
    pin_cache_put(c, &p, 200); // nobody's: nothing to remember
    EXPECT_INT(pin_cache_count(c), 0);
    pin_cache_drop(c, 1);
    pin_cache_check(c);
    pin_cache_destroy(c);
}

static void test_trust_and_idleness(void)
{
    struct pin_cache *c = open_cache(8);
    struct pin soft = make(1, SESSION_SOFT, "a", 1), hard = make(2, SESSION_HARD, "a", 1), got;
    pin_cache_put(c, &soft, 0);
    pin_cache_put(c, &hard, 0);
    EXPECT(pin_cache_get(c, 1, SESSION_SOFT, PIN_TRUST_MS - 1, &got) && got.is_trusted);
    EXPECT(pin_cache_get(c, 1, SESSION_SOFT, PIN_TRUST_MS, &got) && !got.is_trusted);
    pin_cache_put(c, &soft, PIN_TRUST_MS);
    EXPECT(pin_cache_get(c, 1, SESSION_SOFT, PIN_TRUST_MS, &got) && got.is_trusted);
    uint64_t used = PIN_TRUST_MS, soft_ttl = 1000 * 1000;
    EXPECT(pin_cache_get(c, 1, SESSION_SOFT, used + soft_ttl - 1, &got)); // is use
    EXPECT(pin_cache_get(c, 1, SESSION_SOFT, used + 2 * soft_ttl - 2, &got));
    EXPECT(!pin_cache_get(c, 1, SESSION_SOFT, used + 3 * soft_ttl - 2, &got));
    EXPECT(pin_cache_get(c, 2, SESSION_HARD, 8000 * 1000 - 1, &got));
    EXPECT_INT(pin_cache_count(c), 1);
    pin_cache_check(c);
    pin_cache_destroy(c);
}

static void test_the_longest_unused_goes(void)
{
    struct pin_cache *c = open_cache(4);
    struct pin got;
    for (uint64_t k = 1; k <= 4; k++) {
        struct pin p = make(k, SESSION_SOFT, "a", 1);
        pin_cache_put(c, &p, k);
    }
    EXPECT(pin_cache_get(c, 1, SESSION_SOFT, 5, &got));
    struct pin fifth = make(5, SESSION_SOFT, "a", 1);
    pin_cache_put(c, &fifth, 6);
    EXPECT_INT(pin_cache_count(c), 4);
    EXPECT(pin_cache_get(c, 1, SESSION_SOFT, 7, &got));
    EXPECT(!pin_cache_get(c, 2, SESSION_SOFT, 7, &got));
    pin_cache_check(c);
    pin_cache_destroy(c);
}

/* More processes than there are places for: old entries go, nothing else happens. */
static void test_owners_are_bounded(void)
{
    struct pin_cache *c = open_cache(3 * PIN_OWNERS_MAX);
    char name[32];
    for (uint32_t k = 0; k < 2 * PIN_OWNERS_MAX; k++) {
        snprintf(name, sizeof name, "agent-%u", k);
        struct pin p = make(k, SESSION_HARD, name, k);
        pin_cache_put(c, &p, 1);
    }
    EXPECT_INT(pin_cache_count(c), PIN_OWNERS_MAX);
    struct pin got;
    EXPECT(!pin_cache_get(c, PIN_OWNERS_MAX - 1, SESSION_HARD, 2, &got));
    EXPECT(pin_cache_get(c, PIN_OWNERS_MAX, SESSION_HARD, 2, &got) && got.turn == PIN_OWNERS_MAX);
    pin_cache_check(c);
    pin_cache_destroy(c);
}

static void test_unpublished(void)
{
    struct pin_cache *c = open_cache(64);
    struct pin got[8];
    for (uint64_t k = 0; k < 20; k++) {
        struct pin p = make(k, SESSION_HARD, "a", 1);
        p.is_unpublished = k % 2;
        pin_cache_put(c, &p, 1);
    }
    pin_cache_check(c);
    EXPECT_INT(pin_cache_take_unpublished(c, 2, got, 8), 8);
    for (int i = 0; i < 8; i++)
        EXPECT(got[i].key % 2 == 1 && got[i].is_unpublished);
    EXPECT_INT(pin_cache_take_unpublished(c, 2, got, 8), 2);
    EXPECT_INT(pin_cache_take_unpublished(c, 2, got, 8), 0);
    pin_cache_check(c);
    pin_cache_destroy(c);
}

/* Against a model that is too simple to be wrong. */
static void test_many(void)
{
    enum { KEYS = 200, ROOM = 64 };
    struct pin_cache *c = open_cache(ROOM);
    struct rng rng;
    rng_init(&rng, 3);
    uint32_t turn[KEYS] = {0}, used[KEYS] = {0}; // 0: not there
    uint32_t count = 0;
    for (uint32_t now = 1; now < 40000; now++) {
        uint32_t k = rng_below(&rng, KEYS);
        struct pin p = make(k, SESSION_HARD, k % 3 ? "a" : "b", now), got;
        switch (rng_below(&rng, 4)) {
        case 0:
            pin_cache_drop(c, k);
            count -= used[k] > 0;
            used[k] = 0;
            break;
        case 1:
            EXPECT(pin_cache_get(c, k, SESSION_HARD, 1, &got) == (used[k] > 0));
            if (used[k]) EXPECT_INT(got.turn, turn[k]);
            if (used[k]) used[k] = now;
            break;
        default:
            pin_cache_put(c, &p, 1);
            count += used[k] == 0;
            turn[k] = used[k] = now;
            if (count <= ROOM) break;
            uint32_t oldest = k;
            for (uint32_t i = 0; i < KEYS; i++)
                if (used[i] && used[i] < used[oldest]) oldest = i;
            used[oldest] = 0;
            count--;
        }
        if (now % 1000 == 0) pin_cache_check(c);
    }
    EXPECT_INT(pin_cache_count(c), count);
    pin_cache_destroy(c);
}

int main(void)
{
    RUN(test_put_and_get);
    RUN(test_trust_and_idleness);
    RUN(test_the_longest_unused_goes);
    RUN(test_owners_are_bounded);
    RUN(test_unpublished);
    RUN(test_many);
    return TEST_END();
}
