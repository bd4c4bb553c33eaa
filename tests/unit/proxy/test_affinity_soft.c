/* Sessions whose clients send everything each time: where they were is a hint, and nobody waits for
 * it longer than it is worth. */
#include "proxy/proxy_metrics.h"
#include "tests/unit/proxy/affinity_test.h"

static struct run a, b;

static struct run *chat(struct test_proxy *proxy, struct run *r, const char *session)
{
    *r = (struct run){.choice = "a0"};
    r->in.ident.conversation_id = -1;
    r->in.ident.prompt_cache_key = str_of(session);
    run_start(proxy, r);
    return r;
}

static const char *redis_pin(const struct run *r)
{
    static struct answer answer;
    ask_redis(&answer, "GET lm:s:%016" PRIx64, r->a.key);
    return answer.text;
}

/* Writes are under way when an answer is over: waits for the pin to name this agent. */
static bool comes_to_pin(const struct run *r, const char *agent)
{
    for (int i = 0; i < 100; i++) {
        const char *pin = redis_pin(r);
        if (pin && strstr(pin, agent)) return true;
        spin_for(10);
    }
    return false;
}

/* What was written before is confirmed by now: nobody is asked. Claimed already: see a.owner. */
static struct run *chat_by_cache(struct test_proxy *proxy, struct run *r, const char *session)
{
    for (uint64_t until = clock_ms() + 10000;;) {
        if (chat(proxy, r, session)->is_done && r->a.source == AFFINITY_FROM_CACHE) return r;
        EXPECT(SPIN_UNTIL(r->is_done, 10000)); // which confirms it, too
        if (r->a.source == AFFINITY_FROM_CACHE || clock_ms() > until) return r;
        affinity_end(&r->a, false);
        spin_for(10);
    }
}

/* A look in Redis that came in time. */
static void chat_by_redis(struct test_proxy *proxy, struct run *r, const char *session)
{
    for (int i = 0; i < 1000; i++) {
        chat(proxy, r, session);
        EXPECT(SPIN_UNTIL(r->is_done, 10000));
        if (r->a.source == AFFINITY_FROM_REDIS) return;
        affinity_end(&r->a, false);
        spin_for(10);
    }
}

static void test_first_and_next(void)
{
    begin_world(true);
    chat(&p, &a, "s");
    EXPECT(!a.is_done); // Redis is asked
    EXPECT(SPIN_UNTIL(a.is_done, 10000));
    EXPECT(a.a.kind == SESSION_SOFT && !a.a.owner.agent[0] && !a.a.is_bound && a.a.key != 0);
    EXPECT_STR(hop_of(&a), "none");
    confirm(&a, "a2", NULL);
    EXPECT_INT(a.a.result, AFFINITY_RESULT_NONE);
    EXPECT(answered_header("x-lm-session-token") != NULL);
    affinity_end(&a.a, true);
    EXPECT(comes_to_pin(&a, "\"agent\":\"a2\"") && strstr(redis_pin(&a), "\"kind\":\"soft\""));
    struct answer ttl;
    ask_redis(&ttl, "PTTL lm:s:%016" PRIx64, a.a.key);
    EXPECT(ttl.integer > 1790000 && ttl.integer <= 1800000);
    // here by the cache, there by Redis
    EXPECT(chat_by_cache(&p, &a, "s")->is_done && a.a.source == AFFINITY_FROM_CACHE);
    EXPECT_STR(a.a.owner.agent, "a2");
    EXPECT(a.a.owner_is_same);
    affinity_end(&a.a, false);
    chat_by_redis(&q, &b, "s");
    EXPECT_INT(b.a.source, AFFINITY_FROM_REDIS);
    EXPECT_STR(b.a.owner.agent, "a2");
    confirm(&b, "a2", NULL);
    EXPECT_INT(b.a.result, AFFINITY_RESULT_HIT);
    affinity_end(&b.a, true);
    end_world();
}

static void test_moves(void)
{
    begin_world(true);
    chat(&p, &a, "s");
    EXPECT(SPIN_UNTIL(a.is_done, 10000));
    confirm(&a, "a0", NULL);
    affinity_end(&a.a, true);
    EXPECT(comes_to_pin(&a, "\"a0\""));
    chat_by_redis(&q, &b, "s");
    confirm(&b, "a1", NULL); // the hot one was left
    EXPECT_INT(b.a.result, AFFINITY_RESULT_MOVED);
    affinity_end(&b.a, true);
    EXPECT(comes_to_pin(&a, "\"a1\""));
    // the first proxy moves it, too, from where it no longer is: it loses, and learns
    chat_by_cache(&p, &a, "s");
    EXPECT_STR(a.a.owner.agent, "a0");
    confirm(&a, "a3", NULL);
    affinity_end(&a.a, true);
    EXPECT(comes_to_pin(&a, "\"a1\""));
    chat_by_cache(&p, &a, "s");
    EXPECT_STR(a.a.owner.agent, "a1");
    affinity_end(&a.a, false);
    end_world();
}

