/* The proxy's scripts and the agents' on one real Redis: who wins, what is left, what either side
 * makes of what the other wrote; flushed, frozen, lost and restarted servers. */
#include "proxy/pin_store.h"

#include "agent/session_transcript.h"
#include "shared/base/log.h"
#include "tests/unit/net/redis_test.h"

#include <inttypes.h>

#define TTL_MS 60000
#define KEY    UINT64_C(0xabcdef0123456789)

/* ---- one proxy's side ---- */

struct side {
    struct pin_store *store;
    struct pin_answer answer;
    int calls, status, ready;
    bool is_closed;
};

static struct side p, q;

static void on_ready(void *arg)
{
    ((struct side *)arg)->ready++;
}

static void open_side(struct side *s, const char *secret)
{
    char url[64];
    struct error err = {0};
    *s = (struct side){0};
    snprintf(url, sizeof url, "redis://127.0.0.1:%d/0", redis_port);
    struct pin_store_options options = {
        .url = url, .secret = secret, .hard_ttl_ms = TTL_MS, .on_ready = on_ready, .arg = s};
    NEED(pin_store_create(&loop, &options, &s->store, &err) == 0);
}

static void on_side_closed(void *arg)
{
    ((struct side *)arg)->is_closed = true;
}

static void close_side(struct side *s)
{
    pin_store_destroy(s->store, on_side_closed, s);
    EXPECT(SPIN_UNTIL(s->is_closed, 5000));
}

static void on_pin(void *arg, int status, const struct pin_answer *answer)
{
    struct side *s = arg;
    s->calls++;
    s->status = status;
    EXPECT((status == 0) == (answer != NULL));
    if (answer) s->answer = *answer;
}

static const struct pin_answer *wait_for(struct side *s)
{
    NEED(SPIN_UNTIL(s->calls == 1, 5000));
    s->calls = 0;
    return &s->answer;
}

static const struct pin_answer *look(struct side *s)
{
    pin_store_look(s->store, KEY, 1000, on_pin, s);
    EXPECT_INT(s->calls, 0); // never from inside
    return wait_for(s);
}

static struct pin_request request_of(const char *agent, const char *incarnation, uint32_t turn)
{
    struct pin_request r = {.key = KEY, .kind = SESSION_HARD, .turn = turn, .deadline_ms = 1000};
    snprintf(r.owner.agent, sizeof r.owner.agent, "%s", agent);
    snprintf(r.owner.incarnation, sizeof r.owner.incarnation, "%s", incarnation);
    return r;
}

static const struct pin_answer *claim(struct side *s, const char *agent, const char *incarnation,
                                      uint32_t turn, bool is_fresh)
{
    struct pin_request r = request_of(agent, incarnation, turn);
    r.is_fresh = is_fresh;
    pin_store_claim(s->store, &r, on_pin, s);
    return wait_for(s);
}

static const struct pin_answer *move(struct side *s, const char *from, const char *from_incarnation,
                                     const char *agent, const char *incarnation)
{
    struct pin_request r = request_of(agent, incarnation, 0);
    snprintf(r.from.agent, sizeof r.from.agent, "%s", from);
    snprintf(r.from.incarnation, sizeof r.from.incarnation, "%s", from_incarnation);
    pin_store_move(s->store, &r, on_pin, s);
    return wait_for(s);
}

/* ---- one agent's side ---- */

static struct session_transcript *agent;
static enum transcript_state opened;
static int opens;
static bool agent_closed;

static void on_agent_closed(void *arg)
{
    (void)arg;
    agent_closed = true;
}

static void on_open(void *arg, enum transcript_state state, struct session_history *history)
{
    (void)arg, (void)history;
    opened = state;
    opens++;
}

