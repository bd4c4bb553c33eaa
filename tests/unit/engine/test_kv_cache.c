#include "engine/kv_cache.h"

#include "kernels/backend.h"
#include "shared/base/rng.h"
#include "tests/test.h"

static void test_take_and_give_back(void)
{
    struct kv_cache kv;
    kv_cache_init(&kv, 3);
    kv_cache_check(&kv);
    EXPECT_INT(kv_cache_take(&kv), 0); // lowest first: untouched pages stay untouched
    EXPECT_INT(kv_cache_take(&kv), 1);
    EXPECT_INT(kv_cache_take(&kv), 2);
    EXPECT_INT(kv_cache_take(&kv), -1);
    kv_cache_check(&kv);
    kv_cache_unref(&kv, 1);
    EXPECT_INT(kv_cache_take(&kv), 1); // the one freed last
    kv_cache_ref(&kv, 2);
    kv_cache_unref(&kv, 2);
    EXPECT_INT(kv.count[KV_FREE], 0); // still held once
    kv_cache_unref(&kv, 2);
    EXPECT_INT(kv.count[KV_FREE], 1);
    kv_cache_check(&kv);
    kv_cache_deinit(&kv);
}

static void test_tables_grow_whole_or_not_at_all(void)
{
    struct kv_cache kv;
    struct block_table a = {0}, b = {0};
    kv_cache_init(&kv, 5);
    EXPECT(block_table_reserve(&a, &kv, 0));
    EXPECT_INT(a.count, 0);
    EXPECT(block_table_reserve(&a, &kv, 1));
    EXPECT(block_table_reserve(&a, &kv, KV_BLOCK_TOKENS));
    EXPECT_INT(a.count, 1);
    EXPECT(block_table_reserve(&a, &kv, 2 * KV_BLOCK_TOKENS + 1));
    EXPECT_INT(a.count, 3);
    EXPECT(!block_table_reserve(&b, &kv, 3 * KV_BLOCK_TOKENS));
    EXPECT_INT(b.count, 0);
    EXPECT_INT(kv.count[KV_FREE], 2);
    EXPECT(block_table_reserve(&b, &kv, 2 * KV_BLOCK_TOKENS));
    EXPECT(!block_table_reserve(&a, &kv, 3 * KV_BLOCK_TOKENS + 1));
    kv_cache_check(&kv);
    block_table_release(&a, &kv);
    EXPECT_INT(kv.count[KV_FREE], 3);
    block_table_release(&b, &kv);
    EXPECT_INT(kv.count[KV_FREE], 5);
    kv_cache_check(&kv);
    kv_cache_deinit(&kv);
}

static void test_random_owners(void)
{
    struct kv_cache kv;
    struct block_table tables[8] = {{0}};
    struct rng rng;
    rng_init(&rng, 3);
    kv_cache_init(&kv, 20);
    for (int round = 0; round < 5000; round++) {
        struct block_table *t = &tables[rng_below(&rng, 8)];
        int held = 0;
        if (rng_below(&rng, 3) == 0)
            block_table_release(t, &kv);
        else
            (void)block_table_reserve(t, &kv, rng_below(&rng, 8 * KV_BLOCK_TOKENS));
        kv_cache_check(&kv);
        for (int i = 0; i < 8; i++)
            held += tables[i].count;
        EXPECT_INT(held + kv.count[KV_FREE], 20);
    }
    for (int i = 0; i < 8; i++)
        block_table_release(&tables[i], &kv);
    kv_cache_deinit(&kv);
}

int main(void)
{
    RUN(test_take_and_give_back);
    RUN(test_tables_grow_whole_or_not_at_all);
    RUN(test_random_owners);
    return TEST_END();
}
