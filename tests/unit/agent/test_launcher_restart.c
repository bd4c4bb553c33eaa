#include "agent/launcher_restart.h"

#include "tests/test.h"

static void test_pauses_double(void)
{
    struct launcher_restart r = {.limit = 9, .delay_ms = 1000};
    static const uint64_t want[] = {1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000, 60000};
    uint64_t delay_ms;
    for (size_t i = 0; i < 9; i++) {
        NEED(launcher_restart_next(&r, 0, &delay_ms));
        EXPECT_INT(delay_ms, want[i]);
    }
    EXPECT(!launcher_restart_next(&r, LAUNCHER_STEADY_MS - 1, &delay_ms));
}

static void test_service_clears_the_row(void)
{
    struct launcher_restart r = {.limit = 2, .delay_ms = 500};
    uint64_t delay_ms;
    NEED(launcher_restart_next(&r, 10, &delay_ms) && launcher_restart_next(&r, 10, &delay_ms));
    EXPECT_INT(delay_ms, 1000);
    NEED(launcher_restart_next(&r, LAUNCHER_STEADY_MS, &delay_ms));
    EXPECT_INT(delay_ms, 500);
    EXPECT_INT(r.in_a_row, 1);
}

static void test_no_bound(void)
{
    struct launcher_restart r = {.delay_ms = 10};
    uint64_t delay_ms = 0;
    for (int i = 0; i < 100000; i++)
        NEED(launcher_restart_next(&r, 0, &delay_ms));
    EXPECT_INT(delay_ms, LAUNCHER_DELAY_MS_MAX);
}

int main(void)
{
    RUN(test_pauses_double);
    RUN(test_service_clears_the_row);
    RUN(test_no_bound);
    return TEST_END();
}
