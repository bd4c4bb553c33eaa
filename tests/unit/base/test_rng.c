#include "shared/base/rng.h"

#include "tests/test.h"

static void test_stream_is_the_published_one(void)
{
    // splitmix64 from seed 1234567: the vector that ships with its reference implementation's ports
    struct rng r;
    rng_init(&r, 1234567);
    EXPECT(rng_u64(&r) == 6457827717110365317ull);
    EXPECT(rng_u64(&r) == 3203168211198807973ull);
    EXPECT(rng_u64(&r) == 9817491932198370423ull);
}

static void test_below_covers_and_stays_below(void)
{
    struct rng r;
    rng_init(&r, 7);
    int seen[10] = {0};
    for (int i = 0; i < 100000; i++) {
        uint32_t x = rng_below(&r, 10);
        NEED(x < 10);
        seen[x]++;
    }
    for (int i = 0; i < 10; i++)
        EXPECT(seen[i] > 9500 && seen[i] < 10500); // 5 sigma is 474
    EXPECT_INT(rng_below(&r, 1), 0);
    /* A bound of 3 * 2^30: plain scaling would give the lower part of each third too often. */
    int low = 0;
    for (int i = 0; i < 30000; i++)
        low += rng_below(&r, 3u << 30) < 3u << 29;
    EXPECT(low > 14500 && low < 15500);
}

static void test_unit_is_half_open(void)
{
    struct rng r;
    rng_init(&r, 1);
    double sum = 0;
    for (int i = 0; i < 100000; i++) {
        double x = rng_unit(&r);
        NEED(x >= 0 && x < 1);
        sum += x;
    }
    EXPECT(sum > 49500 && sum < 50500);
}

static void test_random_bytes_fill_all(void)
{
    unsigned char a[1000] = {0}, b[1000] = {0};
    random_bytes(a, sizeof a);
    random_bytes(b, sizeof b);
    EXPECT(memcmp(a, b, sizeof a) != 0);
    int zeros = 0;
    for (size_t i = 0; i < sizeof a; i++)
        zeros += a[i] == 0;
    EXPECT(zeros < 40); // 4 expected
    random_bytes(NULL, 0);
}

static void test_ids(void)
{
    char a[201], b[201];
    random_id(a, 200);
    random_id(b, 200);
    EXPECT_INT(strlen(a), 200);
    EXPECT(strcmp(a, b) != 0);
    EXPECT_INT(strspn(a, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"), 200);
    random_id(a, 0);
    EXPECT_STR(a, "");
}

int main(void)
{
    RUN(test_stream_is_the_published_one);
    RUN(test_below_covers_and_stays_below);
    RUN(test_unit_is_half_open);
    RUN(test_random_bytes_fill_all);
    RUN(test_ids);
    return TEST_END();
}
