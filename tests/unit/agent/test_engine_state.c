#include "agent/engine_state.h"

#include "tests/test.h"

static void test_progress(void)
{
    struct engine_progress p = {0};
    struct engine_stats stats = {0};
    engine_progress_update(&p, &stats, 1000);
    EXPECT(!engine_progress_is_stalled(&p, 1000 + ENGINE_STALL_MS));
    // an hour of nothing to do is no stall, and doesn't count when work comes
    engine_progress_update(&p, &stats, 3600000);
    stats.running = 1;
    EXPECT(!engine_progress_is_stalled(&p, 3600001));
    engine_progress_update(&p, &stats, 3600000 + ENGINE_STALL_MS - 1);
    EXPECT(!engine_progress_is_stalled(&p, 3600000 + ENGINE_STALL_MS));
    EXPECT(engine_progress_is_stalled(&p, 3600000 + ENGINE_STALL_MS + 1));
    // a step heals
    stats.steps = 1;
    engine_progress_update(&p, &stats, 3700000);
    EXPECT(!engine_progress_is_stalled(&p, 3700000 + ENGINE_STALL_MS));
    EXPECT(engine_progress_is_stalled(&p, 3700001 + ENGINE_STALL_MS));
}

static void test_wait(void)
{
    struct engine_stats stats = {0};
    EXPECT_INT(engine_wait_s(&stats, 4), 1); // nothing known
    stats.prefill_tokens_waiting = 5000;
    stats.prefill_tokens_per_s = 1000;
    EXPECT_INT(engine_wait_s(&stats, 4), 5);
    stats.waiting = 8; // two batches of answers of 128 tokens
    stats.inter_token_s = 0.01;
    EXPECT_INT(engine_wait_s(&stats, 4), 8);
    stats.waiting = 100000;
    EXPECT_INT(engine_wait_s(&stats, 4), 30);
}

static void test_load(void)
{
    struct engine_stats stats = {.running = 3,
                                 .waiting = 2,
                                 .prefill_tokens_waiting = 77,
                                 .kv_blocks_used = 25,
                                 .kv_blocks_total = 100,
                                 .prefill_tokens_per_s = 900,
                                 .inter_token_s = 0.02,
                                 .inter_token_slope_s = 0.001};
    struct agent_load load = {.sequence = 9};
    engine_load(&stats, &load);
    EXPECT(load.running == 3 && load.waiting == 2 && load.prefill_tokens_waiting == 77);
    EXPECT(load.kv_used_share == 0.25 && load.prefill_tokens_per_s == 900);
    EXPECT(load.inter_token_s == 0.02 && load.sequence == 9);
    EXPECT(load.inter_token_slope_s == 0.001);
    stats.kv_blocks_total = 0;
    engine_load(&stats, &load);
    EXPECT(load.kv_used_share == 0);
}

static void test_news(void)
{
    struct engine_stats stats = {.prefill_tokens_waiting = 5000};
    EXPECT(!engine_load_is_news(&stats, 0)); // how long is that?
    stats.prefill_tokens_per_s = 2000;
    EXPECT(engine_load_is_news(&stats, 0));
    EXPECT(engine_load_is_news(&stats, 4799));
    EXPECT(!engine_load_is_news(&stats, 4801));
    EXPECT(!engine_load_is_news(&stats, 90000)); // less is no news that can't wait
}

int main(void)
{
    RUN(test_progress);
    RUN(test_wait);
    RUN(test_load);
    RUN(test_news);
    return TEST_END();
}
