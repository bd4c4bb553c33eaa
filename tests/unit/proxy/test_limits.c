#include "proxy/limits.h"

#include "shared/base/check.h"
#include "shared/base/rng.h"
#include "tests/test.h"

#include <math.h>

static struct limits limits;
static struct limits_view view;
static struct api_error error;

static int admit(const struct api_key *key, double tokens, uint64_t now_ms,
                 struct limits_grant *grant)
{
    *grant = (struct limits_grant){.tokens = 0};
    return limits_admit(&limits, key, tokens, now_ms, grant, &view, &error);
}

/* A request that is over at once and used what was estimated. */
static int run(const struct api_key *key, double tokens, uint64_t now_ms)
{
    struct limits_grant grant;
    int rc = admit(key, tokens, now_ms, &grant);
    limits_end(&limits, &grant);
    return rc;
}

static void test_no_limits(void)
{
    struct api_key key = {.id = "free"};
    struct limits_grant grant;
    limits_init(&limits);
    for (int i = 0; i < 1000; i++) {
        EXPECT_INT(admit(i % 2 ? &key : NULL, 1e9, 1000, &grant), 0);
        EXPECT(!grant.account);
        EXPECT_INT(view.limit[0] + view.limit[1], 0);
        limits_settle(&limits, &grant, 5, 1000);
        limits_end(&limits, &grant);
    }
    EXPECT_INT(limits.accounts.len, 0);
    limits_deinit(&limits);
}

static void test_requests_a_minute(void)
{
    struct api_key key = {.id = "a", .rpm = 60};
    limits_init(&limits);
    for (int i = 0; i < 60; i++) {
        EXPECT_INT(run(&key, 10, 1000), 0);
        EXPECT_INT(view.limit[LIMITS_REQUESTS], 60);
        EXPECT_INT(view.remaining[LIMITS_REQUESTS], 59 - i);
        EXPECT_INT(view.reset_ms[LIMITS_REQUESTS], (i + 1) * 1000);
        EXPECT_INT(view.limit[LIMITS_TOKENS], 0);
    }
    EXPECT_INT(run(&key, 10, 1000), -1);
    EXPECT_INT(error.status, 429);
    EXPECT_STR(error.type, "requests");
    EXPECT_STR(error.code, "rate_limit_exceeded");
    EXPECT_STR(error.message, "Rate limit reached for requests per min (RPM): Limit 60, Used 60, "
                              "Requested 1. Please try again in 1s.");
    EXPECT_INT(error.retry_after_s, 1);
    EXPECT_INT(run(&key, 10, 1999), -1);
    EXPECT_INT(run(&key, 10, 2000), 0);
    EXPECT_INT(run(&key, 10, 2000), -1);
    EXPECT_INT(run(&key, 10, 5000), 0); // 3 came
    EXPECT_INT(view.remaining[LIMITS_REQUESTS], 2);
    EXPECT_INT(run(&key, 10, 1000000), 0); // never more than a minute's worth
    EXPECT_INT(view.remaining[LIMITS_REQUESTS], 59);
    limits_check(&limits);
    limits_deinit(&limits);
}