static void open_agent(const char *id, const char *incarnation)
{
    static const struct session_limits limits = {.vocab_size = 1000, .tokens_max = 4096};
    char url[64];
    struct error err = {0};
    uint64_t name;
    snprintf(url, sizeof url, "redis://127.0.0.1:%d/0", redis_port);
    struct session_transcript_options options = {
        .url = url, .agent_id = id, .incarnation = incarnation, .ttl_ms = TTL_MS};
    NEED(session_transcript_create(&loop, &options, &agent, &err) == 0);
    session_transcript_set_model(agent, "model", &limits);
    NEED(SPIN_UNTIL(session_transcript_name(agent, STR(""), STR("m"), 7, &name), 5000));
    agent_closed = false;
}

static void close_agent(void)
{
    session_transcript_destroy(agent, on_agent_closed, NULL);
    EXPECT(SPIN_UNTIL(agent_closed, 5000));
}

static enum transcript_state agent_opens(int64_t held, enum session_expect expect)
{
    opens = 0;
    session_transcript_open(agent, KEY, held, expect, on_open, NULL);
    NEED(SPIN_UNTIL(opens == 1, 5000));
    return opened;
}

static void on_saved(void *arg, enum transcript_saved saved)
{
    *(int *)arg = (int)saved;
}

/* A turn of three tokens has ended; it was the `serial`th. */
static void agent_ends_turn(uint64_t serial)
{
    struct session_history h = {0};
    int32_t ids[] = {1, 2, 3};
    struct buf record;
    buf_init(&record, 4096);
    int saved = -1;
    for (uint64_t i = 1; i <= serial; i++) {
        struct session_step step = {.base = 3 * (int)(i - 1),
                                    .keep_turns = (int)(i - 1),
                                    .ids = ids,
                                    .count = 3,
                                    .serial = i};
        buf_clear(&record);
        session_record_print(&record, &step);
        session_history_apply(&h, &step);
    }
    session_transcript_append(agent, KEY, true, serial - 1, &h, buf_str(&record), on_saved, &saved);
    EXPECT(SPIN_UNTIL(saved == TRANSCRIPT_SAVED, 5000));
    session_history_deinit(&h);
    buf_deinit(&record);
}

/* ---- around ---- */

static void begin(void)
{
    open_redis("redis://127.0.0.1:%d/0");
    NEED(SPIN_UNTIL(redis_client_is_connected(redis), 5000));
    struct answer answer;
    ask(&answer, "FLUSHALL");
    open_side(&p, NULL);
    open_side(&q, NULL);
    NEED(SPIN_UNTIL(p.ready && q.ready, 5000));
}

static void end(void)
{
    close_side(&p);
    close_side(&q);
    close_redis();
}

static void set_epoch_age(uint64_t age_ms)
{
    char words[128];
    struct answer answer;
    snprintf(words, sizeof words, "HINCRBY lm:session-epoch since -%" PRIu64, age_ms);
    ask(&answer, words);
}

/* ---- the tests ---- */

static void test_first_wins(void)
{
    begin();
    EXPECT(look(&p)->presence == PIN_ABSENT && !p.answer.is_noted_end);
    EXPECT_INT(p.answer.transcript, -1);
    /* Both ask at once. */
    struct pin_request r = request_of("a", "inc-a", 0), s = request_of("b", "inc-b", 0);
    r.is_fresh = s.is_fresh = true;
    pin_store_claim(p.store, &r, on_pin, &p);
    pin_store_claim(q.store, &s, on_pin, &q);
    wait_for(&p);
    wait_for(&q);
    EXPECT(p.answer.is_won != q.answer.is_won);
    EXPECT_STR(p.answer.owner.agent, q.answer.owner.agent);
    EXPECT_STR(p.answer.owner.incarnation, q.answer.owner.incarnation);
    EXPECT_STR(p.answer.owner.agent, p.answer.is_won ? "a" : "b");
    EXPECT(p.answer.presence == PIN_FRESH && q.answer.presence == PIN_FRESH);
    struct answer ttl;
    char words[64];
    snprintf(words, sizeof words, "PTTL lm:s:%016" PRIx64, KEY);
    ask(&ttl, words);
    EXPECT(ttl.integer > TTL_MS - 5000 && ttl.integer <= TTL_MS);
    end();
}

