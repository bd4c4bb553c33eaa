#include "shared/base/metrics.h"

#include "shared/base/check.h"
#include "tests/test.h"

#include <math.h>
#include <pthread.h>

#define TEST_METRICS(X)                             \
    X(COUNTER, requests_total, "requests accepted") \
    X(GAUGE, running, "sequences in\nthe \\ batch") \
    X(HISTOGRAM, ttft_seconds, "time to first token")

METRICS_DECLARE(test_metrics, TEST_METRICS);

#define ROW(kind, field, help) METRICS_ROW(test_metrics, "lm_test_", kind, field, help)
static const struct metric_info table[] = {TEST_METRICS(ROW)};

static struct test_metrics metrics;

static void test_counter_and_gauge(void)
{
    metric_add(&metrics.requests_total, 1);
    metric_add(&metrics.requests_total, 41);
    EXPECT_INT(metric_get(&metrics.requests_total), 42);
    metric_set(&metrics.running, 7);
    metric_add(&metrics.running, -9);
    EXPECT_INT(metric_get(&metrics.running), -2);
}

static void test_observe_picks_the_bucket(void)
{
    struct metric m = {0};
    static const struct {
        double seconds;
        size_t bucket;
    } cases[] = {{0, 0},    {0.001, 0}, {0.0010001, 1}, {0.002, 1},  {0.3, 8},       {1, 9},
                 {199, 16}, {200, 16},  {200.1, 17},    {1e300, 17}, {INFINITY, 17}, {-5, 0}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        uint64_t before = m.buckets[cases[i].bucket];
        metric_observe(&m, cases[i].seconds);
        EXPECT_INT(m.buckets[cases[i].bucket], before + 1);
    }
    struct metric unchanged = {0};
    metric_observe(&unchanged, NAN);
    for (size_t i = 0; i < METRIC_BUCKETS; i++)
        EXPECT_INT(unchanged.buckets[i], 0);
}

static void test_exposition(void)
{
    struct buf out;
    buf_init(&out, BUF_MAX_INTERNAL);
    metric_observe(&metrics.ttft_seconds, 0.0015);
    metric_observe(&metrics.ttft_seconds, 0.0018);
    metric_observe(&metrics.ttft_seconds, 3);
    metric_observe(&metrics.ttft_seconds, 999);
    metrics_print(&out, table, ARRAY_LEN(table), &metrics);
    EXPECT(strstr(out.data, "# HELP lm_test_requests_total requests accepted\n"
                            "# TYPE lm_test_requests_total counter\n"
                            "lm_test_requests_total 42\n"
                            "# HELP lm_test_running sequences in\\nthe \\\\ batch\n"
                            "# TYPE lm_test_running gauge\n"
                            "lm_test_running -2\n"
                            "# HELP lm_test_ttft_seconds time to first token\n"
                            "# TYPE lm_test_ttft_seconds histogram\n"
                            "lm_test_ttft_seconds_bucket{le=\"0.001\"} 0\n"
                            "lm_test_ttft_seconds_bucket{le=\"0.002\"} 2\n"
                            "lm_test_ttft_seconds_bucket{le=\"0.005\"} 2\n") == out.data);
    EXPECT(strstr(out.data, "lm_test_ttft_seconds_bucket{le=\"2\"} 2\n"
                            "lm_test_ttft_seconds_bucket{le=\"5\"} 3\n"));
    const char *tail = "lm_test_ttft_seconds_bucket{le=\"200\"} 3\n"
                       "lm_test_ttft_seconds_bucket{le=\"+Inf\"} 4\n"
                       "lm_test_ttft_seconds_sum 1002.003300\n"
                       "lm_test_ttft_seconds_count 4\n";
    EXPECT_STR(out.data + out.len - strlen(tail), tail);
    buf_deinit(&out);
}

static void *add_many(void *arg)
{
    struct metric *m = arg;
    for (int i = 0; i < 10000; i++) {
        metric_add(m, 1);
        metric_observe(m, 0.01);
    }
    return NULL;
}

static void test_threads_lose_nothing(void)
{
    struct metric m = {0};
    pthread_t threads[4];
    for (size_t i = 0; i < ARRAY_LEN(threads); i++) {
        NEED(pthread_create(&threads[i], NULL, add_many, &m) == 0);
    }
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        pthread_join(threads[i], NULL);
    EXPECT_INT(metric_get(&m), 40000);
    EXPECT_INT(m.buckets[3], 40000);
    EXPECT_INT(m.sum_us, 400000000);
}

int main(void)
{
    RUN(test_counter_and_gauge);
    RUN(test_observe_picks_the_bucket);
    RUN(test_exposition);
    RUN(test_threads_lose_nothing);
    return TEST_END();
}
