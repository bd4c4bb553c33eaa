/* Sessions whose history is at an agent: two proxies, owners that restart, leave, hang and die, Redis
 * flushed, frozen and lost. */
#include "proxy/fleet_ask.h"
#include "proxy/proxy_metrics.h"
#include "proxy/rendezvous.h"
#include "tests/unit/proxy/affinity_test.h"

static struct run a, b, c;

static void test_a_session(void)
{
    begin_world(true);
    EXPECT_INT(turn(&p, &a, 7, "a2"), AFFINITY_GO);
    EXPECT_STR(a.a.owner.agent, "a2");
    EXPECT_STR(hop_of(&a), "");
    EXPECT(a.a.is_bound && !a.a.rendezvous_only && a.a.source == AFFINITY_FROM_NOTHING);
    confirm(&a, "a2", "x-lm-session-new");
    EXPECT_INT(a.a.result, AFFINITY_RESULT_NONE);
    EXPECT(answered_header("x-lm-session-token") != NULL);
    EXPECT(answered_header("set-cookie") == NULL);
    agent_records(&a, 1, false);
    affinity_end(&a.a, true);
    affinity_end(&a.a, true); // idempotent
    // the next turn, through another proxy that would choose another agent
    EXPECT_INT(turn(&q, &b, 7, "a1"), AFFINITY_GO);
    EXPECT_STR(b.a.owner.agent, "a2");
    EXPECT_STR(hop_of(&b), "; expect=existing");
    EXPECT(b.a.source == AFFINITY_FROM_REDIS && b.a.turn == 1 && b.a.key == a.a.key);
    confirm(&b, "a2", NULL);
    EXPECT_INT(b.a.result, AFFINITY_RESULT_HIT);
    affinity_end(&b.a, true);
    int asked = agents[0].asked + agents[1].asked + agents[2].asked + agents[3].asked;
    EXPECT_INT(asked, 0);
    end_world();
}

/* Again and again, at the very same time: they agree on one agent, whoever is first. */
static void test_two_proxies_open_at_once(void)
{
    begin_world(true);
    int64_t lost = metric_get(&proxy_metrics.session_claims_lost_total);
    for (int64_t id = 1; id <= 40; id++) {
        turn_start(id & 1 ? &p : &q, &a, id, "a0");
        turn_start(id & 1 ? &q : &p, &b, id, "a1");
        EXPECT(SPIN_UNTIL(a.is_done && b.is_done, 5000));
        EXPECT_INT(a.step, AFFINITY_GO);
        EXPECT_INT(b.step, AFFINITY_GO);
        EXPECT_STR(a.a.owner.agent, b.a.owner.agent);
        EXPECT_STR(hop_of(&a), ""); // "new" would make one forget the other's turn
        EXPECT_STR(hop_of(&b), "");
        affinity_end(&a.a, false);
        affinity_end(&b.a, false);
    }
    EXPECT(metric_get(&proxy_metrics.session_claims_lost_total) > lost); // it did happen
    end_world();
}

static void test_allotted(void)
{
    begin_world(true);
    a = (struct run){.choice = "a1"};
    a.in.ident.conversation_id = 99;
    a.in.is_allotted = true;
    run_start(&p, &a);
    EXPECT(SPIN_UNTIL(a.is_done, 5000));
    EXPECT_STR(hop_of(&a), "; expect=new");
    confirm(&a, "a1", "x-lm-session-new");
    agent_records(&a, 1, false);
    affinity_end(&a.a, true);
    turn(&q, &b, 99, "a0");
    EXPECT_STR(b.a.owner.agent, "a1");
    affinity_end(&b.a, false);
    end_world();
}

static void test_owner_restarted(void)
{
    begin_world(true);
    whole_turn(&p, &a, 7, "a0", 1, false);
    snprintf(agents[0].incarnation, sizeof agents[0].incarnation, "second");
    make_fleet();
    EXPECT_INT(turn(&q, &b, 7, "a1"), AFFINITY_GO);
    EXPECT_STR(b.a.owner.agent, "a0");
    EXPECT_STR(b.a.owner.incarnation, "second");
    EXPECT_STR(hop_of(&b), "; expect=existing; has=1"); // its folder may have it
    struct api_error error;
    EXPECT(!affinity_is_lost(&b.a, 404, STR("{\"error\":{\"code\":\"model_not_found\"}}"), &error));
    EXPECT(!affinity_is_lost(&b.a, 404, STR("nonsense"), &error));
    EXPECT(!affinity_is_lost(&b.a, 200, STR("{\"error\":{\"code\":\"session_unknown\"}}"), &error));
    EXPECT(affinity_is_lost(&b.a, 404, STR("{\"error\":{\"code\":\"session_unknown\"}}"), &error));
    EXPECT_INT(error.status, 410);
    EXPECT_STR(error.code, "session_lost");
    EXPECT_INT(b.a.result, AFFINITY_RESULT_LOST);
    affinity_end(&b.a, false);
    struct answer answer;
    ask_redis(&answer, "GET lm:s:%016" PRIx64, a.a.key);
    EXPECT(strstr(answer.text, "second") != NULL); // it stays lost until its client ends it
    end_world();
}