static void test_moves(void)
{
    begin();
    EXPECT(!move(&p, "a", "inc-a", "b", "inc-b")->is_won); // nobody's: claim it
    EXPECT(p.answer.presence == PIN_ABSENT);
    EXPECT(claim(&p, "a", "inc-a", 3, false)->is_won);
    EXPECT(p.answer.presence == PIN_PRESENT && p.answer.turn == 3);
    EXPECT(!move(&q, "a", "old", "b", "inc-b")->is_won);
    EXPECT_STR(q.answer.owner.agent, "a");
    EXPECT(move(&q, "a", "inc-a", "b", "inc-b")->is_won);
    EXPECT(q.answer.turn == 3);                            // it stays as old as it is
    EXPECT(!move(&p, "a", "inc-a", "c", "inc-c")->is_won); // the second of two
    EXPECT_STR(p.answer.owner.agent, "b");
    EXPECT(move(&p, "b", "inc-b", "b", "again")->is_won);
    EXPECT_STR(look(&q)->owner.incarnation, "again");
    end();
}

static void test_the_end(void)
{
    begin();
    claim(&p, "a", "inc-a", 0, true);
    struct pin_request r = request_of("a", "inc-a", 0);
    pin_store_end(p.store, &r); // of an earlier session: this one isn't opened yet
    EXPECT(look(&p)->presence == PIN_FRESH);
    pin_store_withdraw(p.store, &r); // that came to nothing
    EXPECT(look(&p)->presence == PIN_ABSENT && !p.answer.is_noted_end);
    claim(&p, "a", "inc-a", 2, false);
    pin_store_withdraw(p.store, &r); // it was opened
    EXPECT(look(&p)->presence == PIN_PRESENT);
    struct pin_request other = request_of("a", "another", 0);
    pin_store_end(p.store, &other);
    EXPECT(look(&p)->presence == PIN_PRESENT);
    EXPECT(pin_store_is_doubtful(p.store, clock_ms()));
    pin_store_end(p.store, &r);
    EXPECT(look(&p)->presence == PIN_ABSENT && p.answer.is_noted_end); // agents needn't be asked
    EXPECT(claim(&q, "b", "inc-b", 0, true)->is_won);
    struct pin_request own = request_of("b", "inc-b", 0);
    own.is_fresh = true; // claimed in order to end it; its agent needs no history for that
    pin_store_end(q.store, &own);
    EXPECT(look(&q)->presence == PIN_ABSENT && q.answer.is_noted_end);
    claim(&q, "b", "inc-b", 1, false);
    pin_store_end(q.store, &own); // which it opened, or not
    EXPECT(look(&q)->presence == PIN_ABSENT);
    claim(&q, "c", "inc-c", 0, true);
    pin_store_end(q.store, &own);
    EXPECT(look(&q)->presence == PIN_FRESH); // another one's since
    end();
}

static void test_end_without_doubt(void)
{
    begin();
    set_epoch_age(TTL_MS + 1);
    close_side(&p);
    open_side(&p, NULL);
    NEED(SPIN_UNTIL(p.ready, 5000));
    EXPECT(!pin_store_is_doubtful(p.store, clock_ms()));
    claim(&p, "a", "inc-a", 2, false);
    struct pin_request r = request_of("a", "inc-a", 0);
    pin_store_end(p.store, &r);
    EXPECT(look(&p)->presence == PIN_ABSENT && !p.answer.is_noted_end);
    struct answer answer;
    ask(&answer, "KEYS lm:?:*");
    EXPECT_INT(answer.count, 0); // nothing stays
    end();
}

static void test_refresh(void)
{
    begin();
    claim(&p, "a", "inc-a", 2, false);
    char words[64];
    struct answer answer;
    snprintf(words, sizeof words, "PEXPIRE lm:s:%016" PRIx64 " 900", KEY);
    ask(&answer, words);
    struct pin_request r = request_of("b", "inc-b", 9);
    pin_store_refresh(p.store, &r); // not its
    EXPECT(look(&p)->turn == 2);
    snprintf(words, sizeof words, "PTTL lm:s:%016" PRIx64, KEY);
    ask(&answer, words);
    EXPECT(answer.integer <= 900);
    r = request_of("a", "inc-a", 5);
    pin_store_refresh(p.store, &r);
    EXPECT(look(&p)->turn == 5);
    ask(&answer, words);
    EXPECT(answer.integer > TTL_MS - 5000);
    r.turn = 1;
    pin_store_refresh(p.store, &r); // never back
    EXPECT(look(&p)->turn == 5);
    end();
}