/* Expired in Redis, still known here: claimed again. */
static void test_move_of_what_expired(void)
{
    begin_world(true);
    struct answer answer;
    chat(&p, &a, "s");
    EXPECT(SPIN_UNTIL(a.is_done, 10000));
    confirm(&a, "a0", NULL);
    affinity_end(&a.a, true);
    EXPECT(comes_to_pin(&a, "\"a0\""));
    ask_redis(&answer, "DEL lm:s:%016" PRIx64, a.a.key);
    chat_by_cache(&p, &a, "s");
    confirm(&a, "a1", NULL);
    affinity_end(&a.a, true);
    EXPECT(comes_to_pin(&a, "\"a1\""));
    end_world();
}

static void test_owners_that_are_no_use(void)
{
    begin_world(true);
    chat(&p, &a, "s");
    EXPECT(SPIN_UNTIL(a.is_done, 10000));
    confirm(&a, "a0", NULL);
    affinity_end(&a.a, true);
    snprintf(agents[0].incarnation, sizeof agents[0].incarnation, "second");
    make_fleet();
    chat_by_cache(&p, &a, "s");
    EXPECT_STR(a.a.owner.agent, "a0");
    EXPECT(!a.a.owner_is_same); // its cache is empty
    affinity_end(&a.a, false);
    agents[0].is_draining = true;
    make_fleet();
    EXPECT(chat(&p, &a, "s")->a.owner.agent[0] == 0);
    affinity_end(&a.a, false);
    agents[0].is_draining = false;
    agents[0].state = FLEET_SUSPECT;
    make_fleet();
    EXPECT(chat(&p, &a, "s")->a.owner.agent[0] == 0);
    affinity_end(&a.a, false);
    agents[0].is_there = false;
    make_fleet();
    EXPECT(chat(&p, &a, "s")->a.owner.agent[0] == 0);
    confirm(&a, "a3", NULL);
    EXPECT_INT(a.a.result, AFFINITY_RESULT_MOVED);
    affinity_end(&a.a, true);
    EXPECT(comes_to_pin(&a, "\"a3\""));
    end_world();
}

static void test_nothing_is_asked_for_a_beginning(void)
{
    begin_world(true);
    a = (struct run){.choice = "a0"};
    a.in.ident.conversation_id = -1;
    a.in.ident.fingerprint = 5;
    a.in.is_first = true;
    run_start(&p, &a);
    EXPECT(a.is_done && a.a.kind == SESSION_SOFT);
    confirm(&a, "a1", NULL);
    EXPECT(answered_header("x-lm-session-token") == NULL); // nobody would send it back
    affinity_end(&a.a, true);
    EXPECT(comes_to_pin(&a, "\"a1\""));
    a = (struct run){.choice = "a0"};
    a.in.ident.conversation_id = -1;
    run_start(&p, &a);
    EXPECT(a.is_done && a.a.kind == SESSION_NONE && a.a.is_claimed);
    confirm(&a, "a1", NULL);
    affinity_end(&a.a, true);
    end_world();
}

static void test_frozen_redis_costs_little(void)
{
    begin_world(true);
    struct answer answer;
    chat(&p, &a, "s");
    EXPECT(SPIN_UNTIL(a.is_done, 10000));
    confirm(&a, "a2", NULL);
    affinity_end(&a.a, true);
    EXPECT(comes_to_pin(&a, "\"a2\""));
    q.options.look_soft_ms = 5; // as it is where nobody says otherwise
    kill(redis_pid, SIGSTOP);
    uint64_t before = clock_ms();
    chat(&q, &b, "s");
    EXPECT(SPIN_UNTIL(b.is_done, 1000));
    EXPECT(clock_ms() - before <
           1500); // 5 on a quiet machine; a session that must be known waits 2000 here
    EXPECT(b.a.owner.agent[0] == 0 && b.step == AFFINITY_GO);
    affinity_end(&b.a, true);
    kill(redis_pid, SIGCONT);
    q.options.look_soft_ms = 900;
    chat_by_cache(&q, &b, "s"); // what came too late is known now
    EXPECT_STR(b.a.owner.agent, "a2");
    affinity_end(&b.a, false);
    // a client that leaves meanwhile
    kill(redis_pid, SIGSTOP);
    chat(&q, &b, "another");
    affinity_end(&b.a, false);
    kill(redis_pid, SIGCONT);
    spin_for(50);
    ask(&answer, "PING");
    end_world();
}