/* Our picture of the fleet is behind: Redis says that the pin's owner lives. */
static void test_fleet_lags(void)
{
    begin_world(true);
    struct answer answer;
    whole_turn(&p, &a, 7, "a0", 1, false);
    ask(&answer, "SET lm:agent:a0 {\"incarnation\":\"inc0\"}");
    snprintf(agents[0].incarnation, sizeof agents[0].incarnation, "the-one-before");
    make_fleet();
    turn(&q, &b, 7, "a1");
    EXPECT_STR(b.a.owner.incarnation, "inc0");
    affinity_end(&b.a, false);
    end_world();
}

static void test_owner_gone(void)
{
    begin_world(true);
    p.options.patience_ms = q.options.patience_ms = 100;
    whole_turn(&p, &a, 7, "a0", 1, true);
    whole_turn(&p, &a, 8, "a0", 1, false);
    whole_turn(&p, &a, 9, "a0", 0, false); // its first turn came to nothing
    agents[0].is_there = false;
    make_fleet();
    spin_for(AGENTS);
    // written down: whoever is chosen adopts it
    EXPECT_INT(turn(&q, &b, 7, "a3"), AFFINITY_GO);
    EXPECT_STR(b.a.owner.agent, "a3");
    EXPECT_STR(hop_of(&b), "; expect=adopt; has=1");
    confirm(&b, "a3", "x-lm-session-moved");
    EXPECT_INT(b.a.result, AFFINITY_RESULT_MOVED);
    affinity_end(&b.a, true);
    EXPECT_INT(turn(&p, &a, 7, "a1"), AFFINITY_GO);
    EXPECT_STR(a.a.owner.agent, "a3"); // its cache said a0
    affinity_end(&a.a, false);
    // not written down: lost, but the pin stays for an owner that may come back with its folder
    EXPECT_INT(turn(&q, &b, 8, "a3"), AFFINITY_FAILED);
    EXPECT_INT(b.a.error.status, 410);
    affinity_end(&b.a, false);
    struct answer answer;
    ask_redis(&answer, "GET lm:s:%016" PRIx64, b.a.key);
    EXPECT(strstr(answer.text, "inc0") != NULL);
    // nothing was there: it begins anew
    EXPECT_INT(turn(&q, &b, 9, "a3"), AFFINITY_GO);
    EXPECT_STR(b.a.owner.agent, "a3");
    EXPECT_STR(hop_of(&b), "");
    affinity_end(&b.a, false);
    end_world();
}

static void test_lost_sessions_can_be_ended(void)
{
    begin_world(true);
    p.options.patience_ms = 100;
    whole_turn(&p, &a, 7, "a0", 1, false);
    agents[0].is_there = false;
    make_fleet();
    b = (struct run){.choice = "a1"};
    b.in.ident.conversation_id = 7;
    b.in.is_end = b.in.is_bare_end = true;
    run_start(&p, &b);
    EXPECT(SPIN_UNTIL(b.is_done, 10000));
    EXPECT_INT(b.step, AFFINITY_GO);
    EXPECT_STR(b.a.owner.agent, "a1");
    confirm(&b, "a1", NULL);
    agent_records(&b, 0, false); // opened
    affinity_end(&b.a, true);
    struct answer answer;
    EXPECT(SPIN_UNTIL((ask(&answer, "KEYS lm:?:*"), answer.count == 0), 10000));
    end_world();
}

