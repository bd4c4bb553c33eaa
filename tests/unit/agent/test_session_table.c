#include "agent/session_table.h"

#include "shared/base/check.h"
#include "shared/base/rng.h"
#include "tests/test.h"

static struct session_table table;
static int dropped, expired;

static void on_drop(void *arg, struct session *s, bool is_expired)
{
    (void)arg;
    EXPECT(list_is_empty(&s->queue));
    dropped++;
    expired += is_expired;
}

static void begin(size_t count_max)
{
    dropped = expired = 0;
    struct session_table_options options = {.ttl_ms = 1000,
                                            .count_max = count_max,
                                            .bytes_max = 1 << 20,
                                            .graves_max = 3,
                                            .on_drop = on_drop};
    session_table_init(&table, &options);
}

static void end(void)
{
    session_table_check(&table);
    session_table_deinit(&table);
}

static struct session *take(int64_t id)
{
    struct session_owner owner = {.id = id};
    return session_table_take(&table, session_table_key(&owner, "m"), &owner);
}

static struct session *find(int64_t id)
{
    struct session_owner owner = {.id = id};
    return session_table_find(&table, session_table_key(&owner, "m"));
}

static void add_turn(struct session *s)
{
    int32_t id = 1;
    struct session_step step = {.base = (int)s->history.ids.count,
                                .keep_turns = s->history.turn_count,
                                .ids = &id,
                                .count = 1,
                                .serial = s->history.serial + 1};
    size_t before = s->history.bytes_owned;
    session_history_apply(&s->history, &step);
    session_table_account(&table, s, before);
}

/* A session with a turn, last used then. */
static struct session *make(int64_t id, uint64_t used_ms)
{
    struct session *s = take(id);
    struct session_ticket ticket = {0};
    EXPECT_INT(session_table_enter(&table, s, &ticket), 1);
    add_turn(s);
    session_table_leave(&table, s, &ticket, used_ms, (int64_t)used_ms / 1000);
    return s;
}

static void test_keys(void)
{
    struct session_owner a = {.id = 1}, b = {.id = 1, .tenant = "t"}, c = {.id = 2};
    uint64_t key = session_table_key(&a, "m");
    EXPECT(key != session_table_key(&b, "m") && key != session_table_key(&c, "m"));
    EXPECT(key != session_table_key(&a, "n") && key == session_table_key(&a, "m"));
}

static char order[64];

static void on_turn(void *arg)
{
    size_t len = strlen(order);
    snprintf(order + len, sizeof order - len, "%s", (const char *)arg);
}