static void test_tokens_are_corrected(void)
{
    struct api_key key = {.id = "a", .tpm = 6000};
    struct limits_grant grant, other;
    limits_init(&limits);
    EXPECT_INT(admit(&key, 5000, 1000, &grant), 0);
    EXPECT_INT(view.remaining[LIMITS_TOKENS], 1000);
    EXPECT_INT(admit(&key, 1500, 1000, &other), -1);
    EXPECT(!other.account);
    EXPECT_STR(error.type, "tokens");
    EXPECT_INT(error.retry_after_s, 5);
    limits_settle(&limits, &grant, 1000, 1000); // it used less
    limits_settle(&limits, &grant, 6000, 1000); // once
    limits_end(&limits, &grant);
    limits_end(&limits, &grant);
    EXPECT_INT(admit(&key, 1500, 1000, &other), 0);
    EXPECT_INT(view.remaining[LIMITS_TOKENS], 3500);
    limits_settle(&limits, &other, 7000, 1000); // it used more: a debt of 2000
    limits_end(&limits, &other);
    EXPECT_INT(admit(&key, 100, 1000, &grant), -1);
    EXPECT_INT(error.retry_after_s, 21);
    EXPECT_INT(admit(&key, 100, 21900, &grant), -1);
    EXPECT_INT(admit(&key, 100, 22000, &grant), 0);
    limits_end(&limits, &grant); // its estimate stays taken
    EXPECT_INT(admit(&key, 100, 22000, &grant), -1);

    EXPECT_INT(admit(&key, 6001, 1000000, &grant), -1); // never fits
    EXPECT(view.is_hopeless);
    EXPECT_INT(error.retry_after_s, 0);
    EXPECT(strstr(error.message, "Request too large"));
    EXPECT_INT(admit(&key, 6000, 1000000, &grant), 0);
    limits_settle(&limits, &grant, 1e12, 1000000); // a debt has an end, too
    limits_end(&limits, &grant);
    limits_check(&limits);
    EXPECT_INT(admit(&key, 1, 1000000, &grant), -1);
    EXPECT(error.retry_after_s <= 61);
    EXPECT_INT(admit(&key, 1, 1000000 + 61000, &grant), 0);
    limits_settle(&limits, &grant, 0, 1061000);
    limits_end(&limits, &grant);
    limits_check(&limits);
    limits_deinit(&limits);
}

static void test_streams(void)
{
    struct api_key key = {.id = "a", .streams = 3};
    struct limits_grant grants[3], more;
    limits_init(&limits);
    for (int i = 0; i < 3; i++)
        EXPECT_INT(admit(&key, 10, 1000, &grants[i]), 0);
    EXPECT_INT(admit(&key, 10, 1000, &more), -1);
    EXPECT_INT(error.status, 429);
    EXPECT_INT(error.retry_after_s, 1);
    limits_end(&limits, &grants[1]);
    limits_end(&limits, &grants[1]);
    EXPECT_INT(admit(&key, 10, 1000, &more), 0);
    EXPECT_INT(admit(&key, 10, 1000, &grants[1]), -1);
    limits_end(&limits, &more);
    limits_end(&limits, &grants[0]);
    limits_end(&limits, &grants[2]);
    limits_check(&limits);
    limits_deinit(&limits);
}

/* What is refused for one reason costs nothing of the other. */
static void test_refused_costs_nothing(void)
{
    struct api_key key = {.id = "a", .rpm = 10, .tpm = 1000, .streams = 1};
    struct limits_grant grant, other;
    limits_init(&limits);
    EXPECT_INT(admit(&key, 500, 1000, &grant), 0);
    EXPECT_INT(admit(&key, 400, 1000, &other), -1); // streams
    EXPECT_INT(admit(&key, 600, 1000, &other), -1); // tokens
    limits_end(&limits, &grant);
    EXPECT_INT(admit(&key, 500, 1000, &grant), 0);
    EXPECT_INT(view.remaining[LIMITS_REQUESTS], 8);
    EXPECT_INT(view.remaining[LIMITS_TOKENS], 0);
    limits_end(&limits, &grant);
    limits_deinit(&limits);
}

static struct api_keys *keys_of(const char *text)
{
    char path[] = "/tmp/lm-limits-XXXXXX";
    int fd = mkstemp(path);
    NEED(fd >= 0);
    FILE *file = fdopen(fd, "w");
    fputs(text, file);
    fclose(file);
    struct option_list none = {0};
    struct api_key_source source = {&none, path};
    struct api_keys *k;
    struct error err;
    NEED(api_keys_load(&source, &k, &err) == 0);
    remove(path);
    return k;
}