static void test_owner_suspect(void)
{
    begin_world(true);
    whole_turn(&p, &a, 7, "a0", 1, false);
    agents[0].state = FLEET_SUSPECT;
    make_fleet();
    p.options.patience_ms = 60000;
    turn_start(&p, &b, 7, "a1");
    spin_for(100);
    EXPECT(!b.is_done); // there is patience
    agents[0].state = FLEET_UP;
    make_fleet();
    EXPECT(SPIN_UNTIL(b.is_done, 10000));
    EXPECT_INT(b.step, AFFINITY_GO);
    EXPECT_STR(b.a.owner.agent, "a0");
    affinity_end(&b.a, false);
    agents[0].state = FLEET_SUSPECT; // for longer than that
    make_fleet();
    p.options.patience_ms = 300;
    uint64_t before = clock_ms();
    EXPECT_INT(turn(&p, &b, 7, "a1"), AFFINITY_GO);
    EXPECT(clock_ms() - before >= 250);
    EXPECT_STR(b.a.owner.agent, "a0");
    affinity_end(&b.a, false);
    turn_start(&p, &b, 7, "a1");
    spin_for(20);
    affinity_end(&b.a, false); // its client has left
    end_world();
}

static void test_owner_draining(void)
{
    begin_world(true);
    whole_turn(&p, &a, 7, "a0", 1, true);
    whole_turn(&p, &a, 8, "a0", 1, false);
    agents[0].is_draining = true;
    make_fleet();
    turn(&p, &b, 7, "a2"); // handed over
    EXPECT_STR(b.a.owner.agent, "a2");
    EXPECT_STR(hop_of(&b), "; expect=adopt; has=1");
    affinity_end(&b.a, false);
    turn(&p, &b, 8, "a2"); // nobody else could have it
    EXPECT_STR(b.a.owner.agent, "a0");
    affinity_end(&b.a, false);
    end_world();
}

static void test_owner_fails_the_request(void)
{
    begin_world(true);
    p.options.patience_ms = 1500;
    whole_turn(&p, &a, 7, "a0", 1, true);
    turn(&p, &b, 7, "a1");
    run_on(&b, affinity_again(&b.a, true)); // couldn't be connected
    spin_for(100);
    EXPECT(!b.is_done);
    agents[0].is_there = false; // two refusals: it is gone
    make_fleet();
    EXPECT(SPIN_UNTIL(b.is_done, 10000));
    EXPECT_STR(b.a.owner.agent, "a1");
    EXPECT_STR(hop_of(&b), "; expect=adopt; turn=2");
    affinity_end(&b.a, false);
    turn(&p, &b, 7, "a2");
    EXPECT_STR(b.a.owner.agent, "a1");
    run_on(&b, affinity_again(&b.a, true)); // it stays as it is
    EXPECT(SPIN_UNTIL(b.is_done, 10000));
    EXPECT_INT(b.step, AFFINITY_FAILED);
    EXPECT_INT(b.a.error.status, 503);
    EXPECT(b.a.error.retry_after_s > 0);
    affinity_end(&b.a, false);
    end_world();
}

/* Redis calls the owner alive while its lease lasts; that it was killed and started anew is seen while
 * the request waits, not after its patience. */
static void test_owner_fails_and_restarts(void)
{
    begin_world(true);
    p.options.patience_ms = 5000;
    struct answer answer;
    whole_turn(&p, &a, 7, "a0", 1, true);
    ask(&answer, "SET lm:agent:a0 {\"incarnation\":\"inc0\"}");
    turn(&p, &b, 7, "a1");
    p.options.patience_ms = 60000;
    run_on(&b, affinity_again(&b.a, true)); // couldn't be connected
    spin_for(100);
    EXPECT(!b.is_done);
    ask(&answer, "SET lm:agent:a0 {\"incarnation\":\"second\"}");
    snprintf(agents[0].incarnation, sizeof agents[0].incarnation, "second");
    make_fleet();
    EXPECT(SPIN_UNTIL(b.is_done, 10000));
    EXPECT_INT(b.step, AFFINITY_GO);
    EXPECT_STR(b.a.owner.incarnation, "second");
    EXPECT_STR(hop_of(&b), "; expect=existing; turn=2");
    affinity_end(&b.a, false);
    end_world();
}

/* The agent counts what it began. If it couldn't write down all of that, what is written is no history
 * to go on from: neither for this request, nor for other proxies. */
