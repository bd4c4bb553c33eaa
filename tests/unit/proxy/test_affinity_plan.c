/* The decision table of affinity_plan.h, row by row. */
#include "proxy/affinity_plan.h"

#include "shared/base/check.h"
#include "tests/test.h"

static struct affinity_facts f;
static struct affinity_view v;

static struct pin_owner owner(const char *agent)
{
    struct pin_owner o = {.agent = ""};
    snprintf(o.agent, sizeof o.agent, "%s", agent);
    snprintf(o.incarnation, sizeof o.incarnation, "inc-%.20s", agent);
    return o;
}

static void redis_says(enum pin_presence presence, const char *agent, uint32_t turn,
                       int64_t transcript)
{
    f = (struct affinity_facts){.is_seen = true};
    f.seen = (struct pin_answer){
        .presence = presence, .owner = owner(agent), .turn = turn, .transcript = transcript};
}

static void we_know(const char *agent, uint32_t turn, bool is_counted, enum affinity_source from)
{
    f.is_known = true;
    f.known = (struct pin){.owner = owner(agent), .turn = turn, .is_counted = is_counted};
    f.known_from = from;
}

static const struct affinity_view *view(void)
{
    affinity_view_make(&f, &v);
    return &v;
}

/* ---- what is known ---- */

static void test_pin_wins(void)
{
    redis_says(PIN_PRESENT, "a", 4, -1);
    we_know("b", 9, false, AFFINITY_FROM_TOKEN);
    EXPECT_STR(view()->owner.agent, "a");
    EXPECT(v.turn == 4 && v.is_proven && v.is_in_redis && v.source == AFFINITY_FROM_REDIS);
    EXPECT(!v.must_ask && !v.is_fresh && !v.has_transcript && !v.is_redis_away);
    we_know("a", 5, true, AFFINITY_FROM_CACHE); // of the same process: a turn that Redis missed
    EXPECT(view()->turn == 5 && !v.is_proven);
    redis_says(PIN_PRESENT, "a", 4, 4);
    EXPECT(view()->has_transcript && v.turn == 4);
    redis_says(PIN_PRESENT, "a", 4, 3); // one turn was too large, or missed
    EXPECT(!view()->has_transcript && v.turn == 4);
    redis_says(PIN_FRESH, "a", 0, -1);
    EXPECT(view()->is_fresh && v.turn == 0);
}

static void test_no_pin(void)
{
    redis_says(PIN_ABSENT, "", 0, -1);
    EXPECT(!view()->must_ask && !v.owner.agent[0] && !v.is_redis_away);
    we_know("a", 3, false, AFFINITY_FROM_CACHE); // ended through another proxy: void
    EXPECT(!view()->owner.agent[0] && !v.must_ask);
    f.known.is_unpublished = true;
    EXPECT_STR(view()->owner.agent, "a");
    EXPECT(!v.is_in_redis && v.turn == 3 && v.source == AFFINITY_FROM_CACHE);
    redis_says(PIN_ABSENT, "", 0, 6);
    EXPECT(view()->has_transcript && v.turn == 6 && !v.owner.agent[0]);
}

static void test_no_pin_in_doubt(void)
{
    redis_says(PIN_ABSENT, "", 0, -1);
    f.is_doubtful = true;
    EXPECT(view()->must_ask);
    f.was_asked = true;
    EXPECT(!view()->must_ask && !v.owner.agent[0]);
    f.was_asked = false;
    we_know("a", 3, true, AFFINITY_FROM_TOKEN);
    EXPECT_STR(view()->owner.agent, "a");
    EXPECT(!v.must_ask && !v.is_proven && v.source == AFFINITY_FROM_TOKEN);
    f.seen.is_noted_end = true;
    EXPECT(!view()->owner.agent[0] && !v.must_ask);
    redis_says(PIN_ABSENT, "", 0, 2); // the transcript survived: nobody needs to be asked
    f.is_doubtful = true;
    EXPECT(!view()->must_ask && v.has_transcript);
}

static void test_redis_settles(void)
{
    redis_says(PIN_PRESENT, "a", 4, 4);
    we_know("b", 5, false, AFFINITY_FROM_AGENTS);
    f.was_asked = true;
    EXPECT_STR(view()->owner.agent, "a");
    f.is_settling = true;
    EXPECT_STR(view()->owner.agent, "b");
    EXPECT(v.turn == 5 && v.is_proven && !v.is_in_redis && !v.has_transcript && !v.is_redis_away);
    f.seen.transcript = 5; // written down meanwhile
    EXPECT_STR(view()->owner.agent, "a");
    EXPECT(v.has_transcript && v.turn == 5 && v.is_in_redis);
    we_know("b", 6, false, AFFINITY_FROM_CACHE);
    EXPECT_STR(view()->owner.agent, "a");
}

