#include "engine/wait_queue.h"

#include "shared/base/rng.h"
#include "tests/test.h"

static uint64_t next_id;

static struct request *add(struct wait_queue *q, uint64_t tenant, int priority)
{
    int32_t token = 1;
    struct engine_request in = {.id = ++next_id,
                                .prompt = &token,
                                .prompt_count = 1,
                                .sampling = {.top_p = 1},
                                .tenant = tenant,
                                .priority = priority};
    struct request *r = request_create(&in, 100, NULL, 0);
    wait_queue_push(q, r);
    wait_queue_check(q);
    return r;
}

/* Admit whose turn it is; its tenant. */
static uint64_t admit(struct wait_queue *q, int64_t tokens)
{
    struct request *r = wait_queue_peek(q);
    NEED(r && wait_queue_peek(q) == r);
    uint64_t tenant = r->tenant;
    wait_queue_admit(q, r, tokens);
    wait_queue_check(q);
    request_destroy(r);
    return tenant;
}

static void drop_all(struct wait_queue *q)
{
    for (struct request *r; (r = wait_queue_peek(q)) != NULL;) {
        wait_queue_remove(q, r);
        wait_queue_check(q);
        request_destroy(r);
    }
    wait_queue_deinit(q);
}

static void test_one_tenant_is_a_fifo(void)
{
    struct wait_queue q;
    wait_queue_init(&q);
    EXPECT(wait_queue_peek(&q) == NULL);
    struct request *r[20];
    for (int i = 0; i < 20; i++)
        r[i] = add(&q, 7, 0);
    for (int i = 0; i < 20; i++) {
        EXPECT(wait_queue_peek(&q) == r[i]);
        admit(&q, 1000);
    }
    drop_all(&q);
}

static void test_lower_numbers_first(void)
{
    struct wait_queue q;
    wait_queue_init(&q);
    struct request *bulk = add(&q, 1, 5), *normal = add(&q, 1, 0);
    EXPECT(wait_queue_peek(&q) == normal);
    struct request *urgent = add(&q, 2, -3);
    EXPECT(wait_queue_peek(&q) == urgent);
    add(&q, 2, 0);
    EXPECT(wait_queue_peek(&q) == urgent);
    wait_queue_remove(&q, urgent); // its client left
    request_destroy(urgent);
    EXPECT(wait_queue_peek(&q) == normal);
    admit(&q, 10);
    admit(&q, 10);
    EXPECT(wait_queue_peek(&q) == bulk);
    drop_all(&q);
}

/* However many urgent ones there are, what waits longest gets a 16th of the admissions. */
static void test_no_class_starves(void)
{
    struct wait_queue q;
    wait_queue_init(&q);
    struct request *bulk[3];
    for (int i = 0; i < 3; i++)
        bulk[i] = add(&q, 1, 9);
    int others = 0, served = 0;
    while (served < 3 && others < 100) {
        add(&q, 2, 0);
        struct request *r = wait_queue_peek(&q);
        bool is_bulk = r == bulk[served];
        admit(&q, 500);
        served += is_bulk;
        others += !is_bulk;
    }
    EXPECT_INT(served, 3);
    EXPECT_INT(others, 45);
    drop_all(&q);
}

/* Tenants that always have something waiting get the same number of tokens, whatever the size of
 * their requests and however many they have waiting. */
static void test_tenants_share_tokens(void)
{
    static const int size[] = {100, 1000, 5000}, waiting[] = {50, 3, 1};
    int64_t given[3] = {0};
    struct wait_queue q;
    wait_queue_init(&q);
    for (int t = 0; t < 3; t++)
        for (int i = 0; i < waiting[t]; i++)
            add(&q, (uint64_t)t, 0);
    for (int i = 0; i < 3000; i++) {
        uint64_t t = wait_queue_peek(&q)->tenant;
        admit(&q, size[t] / 2);
        wait_queue_charge(&q, t, size[t] / 2); // generated later
        given[t] += size[t];
        add(&q, t, 0);
    }
    for (int t = 1; t < 3; t++)
        EXPECT(llabs((long long)(given[t] - given[0])) <= 2048 + 5000);
    EXPECT(given[0] > 100000);
    drop_all(&q);
}

/* A tenant that was away is served soon, but hasn't saved anything. */
static void test_nobody_saves(void)
{
    struct wait_queue q;
    wait_queue_init(&q);
    for (int i = 0; i < 300; i++)
        add(&q, 1, 0);
    for (int i = 0; i < 100; i++)
        admit(&q, 3000);
    for (int i = 0; i < 100; i++)
        add(&q, 2, 0);
    int seen[3] = {0};
    for (int i = 0; i < 40; i++)
        seen[admit(&q, 3000)]++;
    EXPECT(seen[1] >= 19 && seen[2] >= 19);
    drop_all(&q);
}

/* Names that clients make up don't pile up. */
static void test_many_tenants(void)
{
    struct wait_queue q;
    wait_queue_init(&q);
    for (uint64_t t = 0; t < 20000; t++) {
        add(&q, t, 0);
        admit(&q, 5000); // in debt, which is remembered
    }
    EXPECT(q.tenants.len <= 4097);
    drop_all(&q);
}

static void test_random(void)
{
    struct request *live[200] = {0};
    struct rng rng;
    rng_init(&rng, 3);
    struct wait_queue q;
    wait_queue_init(&q);
    for (int turn = 0; turn < 50000; turn++) {
        uint32_t at = rng_below(&rng, 200), dice = rng_below(&rng, 10);
        if (dice < 5 && !live[at]) {
            live[at] = add(&q, rng_below(&rng, 5), (int)rng_below(&rng, 3) - 1);
        } else if (dice < 7 && live[at]) {
            wait_queue_remove(&q, live[at]);
            request_destroy(live[at]);
            live[at] = NULL;
        } else if (q.count > 0) {
            struct request *r = wait_queue_peek(&q);
            for (int i = 0; i < 200; i++)
                if (live[i] == r) live[i] = NULL;
            admit(&q, rng_below(&rng, 4000));
            wait_queue_charge(&q, rng_below(&rng, 5), rng_below(&rng, 300));
        }
        wait_queue_check(&q);
    }
    drop_all(&q);
}

int main(void)
{
    RUN(test_one_tenant_is_a_fifo);
    RUN(test_lower_numbers_first);
    RUN(test_no_class_starves);
    RUN(test_tenants_share_tokens);
    RUN(test_nobody_saves);
    RUN(test_many_tenants);
    RUN(test_random);
    return TEST_END();
}