static void test_turns_that_redis_lacks(void)
{
    begin_world(true);
    p.options.patience_ms = q.options.patience_ms = 100;
    whole_turn(&p, &a, 7, "a0", 1, true);
    turn(&p, &b, 7, "a1");
    confirm(&b, "a0", NULL);
    affinity_hear_turn(&b.a, STR("2"));
    affinity_end(&b.a, true); // out, but not in Redis
    turn(&p, &b, 7, "a1");
    affinity_hear_turn(&b.a, STR("0"));
    affinity_hear_turn(&b.a, STR("x"));
    affinity_hear_turn(&b.a, STR("3"));
    confirm(&b, "a0", NULL);
    spin_for(20);
    turn_start(&q, &c, 7, "a2"); // the proxy beside it was told of turn 2
    EXPECT(SPIN_UNTIL(c.is_done, 10000));
    EXPECT_INT(c.a.turn, 2);
    EXPECT_STR(hop_of(&c), "; expect=existing"); // its owner lives, and knows best
    affinity_end(&c.a, false);
    agents[0].is_there = false;
    make_fleet();
    run_on(&b, affinity_again(&b.a, true)); // a stream that would be resumed
    EXPECT(SPIN_UNTIL(b.is_done, 10000));
    EXPECT_INT(b.step, AFFINITY_FAILED);
    EXPECT_INT(b.a.error.status, 410);
    affinity_end(&b.a, false);
    EXPECT_INT(turn(&q, &c, 7, "a2"), AFFINITY_FAILED);
    EXPECT_INT(c.a.error.status, 410);
    affinity_end(&c.a, false);
    end_world();
}

/* A turn that was told and is all that Redis lacks goes on elsewhere, under its number. */
static void test_number_of_a_resumed_turn(void)
{
    begin_world(true);
    p.options.patience_ms = 100;
    whole_turn(&p, &a, 7, "a0", 1, true);
    turn(&p, &b, 7, "a1");
    affinity_hear_turn(&b.a, STR("2"));
    confirm(&b, "a0", NULL);
    agents[0].is_there = false;
    make_fleet();
    run_on(&b, affinity_again(&b.a, true));
    EXPECT(SPIN_UNTIL(b.is_done, 10000));
    EXPECT_INT(b.step, AFFINITY_GO);
    EXPECT_STR(hop_of(&b), "; expect=adopt; turn=2");
    affinity_end(&b.a, true);
    end_world();
}

/* A turn that no agent has begun has no number yet: another proxy's may have come between. */
static void test_number_of_a_turn_that_was_not_begun(void)
{
    begin_world(true);
    p.options.patience_ms = 100;
    whole_turn(&p, &a, 7, "a0", 1, true);
    turn(&p, &b, 7, "a1");
    struct answer answer;
    char words[64];
    snprintf(words, sizeof words, "HSET lm:h:%016" PRIx64 " turns 2", b.a.key);
    ask(&answer, words);
    agents[0].is_there = false;
    make_fleet();
    run_on(&b, affinity_again(&b.a, false)); // couldn't be connected
    EXPECT(SPIN_UNTIL(b.is_done, 10000));
    EXPECT_STR(hop_of(&b), "; expect=adopt; has=2"); // and not the place of turn 2
    affinity_end(&b.a, true);
    end_world();
}

/* A session that has not begun goes elsewhere at once. */
static void test_fresh_session_fails(void)
{
    begin_world(true);
    p.options.patience_ms = 60000;
    turn(&p, &a, 7, "a0");
    a.choice = "a1";
    run_on(&a, affinity_again(&a.a, true));
    EXPECT(SPIN_UNTIL(a.is_done, 10000));
    EXPECT_STR(a.a.owner.agent, "a1");
    affinity_end(&a.a, false);
    // the claim came to nothing, and is taken back
    struct answer answer;
    EXPECT(SPIN_UNTIL((ask(&answer, "KEYS lm:?:*"), answer.count == 0), 5000));
    end_world();
}

