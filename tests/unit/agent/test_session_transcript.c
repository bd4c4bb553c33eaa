/* The scripts against a real server: owners that die, sleep and wake, transcripts that are cut,
 * damaged, too large or of another model. */
#include "agent/session_transcript.h"

#include "shared/base/log.h"
#include "tests/unit/net/redis_test.h"

#define TTL_MS 60000

static const struct session_limits limits = {.vocab_size = 1000, .tokens_max = 4096};

/* One agent's side. */
struct side {
    struct session_transcript *transcript;
    struct session_history history; // what it holds; turn_count 0: nothing
    enum transcript_state state;
    enum transcript_saved saved;
    int calls;
    bool is_closed;
    bool is_unopened; // its turn began without Redis
    int backs;        // Redis came back
    bool was_flushed;
};

static struct side a, b;
static uint64_t name;

static void on_back(void *arg, bool is_flushed)
{
    struct side *s = arg;
    s->backs++;
    s->was_flushed = is_flushed;
}

static void open_side(struct side *s, const char *id, const char *incarnation, size_t bytes_max)
{
    char url[64];
    struct error err = {0};
    *s = (struct side){0};
    snprintf(url, sizeof url, "redis://127.0.0.1:%d/0", redis_port);
    struct session_transcript_options options = {.url = url,
                                                 .agent_id = id,
                                                 .incarnation = incarnation,
                                                 .ttl_ms = TTL_MS,
                                                 .bytes_max = bytes_max,
                                                 .on_back = on_back,
                                                 .arg = s};
    NEED(session_transcript_create(&loop, &options, &s->transcript, &err) == 0);
    session_transcript_set_model(s->transcript, "model", &limits);
    NEED(SPIN_UNTIL(session_transcript_name(s->transcript, STR(""), STR("m"), 7, &name), 5000));
}

static void on_side_closed(void *arg)
{
    ((struct side *)arg)->is_closed = true;
}

static void close_side(struct side *s)
{
    session_transcript_destroy(s->transcript, on_side_closed, s);
    EXPECT(SPIN_UNTIL(s->is_closed, 5000));
    session_history_deinit(&s->history);
}

static void on_open(void *arg, enum transcript_state state, struct session_history *history)
{
    struct side *s = arg;
    s->calls++;
    s->state = state;
    EXPECT((state == TRANSCRIPT_HISTORY) == (history->turn_count > 0));
    if (state != TRANSCRIPT_HISTORY) return;
    session_history_deinit(&s->history);
    s->history = *history;
    *history = (struct session_history){0};
}

static enum transcript_state open_turn(struct side *s, enum session_expect expect)
{
    int64_t held = s->history.turn_count > 0 ? (int64_t)s->history.serial : -1;
    s->calls = 0;
    session_transcript_open(s->transcript, name, held, expect, on_open, s);
    EXPECT_INT(s->calls, 0);
    NEED(SPIN_UNTIL(s->calls == 1, 5000));
    return s->state;
}

static void on_saved(void *arg, enum transcript_saved saved)
{
    struct side *s = arg;
    s->calls++;
    s->saved = saved;
}

/* The turn runs and adds these tokens. */
static enum transcript_saved end_turn(struct side *s, int base, int first, int count)
{
    int32_t ids[64];
    for (int i = 0; i < count; i++)
        ids[i] = first + i;
    uint64_t serial = s->history.serial;
    struct session_step step = {.base = base,
                                .keep_turns = session_history_turns_within(&s->history, base),
                                .ids = ids,
                                .count = count,
                                .seed = 5,
                                .serial = serial + 1};
    struct buf record;
    buf_init(&record, 4096);
    session_record_print(&record, &step);
    session_history_apply(&s->history, &step);
    s->calls = 0;
    session_transcript_append(s->transcript, name, !s->is_unopened, serial, &s->history,
                              buf_str(&record), on_saved, s);
    NEED(SPIN_UNTIL(s->calls == 1, 5000));
    buf_deinit(&record);
    return s->saved;
}