static void test_reload(void)
{
    struct api_key a = {.id = "a", .rpm = 10}, b = {.id = "b", .rpm = 10};
    struct limits_grant grant;
    limits_init(&limits);
    for (int i = 0; i < 4; i++)
        run(&a, 1, 1000);
    EXPECT_INT(admit(&b, 1, 1000, &grant), 0);
    struct api_keys *k = keys_of("{\"id\":\"a\",\"key\":\"1\",\"rpm\":100}");
    limits_retain(&limits, k);
    EXPECT_INT(limits.accounts.len, 2); // b's grant is held
    limits_end(&limits, &grant);
    EXPECT_INT(limits.accounts.len, 1);
    a.rpm = 100; // the level stays, it fills faster
    EXPECT_INT(run(&a, 1, 1000), 0);
    EXPECT_INT(view.limit[LIMITS_REQUESTS], 100);
    EXPECT_INT(view.remaining[LIMITS_REQUESTS], 5);
    a.rpm = 3;
    EXPECT_INT(run(&a, 1, 1000), 0);
    EXPECT_INT(view.remaining[LIMITS_REQUESTS], 2);
    limits_check(&limits);
    api_keys_unref(k);
    k = keys_of("{\"id\":\"c\",\"key\":\"1\",\"rpm\":100}");
    limits_retain(&limits, k);
    EXPECT_INT(limits.accounts.len, 0);
    api_keys_unref(k);
    limits_deinit(&limits);
}

/* ---- several proxies; Redis is what its script does ---- */

#define PROXIES 4

struct redis_model {
    double limit[LIMITS_RESOURCES], level[LIMITS_RESOURCES];
    uint64_t at_ms;
    int streams[PROXIES];
};

static void settle_with(struct redis_model *m, struct limits *l, int proxy, uint64_t now_ms)
{
    struct limits_order orders[LIMITS_BATCH];
    struct limits_answer answers[LIMITS_BATCH] = {{{0}, {0}, 0}};
    int count = limits_collect(l, now_ms, orders);
    NEED(count <= 1);
    if (count == 0) return;
    for (int i = 0; i < LIMITS_RESOURCES; i++) {
        double limit = m->limit[i];
        double level = fmin(limit, m->level[i] + limit * (double)(now_ms - m->at_ms) / 60000);
        level = fmax(-limit, fmin(limit, level - orders[0].owed[i]));
        double extra = fmax(0, fmin(orders[0].wanted[i], level));
        m->level[i] = answers[0].level[i] = level - extra;
        answers[0].taken[i] = orders[0].owed[i] + extra;
    }
    m->at_ms = now_ms;
    m->streams[proxy] = orders[0].streams;
    for (int i = 0; i < PROXIES; i++)
        if (i != proxy) answers[0].streams += m->streams[i];
    limits_apply(l, now_ms, orders, count, answers);
    limits_check(l);
}

static const struct api_key shared_key = {.id = "s", .rpm = 600, .tpm = 120000, .streams = 20};

static void open_proxies(struct limits l[PROXIES], struct redis_model *m)
{
    *m = (struct redis_model){.limit = {600, 120000}, .level = {600, 120000}, .at_ms = 1000};
    for (int i = 0; i < PROXIES; i++) {
        limits_init(&l[i]);
        limits_set_proxies(&l[i], PROXIES);
    }
}

/* Tokens given out in `seconds` by the proxies whose bit is set, each asked every ms for a request
 * of `tokens`; the script runs every 100 ms, at another time for each. */
static double given_out(struct limits l[PROXIES], struct redis_model *m, unsigned who,
                        double tokens, uint64_t *now_ms, int seconds, bool redis)
{
    double given = 0;
    for (int ms = 0; ms < seconds * 1000; ms++) {
        ++*now_ms;
        for (int i = 0; i < PROXIES; i++) {
            if (redis && *now_ms % 100 == (uint64_t)i * 25) settle_with(m, &l[i], i, *now_ms);
            if (!(who >> i & 1)) continue;
            struct limits_grant grant = {.tokens = 0};
            if (limits_admit(&l[i], &shared_key, tokens, *now_ms, &grant, &view, &error) == 0)
                given += tokens;
            limits_end(&l[i], &grant);
        }
    }
    return given;
}

