#include "proxy/breaker.h"

#include "shared/base/check.h"
#include "tests/test.h"

static struct breaker b;
static uint64_t now;

static void begin(void)
{
    breaker_init(&b);
    now = 1000000;
}

static bool fail_transport(void)
{
    return breaker_failure(&b, false, true, 0, now);
}

static enum breaker_state state(void)
{
    return breaker_state(&b, now);
}

static void test_three_in_a_row_open(void)
{
    begin();
    EXPECT(!fail_transport());
    EXPECT(!fail_transport());
    EXPECT(!breaker_success(&b, false, now)); // the row is broken
    EXPECT(!fail_transport());
    EXPECT(!fail_transport());
    EXPECT(!breaker_failure(&b, false, false, 0, now)); // it answered, if with a 500: not a row
    EXPECT(!fail_transport());
    EXPECT(!fail_transport());
    EXPECT_INT(state(), BREAKER_CLOSED);
    EXPECT(fail_transport());
    EXPECT_INT(state(), BREAKER_OPEN);
    EXPECT(!breaker_admit(&b, now));
    now += BREAKER_OPEN_MS - 1;
    EXPECT_INT(state(), BREAKER_OPEN);
    now++;
    EXPECT_INT(state(), BREAKER_HALF_OPEN);
    breaker_deinit(&b);
}

static void test_mostly_bad_opens(void)
{
    begin();
    for (int i = 0; i < 5; i++) {
        EXPECT(!breaker_success(&b, false, now));
        EXPECT(!breaker_failure(&b, false, false, 0, now)); // 10 outcomes, half of them: not more
    }
    EXPECT(breaker_failure(&b, false, false, 0, now));
    EXPECT_INT(state(), BREAKER_OPEN);
    breaker_deinit(&b);
    begin();
    for (int i = 0; i < 9; i++)
        EXPECT(!breaker_failure(&b, false, false, 0, now)); // too few to judge
    EXPECT(breaker_failure(&b, false, false, 0, now));
    breaker_deinit(&b);
}

static void test_the_window_forgets(void)
{
    begin();
    for (int i = 0; i < 9; i++)
        EXPECT(!breaker_failure(&b, false, false, 0, now));
    now += BREAKER_BUCKETS * BREAKER_BUCKET_MS + BREAKER_BUCKET_MS;
    EXPECT(!breaker_failure(&b, false, false, 0, now));
    now += BREAKER_BUCKET_MS * 5;
    for (int i = 0; i < 8; i++)
        EXPECT(!breaker_failure(&b, false, false, 0, now));
    EXPECT(breaker_failure(&b, false, false, 0, now)); // 1 + 9 within 30 s
    breaker_deinit(&b);
}

static void open_it(void)
{
    for (int i = 0; i < BREAKER_STREAK; i++)
        (void)fail_transport();
}

static void test_one_probe_closes(void)
{
    begin();
    open_it();
    now += BREAKER_OPEN_MS;
    EXPECT(breaker_admit(&b, now));
    EXPECT(!breaker_admit(&b, now));
    EXPECT_INT(state(), BREAKER_PROBING);
    EXPECT(!breaker_success(&b, false, now)); // of one that was sent before
    EXPECT(!fail_transport());
    EXPECT_INT(state(), BREAKER_PROBING);
    EXPECT(breaker_success(&b, true, now));
    EXPECT_INT(state(), BREAKER_CLOSED);
    EXPECT(!fail_transport()); // and its past is forgotten
    EXPECT(!fail_transport());
    breaker_deinit(&b);
}

static void test_open_time_doubles(void)
{
    begin();
    open_it();
    uint64_t want_ms = BREAKER_OPEN_MS;
    for (int i = 0; i < 8; i++) {
        now += want_ms - 1;
        EXPECT(!breaker_admit(&b, now));
        now++;
        EXPECT(breaker_admit(&b, now));
        EXPECT(breaker_failure(&b, true, true, 0, now));
        want_ms = want_ms * 2 > BREAKER_OPEN_MS_MAX ? BREAKER_OPEN_MS_MAX : want_ms * 2;
    }
    now += BREAKER_OPEN_MS_MAX;
    EXPECT(breaker_admit(&b, now));
    EXPECT(breaker_success(&b, true, now));
    now += BREAKER_CALM_MS - 1; // well, but not for long: it goes on where it was
    open_it();
    now += BREAKER_OPEN_MS_MAX - 1;
    EXPECT_INT(state(), BREAKER_OPEN);
    now++;
    EXPECT(breaker_admit(&b, now));
    EXPECT(breaker_success(&b, true, now));
    now += BREAKER_CALM_MS;
    open_it();
    now += BREAKER_OPEN_MS;
    EXPECT_INT(state(), BREAKER_HALF_OPEN);
    breaker_deinit(&b);
}

static void test_jitter_only_adds(void)
{
    begin();
    for (int i = 0; i < BREAKER_STREAK; i++)
        (void)breaker_failure(&b, false, true, 0.999, now);
    now += BREAKER_OPEN_MS + BREAKER_OPEN_MS / 5;
    EXPECT_INT(state(), BREAKER_OPEN);
    now += BREAKER_OPEN_MS / 10;
    EXPECT_INT(state(), BREAKER_HALF_OPEN);
    breaker_deinit(&b);
}

static void test_a_probe_comes_back_or_is_given_up(void)
{
    begin();
    open_it();
    now += BREAKER_OPEN_MS;
    EXPECT(breaker_admit(&b, now));
    breaker_neutral(&b, false); // somebody else's
    EXPECT(!breaker_admit(&b, now));
    breaker_neutral(&b, true); // its client left: nothing is known
    EXPECT(breaker_admit(&b, now));
    now += BREAKER_PROBE_MS - 1;
    EXPECT(!breaker_admit(&b, now));
    now++;
    EXPECT(breaker_admit(&b, now));
    breaker_deinit(&b);
}

/* ---- several threads ---- */

enum { THREADS = 8, OPENINGS = 200 };

static atomic_int admitted;
static pthread_barrier_t barrier;

static void *knock(void *arg)
{
    (void)arg;
    for (int i = 0; i < OPENINGS; i++) {
        pthread_barrier_wait(&barrier);
        if (breaker_admit(&b, now)) atomic_fetch_add(&admitted, 1);
        pthread_barrier_wait(&barrier);
    }
    return NULL;
}

static void test_exactly_one_of_many_threads(void)
{
    begin();
    open_it();
    pthread_t threads[THREADS];
    NEED(pthread_barrier_init(&barrier, NULL, THREADS + 1) == 0);
    for (int i = 0; i < THREADS; i++)
        NEED(pthread_create(&threads[i], NULL, knock, NULL) == 0);
    for (int i = 0; i < OPENINGS; i++) {
        now += BREAKER_OPEN_MS_MAX;
        pthread_barrier_wait(&barrier);
        pthread_barrier_wait(&barrier);
        EXPECT_INT(atomic_load(&admitted), i + 1);
        (void)breaker_failure(&b, true, true, 0, now);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&barrier);
    breaker_deinit(&b);
}

int main(void)
{
    RUN(test_three_in_a_row_open);
    RUN(test_mostly_bad_opens);
    RUN(test_the_window_forgets);
    RUN(test_one_probe_closes);
    RUN(test_open_time_doubles);
    RUN(test_jitter_only_adds);
    RUN(test_a_probe_comes_back_or_is_given_up);
    RUN(test_exactly_one_of_many_threads);
    return TEST_END();
}
