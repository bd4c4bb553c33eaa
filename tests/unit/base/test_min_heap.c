#include "shared/base/min_heap.h"

#include "shared/base/rng.h"
#include "tests/test.h"

static void test_order(void)
{
    uint64_t keys[500], last = 0;
    struct min_heap h = {.keys = keys};
    struct rng rng;
    rng_init(&rng, 1);
    for (int i = 0; i < 500; i++)
        min_heap_push(&h, rng_below(&rng, 300)); // with equal ones among them
    for (int i = 0; i < 250; i++) {
        uint64_t key = min_heap_pop(&h);
        EXPECT(key >= last);
        last = key;
    }
    for (int i = 0; i < 100; i++) // in turns
        min_heap_push(&h, last + rng_below(&rng, 50));
    while (h.count) {
        uint64_t key = min_heap_pop(&h);
        EXPECT(key >= last);
        last = key;
    }
}

int main(void)
{
    RUN(test_order);
    return TEST_END();
}