static void test_turns_keep_their_order(void)
{
    begin_world(true);
    static struct run waiting[SESSION_LANE_WAITING + 1];
    whole_turn(&p, &a, 7, "a0", 1, false);
    turn(&p, &a, 7, "a0");
    for (int i = 0; i <= SESSION_LANE_WAITING; i++)
        turn_start(&p, &waiting[i], 7, "a0");
    EXPECT(waiting[SESSION_LANE_WAITING].is_done);
    EXPECT_INT(waiting[SESSION_LANE_WAITING].a.error.status, 429);
    affinity_end(&waiting[SESSION_LANE_WAITING].a, false);
    // a cancel goes to the owner meanwhile
    c = (struct run){.choice = "a1"};
    c.in.ident.conversation_id = 7;
    c.in.use = AFFINITY_USE_CANCEL;
    run_start(&p, &c);
    EXPECT(SPIN_UNTIL(c.is_done, 10000));
    EXPECT_STR(c.a.owner.agent, "a0");
    EXPECT_STR(hop_of(&c), "none");
    affinity_end(&c.a, true);
    spin_for(20);
    affinity_end(&waiting[3].a, false); // its client has left
    EXPECT(!waiting[0].is_done);
    affinity_end(&a.a, true);
    for (int i = 0; i < SESSION_LANE_WAITING; i++) {
        if (i == 3) continue;
        EXPECT(SPIN_UNTIL(waiting[i].is_done, 10000));
        spin_for(5);
        for (int k = i + 1; k < SESSION_LANE_WAITING; k++)
            EXPECT(k == 3 || !waiting[k].is_done);
        EXPECT_STR(waiting[i].a.owner.agent, "a0");
        affinity_end(&waiting[i].a, true);
    }
    end_world();
}

static void test_end(void)
{
    begin_world(true);
    whole_turn(&p, &a, 7, "a0", 1, true);
    b = (struct run){.choice = "a1"};
    b.in.ident.conversation_id = 7;
    b.in.is_end = true;
    run_start(&q, &b);
    EXPECT(SPIN_UNTIL(b.is_done, 10000));
    EXPECT_STR(b.a.owner.agent, "a0");
    confirm(&b, "a0", NULL);
    EXPECT(answered_header("x-lm-session-token") == NULL);
    affinity_end(&b.a, true);
    struct answer answer;
    EXPECT(SPIN_UNTIL((ask(&answer, "KEYS lm:?:*"), answer.count == 0), 10000));
    EXPECT_INT(turn(&p, &a, 7, "a3"), AFFINITY_GO); // its cache still has it, which is void
    EXPECT_STR(a.a.owner.agent, "a3");
    affinity_end(&a.a, false);
    end_world();
}

/* ---- Redis in trouble ---- */

static void test_flushed(void)
{
    begin_world(true);
    struct answer answer;
    whole_turn(&p, &a, 7, "a0", 1, false);
    agents[0].turns = 3;
    agents[1].turns = 2; // an old copy: it was there before
    agents[3].is_silent = true;
    ask(&answer, "FLUSHALL");
    EXPECT_INT(turn(&p, &a, 7, "a3"), AFFINITY_GO); // knows
    EXPECT_STR(a.a.owner.agent, "a0");
    EXPECT(a.a.source == AFFINITY_FROM_CACHE);
    affinity_end(&a.a, false);
    ask(&answer, "FLUSHALL");
    EXPECT_INT(turn(&q, &b, 7, "a3"), AFFINITY_GO); // asks
    EXPECT_STR(b.a.owner.agent, "a0");
    EXPECT(b.a.source == AFFINITY_FROM_AGENTS && b.a.turn == 3);
    EXPECT_STR(hop_of(&b), "; expect=existing; has=3");
    EXPECT_INT(agents[3].asked, 1);
    affinity_end(&b.a, false);
    agents[0].turns = agents[1].turns = -1;
    EXPECT_INT(turn(&q, &b, 8, "a3"), AFFINITY_GO); // nobody has it
    EXPECT_STR(b.a.owner.agent, "a3");
    EXPECT_STR(hop_of(&b), "");
    affinity_end(&b.a, false);
    end_world();
}

/* More agents than are asked: the one that the session would be at is among those that are. */
static void test_large_fleet(void)
{
    enum { MANY = 300 };
    static const char *const models[] = {"m"};
    begin_world(false);
    struct session_secret secret;
    session_secret_of(STR(""), &secret);
    uint64_t key = session_key(&secret, STR(""), STR("m"), STR("interactive"), 7);
    char first[16] = "";
    for (int round = 0; round < 2; round++) {
        struct fleet_agent *list[MANY];
        for (int i = 0; i < MANY; i++) {
            char id[16];
            snprintf(id, sizeof id, "n%d", i);
            struct fleet_cell *cell = fleet_cell_create();
            struct fleet_agent facts = {.id = id,
                                        .url = "http://127.0.0.1:1",
                                        .host = "127.0.0.1",
                                        .path = strcmp(id, first) == 0 ? "/a1" : "/a0",
                                        .port = agent_port,
                                        .cell = cell,
                                        .model_count = 1};
            list[i] = fleet_agent_create(&facts, models);
            fleet_cell_unref(cell);
        }
        fleet_unref(fleet);
        fleet = fleet_create_take(list, MANY);
        uint16_t order[RENDEZVOUS_FIRST];
        const struct fleet_model *m = fleet_find_model(fleet, STR("m"));
        NEED(rendezvous_first(fleet, m, key, order) > 0);
        snprintf(first, sizeof first, "%s", fleet->agents[order[0]]->id);
    }
    agents[1].turns = 4;
    EXPECT_INT(turn(&p, &a, 7, "n0"), AFFINITY_GO);
    EXPECT_STR(a.a.owner.agent, first);
    EXPECT(agents[0].asked <= FLEET_ASK_MAX - 1 && agents[0].asked > FLEET_ASK_MAX / 2);
    EXPECT_INT(agents[1].asked, 1);
    affinity_end(&a.a, false);
    end_world();
}

