#include "shared/base/hash_map.h"

#include "shared/base/check.h"
#include "shared/base/rng.h"
#include "tests/test.h"

static void test_put_get_remove(void)
{
    struct hash_map m;
    int a = 1, b = 2;
    hash_map_init(&m);
    EXPECT(hash_map_get(&m, STR("x")) == NULL);
    EXPECT(hash_map_remove(&m, STR("x")) == NULL);
    EXPECT(hash_map_put(&m, STR("x"), &a) == NULL);
    EXPECT(hash_map_put(&m, STR("x"), &b) == &a);
    EXPECT(hash_map_get(&m, STR("x")) == &b);
    EXPECT_INT(m.len, 1);
    EXPECT(hash_map_remove(&m, STR("x")) == &b);
    EXPECT(hash_map_get(&m, STR("x")) == NULL);
    EXPECT_INT(m.len, 0);
    hash_map_deinit(&m);
    hash_map_deinit(&m);
}

static void test_keys_are_bytes_and_copied(void)
{
    struct hash_map m;
    int a = 1, b = 2, c = 3;
    char key[] = {'k', 0, '1'};
    hash_map_init(&m);
    hash_map_put(&m, (struct str){key, 3}, &a);
    key[2] = '2';
    hash_map_put(&m, (struct str){key, 3}, &b);
    hash_map_put(&m, (struct str){NULL, 0}, &c);
    memset(key, 'z', sizeof key);
    EXPECT(hash_map_get(&m, STR("k\0001")) == &a);
    EXPECT(hash_map_get(&m, STR("k\0002")) == &b);
    EXPECT(hash_map_get(&m, STR("")) == &c);
    EXPECT(hash_map_get(&m, STR("k")) == NULL);
    hash_map_deinit(&m);
}

/* Against a plain array, over a random history of puts and removes. */
static void test_agrees_with_a_model(void)
{
    enum { KEYS = 700, STEPS = 60000 };
    static int values[KEYS];
    static bool present[KEYS];
    struct hash_map m;
    struct rng r;
    size_t len = 0;
    hash_map_init(&m);
    rng_init(&r, 42);
    for (int step = 0; step < STEPS; step++) {
        char key[32];
        uint32_t k = rng_below(&r, KEYS);
        snprintf(key, sizeof key, "key-%u", k);
        // waves: mostly growing, then mostly shrinking
        bool put = rng_below(&r, 10) < (step / 10000 % 2 ? 2u : 8u);
        void *old =
            put ? hash_map_put(&m, str_of(key), &values[k]) : hash_map_remove(&m, str_of(key));
        NEED(old == (present[k] ? &values[k] : NULL));
        if (put != present[k]) len = put ? len + 1 : len - 1;
        present[k] = put;
        NEED(m.len == len);
        NEED(m.cap == 0 || m.used * 4 <= m.cap * 3);
    }
    size_t pos = 0, seen = 0;
    struct str key;
    void *value;
    while (hash_map_next(&m, &pos, &key, &value)) {
        size_t k = (size_t)((int *)value - values);
        char want[32];
        snprintf(want, sizeof want, "key-%zu", k);
        EXPECT(present[k] && str_equal(key, str_of(want)));
        seen++;
    }
    EXPECT_INT(seen, len);
    hash_map_deinit(&m);
}

static void test_churn_does_not_grow(void)
{
    struct hash_map m;
    int value;
    hash_map_init(&m);
    for (int i = 0; i < 100000; i++) {
        char key[32];
        snprintf(key, sizeof key, "%d", i);
        hash_map_put(&m, str_of(key), &value);
        hash_map_remove(&m, str_of(key));
    }
    EXPECT(m.cap <= 16);
    hash_map_deinit(&m);
}

int main(void)
{
    RUN(test_put_get_remove);
    RUN(test_keys_are_bytes_and_copied);
    RUN(test_agrees_with_a_model);
    RUN(test_churn_does_not_grow);
    return TEST_END();
}