static enum transcript_saved restore(struct side *s, bool is_running)
{
    s->calls = 0;
    session_transcript_restore(s->transcript, name, &s->history, is_running, on_saved, s);
    NEED(SPIN_UNTIL(s->calls == 1, 5000));
    return s->saved;
}

static void on_settled(void *arg, enum transcript_state state, struct session_history *history)
{
    (void)state, (void)history;
    *(bool *)arg = true;
}

/* What this side has sent is done. */
static void settle(struct side *s)
{
    bool done = false;
    session_transcript_read(s->transcript, name, on_settled, &done);
    NEED(SPIN_UNTIL(done, 5000));
}

static void lives(const char *id, const char *incarnation)
{
    struct answer answer;
    char words[256];
    snprintf(words, sizeof words, "SET lm:agent:%s {\"incarnation\":\"%s\"}", id, incarnation);
    ask(&answer, words);
}

static void ask_of(const char *format)
{
    struct answer answer;
    char words[256], text[SESSION_KEY_DIGITS + 1];
    session_key_text(name, text);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(words, sizeof words, format, text);
#pragma GCC diagnostic pop
    ask(&answer, words);
    EXPECT(answer.type != REDIS_FAIL);
}

static void begin(size_t bytes_max)
{
    struct answer answer;
    open_redis("redis://127.0.0.1:%d/0");
    NEED(SPIN_UNTIL(ups == 1, 5000));
    ask(&answer, "FLUSHALL");
    open_side(&a, "agent-a", "inc-a", bytes_max);
    open_side(&b, "agent-b", "inc-b", bytes_max);
}

static void end(void)
{
    close_side(&a);
    close_side(&b);
    close_redis();
}

static void test_secret_is_shared(void)
{
    begin(0);
    uint64_t other;
    EXPECT(session_transcript_name(a.transcript, STR(""), STR("m"), 7, &other) && other == name);
    EXPECT(session_transcript_name(a.transcript, STR("t"), STR("m"), 7, &other) && other != name);
    end();
}

static void test_turns_and_adoption(void)
{
    begin(0);
    lives("agent-a", "inc-a");
    EXPECT_INT(open_turn(&a, SESSION_EXPECT_ANY), TRANSCRIPT_NEW);
    EXPECT_INT(open_turn(&b, SESSION_EXPECT_ANY), TRANSCRIPT_BUSY); // its first turn runs
    EXPECT_INT(end_turn(&a, 0, 10, 5), TRANSCRIPT_SAVED);
    for (int i = 1; i < 4; i++) {
        EXPECT_INT(open_turn(&a, SESSION_EXPECT_ANY), TRANSCRIPT_OWN);
        EXPECT_INT(end_turn(&a, 5 * i, 20 * i, 5), TRANSCRIPT_SAVED);
    }
    EXPECT_INT(open_turn(&b, SESSION_EXPECT_ANY), TRANSCRIPT_HISTORY);
    EXPECT_INT(b.history.turn_count, 4);
    EXPECT_INT(b.history.ids.count, 20);
    EXPECT_INT(b.history.ids.ids[19], 64);
    EXPECT_INT(b.history.seed, 5);
    EXPECT_INT(end_turn(&b, 12, 100, 3), TRANSCRIPT_SAVED); // a rewind, too
    // the first one comes back: what it holds is old
    EXPECT_INT(open_turn(&a, SESSION_EXPECT_ANY), TRANSCRIPT_HISTORY);
    EXPECT_INT(a.history.ids.count, 15);
    EXPECT_INT(a.history.serial, 5);
    EXPECT_INT(end_turn(&a, 15, 1, 1), TRANSCRIPT_SAVED);
    end();
}

