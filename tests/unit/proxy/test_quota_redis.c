#include "proxy/quota_redis.h"

#include "shared/base/log.h"
#include "tests/unit/net/redis_test.h"

/* Proxies of one process, each with limits of its own, and a real Redis between them. */
struct node {
    struct limits limits;
    struct api_key_ring ring;
    struct api_key_view view;
    struct quota_redis *quota;
    bool closed;
};

static struct node nodes[3];

static void on_closed(void *arg)
{
    struct node *n = arg;
    n->closed = true;
}

static void open_node(int index, bool keys)
{
    struct node *n = &nodes[index];
    *n = (struct node){.closed = false};
    char url[64], id[32];
    snprintf(url, sizeof url, "redis://127.0.0.1:%d", redis_port);
    snprintf(id, sizeof id, "%016d", index);
    struct proxy_config config = {.api_keys_redis = keys};
    struct error err;
    NEED(api_key_ring_init(&n->ring, &config, &err) == 0);
    limits_init(&n->limits);
    struct quota_redis_options options = {
        .url = url, .proxy_id = id, .limits = &n->limits, .keys = keys ? &n->ring : NULL};
    NEED(quota_redis_start(&loop, &options, &n->quota, &err) == 0);
}

static void close_node(int index)
{
    struct node *n = &nodes[index];
    quota_redis_stop(n->quota, on_closed, n);
    NEED(SPIN_UNTIL(n->closed, 20000));
    limits_check(&n->limits);
    limits_deinit(&n->limits);
    api_key_view_deinit(&n->view);
    api_key_ring_deinit(&n->ring);
}

static void open_all(int count, bool keys)
{
    start_redis("");
    open_redis("redis://127.0.0.1:%d");
    NEED(SPIN_UNTIL(ups > 0, 20000));
    for (int i = 0; i < count; i++)
        open_node(i, keys);
    for (int i = 0; i < count; i++)
        EXPECT(SPIN_UNTIL(nodes[i].limits.proxies == count, 20000));
}

static void close_all(int count)
{
    for (int i = 0; i < count; i++)
        close_node(i);
    close_redis();
    kill_redis();
}

static bool admit(int index, const struct api_key *key, double tokens, struct limits_grant *grant)
{
    struct limits_view view;
    struct api_error error;
    *grant = (struct limits_grant){.tokens = 0};
    return limits_admit(&nodes[index].limits, key, tokens, clock_ms(), grant, &view, &error) == 0;
}

static bool run(int index, const struct api_key *key, double tokens)
{
    struct limits_grant grant;
    bool admitted = admit(index, key, tokens, &grant);
    limits_end(&nodes[index].limits, &grant);
    return admitted;
}

/* Whether one more gets in, which leaves at once: a test that waits keeps nothing by mistake. */
static bool has_room(int index, const struct api_key *key)
{
    return run(index, key, 1);
}

static double field(const char *key, const char *name)
{
    char words[128];
    struct answer a;
    double value = -1;
    snprintf(words, sizeof words, "HGET %s %s", key, name);
    ask(&a, words);
    if (a.type == REDIS_STRING) EXPECT_INT(str_to_double(str_of(a.text), &value), 0);
    return value;
}

static void test_levels_are_shared(void)
{
    struct api_key key = {.id = "team", .rpm = 600, .tpm = 60000};
    open_all(3, false);
    /* One uses up what there is; it gets more than its third, as the others want nothing. */
    uint64_t begin_ms = clock_ms();
    int given = run(0, &key, 100);
    EXPECT(SPIN_UNTIL(field("lm:rl:team", "t") > 2000, 10000));
    EXPECT(SPIN_UNTIL((given += run(0, &key, 100), field("lm:rl:team", "t") < 2000), 30000));
    spin_for(50);             // the answer that gave it the last of them was sent before that one
    while (run(0, &key, 100)) // what it was given in advance
        given++;
    double most = 615 + (double)(clock_ms() - begin_ms) / 100; // it fills up meanwhile
    if (given < 500 || given > most) printf("given: %d of %g\n", given, most);
    EXPECT(given >= 500 && given <= most);
    struct answer a;
    ask(&a, "PTTL lm:rl:team");
    EXPECT(a.integer > 60000 && a.integer <= 120000);
    /* The others had their own thirds in credit until they heard of it; once they did, no more. */
    EXPECT(run(1, &key, 12000));
    EXPECT(SPIN_UNTIL(field("lm:rl:team", "t") < 0, 10000));
    spin_for(50); // as above
    int others = 0;
    for (int i = 0; i < 200; i++)
        others += run(1, &key, 100) + run(2, &key, 100);
    EXPECT(others < 225);
    for (int i = 0; i < 200; i++)
        EXPECT(!run(1, &key, 6000));
    close_all(3);
}