static void test_publish(void)
{
    begin();
    struct pin_request r = request_of("a", "inc-a", 4);
    pin_store_publish(p.store, &r, on_pin, &p);
    EXPECT(wait_for(&p)->is_won);
    r = request_of("b", "inc-b", 4);
    pin_store_publish(q.store, &r, on_pin, &q);
    EXPECT(!wait_for(&q)->is_won);
    EXPECT_STR(q.answer.owner.agent, "a");
    r.turn = 5; // knows more
    pin_store_publish(q.store, &r, on_pin, &q);
    EXPECT(wait_for(&q)->is_won);
    EXPECT_STR(look(&p)->owner.agent, "b");
    end();
}

/* ---- with an agent ---- */

static void test_agent_takes_a_fresh_claim(void)
{
    begin();
    open_agent("a", "inc-a");
    claim(&p, "a", "inc-a", 0, true);
    /* It holds an old copy of that id, which is over. Who opens second goes on. */
    EXPECT_INT(agent_opens(5, SESSION_EXPECT_ANY), TRANSCRIPT_ENDED);
    EXPECT(look(&p)->presence == PIN_PRESENT);
    EXPECT_STR(p.answer.owner.incarnation, "inc-a");
    agent_ends_turn(1);
    EXPECT(look(&p)->turn == 1 && p.answer.transcript == 1);
    EXPECT_INT(agent_opens(1, SESSION_EXPECT_EXISTING), TRANSCRIPT_OWN);
    agent_ends_turn(2);
    EXPECT(look(&q)->turn == 2 && q.answer.presence == PIN_PRESENT);
    close_agent();
    end();
}

static void test_agent_starts_a_fresh_claim(void)
{
    begin();
    open_agent("a", "inc-a");
    claim(&p, "a", "inc-a", 0, true);
    EXPECT_INT(agent_opens(-1, SESSION_EXPECT_ANY), TRANSCRIPT_NEW);
    session_transcript_release(agent, KEY, true); // the turn came to nothing
    EXPECT(SPIN_UNTIL(look(&p)->presence == PIN_ABSENT, 5000));
    close_agent();
    end();
}

/* Moved by a proxy, adopted by the other agent; what the first one writes then doesn't count. While the other lives
 * it waits, though it has as many turns. */
static void test_agents_obey_moves(void)
{
    struct answer answer;
    begin();
    open_agent("a", "inc-a");
    claim(&p, "a", "inc-a", 0, true);
    agent_opens(-1, SESSION_EXPECT_ANY);
    agent_ends_turn(1);
    close_agent();
    EXPECT(move(&p, "a", "inc-a", "b", "inc-b")->is_won);
    EXPECT(p.answer.turn == 1 && p.answer.transcript == 1);
    ask(&answer, "SET lm:agent:b {\"incarnation\":\"inc-b\"}");
    open_agent("a", "inc-a");
    EXPECT_INT(agent_opens(1, SESSION_EXPECT_EXISTING), TRANSCRIPT_BUSY);
    EXPECT_INT(agent_opens(0, SESSION_EXPECT_EXISTING), TRANSCRIPT_UNCLAIMED);
    close_agent();
    open_agent("b", "inc-b");
    EXPECT_INT(agent_opens(-1, SESSION_EXPECT_ADOPT), TRANSCRIPT_HISTORY);
    agent_ends_turn(2);
    EXPECT(look(&q)->turn == 2);
    EXPECT_STR(q.answer.owner.agent, "b");
    /* Restarted without a folder: existing is read from the transcript. */
    close_agent();
    EXPECT(move(&q, "b", "inc-b", "b", "inc-b2")->is_won);
    open_agent("b", "inc-b2");
    EXPECT_INT(agent_opens(-1, SESSION_EXPECT_EXISTING), TRANSCRIPT_HISTORY);
    session_transcript_end(agent, KEY);
    EXPECT(SPIN_UNTIL(look(&p)->presence == PIN_ABSENT, 5000));
    close_agent();
    end();
}