/* Stopped in the middle of a turn, taken for dead, woken: its turn must not stand. */
static void test_stopped_owner(void)
{
    begin(0);
    lives("agent-a", "inc-a");
    open_turn(&a, SESSION_EXPECT_ANY);
    EXPECT_INT(end_turn(&a, 0, 10, 5), TRANSCRIPT_SAVED);
    EXPECT_INT(open_turn(&a, SESSION_EXPECT_ANY), TRANSCRIPT_OWN);
    EXPECT_INT(open_turn(&b, SESSION_EXPECT_ANY), TRANSCRIPT_BUSY);
    struct answer answer;
    ask(&answer, "DEL lm:agent:agent-a"); // its lease ends
    EXPECT_INT(open_turn(&b, SESSION_EXPECT_ANY), TRANSCRIPT_HISTORY);
    EXPECT_INT(end_turn(&b, 5, 30, 2), TRANSCRIPT_SAVED);
    EXPECT_INT(end_turn(&a, 5, 20, 5), TRANSCRIPT_MOVED);
    EXPECT_INT(open_turn(&a, SESSION_EXPECT_ANY), TRANSCRIPT_HISTORY); // the other one's turn
    EXPECT_INT(a.history.ids.ids[5], 30);
    EXPECT_INT(a.history.ids.count, 7);
    end();
}

/* Between turns an owner may be taken over although it lives, and loses nothing by it. */
static void test_equal_serials_of_different_turns(void)
{
    begin(0);
    lives("agent-a", "inc-a");
    open_turn(&a, SESSION_EXPECT_ANY);
    EXPECT_INT(end_turn(&a, 0, 10, 5), TRANSCRIPT_SAVED);
    struct session_step unsaved = {
        .base = 5, .keep_turns = 1, .ids = (const int32_t[]){77}, .count = 1, .serial = 2};
    session_history_apply(&a.history, &unsaved); // its client was told that it isn't durable
    EXPECT_INT(open_turn(&b, SESSION_EXPECT_ANY), TRANSCRIPT_HISTORY);
    EXPECT_INT(end_turn(&b, 5, 88, 1), TRANSCRIPT_SAVED);
    EXPECT_INT(open_turn(&a, SESSION_EXPECT_ANY), TRANSCRIPT_HISTORY);
    EXPECT_INT(a.history.ids.ids[5], 88);
    end();
}

static void test_gaps_are_filled(void)
{
    begin(0);
    open_turn(&a, SESSION_EXPECT_ANY);
    EXPECT_INT(end_turn(&a, 0, 10, 5), TRANSCRIPT_SAVED);
    struct answer answer;
    ask(&answer, "FLUSHALL");
    EXPECT_INT(open_turn(&a, SESSION_EXPECT_ANY), TRANSCRIPT_OWN); // it has all of it
    EXPECT_INT(end_turn(&a, 5, 20, 5), TRANSCRIPT_SAVED);
    EXPECT_INT(open_turn(&b, SESSION_EXPECT_ANY), TRANSCRIPT_HISTORY);
    EXPECT_INT(b.history.ids.count, 10);
    EXPECT_INT(b.history.turn_count, 2);
    end();
}

static void test_never_written_down(void)
{
    begin(0);
    lives("agent-a", "inc-a");
    EXPECT_INT(open_turn(&a, SESSION_EXPECT_ANY), TRANSCRIPT_NEW);
    ask_of("HDEL lm:h:%s running");
    EXPECT_INT(open_turn(&b, SESSION_EXPECT_ANY), TRANSCRIPT_ELSEWHERE);
    lives("agent-a", "restarted");
    EXPECT_INT(open_turn(&b, SESSION_EXPECT_ANY), TRANSCRIPT_LOST);
    EXPECT_INT(open_turn(&b, SESSION_EXPECT_ANY), TRANSCRIPT_LOST); // it stays lost
    session_transcript_end(b.transcript, name);                     // until the client ends it
    EXPECT_INT(open_turn(&b, SESSION_EXPECT_ANY), TRANSCRIPT_NEW);
    end();
}

