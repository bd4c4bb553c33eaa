#include "proxy/retry_budget.h"

#include "shared/base/check.h"
#include "tests/test.h"

#include <pthread.h>

static int take_all(struct retry_budget *b)
{
    int taken = 0;
    while (retry_budget_take(b))
        taken++;
    return taken;
}

static void test_a_tenth(void)
{
    struct retry_budget b;
    retry_budget_init(&b);
    EXPECT_INT(take_all(&b), RETRY_BUDGET_BURST); // whoever starts may have trouble at once
    for (int i = 0; i < 9; i++)
        retry_budget_note_request(&b);
    EXPECT(!retry_budget_take(&b));
    retry_budget_note_request(&b);
    EXPECT(retry_budget_take(&b));
    EXPECT(!retry_budget_take(&b));
    int retries = 0;
    for (int i = 0; i < 100000; i++) { // everything fails, and is tried again if it may
        retry_budget_note_request(&b);
        retries += retry_budget_take(&b);
    }
    EXPECT_INT(retries, 10000);
    for (int i = 0; i < 100000; i++)
        retry_budget_note_request(&b);
    EXPECT_INT(take_all(&b), RETRY_BUDGET_BURST); // saved up, but no more than that
}

enum { THREADS = 4, TURNS = 50000 };

static struct retry_budget shared;
static atomic_int taken;

static void *work(void *arg)
{
    (void)arg;
    for (int i = 0; i < TURNS; i++) {
        retry_budget_note_request(&shared);
        if (retry_budget_take(&shared)) atomic_fetch_add(&taken, 1);
    }
    return NULL;
}

static void test_threads(void)
{
    retry_budget_init(&shared);
    atomic_fetch_add(&taken, take_all(&shared));
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        NEED(pthread_create(&threads[i], NULL, work, NULL) == 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    EXPECT_INT(atomic_load(&taken) + take_all(&shared), RETRY_BUDGET_BURST + THREADS * TURNS / 10);
}

int main(void)
{
    RUN(test_a_tenth);
    RUN(test_threads);
    return TEST_END();
}