static void test_without_redis(void)
{
    begin_world(false);
    a = (struct run){.choice = "a1"};
    a.in.ident.conversation_id = 7;
    a.in.ident.tenant = STR("team");
    run_start(&p, &a);
    EXPECT(!a.is_done); // asks
    EXPECT(SPIN_UNTIL(a.is_done, 10000));
    EXPECT_STR(asked_tenant, "team");
    EXPECT(a.a.rendezvous_only && a.a.key != 0);
    EXPECT_STR(hop_of(&a), "");
    confirm(&a, "a1", "x-lm-session-new");
    char token[256];
    snprintf(token, sizeof token, "%s", answered_header("x-lm-session-token"));
    affinity_end(&a.a, true);
    // the same proxy remembers
    a = (struct run){.choice = "a2"};
    a.in.ident.conversation_id = 7;
    a.in.ident.tenant = STR("team");
    run_start(&p, &a);
    EXPECT(a.is_done && a.a.source == AFFINITY_FROM_CACHE);
    EXPECT_STR(a.a.owner.agent, "a1");
    EXPECT_STR(hop_of(&a), ""); // its turn was counted only: the owner knows best
    affinity_end(&a.a, false);
    // another one asks; what it was told is proven
    agents[1].turns = 1;
    b = (struct run){.choice = "a2"};
    b.in.ident.conversation_id = 7;
    run_start(&q, &b);
    EXPECT(SPIN_UNTIL(b.is_done, 10000));
    EXPECT_STR(b.a.owner.agent, "a1");
    EXPECT_STR(hop_of(&b), "; expect=existing; has=1");
    affinity_end(&b.a, false);
    // the owner dies: adopted if it was written down, the agent finds out
    agents[1].is_there = false;
    make_fleet();
    EXPECT_INT(turn(&q, &b, 7, "a2"), AFFINITY_GO);
    EXPECT_STR(hop_of(&b), "; expect=adopt; has=1");
    EXPECT(b.a.rendezvous_only || b.a.is_bound);
    affinity_end(&b.a, false);
    turn_start(&q, &b, 11, "a2"); // asks
    EXPECT(!b.is_done);
    affinity_end(&b.a, false); // its client has left
    end_world();
}

/* Where proxies share a secret, a client that shows its token needs no store at all. */
static void test_token(void)
{
    begin_world(false);
    close_proxy(&p);
    close_proxy(&q);
    p.options.secret = q.options.secret = "shared";
    open_proxy(&p);
    open_proxy(&q);
    turn(&p, &a, 7, "a1");
    confirm(&a, "a1", "x-lm-session-new");
    char token[256];
    snprintf(token, sizeof token, "%s", answered_header("x-lm-session-token"));
    affinity_end(&a.a, true);
    for (int i = 0; i < 2; i++) {
        b = (struct run){.choice = "a2"};
        b.in.ident.conversation_id = 7 + i; // another session's token says nothing
        b.header[0] = (struct http_header){STR("x-lm-session-token"), str_of(token)};
        b.headers.count = 1;
        run_start(&q, &b);
        EXPECT_INT(b.is_done, i == 0);
        EXPECT(SPIN_UNTIL(b.is_done, 10000));
        EXPECT_STR(b.a.owner.agent, i == 0 ? "a1" : "a2");
        EXPECT_INT(b.a.source, i == 0 ? AFFINITY_FROM_TOKEN : AFFINITY_FROM_NOTHING);
        affinity_end(&b.a, false);
    }
    token[20] ^= 1;
    b = (struct run){.choice = "a2"};
    b.in.ident.conversation_id = 7;
    b.header[0] = (struct http_header){STR("x-lm-session-token"), str_of(token)};
    b.headers.count = 1;
    close_proxy(&q); // and what it knows
    open_proxy(&q);
    run_start(&q, &b);
    EXPECT(SPIN_UNTIL(b.is_done, 10000));
    EXPECT(b.a.source == AFFINITY_FROM_NOTHING);
    affinity_end(&b.a, false);
    end_world();
}