/* The pin has expired, the transcript hasn't: a claim says so, and marks nothing. */
static void test_transcript_without_pin(void)
{
    begin();
    open_agent("a", "inc-a");
    claim(&p, "a", "inc-a", 0, true);
    agent_opens(-1, SESSION_EXPECT_ANY);
    agent_ends_turn(1);
    struct answer answer;
    char words[64];
    snprintf(words, sizeof words, "DEL lm:s:%016" PRIx64, KEY);
    ask(&answer, words);
    EXPECT(look(&p)->presence == PIN_ABSENT && p.answer.transcript == 1);
    EXPECT(claim(&p, "b", "inc-b", 0, true)->is_won);
    EXPECT(p.answer.presence == PIN_PRESENT && p.answer.turn == 1);
    close_agent();
    end();
}

static void test_alive_by_redis(void)
{
    begin();
    struct answer answer;
    claim(&p, "a", "inc-a", 2, false);
    EXPECT(!look(&p)->is_alive);
    ask(&answer, "SET lm:agent:a {\"incarnation\":\"inc-a\"}");
    EXPECT(look(&p)->is_alive);
    ask(&answer, "SET lm:agent:a {\"incarnation\":\"another\"}");
    EXPECT(!look(&p)->is_alive);
    ask(&answer, "SET lm:agent:a {\"incarnation\":7}");
    EXPECT(!look(&p)->is_alive);
    end();
}

/* Anybody's bytes. */
static void test_damaged_pins(void)
{
    static const char *const pins[] = {
        "x",
        "[]",
        "7",
        "null",
        "{\"agent\":1}",
        "{\"agent\":\"a\"}",
        "{\"incarnation\":\"i\"}",
        "{\"agent\":null,\"incarnation\":\"i\"}",
        "{\"agent\":\"\",\"incarnation\":\"\"}",
        "{\"ended\":1}",
    };
    begin();
    struct answer answer;
    char words[4096];
    for (size_t i = 0; i < ARRAY_LEN(pins); i++) {
        snprintf(words, sizeof words, "SET lm:s:%016" PRIx64 " %s", KEY, pins[i]);
        ask(&answer, words);
        EXPECT(look(&p)->presence == PIN_ABSENT);
        EXPECT_INT(p.answer.is_noted_end, i == ARRAY_LEN(pins) - 1);
    }
    static const char *const turns[] = {"-5", "1e300", "\"x\"", "[]", "null", "99999999999"};
    for (size_t i = 0; i < ARRAY_LEN(turns); i++) {
        snprintf(words, sizeof words,
                 "SET lm:s:%016" PRIx64 " {\"agent\":\"a\",\"incarnation\":\"i\",\"turn\":%s}", KEY,
                 turns[i]);
        ask(&answer, words);
        EXPECT(look(&p)->presence == PIN_PRESENT && p.answer.turn <= INT32_MAX);
    }
    memset(words, 'a', sizeof words);
    snprintf(words, 64, "SET lm:s:%016" PRIx64 " {\"agent\":\"", KEY);
    memset(words + strlen(words), 'a', 1000);
    snprintf(words + 1050, 64, "\",\"incarnation\":\"i\"}");
    words[1049] = 'a';
    ask(&answer, words);
    EXPECT(look(&p)->presence == PIN_ABSENT); // no agent has such an id
    snprintf(words, sizeof words, "HSET lm:s:%016" PRIx64 " a b", KEY);
    ask(&answer, "FLUSHALL");
    ask(&answer, words);
    look(&p);
    EXPECT_INT(p.status, E_PROTOCOL);
    end();
}