static void test_expectations(void)
{
    begin(0);
    lives("agent-a", "inc-a");
    EXPECT_INT(open_turn(&a, SESSION_EXPECT_EXISTING), TRANSCRIPT_UNKNOWN);
    EXPECT_INT(open_turn(&a, SESSION_EXPECT_ADOPT), TRANSCRIPT_UNKNOWN);
    EXPECT_INT(open_turn(&a, SESSION_EXPECT_NEW), TRANSCRIPT_NEW);
    EXPECT_INT(end_turn(&a, 0, 1, 3), TRANSCRIPT_SAVED);
    EXPECT_INT(open_turn(&a, SESSION_EXPECT_EXISTING), TRANSCRIPT_OWN);
    EXPECT_INT(open_turn(&b, SESSION_EXPECT_EXISTING), TRANSCRIPT_UNCLAIMED);
    EXPECT_INT(open_turn(&b, SESSION_EXPECT_ADOPT), TRANSCRIPT_HISTORY); // though a turn runs
    EXPECT_INT(end_turn(&a, 3, 4, 1), TRANSCRIPT_MOVED);
    EXPECT_INT(open_turn(&a, SESSION_EXPECT_NEW), TRANSCRIPT_NEW);
    EXPECT_INT(end_turn(&b, 3, 4, 1), TRANSCRIPT_MOVED);
    end();
}

static void test_end(void)
{
    begin(0);
    lives("agent-a", "inc-a");
    open_turn(&a, SESSION_EXPECT_ANY);
    end_turn(&a, 0, 1, 3);
    session_transcript_end(b.transcript, name); // another agent is told
    settle(&b);
    EXPECT_INT(open_turn(&a, SESSION_EXPECT_ANY), TRANSCRIPT_ENDED);
    session_history_deinit(&a.history);
    EXPECT_INT(end_turn(&a, 0, 1, 3), TRANSCRIPT_SAVED);
    session_transcript_end(a.transcript, name);
    settle(&a);
    struct answer answer;
    ask(&answer, "KEYS lm:?:*");
    EXPECT_INT(answer.count, 0); // nothing stays
    session_history_deinit(&a.history);
    EXPECT_INT(open_turn(&b, SESSION_EXPECT_ANY), TRANSCRIPT_NEW);
    session_transcript_release(b.transcript, name, true); // the turn failed
    settle(&b);
    ask(&answer, "KEYS lm:?:*");
    EXPECT_INT(answer.count, 0);
    end();
}

static void test_release(void)
{
    begin(0);
    lives("agent-a", "inc-a");
    open_turn(&a, SESSION_EXPECT_ANY);
    end_turn(&a, 0, 1, 3);
    open_turn(&a, SESSION_EXPECT_ANY);
    EXPECT_INT(open_turn(&b, SESSION_EXPECT_ANY), TRANSCRIPT_BUSY);
    session_transcript_release(b.transcript, name, false); // not its turn
    settle(&b);
    EXPECT_INT(open_turn(&b, SESSION_EXPECT_ANY), TRANSCRIPT_BUSY);
    session_transcript_release(a.transcript, name, false);
    settle(&a);
    EXPECT_INT(open_turn(&b, SESSION_EXPECT_ANY), TRANSCRIPT_HISTORY);
    end();
}

static void test_damage(void)
{
    static const char *const damages[] = {
        "HDEL lm:h:%s r2",        "HSET lm:h:%s r2 short",  "HSET lm:h:%s turns 9",
        "HSET lm:h:%s turns 2",   "HSET lm:h:%s records 1", "HSET lm:h:%s records 4",
        "HSET lm:h:%s records x",
    };
    for (size_t i = 0; i < ARRAY_LEN(damages); i++) {
        begin(0);
        open_turn(&a, SESSION_EXPECT_ANY);
        end_turn(&a, 0, 1, 3);
        end_turn(&a, 3, 1, 3);
        end_turn(&a, 6, 1, 3);
        ask_of(damages[i]);
        EXPECT_INT(open_turn(&b, SESSION_EXPECT_ANY), TRANSCRIPT_DAMAGED);
        EXPECT_INT(open_turn(&b, SESSION_EXPECT_ANY), TRANSCRIPT_DAMAGED);
        session_transcript_end(b.transcript, name);
        EXPECT_INT(open_turn(&b, SESSION_EXPECT_ANY), TRANSCRIPT_NEW);
        end();
    }
}