static void expect_between(double value, double low, double high)
{
    if (value < low || value > high) printf("%g is not in %g..%g\n", value, low, high);
    EXPECT(value >= low && value <= high);
}

static void test_proxies_share_a_limit(void)
{
    static struct limits l[PROXIES];
    struct redis_model m;
    uint64_t now_ms = 1000;
    /* 2000 tokens a second, of a bucket of 120,000; requests of 1500: 600 a minute never matter */
    for (unsigned who = 1; who < 1u << PROXIES; who = who * 2 + 1) {
        open_proxies(l, &m);
        now_ms = 1000;
        double given = given_out(l, &m, who, 1500, &now_ms, 60, true);
        expect_between(given, 0.97 * 240000, 240000 + 2000 + PROXIES * 1500);
        given = given_out(l, &m, who, 1500, &now_ms, 120, true); // and on, without the burst
        expect_between(given, 0.97 * 240000, 240000 + PROXIES * 1500);
        given_out(l, &m, 0, 0, &now_ms, 61, true); // unused leases go back: all is there again
        expect_between(m.level[LIMITS_TOKENS] + 120000.0 * (double)(now_ms - m.at_ms) / 60000,
                       120000, 1e9);
        given = given_out(l, &m, 8, 1500, &now_ms, 1, true); // and one of them may have it
        expect_between(given, 110000, 123000);
        for (int i = 0; i < PROXIES; i++)
            limits_deinit(&l[i]);
    }
}

/* A limit so small that a proxy's share of it is no whole request. */
static void test_small_limits(void)
{
    static struct limits l[PROXIES];
    struct api_key key = {.id = "s", .rpm = 2};
    struct redis_model m;
    open_proxies(l, &m);
    m.limit[LIMITS_REQUESTS] = m.level[LIMITS_REQUESTS] = 2;
    int given = 0;
    for (uint64_t now_ms = 1001; now_ms < 601000; now_ms++) { // ten minutes at one of four
        if (now_ms % 100 == 0) settle_with(&m, &l[1], 1, now_ms);
        if (now_ms % 50) continue;
        struct limits_grant grant = {.tokens = 0};
        given += limits_admit(&l[1], &key, 1, now_ms, &grant, &view, &error) == 0;
        limits_end(&l[1], &grant);
    }
    expect_between(given, 21, 22);
    for (int i = 0; i < PROXIES; i++)
        limits_deinit(&l[i]);
}

static void test_redis_away(void)
{
    static struct limits l[PROXIES];
    struct redis_model m;
    open_proxies(l, &m);
    uint64_t now_ms = 1000;
    given_out(l, &m, 15, 1500, &now_ms, 60, true);
    /* Each keeps to its quarter; all together to the limit. */
    double given = given_out(l, &m, 15, 1500, &now_ms, 120, false);
    expect_between(given, 0.95 * 240000, 240000 + 4000 + PROXIES * 1500);
    given = given_out(l, &m, 1, 1500, &now_ms, 60, false);
    expect_between(given, 27000, 31500);
    /* Back: nothing that was given out meanwhile is asked for twice. */
    given = given_out(l, &m, 1, 1500, &now_ms, 10, true);
    EXPECT(given >= 10 * 500);
    given = given_out(l, &m, 15, 1500, &now_ms, 120, true);
    EXPECT(given <= 240000 + 120000 + PROXIES * 1500);
    given = given_out(l, &m, 15, 1500, &now_ms, 60, true);
    expect_between(given, 0.97 * 120000, 120000 + PROXIES * 1500);
    for (int i = 0; i < PROXIES; i++)
        limits_deinit(&l[i]);
}

