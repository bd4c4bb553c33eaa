#include "shared/base/clock.h"

#include "tests/test.h"

#include <time.h>

static void test_monotonic_never_goes_back(void)
{
    uint64_t last = clock_ns();
    for (int i = 0; i < 100000; i++) {
        uint64_t now = clock_ns();
        if (now < last) {
            EXPECT(now >= last);
            break;
        }
        last = now;
    }
}

static void test_units_agree(void)
{
    uint64_t before_ms = clock_ms(), ns = clock_ns(), after_ms = clock_ms();
    EXPECT(ns / 1000000 >= before_ms && ns / 1000000 <= after_ms);
    struct timespec pause = {.tv_nsec = 20 * 1000 * 1000};
    uint64_t start = clock_ns();
    nanosleep(&pause, NULL);
    uint64_t waited = clock_ns() - start;
    EXPECT(waited >= 20u * 1000 * 1000);
}

static void test_wall_is_utc_milliseconds(void)
{
    int64_t before = (int64_t)time(NULL);
    int64_t wall = clock_wall_ms();
    EXPECT(wall / 1000 >= before - 1);
    EXPECT(wall / 1000 <= (int64_t)time(NULL) + 1);
}

int main(void)
{
    RUN(test_monotonic_never_goes_back);
    RUN(test_units_agree);
    RUN(test_wall_is_utc_milliseconds);
    return TEST_END();
}