static void test_usage_and_leases_come_back(void)
{
    struct api_key key = {.id = "team", .tpm = 60000};
    struct limits_grant grant;
    open_all(2, false);
    EXPECT(admit(0, &key, 20000, &grant));
    EXPECT(SPIN_UNTIL(field("lm:rl:team", "t") > 0, 10000));
    double left = field("lm:rl:team", "t");
    EXPECT(left > 15000 && left < 41000);
    limits_settle(&nodes[0].limits, &grant, 50, clock_ms());
    limits_end(&nodes[0].limits, &grant);
    /* What it didn't use, and what it had taken in advance. */
    EXPECT(SPIN_UNTIL(field("lm:rl:team", "t") >= 59900, 10000));
    close_all(2);
}

static void test_streams_are_shared(void)
{
    struct api_key key = {.id = "team", .streams = 4};
    struct limits_grant grants[5];
    open_all(2, false);
    NEED(admit(0, &key, 1, &grants[0]));
    NEED(admit(1, &key, 1, &grants[1]));
    NEED(SPIN_UNTIL(admit(0, &key, 1, &grants[2]), 10000)); // more than its half
    NEED(SPIN_UNTIL(admit(0, &key, 1, &grants[3]), 10000));
    EXPECT(SPIN_UNTIL(!has_room(0, &key), 10000));
    EXPECT(SPIN_UNTIL(!has_room(1, &key), 10000));
    spin_for(3500); // they don't expire while they run
    EXPECT(SPIN_UNTIL(!has_room(1, &key), 10000));
    limits_end(&nodes[0].limits, &grants[0]);
    NEED(SPIN_UNTIL(admit(1, &key, 1, &grants[0]), 10000));
    limits_end(&nodes[1].limits, &grants[0]);
    limits_end(&nodes[1].limits, &grants[1]);
    limits_end(&nodes[0].limits, &grants[2]);
    limits_end(&nodes[0].limits, &grants[3]);
    struct answer a;
    // r, t, at: no streams left behind
    EXPECT(SPIN_UNTIL((ask(&a, "HLEN lm:rl:team"), a.integer == 3), 10000));
    close_all(2);
}

/* More accounts than a script takes. */
static void test_many_accounts(void)
{
    static struct api_key keys[3 * LIMITS_BATCH];
    open_all(1, false);
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        keys[i].rpm = 100;
        snprintf(keys[i].id, sizeof keys[i].id, "k%zu", i);
        EXPECT(run(0, &keys[i], 10));
    }
    struct answer a;
    EXPECT(SPIN_UNTIL((ask(&a, "EXISTS lm:rl:k0 lm:rl:k64 lm:rl:k128 lm:rl:k191"), a.integer == 4),
                      10000));
    close_all(1);
}

static void test_redis_away_and_back(void)
{
    struct api_key key = {.id = "team", .rpm = 1200};
    open_all(2, false);
    kill_redis();
    EXPECT(SPIN_UNTIL(downs > 0, 20000));
    int given = 0;
    for (int i = 0; i < 1200; i++)
        given += run(0, &key, 1);
    EXPECT(given >= 600 && given <= 610); // its half
    spin_for(500);
    EXPECT(run(0, &key, 1)); // which grows on
    start_redis("");
    NEED(SPIN_UNTIL(ups == 2, 20000));
    EXPECT(SPIN_UNTIL(field("lm:rl:team", "r") >= 0, 10000));
    EXPECT(field("lm:rl:team", "r") < 1000); // it fills up by 20 in a second
    EXPECT_INT(nodes[0].limits.proxies, 2);
    /* Flushed: all is there again, and nobody fails. */
    struct answer a;
    ask(&a, "FLUSHALL");
    EXPECT(run(1, &key, 1));
    EXPECT(SPIN_UNTIL(field("lm:rl:team", "r") >= 0, 10000));
    close_all(2);
}