static void test_redis_away(void)
{
    f = (struct affinity_facts){.is_seen = false};
    EXPECT(view()->must_ask && v.is_redis_away);
    f.was_asked = true;
    EXPECT(!view()->must_ask && v.is_redis_away && !v.owner.agent[0]);
    we_know("a", 2, false, AFFINITY_FROM_AGENTS);
    EXPECT(!view()->must_ask && v.turn == 2 && v.is_proven && v.source == AFFINITY_FROM_AGENTS);
    f = (struct affinity_facts){.is_allotted = true};
    EXPECT(!view()->must_ask && !v.owner.agent[0]);
}

/* ---- what is done ---- */

enum { TURNS = 1, COUNTED = 2, TRANSCRIPT = 4, AWAY = 8, IN_REDIS = 16, FRESH = 32, SETTLING = 64 };
enum { PATIENT = 1, ALLOTTED = 2, BARE_END = 4 };
enum { WRITE = 1, MARK = 2, RENDEZVOUS = 4 };

#define OWNER(x)   AFFINITY_OWNER_##x
#define EXPECT_(x) SESSION_EXPECT_##x

static const struct {
    int line;
    enum affinity_owner owner;
    unsigned known, asked;
    enum affinity_action action;
    enum session_expect expect;
    unsigned flags;
} rows[] = {
#define ROW __LINE__
    {ROW, OWNER(UP), IN_REDIS | TURNS, 0, AFFINITY_TO_OWNER, EXPECT_(EXISTING), 0},
    {ROW, OWNER(UP), IN_REDIS | TURNS | COUNTED, 0, AFFINITY_TO_OWNER, EXPECT_(ANY), 0},
    {ROW, OWNER(UP), IN_REDIS, 0, AFFINITY_TO_OWNER, EXPECT_(ANY), 0},
    {ROW, OWNER(UP), IN_REDIS | FRESH, 0, AFFINITY_TO_OWNER, EXPECT_(ANY), 0},
    {ROW, OWNER(UP), AWAY | TURNS, 0, AFFINITY_TO_OWNER, EXPECT_(EXISTING), WRITE},
    {ROW, OWNER(UP), TURNS, 0, AFFINITY_TO_OWNER, EXPECT_(EXISTING), WRITE}, // Redis was flushed

    {ROW, OWNER(RESTARTED), IN_REDIS | TURNS, 0, AFFINITY_TO_OWNER, EXPECT_(EXISTING), WRITE},
    {ROW, OWNER(RESTARTED), IN_REDIS | TURNS | TRANSCRIPT, 0, AFFINITY_TO_OWNER, EXPECT_(EXISTING),
     WRITE},
    {ROW, OWNER(RESTARTED), IN_REDIS | TURNS | COUNTED, 0, AFFINITY_TO_OWNER, EXPECT_(EXISTING),
     WRITE},
    {ROW, OWNER(RESTARTED), IN_REDIS, 0, AFFINITY_TO_OWNER, EXPECT_(ANY), WRITE},
    {ROW, OWNER(RESTARTED), IN_REDIS | FRESH, 0, AFFINITY_TO_OWNER, EXPECT_(ANY), WRITE | MARK},

    {ROW, OWNER(SUSPECT), IN_REDIS | TURNS, PATIENT, AFFINITY_HOLD, EXPECT_(EXISTING), 0},
    {ROW, OWNER(SUSPECT), IN_REDIS | TURNS, 0, AFFINITY_TO_OWNER, EXPECT_(EXISTING), 0},
    {ROW, OWNER(FAILED), IN_REDIS | TURNS, PATIENT, AFFINITY_HOLD, EXPECT_(ANY), 0},
    {ROW, OWNER(FAILED), IN_REDIS | TURNS, 0, AFFINITY_UNREACHABLE, EXPECT_(ANY), 0},
    {ROW, OWNER(FAILED), IN_REDIS | FRESH, PATIENT, AFFINITY_CHOOSE, EXPECT_(ANY), WRITE | MARK},

    {ROW, OWNER(DRAINING), IN_REDIS | TURNS | TRANSCRIPT, 0, AFFINITY_CHOOSE, EXPECT_(ADOPT),
     WRITE},
    {ROW, OWNER(DRAINING), IN_REDIS | TURNS, 0, AFFINITY_TO_OWNER, EXPECT_(EXISTING), 0},

    {ROW, OWNER(GONE), IN_REDIS | TURNS | TRANSCRIPT, 0, AFFINITY_CHOOSE, EXPECT_(ADOPT), WRITE},
    {ROW, OWNER(GONE), IN_REDIS | TURNS | TRANSCRIPT | COUNTED, 0, AFFINITY_CHOOSE, EXPECT_(ADOPT),
     WRITE},
    {ROW, OWNER(GONE), IN_REDIS | TURNS, 0, AFFINITY_LOST, EXPECT_(ANY), 0},
    {ROW, OWNER(GONE), IN_REDIS | TURNS | SETTLING, 0, AFFINITY_UNREACHABLE, EXPECT_(ANY), 0},
    {ROW, OWNER(GONE), IN_REDIS | TURNS | TRANSCRIPT | SETTLING, 0, AFFINITY_CHOOSE, EXPECT_(ADOPT),
     WRITE},
    {ROW, OWNER(GONE), IN_REDIS | TURNS | SETTLING, BARE_END, AFFINITY_CHOOSE, EXPECT_(ANY),
     WRITE | MARK},
    {ROW, OWNER(GONE), IN_REDIS | TURNS, BARE_END, AFFINITY_CHOOSE, EXPECT_(ANY), WRITE | MARK},
    {ROW, OWNER(GONE), IN_REDIS, 0, AFFINITY_CHOOSE, EXPECT_(ANY), WRITE | MARK},
    {ROW, OWNER(GONE), IN_REDIS | FRESH, 0, AFFINITY_CHOOSE, EXPECT_(ANY), WRITE | MARK},
    {ROW, OWNER(GONE), AWAY | TURNS | COUNTED, 0, AFFINITY_CHOOSE, EXPECT_(ADOPT),
     WRITE | RENDEZVOUS},
    {ROW, OWNER(GONE), AWAY, 0, AFFINITY_CHOOSE, EXPECT_(ANY), WRITE | RENDEZVOUS},

    {ROW, OWNER(NONE), 0, 0, AFFINITY_CHOOSE, EXPECT_(ANY), WRITE | MARK},
    {ROW, OWNER(NONE), TURNS | TRANSCRIPT, 0, AFFINITY_CHOOSE, EXPECT_(ADOPT), WRITE},
    {ROW, OWNER(NONE), AWAY, 0, AFFINITY_CHOOSE, EXPECT_(ANY), WRITE | RENDEZVOUS},
    {ROW, OWNER(NONE), 0, ALLOTTED, AFFINITY_CHOOSE, EXPECT_(NEW), WRITE},
    {ROW, OWNER(NONE), AWAY, ALLOTTED, AFFINITY_CHOOSE, EXPECT_(NEW), WRITE},
};