/* The type of a key is anybody's: an error, not a crash, and nothing begins anew. */
static void test_wrong_type(void)
{
    begin(0);
    ask_of("SET lm:h:%s text");
    EXPECT_INT(open_turn(&a, SESSION_EXPECT_ANY), TRANSCRIPT_DAMAGED);
    ask_of("DEL lm:h:%s");
    ask_of("SET lm:s:%s [1");
    EXPECT_INT(open_turn(&a, SESSION_EXPECT_ANY), TRANSCRIPT_NEW); // a pin that names nobody
    end();
}

static void test_other_model(void)
{
    begin(0);
    open_turn(&a, SESSION_EXPECT_ANY);
    end_turn(&a, 0, 1, 3);
    session_transcript_set_model(b.transcript, "another", &limits);
    EXPECT_INT(open_turn(&b, SESSION_EXPECT_ANY), TRANSCRIPT_FOREIGN);
    EXPECT_INT(open_turn(&a, SESSION_EXPECT_ANY), TRANSCRIPT_OWN); // nothing was taken
    end();
}

static void test_too_large(void)
{
    begin(300);
    open_turn(&a, SESSION_EXPECT_ANY);
    EXPECT_INT(end_turn(&a, 0, 1, 20), TRANSCRIPT_SAVED);
    EXPECT_INT(end_turn(&a, 0, 1, 20), TRANSCRIPT_SAVED);
    EXPECT_INT(end_turn(&a, 0, 1, 30), TRANSCRIPT_SAVED); // without what was rewound it fits
    EXPECT_INT(end_turn(&a, 30, 1, 60), TRANSCRIPT_MISSED);
    EXPECT_INT(open_turn(&b, SESSION_EXPECT_ANY), TRANSCRIPT_LOST); // never a part of it
    end();
}

static void test_read(void)
{
    begin(0);
    session_transcript_read(b.transcript, name, on_open, &b);
    EXPECT(SPIN_UNTIL(b.calls == 1, 5000) && b.state == TRANSCRIPT_UNKNOWN);
    open_turn(&a, SESSION_EXPECT_ANY);
    end_turn(&a, 0, 1, 3);
    session_transcript_read(b.transcript, name, on_open, &b);
    EXPECT(SPIN_UNTIL(b.calls == 2, 5000) && b.state == TRANSCRIPT_HISTORY);
    EXPECT_INT(open_turn(&a, SESSION_EXPECT_ANY), TRANSCRIPT_OWN); // it stays whose it was
    end();
}

static void test_redis_goes(void)
{
    begin(0);
    open_turn(&a, SESSION_EXPECT_ANY);
    end_turn(&a, 0, 1, 3);
    kill(redis_pid, SIGSTOP);
    uint64_t before = clock_ms();
    EXPECT_INT(end_turn(&a, 3, 5, 1), TRANSCRIPT_MISSED);
    EXPECT(clock_ms() - before < 45 * TRANSCRIPT_APPEND_MS / 10);
    kill(redis_pid, SIGCONT);
    kill_redis();
    EXPECT_INT(open_turn(&a, SESSION_EXPECT_ANY), TRANSCRIPT_AWAY);
    EXPECT_INT(end_turn(&a, 4, 6, 1), TRANSCRIPT_MISSED);
    start_redis("");
    EXPECT(SPIN_UNTIL(open_turn(&a, SESSION_EXPECT_ANY) == TRANSCRIPT_OWN, 10000));
    EXPECT_INT(end_turn(&a, 5, 7, 1), TRANSCRIPT_SAVED); // with what it had missed
    EXPECT_INT(open_turn(&b, SESSION_EXPECT_ANY) == TRANSCRIPT_HISTORY ||
                   SPIN_UNTIL(open_turn(&b, SESSION_EXPECT_ANY) == TRANSCRIPT_HISTORY, 10000),
               1);
    EXPECT_INT(b.history.ids.count, 6);
    end();
}