/* A client's token, and a proxy's memory, may name an agent that the session has left: while Redis
 * can't tell, those who have it do. */
static void test_moved_while_redis_is_away(void)
{
    begin_world(true);
    whole_turn(&p, &a, 7, "a0", 1, true);
    agents[1].turns = 1; // adopted it, and agent a0 has forgotten
    agents[0].turns = -1;
    kill(redis_pid, SIGSTOP);
    EXPECT_INT(turn(&p, &a, 7, "a2"), AFFINITY_GO);
    EXPECT_STR(a.a.owner.agent, "a1");
    EXPECT(a.a.source == AFFINITY_FROM_AGENTS);
    EXPECT_STR(hop_of(&a), "; expect=existing; has=1");
    affinity_end(&a.a, false);
    agents[0].turns = 1; // of two that are equal it is the one that was known
    close_proxy(&p);
    open_proxy(&p);
    EXPECT_INT(turn(&q, &b, 7, "a2"), AFFINITY_GO);
    affinity_end(&b.a, false);
    kill(redis_pid, SIGCONT);
    end_world();
}

static void test_redis_frozen(void)
{
    begin_world(true);
    whole_turn(&p, &a, 7, "a0", 1, false);
    p.options.look_hard_ms = 250; // as it is where nobody says otherwise
    kill(redis_pid, SIGSTOP);
    uint64_t before = clock_ms();
    EXPECT_INT(turn(&p, &a, 7, "a1"), AFFINITY_GO);
    EXPECT(clock_ms() - before >= 200 && clock_ms() - before < 2000);
    EXPECT_STR(a.a.owner.agent, "a0");
    kill(redis_pid, SIGCONT);
    affinity_end(&a.a, false);
    end_world();
}

static void let_redis_sleep(void)
{
    kill(redis_pid, SIGSTOP);
    EXPECT(SPIN_UNTIL(!affinity_redis_is_up(p.service) && !affinity_redis_is_up(q.service), 20000));
    kill(redis_pid, SIGCONT);
    EXPECT(SPIN_UNTIL(affinity_redis_is_up(p.service) && affinity_redis_is_up(q.service), 20000));
}

/* Where nothing but Redis has gone on, a pin of before the outage is as good as ever. */
static void expect_at_its_owner(int64_t id)
{
    int asked = agents[1].asked;
    EXPECT_INT(turn(&p, &a, id, "a2"), AFFINITY_GO);
    EXPECT_STR(a.a.owner.agent, "a0");
    EXPECT_INT(agents[1].asked, asked);
    affinity_end(&a.a, false);
}

/* Redis is back, and holds what was there before it went, or what it was asked while it slept. An agent
 * that had the session is dead, and another one has gone on: neither it nor its proxy has said so yet. */
static void test_an_old_pin_after_an_outage(void)
{
    begin_world(true);
    struct answer answer;
    whole_turn(&p, &a, 7, "a0", 1, true);
    whole_turn(&p, &a, 8, "a0", 2, false);
    turn(&p, &a, 9, "a0");
    ask_redis(&answer,
              "SET lm:s:%016" PRIx64 " {\"agent\":\"a0\",\"incarnation\":\"inc0\",\"turn\":0}",
              a.a.key);
    affinity_end(&a.a, false);
    uint64_t key = a.a.key;
    let_redis_sleep();
    expect_at_its_owner(7);

    snprintf(agents[0].incarnation, sizeof agents[0].incarnation, "second"); // killed, and back
    make_fleet();
    agents[1].turns = 1;
    EXPECT_INT(turn(&q, &b, 9, "a2"), AFFINITY_GO); // a claim that came to nothing
    EXPECT_STR(b.a.owner.agent, "a1");
    EXPECT_STR(hop_of(&b), "; expect=existing; has=1");
    ask_redis(&answer, "GET lm:s:%016" PRIx64, key);
    EXPECT(strstr(answer.text, "\"a1\"") && strstr(answer.text, "\"turn\":1"));
    affinity_end(&b.a, true);

    agents[1].turns = 2;
    EXPECT_INT(turn(&q, &b, 7, "a2"), AFFINITY_GO); // one turn more than the transcript
    EXPECT_STR(b.a.owner.agent, "a1");
    EXPECT_STR(hop_of(&b), "; expect=existing; has=2");
    affinity_end(&b.a, true);

    agents[0].is_there = false;
    make_fleet();
    p.options.patience_ms = 100;
    EXPECT_INT(turn(&p, &a, 8, "a2"),
               AFFINITY_FAILED); // who has its last turn may write it down yet
    EXPECT_INT(a.a.error.status, 503);
    EXPECT_STR(a.a.error.code, "session_unreachable");
    affinity_end(&a.a, false);
    end_world();
}