static void test_table(void)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        unsigned k = rows[i].known, q = rows[i].asked;
        struct affinity_view known = {
            .owner = owner(rows[i].owner == AFFINITY_OWNER_NONE ? "" : "a"),
            .turn = k & TURNS ? 4 : 0,
            .is_proven = !(k & COUNTED),
            .has_transcript = k & TRANSCRIPT,
            .is_redis_away = k & AWAY,
            .is_settling = k & SETTLING,
            .is_in_redis = k & IN_REDIS,
            .is_fresh = k & FRESH,
        };
        struct affinity_asked asked = {
            .is_patient = q & PATIENT, .is_allotted = q & ALLOTTED, .is_bare_end = q & BARE_END};
        struct affinity_plan p;
        int failures = test_failures;
        affinity_plan_make(&known, rows[i].owner, &asked, &p);
        EXPECT_INT(p.action, rows[i].action);
        EXPECT_INT(p.expect, rows[i].expect);
        EXPECT_INT((p.must_write ? WRITE : 0) | (p.is_fresh ? MARK : 0) |
                       (p.rendezvous_only ? RENDEZVOUS : 0),
                   rows[i].flags);
        if (test_failures != failures) printf("  in the row of line %d\n", rows[i].line);
    }
}

int main(void)
{
    RUN(test_pin_wins);
    RUN(test_no_pin);
    RUN(test_no_pin_in_doubt);
    RUN(test_redis_settles);
    RUN(test_redis_away);
    RUN(test_table);
    return TEST_END();
}