static void test_streams_of_all_proxies(void)
{
    static struct limits l[PROXIES];
    static struct limits_grant grants[40];
    struct redis_model m;
    open_proxies(l, &m);
    int held = 0;
    uint64_t now_ms = 1000;
    for (int i = 0; i < 40; i++) {              // 20 may run; all at two of the four
        for (int p = 0; p < 2 * PROXIES; p++) { // all have told, all have heard
            if (p % PROXIES == 0) now_ms += 100;
            settle_with(&m, &l[p % PROXIES], p % PROXIES, now_ms);
        }
        grants[held] = (struct limits_grant){.tokens = 0};
        held += limits_admit(&l[i % 2], &shared_key, 1, now_ms, &grants[held], &view, &error) == 0;
    }
    EXPECT_INT(held, 20);
    /* Told again every second, so that it doesn't expire at the others. */
    for (int i = 0; i < 50; i++) {
        m.streams[0] = m.streams[1] = -1;
        for (int s = 0; s < 11; s++, now_ms += 100)
            settle_with(&m, &l[0], 0, now_ms);
        EXPECT_INT(m.streams[0], 10);
    }
    for (int i = 0; i < held; i++)
        limits_end(&l[i % 2], &grants[i]);
    settle_with(&m, &l[0], 0, now_ms);
    EXPECT_INT(m.streams[0], 0);
    for (int p = 0; p < PROXIES; p++)
        limits_deinit(&l[p]);
}

/* Answers that never come: what was given out is told again, and once. */
static void test_lost_answers(void)
{
    struct limits_order orders[LIMITS_BATCH];
    limits_init(&limits);
    limits_set_proxies(&limits, 2);
    EXPECT_INT(run(&shared_key, 1000, 1000), 0);
    EXPECT_INT(limits_collect(&limits, 1100, orders), 1);
    EXPECT_STR(orders[0].id, "s");
    EXPECT(orders[0].owed[LIMITS_TOKENS] > 0 && orders[0].owed[LIMITS_TOKENS] <= 1000);
    EXPECT_INT(limits_collect(&limits, 1150, orders), 0); // not twice at once
    limits_apply(&limits, 1200, orders, 1, NULL);
    EXPECT_INT(limits_collect(&limits, 1200, orders), 1);
    struct limits_answer answer = {.taken = {orders[0].owed[0], orders[0].owed[1]},
                                   .level = {599, 119000}};
    limits_apply(&limits, 1300, orders, 1, &answer);
    EXPECT_INT(limits_collect(&limits, 1400, orders), 0);
    limits_deinit(&limits);
}

/* ---- threads ---- */

static _Atomic int threads_given;

static void *take_all(void *arg)
{
    (void)arg;
    struct api_key key = {.id = "t", .rpm = 5000, .streams = 3};
    for (int i = 0; i < 20000; i++) {
        struct limits_grant grant = {.tokens = 0};
        struct limits_view v;
        struct api_error e;
        if (limits_admit(&limits, &key, 1, 1000, &grant, &v, &e) == 0)
            atomic_fetch_add(&threads_given, 1);
        limits_settle(&limits, &grant, 2, 1000);
        limits_end(&limits, &grant);
    }
    return NULL;
}

static void test_threads(void)
{
    pthread_t threads[4];
    limits_init(&limits);
    for (int i = 0; i < 4; i++)
        NEED(pthread_create(&threads[i], NULL, take_all, NULL) == 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    EXPECT_INT(atomic_load(&threads_given), 5000);
    limits_check(&limits);
    limits_deinit(&limits);
}

int main(void)
{
    RUN(test_no_limits);
    RUN(test_requests_a_minute);
    RUN(test_tokens_are_corrected);
    RUN(test_streams);
    RUN(test_refused_costs_nothing);
    RUN(test_reload);
    RUN(test_proxies_share_a_limit);
    RUN(test_small_limits);
    RUN(test_redis_away);
    RUN(test_streams_of_all_proxies);
    RUN(test_lost_answers);
    RUN(test_threads);
    return TEST_END();
}