/* ---- Redis in trouble ---- */

static void test_secret_survives_a_flush(void)
{
    begin();
    struct session_secret before, after;
    struct answer answer;
    EXPECT(pin_store_secret(p.store, &before));
    set_epoch_age(TTL_MS + 1);
    close_side(&q);
    open_side(&q, NULL);
    NEED(SPIN_UNTIL(q.ready, 5000));
    EXPECT(!pin_store_is_doubtful(q.store, clock_ms()));
    ask(&answer, "FLUSHALL");
    look(&q); // notices
    EXPECT(pin_store_is_doubtful(q.store, clock_ms()));
    EXPECT(SPIN_UNTIL((ask(&answer, "EXISTS lm:session-secret"), answer.integer == 1), 3000));
    close_side(&p);
    open_side(&p, NULL);
    NEED(SPIN_UNTIL(p.ready, 5000));
    EXPECT(pin_store_secret(p.store, &after));
    EXPECT(memcmp(&before, &after, sizeof before) == 0);
    EXPECT(pin_store_is_doubtful(p.store, clock_ms()));
    end();
}

static void test_secret_of_options(void)
{
    begin();
    struct session_secret want, got;
    session_secret_of(STR("ours"), &want);
    close_side(&q);
    open_side(&q, "ours");
    EXPECT(pin_store_secret(q.store, &got) && memcmp(&want, &got, sizeof got) == 0);
    NEED(SPIN_UNTIL(q.ready, 5000));
    EXPECT(pin_store_secret(q.store, &got) && memcmp(&want, &got, sizeof got) == 0);
    /* Agents and proxies without the option share the one in Redis. */
    open_agent("a", "inc-a");
    uint64_t name;
    EXPECT(pin_store_secret(p.store, &got));
    EXPECT(session_transcript_name(agent, STR("t"), STR("m"), 7, &name));
    EXPECT(name == session_key(&got, STR("t"), STR("m"), STR("interactive"), 7));
    close_agent();
    end();
}

static void test_frozen_and_lost(void)
{
    begin();
    claim(&p, "a", "inc-a", 2, false);
    kill(redis_pid, SIGSTOP);
    uint64_t before = clock_ms();
    pin_store_look(p.store, KEY, 100, on_pin, &p);
    wait_for(&p);
    EXPECT_INT(p.status, E_TIMEOUT);
    EXPECT(clock_ms() - before < 1000);
    kill(redis_pid, SIGCONT);
    kill_redis();
    EXPECT(SPIN_UNTIL(!pin_store_is_up(p.store), 5000));
    look(&p);
    EXPECT_INT(p.status, E_CLOSED); // at once
    p.ready = 0;
    start_redis("");
    EXPECT(SPIN_UNTIL(p.ready == 1, 10000));
    EXPECT(pin_store_is_up(p.store) && pin_store_is_doubtful(p.store, clock_ms()));
    EXPECT(look(&p)->presence == PIN_ABSENT);
    close_side(&p); // with a call under way
    open_side(&p, NULL);
    NEED(SPIN_UNTIL(p.ready, 5000));
    pin_store_look(p.store, KEY, 1000, on_pin, &p);
    close_side(&p);
    EXPECT(p.calls == 1 && p.status == E_CLOSED);
    open_side(&p, NULL);
    end();
}

int main(void)
{
    need_redis_binary();
    log_level_max = LOG_ERROR;
    start_redis("");
    RUN(test_first_wins);
    RUN(test_moves);
    RUN(test_the_end);
    RUN(test_end_without_doubt);
    RUN(test_refresh);
    RUN(test_publish);
    RUN(test_agent_takes_a_fresh_claim);
    RUN(test_agent_starts_a_fresh_claim);
    RUN(test_agents_obey_moves);
    RUN(test_transcript_without_pin);
    RUN(test_alive_by_redis);
    RUN(test_damaged_pins);
    RUN(test_secret_survives_a_flush);
    RUN(test_secret_of_options);
    RUN(test_frozen_and_lost);
    remove_redis_dir();
    return TEST_END();
}