/* A flush is noticed without a turn; what is held is written again, and the secret is the same. */
static void test_flush_is_noticed(void)
{
    begin(0);
    struct answer answer;
    open_turn(&a, SESSION_EXPECT_ANY);
    end_turn(&a, 0, 10, 5);
    EXPECT_INT(a.backs, 0);
    ask(&answer, "FLUSHALL");
    EXPECT(SPIN_UNTIL((session_transcript_tick(a.transcript), a.backs == 1), 5000));
    EXPECT(a.was_flushed);
    EXPECT_INT(restore(&a, false), TRANSCRIPT_SAVED);
    EXPECT_INT(open_turn(&b, SESSION_EXPECT_ADOPT), TRANSCRIPT_HISTORY);
    EXPECT_INT(b.history.ids.count, 5);
    uint64_t again;
    EXPECT(SPIN_UNTIL((session_transcript_tick(b.transcript), b.backs == 1), 5000));
    ask(&answer, "GET lm:session-secret");
    EXPECT(answer.text[0] != 0);
    EXPECT(session_transcript_name(b.transcript, STR("team"), STR("m"), 7, &again));
    end();
}

/* Whose it is while another agent lives, or had as many turns, is no question. */
static void test_restore_takes_nothing(void)
{
    begin(0);
    lives("agent-a", "inc-a");
    lives("agent-b", "inc-b");
    open_turn(&a, SESSION_EXPECT_ANY);
    end_turn(&a, 0, 10, 5);
    EXPECT_INT(open_turn(&b, SESSION_EXPECT_ADOPT), TRANSCRIPT_HISTORY);
    EXPECT_INT(end_turn(&a, 5, 20, 5), TRANSCRIPT_MOVED);
    EXPECT_INT(restore(&a, false), TRANSCRIPT_HELD); // with a turn more
    EXPECT_INT(end_turn(&b, 5, 30, 5), TRANSCRIPT_SAVED);
    struct answer answer;
    ask(&answer, "DEL lm:agent:agent-b");
    EXPECT_INT(restore(&a, false), TRANSCRIPT_MOVED); // as many
    EXPECT_INT(end_turn(&a, 10, 40, 5), TRANSCRIPT_MOVED);
    end();
}

/* Turns that began without Redis may follow those of an owner that is gone, and nobody else's. */
static void test_turns_without_redis(void)
{
    begin(0);
    lives("agent-a", "inc-a");
    open_turn(&a, SESSION_EXPECT_ANY);
    end_turn(&a, 0, 10, 5);
    EXPECT_INT(open_turn(&b, SESSION_EXPECT_EXISTING), TRANSCRIPT_UNCLAIMED);
    session_history_copy(&b.history, &a.history);
    b.is_unopened = true;
    EXPECT_INT(end_turn(&b, 5, 20, 5), TRANSCRIPT_HELD); // its owner lives
    lives("agent-a", "restarted");
    b.is_unopened = false;
    EXPECT_INT(end_turn(&b, 10, 30, 5), TRANSCRIPT_MOVED);
    session_history_deinit(&b.history);
    session_history_copy(&b.history, &a.history);
    b.is_unopened = true;
    EXPECT_INT(end_turn(&b, 5, 20, 5), TRANSCRIPT_SAVED);
    b.is_unopened = false;
    EXPECT_INT(open_turn(&b, SESSION_EXPECT_EXISTING), TRANSCRIPT_OWN);
    EXPECT_INT(end_turn(&a, 5, 40, 5), TRANSCRIPT_MOVED);
    end();
}

static enum transcript_saved save_again(struct side *s)
{
    s->calls = 0;
    session_transcript_append(s->transcript, name, false, s->history.serial - 1, &s->history,
                              STR("no record: all is written anew"), on_saved, s);
    NEED(SPIN_UNTIL(s->calls == 1, 5000));
    return s->saved;
}

/* A dead owner's beats may be carried out when Redis wakes. What followed it waits for the end of
 * that lease, not longer, and gives way to what the owner has written down meanwhile. */