static void test_turns_in_order(void)
{
    begin(10);
    order[0] = 0;
    struct session *s = take(1);
    struct session_ticket tickets[SESSION_WAITING_MAX + 2];
    static char names[][2] = {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"};
    for (size_t i = 0; i < ARRAY_LEN(tickets); i++) {
        tickets[i] = (struct session_ticket){.on_turn = on_turn, .arg = names[i]};
        int rc = session_table_enter(&table, s, &tickets[i]);
        EXPECT_INT(rc, i == 0 ? 1 : i <= SESSION_WAITING_MAX ? 0 : E_BUSY);
    }
    EXPECT_STR(order, "");
    EXPECT(session_has_turn(s, &tickets[0]) && !session_has_turn(s, &tickets[1]));
    session_table_leave(&table, s, &tickets[3], 5, 5); // gave up waiting
    EXPECT_STR(order, "");
    session_table_leave(&table, s, &tickets[0], 5, 5);
    EXPECT_STR(order, "1");
    EXPECT(session_has_turn(s, &tickets[1]));
    session_table_check(&table);
    static const int rest[] = {1, 2, 4, 5, 6, 7};
    for (size_t i = 0; i < ARRAY_LEN(rest); i++)
        session_table_leave(&table, s, &tickets[rest[i]], 5, 5);
    EXPECT_STR(order, "1245678");
    EXPECT(find(1) == s);
    session_table_leave(&table, s, &tickets[8], 5, 5); // the last, and no turn was made
    EXPECT(find(1) == NULL);
    EXPECT_INT(table.count, 0);
    end();
}

static void test_expiry(void)
{
    begin(10);
    make(1, 100);
    make(2, 200);
    struct session *busy = make(3, 50);
    struct session_ticket ticket = {0};
    EXPECT_INT(session_table_enter(&table, busy, &ticket), 1);
    session_table_sweep(&table, 1099);
    EXPECT_INT(dropped, 0);
    session_table_sweep(&table, 1100);
    EXPECT_INT(expired, 1);
    EXPECT(!find(1) && find(2) && find(3)); // a turn runs on the third
    struct session_owner owner = {.id = 1};
    uint64_t key = session_table_key(&owner, "m");
    EXPECT_INT(session_table_grave(&table, key), SESSION_EXPIRED);
    session_table_check(&table);
    EXPECT(session_table_unbury(&table, key) && !session_table_unbury(&table, key));
    EXPECT_INT(session_table_grave(&table, key), SESSION_NOT_LOST);
    session_table_leave(&table, busy, &ticket, 1150, 1);
    session_table_sweep(&table, 1500);
    EXPECT(!find(2) && find(3));
    session_table_sweep(&table, 100000);
    EXPECT_INT(table.count, 0);
    EXPECT_INT(table.grave_count, 1); // the first one's time is over, too
    end();
}

static void test_graves_are_bounded(void)
{
    begin(10);
    for (uint64_t key = 1; key <= 5; key++)
        session_table_bury(&table, key, SESSION_DAMAGED, key);
    EXPECT_INT(table.grave_count, 3);
    EXPECT_INT(session_table_grave(&table, 2), SESSION_NOT_LOST);
    EXPECT_INT(session_table_grave(&table, 5), SESSION_DAMAGED);
    session_table_bury(&table, 5, SESSION_FOREIGN, 9);
    EXPECT_INT(table.grave_count, 3);
    EXPECT_INT(session_table_grave(&table, 5), SESSION_FOREIGN);
    end();
}

static void test_room(void)
{
    begin(3);
    make(1, 1);
    make(2, 2);
    EXPECT(session_table_make_room(&table));
    make(3, 3);
    EXPECT(!session_table_make_room(&table)); // they exist nowhere else
    EXPECT_INT(dropped, 0);
    find(2)->is_safe = find(3)->is_safe = true;
    EXPECT(session_table_make_room(&table));
    EXPECT(dropped == 1 && expired == 0);
    EXPECT(find(1) && !find(2) && find(3)); // the least recently used of the safe ones
    struct session_owner owner = {.id = 2};
    EXPECT_INT(session_table_grave(&table, session_table_key(&owner, "m")), SESSION_NOT_LOST);
    table.options.bytes_max = table.bytes;
    EXPECT(session_table_make_room(&table)); // bytes count as well
    EXPECT(!find(3) && dropped == 2);
    end();
}

/* Anything in any order: what the table says of itself holds. */
static void test_random(void)
{
    struct rng rng;
    rng_init(&rng, 3);
    begin(12);
    enum { TICKETS = 60 };
    static struct session_ticket tickets[TICKETS];
    static struct session *where[TICKETS];
    order[0] = 0;
    static char nothing[] = "";
    uint64_t now = 1000;
    for (int step = 0; step < 50000; step++) {
        now += rng_below(&rng, 30);
        uint32_t i = rng_below(&rng, TICKETS);
        if (where[i]) {
            if (session_has_turn(where[i], &tickets[i]) && rng_below(&rng, 2)) {
                add_turn(where[i]);
                where[i]->is_safe = rng_below(&rng, 2);
            }
            session_table_leave(&table, where[i], &tickets[i], now, 0);
            where[i] = NULL;
        } else {
            struct session_owner owner = {.id = rng_below(&rng, 20)};
            uint64_t key = session_table_key(&owner, "m");
            session_table_unbury(&table, key);
            if (!session_table_find(&table, key)) (void)session_table_make_room(&table);
            struct session *s = session_table_take(&table, key, &owner);
            tickets[i] = (struct session_ticket){.on_turn = on_turn, .arg = nothing};
            if (session_table_enter(&table, s, &tickets[i]) >= 0) where[i] = s;
        }
        if (rng_below(&rng, 4) == 0) session_table_sweep(&table, now);
        session_table_check(&table);
    }
    for (int i = 0; i < TICKETS; i++) {
        if (where[i]) session_table_leave(&table, where[i], &tickets[i], now, 0);
    }
    EXPECT(dropped > 100 && expired > 10);
    end();
}

int main(void)
{
    RUN(test_keys);
    RUN(test_turns_in_order);
    RUN(test_expiry);
    RUN(test_graves_are_bounded);
    RUN(test_room);
    RUN(test_random);
    return TEST_END();
}