static void test_proxies_are_counted(void)
{
    open_all(3, false);
    struct answer a;
    ask(&a, "EXISTS lm:proxy:0000000000000000 lm:proxy:0000000000000001");
    EXPECT_INT(a.integer, 2);
    close_node(2); // its presence runs out
    EXPECT_INT(nodes[0].limits.proxies, 3);
    EXPECT(SPIN_UNTIL(nodes[0].limits.proxies == 2, 30000));
    EXPECT(SPIN_UNTIL(nodes[1].limits.proxies == 2, 20000));
    close_all(2);
}

static const struct api_key *find(int index, const char *token)
{
    struct node *n = &nodes[index];
    return api_keys_find(api_key_ring_current(&n->ring, &n->view), str_of(token));
}

static void test_keys(void)
{
    char words[256], hex[DIGEST_DIGITS + 1];
    uint8_t digest[DIGEST_BYTES];
    struct answer a;
    start_redis("");
    open_redis("redis://127.0.0.1:%d");
    NEED(SPIN_UNTIL(ups > 0, 20000));
    digest_sha256(STR("sk-1"), digest);
    digest_text(digest, hex);
    snprintf(words, sizeof words, "HSET lm:keys %s {\"id\":\"r1\",\"rpm\":5}", hex);
    ask(&a, words);
    ask(&a, "HSET lm:keys garbage {}");
    open_node(0, true);
    EXPECT(atomic_load(&nodes[0].ring.awaits_redis));
    NEED(SPIN_UNTIL(find(0, "sk-1") != NULL, 20000));
    EXPECT(!atomic_load(&nodes[0].ring.awaits_redis));
    EXPECT_STR(find(0, "sk-1")->id, "r1");
    EXPECT_INT(find(0, "sk-1")->rpm, 5);
    EXPECT(!find(0, "sk-2"));
    EXPECT(run(0, find(0, "sk-1"), 1));
    EXPECT_INT(nodes[0].limits.accounts.len, 1);
    uint64_t generation = atomic_load(&nodes[0].ring.generation);

    snprintf(words, sizeof words, "HSET lm:keys %s {\"id\":\"r1\",\"disabled\":true}", hex);
    ask(&a, words);
    EXPECT(SPIN_UNTIL(find(0, "sk-1") == NULL, 30000));
    EXPECT_INT(nodes[0].limits.accounts.len, 0);
    EXPECT_INT(atomic_load(&nodes[0].ring.generation), generation + 1);
    spin_for(5500); // unchanged: not parsed again
    EXPECT_INT(atomic_load(&nodes[0].ring.generation), generation + 1);
    close_node(0);

    struct str too_many[] = {STR("EVAL"),
                             STR("for i = 1, 16385 do redis.call('HSET', 'lm:keys', i, '{}') end"),
                             STR("0")};
    a = (struct answer){0};
    redis_client_command(redis, 10000, on_answer, &a, 3, too_many);
    NEED(SPIN_UNTIL(a.calls == 1, 20000));
    open_node(0, true);
    spin_for(500);
    EXPECT(atomic_load(&nodes[0].ring.awaits_redis)); // refused whole
    close_node(0);
    close_redis();
    kill_redis();
}

int main(void)
{
    log_init("test", LOG_ERROR);
    setvbuf(stdout, NULL, _IOLBF, 0);
    need_redis_binary();
    RUN(test_levels_are_shared);
    RUN(test_usage_and_leases_come_back);
    RUN(test_streams_are_shared);
    RUN(test_many_accounts);
    RUN(test_redis_away_and_back);
    RUN(test_proxies_are_counted);
    RUN(test_keys);
    remove_redis_dir();
    return TEST_END();
}