static void test_without_redis(void)
{
    begin_world(false);
    EXPECT(chat(&p, &a, "s")->is_done && a.a.source == AFFINITY_FROM_NOTHING);
    confirm(&a, "a2", NULL);
    affinity_end(&a.a, true);
    EXPECT(chat(&p, &a, "s")->is_done && a.a.source == AFFINITY_FROM_CACHE);
    EXPECT_STR(a.a.owner.agent, "a2");
    affinity_end(&a.a, false);
    EXPECT(chat(&q, &b, "s")->is_done && b.a.source == AFFINITY_FROM_NOTHING);
    EXPECT(b.a.key == a.a.key); // the rendezvous order is the same
    affinity_end(&b.a, false);
    end_world();
}

static void test_redis_lost_and_back(void)
{
    begin_world(true);
    kill_redis();
    bool was_asked = true;
    for (uint64_t until = clock_ms() + 5000; was_asked && clock_ms() < until;) {
        was_asked = !chat(&p, &a, "s")->is_done;
        spin_for(20);
        affinity_end(&a.a, false);
    }
    EXPECT(!was_asked);
    EXPECT(chat(&p, &a, "s")->is_done);
    confirm(&a, "a2", NULL);
    affinity_end(&a.a, true);
    start_redis("");
    char get[64];
    struct answer answer;
    snprintf(get, sizeof get, "GET lm:s:%016" PRIx64, a.a.key);
    EXPECT(SPIN_UNTIL((command(&answer, 1000, get), spin_for(5),
                       answer.calls == 1 && strstr(answer.text, "\"a2\"") != NULL),
                      10000)); // published
    end_world();
}

static void test_tokens_and_cookies(void)
{
    begin_world(true);
    close_proxy(&p);
    p.options.cookie = true;
    open_proxy(&p);
    EXPECT(SPIN_UNTIL(affinity_redis_is_up(p.service), 10000));
    spin_for(50);
    a = (struct run){.choice = "a0"};
    a.in.ident.conversation_id = -1;
    a.in.ident.fingerprint = 5;
    a.in.is_first = true;
    run_start(&p, &a);
    confirm(&a, "a3", NULL);
    EXPECT(answered_header("x-lm-session-token") == NULL);
    const char *cookie = answered_header("set-cookie");
    EXPECT(cookie && strstr(cookie, "HttpOnly") && strstr(cookie, "Max-Age=1800"));
    char sent[512];
    snprintf(sent, sizeof sent, "%.*s", cookie ? (int)strcspn(cookie, ";") : 0, cookie);
    affinity_end(&a.a, true);
    // another proxy, another first message, the same browser
    b = (struct run){.choice = "a0"};
    b.in.ident.conversation_id = -1;
    b.in.ident.fingerprint = 6;
    b.header[0] = (struct http_header){STR("cookie"), str_of(sent)};
    b.headers.count = 1;
    run_start(&q, &b);
    EXPECT(b.is_done && b.a.source == AFFINITY_FROM_TOKEN && b.a.key == a.a.key);
    EXPECT_STR(b.a.owner.agent, "a3");
    affinity_end(&b.a, false);
    end_world();
}

static void test_the_last_request(void)
{
    begin_world(true);
    chat(&p, &a, "s");
    EXPECT(SPIN_UNTIL(a.is_done, 10000));
    confirm(&a, "a0", NULL);
    affinity_end(&a.a, true);
    chat_by_cache(&p, &a, "s");
    affinity_end(&a.a, false);
    a = (struct run){.choice = "a0"};
    a.in.ident.conversation_id = -1;
    a.in.ident.prompt_cache_key = STR("s");
    a.header[0] = (struct http_header){STR("x-dynamo-session-final"), STR("true")};
    a.headers.count = 1;
    run_start(&p, &a);
    EXPECT_STR(a.a.owner.agent, "a0");
    confirm(&a, "a0", NULL);
    affinity_end(&a.a, true);
    struct answer answer;
    EXPECT(SPIN_UNTIL((ask(&answer, "KEYS lm:s:*"), answer.count == 0), 10000));
    end_world();
}

int main(void)
{
    need_redis_binary();
    log_level_max = LOG_ERROR;
    start_redis("");
    RUN(test_first_and_next);
    RUN(test_moves);
    RUN(test_move_of_what_expired);
    RUN(test_owners_that_are_no_use);
    RUN(test_nothing_is_asked_for_a_beginning);
    RUN(test_frozen_redis_costs_little);
    RUN(test_without_redis);
    RUN(test_redis_lost_and_back);
    RUN(test_tokens_and_cookies);
    RUN(test_the_last_request);
    remove_redis_dir();
    return TEST_END();
}