/* What was opened while Redis was away is published when it is back; more turns win. */
static void test_redis_comes_back(void)
{
    begin_world(true);
    struct answer answer;
    kill_redis();
    EXPECT(SPIN_UNTIL(turn(&p, &a, 7, "a1") == AFFINITY_GO && a.a.rendezvous_only, 5000));
    confirm(&a, "a1", "x-lm-session-new");
    affinity_end(&a.a, true);
    EXPECT_INT(turn(&p, &a, 8, "a2"), AFFINITY_GO);
    confirm(&a, "a2", "x-lm-session-new");
    affinity_end(&a.a, true);
    uint64_t other = a.a.key;
    EXPECT_INT(turn(&p, &a, 7, "a0"), AFFINITY_GO);
    EXPECT_STR(a.a.owner.agent, "a1");
    affinity_end(&a.a, true);
    start_redis("");
    char words[256];
    snprintf(words, sizeof words,
             "SET lm:s:%016" PRIx64
             " {\"agent\":\"a3\",\"incarnation\":\"inc3\",\"turn\":5,\"kind\":\"interactive\"}",
             other);
    EXPECT(SPIN_UNTIL((command(&answer, 1000, words), spin_for(2), answer.status == 0), 10000));
    char get[64];
    snprintf(get, sizeof get, "GET lm:s:%016" PRIx64, a.a.key);
    EXPECT(SPIN_UNTIL((ask(&answer, get), strstr(answer.text, "\"a1\"") != NULL), 10000));
    spin_for(50);
    ask_redis(&answer, "GET lm:s:%016" PRIx64, other);
    bool is_theirs = strstr(answer.text, "a3") != NULL; // or it came after ours: then ours stands
    bool was_told = false; // the other proxy's connection heals in its own time
    for (uint64_t until = clock_ms() + 10000; !was_told && clock_ms() < until;) {
        turn(&q, &b, 8, "a0");
        was_told = b.a.source == AFFINITY_FROM_REDIS;
        if (was_told) EXPECT_STR(b.a.owner.agent, is_theirs ? "a3" : "a2");
        affinity_end(&b.a, false);
        spin_for(20);
    }
    EXPECT(was_told);
    turn(&q, &b, 7, "a0");
    EXPECT_STR(b.a.owner.agent, "a1");
    affinity_end(&b.a, false);
    end_world();
}

int main(void)
{
    need_redis_binary();
    log_level_max = LOG_ERROR;
    start_redis("");
    RUN(test_a_session);
    RUN(test_two_proxies_open_at_once);
    RUN(test_allotted);
    RUN(test_owner_restarted);
    RUN(test_fleet_lags);
    RUN(test_owner_gone);
    RUN(test_lost_sessions_can_be_ended);
    RUN(test_owner_suspect);
    RUN(test_owner_draining);
    RUN(test_owner_fails_the_request);
    RUN(test_owner_fails_and_restarts);
    RUN(test_turns_that_redis_lacks);
    RUN(test_number_of_a_resumed_turn);
    RUN(test_number_of_a_turn_that_was_not_begun);
    RUN(test_fresh_session_fails);
    RUN(test_turns_keep_their_order);
    RUN(test_end);
    RUN(test_flushed);
    RUN(test_large_fleet);
    RUN(test_without_redis);
    RUN(test_token);
    RUN(test_moved_while_redis_is_away);
    RUN(test_redis_frozen);
    RUN(test_an_old_pin_after_an_outage);
    RUN(test_redis_comes_back);
    remove_redis_dir();
    return TEST_END();
}