static void test_a_lease_that_is_left(void)
{
    struct answer answer;
    begin(0);
    lives("agent-a", "inc-a");
    open_turn(&a, SESSION_EXPECT_ANY);
    b.is_unopened = true;
    EXPECT_INT(end_turn(&b, 0, 10, 5), TRANSCRIPT_HELD);
    EXPECT_INT(restore(&b, false), TRANSCRIPT_HELD);
    EXPECT_INT(open_turn(&a, SESSION_EXPECT_ANY), TRANSCRIPT_NEW); // nothing was taken from it
    ask(&answer, "DEL lm:agent:agent-a");
    EXPECT_INT(restore(&b, false), TRANSCRIPT_SAVED);
    EXPECT_INT(save_again(&b), TRANSCRIPT_SAVED);
    EXPECT_INT(open_turn(&a, SESSION_EXPECT_ANY), TRANSCRIPT_HISTORY);
    EXPECT(a.history.turn_count == 1 && a.history.ids.ids[0] == 10);
    end();

    begin(0);
    lives("agent-a", "inc-a");
    open_turn(&a, SESSION_EXPECT_ANY);
    b.is_unopened = true;
    EXPECT_INT(end_turn(&b, 0, 10, 5), TRANSCRIPT_HELD);
    EXPECT_INT(open_turn(&b, SESSION_EXPECT_EXISTING), TRANSCRIPT_BUSY);
    EXPECT_INT(end_turn(&a, 0, 20, 5), TRANSCRIPT_SAVED); // it lives indeed
    EXPECT_INT(save_again(&b), TRANSCRIPT_MOVED);
    EXPECT_INT(restore(&b, false), TRANSCRIPT_MOVED);
    EXPECT_INT(end_turn(&a, 5, 30, 5), TRANSCRIPT_SAVED);
    EXPECT_INT(open_turn(&b, SESSION_EXPECT_EXISTING), TRANSCRIPT_UNCLAIMED); // with a turn more
    end();

    begin(0);
    lives("agent-a", "inc-a");
    open_turn(&a, SESSION_EXPECT_ANY);
    b.is_unopened = true;
    EXPECT_INT(end_turn(&b, 0, 10, 5), TRANSCRIPT_HELD);
    EXPECT_INT(open_turn(&b, SESSION_EXPECT_EXISTING), TRANSCRIPT_BUSY);
    ask(&answer, "DEL lm:agent:agent-a");
    EXPECT_INT(open_turn(&b, SESSION_EXPECT_EXISTING), TRANSCRIPT_OWN);
    b.is_unopened = false;
    EXPECT_INT(end_turn(&b, 5, 20, 5), TRANSCRIPT_SAVED); // and the turn before
    EXPECT_INT(open_turn(&a, SESSION_EXPECT_ANY), TRANSCRIPT_HISTORY);
    EXPECT_INT(a.history.turn_count, 2);
    end();
}

/* A pin may know of turns that nobody wrote down: opening the session forgets none. */
static void test_pin_keeps_its_turns(void)
{
    begin(0);
    open_turn(&a, SESSION_EXPECT_ANY);
    end_turn(&a, 0, 10, 5);
    ask_of("SET lm:s:%s {\"agent\":\"agent-a\",\"incarnation\":\"inc-a\",\"turn\":4}");
    open_turn(&a, SESSION_EXPECT_ANY);
    struct answer answer;
    char words[64], text[SESSION_KEY_DIGITS + 1];
    session_key_text(name, text);
    snprintf(words, sizeof words, "GET lm:s:%s", text);
    ask(&answer, words);
    EXPECT(strstr(answer.text, "\"turn\":4") != NULL);
    end();
}

int main(void)
{
    need_redis_binary();
    log_level_max = LOG_ERROR;
    start_redis("");
    RUN(test_secret_is_shared);
    RUN(test_turns_and_adoption);
    RUN(test_stopped_owner);
    RUN(test_equal_serials_of_different_turns);
    RUN(test_gaps_are_filled);
    RUN(test_never_written_down);
    RUN(test_expectations);
    RUN(test_end);
    RUN(test_release);
    RUN(test_damage);
    RUN(test_wrong_type);
    RUN(test_other_model);
    RUN(test_too_large);
    RUN(test_read);
    RUN(test_flush_is_noticed);
    RUN(test_restore_takes_nothing);
    RUN(test_turns_without_redis);
    RUN(test_a_lease_that_is_left);
    RUN(test_pin_keeps_its_turns);
    RUN(test_redis_goes);
    remove_redis_dir();
    return TEST_END();
}
