#include "agent/dispatch_table.h"

#include "shared/base/rng.h"
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>

#define PROXY UINT64_C(0xaaaa)

static struct dispatch_table table;

static void open_table(void)
{
    dispatch_table_init(&table);
}

static void close_table(void)
{
    dispatch_table_check(&table);
    dispatch_table_deinit(&table);
}

static int begin(uint64_t proxy, uint64_t number, uint64_t request, int attempt, uint64_t now_ms,
                 struct dispatch_ticket *ticket)
{
    struct dispatch d = {proxy, number, request, attempt};
    return dispatch_begin(&table, &d, now_ms, ticket);
}

static struct agent_load report(uint64_t now_ms)
{
    struct agent_load load = {0};
    dispatch_table_report(&table, now_ms, &load);
    dispatch_table_check(&table);
    return load;
}

static bool is_accepted(const struct agent_load *load, uint64_t number)
{
    const struct agent_seen *seen = agent_load_seen(load, PROXY);
    return seen && agent_load_has_accepted(load, seen, number);
}

static void test_parse(void)
{
    struct dispatch d;
    EXPECT_INT(dispatch_parse(STR("00000000000000ab;12;0123456789abcdef;2"), &d), 0);
    EXPECT(d.proxy == 0xab && d.number == 12 && d.request == UINT64_C(0x0123456789abcdef));
    EXPECT_INT(d.attempt, 2);
    static const char *const bad[] = {
        "",
        "00000000000000ab",
        "00000000000000ab;12",
        "00000000000000ab;12;0123456789abcdef",
        "00000000000000ab;12;0123456789abcdef;",
        "00000000000000ab;12;0123456789abcdef;1;x",
        "0000000000000000;12;0123456789abcdef;1",
        "ab;12;0123456789abcdef;1",
        "00000000000000ab;0;0123456789abcdef;1",
        "00000000000000ab;-1;0123456789abcdef;1",
        "00000000000000ab;99999999999999999999;0123456789abcdef;1",
        "00000000000000ab;1;0123456789abcde;1",
        "00000000000000ab;1;0123456789abcdef;0",
        "00000000000000ab;1;0123456789abcdef;x",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        EXPECT_INT(dispatch_parse(str_of(bad[i]), &d), E_FORMAT);
}

static void test_counted_or_over(void)
{
    struct dispatch_ticket a, b, c;
    open_table();
    EXPECT_INT(begin(PROXY, 1, 11, 1, 0, &a), 0);
    EXPECT_INT(begin(PROXY, 2, 12, 1, 0, &b), 0);
    EXPECT_INT(begin(PROXY, 3, 13, 1, 0, &c), 0);
    struct agent_load load = report(0);
    EXPECT(!is_accepted(&load, 1) && !is_accepted(&load, 3)); // being prepared
    dispatch_enter_engine(&c);
    dispatch_enter_engine(&c); // two answers
    load = report(0);
    EXPECT(!is_accepted(&load, 1) && !is_accepted(&load, 2) && is_accepted(&load, 3));
    EXPECT_INT(agent_load_seen(&load, PROXY)->active, 2);
    dispatch_end(&a, 0); // refused
    dispatch_leave_engine(&c);
    load = report(0);
    EXPECT(is_accepted(&load, 1) && !is_accepted(&load, 2) && is_accepted(&load, 3));
    EXPECT_INT(agent_load_seen(&load, PROXY)->active, 1);
    dispatch_end(&c, 0); // its client left
    dispatch_end(&c, 0);
    dispatch_end(&b, 0);
    load = report(0);
    EXPECT(is_accepted(&load, 2) && !is_accepted(&load, 4));
    EXPECT_INT(agent_load_seen(&load, PROXY)->active, 0);
    EXPECT_INT(agent_load_seen(&load, PROXY)->gap_count, 0);
    close_table();
}

static void shuffle(uint64_t *numbers, int count, struct rng *rng, int distance)
{
    for (int i = 0; i < count; i++) {
        int span = count - i < distance ? count - i : distance;
        int with = i + (int)rng_below(rng, (uint32_t)span);
        uint64_t kept = numbers[i];
        numbers[i] = numbers[with];
        numbers[with] = kept;
    }
}

/* Numbers that begin and are accepted in random order, some of which never come: what the report
 * says is exact as long as no more than AGENT_SEEN_GAPS are outstanding below the highest. */
static void test_random_order(void)
{
    enum { COUNT = 400, DISTANCE = 16 };

    struct rng rng;
    rng_init(&rng, 7);
    for (int round = 0; round < 50; round++) {
        uint64_t numbers[COUNT];
        bool accepted[COUNT + 1] = {false};
        static struct dispatch_ticket tickets[COUNT + 1];
        open_table();
        for (int i = 0; i < COUNT; i++)
            numbers[i] = (uint64_t)i + 1;
        shuffle(numbers, COUNT, &rng, DISTANCE);
        uint64_t high = 0;
        int lost = 0;
        for (int i = 0; i < COUNT; i++) {
            uint64_t n = numbers[i];
            if (lost < 8 && rng_below(&rng, 40) == 0) {
                lost++; // the connection broke
                continue;
            }
            EXPECT_INT(begin(PROXY, n, n, 1, 0, &tickets[n]), 0);
            dispatch_enter_engine(&tickets[n]);
            if (rng_below(&rng, 2)) dispatch_end(&tickets[n], 0);
            accepted[n] = true;
            if (n > high) high = n;
            struct agent_load load = report(0);
            EXPECT_INT(agent_load_seen(&load, PROXY)->high, high);
            for (uint64_t m = 1; m <= COUNT; m++) {
                if (is_accepted(&load, m) == accepted[m]) continue;
                printf("round %d: after %d, %d is wrong\n", round, (int)n, (int)m);
                EXPECT(false);
            }
        }
        for (int i = 1; i <= COUNT; i++)
            if (accepted[i]) dispatch_end(&tickets[i], 0);
        close_table();
    }
}

static void test_gaps_are_bounded(void)
{
    struct dispatch_ticket t;
    open_table();
    EXPECT_INT(begin(PROXY, UINT64_C(1) << 52, 1, 1, 0, &t), 0);
    dispatch_end(&t, 0);
    struct agent_load load = report(0);
    const struct agent_seen *seen = agent_load_seen(&load, PROXY);
    NEED(seen != NULL);
    EXPECT_INT(seen->gap_count, AGENT_SEEN_GAPS);
    EXPECT(!is_accepted(&load, (UINT64_C(1) << 52) - AGENT_SEEN_GAPS));
    EXPECT(is_accepted(&load, (UINT64_C(1) << 52) - AGENT_SEEN_GAPS - 1)); // too old to tell
    close_table();
}

static void test_duplicates(void)
{
    struct dispatch_ticket first, again;
    open_table();
    EXPECT_INT(begin(PROXY, 1, 77, 1, 0, &first), 0);
    EXPECT_INT(begin(PROXY, 2, 77, 2, 0, &again), E_BUSY);
    dispatch_end(&again, 0); // harmless
    struct agent_load load = report(0);
    EXPECT(!is_accepted(&load, 1) && is_accepted(&load, 2)); // the refused one is over
    EXPECT_INT(begin(0xbbbb, 1, 77, 3, 0, &again), E_BUSY);  // another proxy's, too
    dispatch_end(&first, 10);
    EXPECT_INT(begin(PROXY, 3, 77, 2, 20, &again), 0); // it is over: they may try again
    dispatch_end(&again, 30);
    EXPECT_INT(begin(PROXY, 4, 77, 1, 40, &again), E_BUSY); // was on its way for long
    EXPECT_INT(begin(PROXY, 4, 77, 1, 30 + DISPATCH_KEPT_MS, &again), E_BUSY);
    report(30 + DISPATCH_KEPT_MS); // forgotten now
    EXPECT_INT(begin(PROXY, 5, 77, 1, 31 + DISPATCH_KEPT_MS, &again), 0);
    dispatch_end(&again, 31 + DISPATCH_KEPT_MS);
    close_table();
}

static void test_ids_are_bounded(void)
{
    struct dispatch_ticket *tickets = calloc(DISPATCH_IDS_MAX + 1, sizeof *tickets);
    open_table();
    for (uint64_t i = 0; i <= DISPATCH_IDS_MAX; i++)
        EXPECT_INT(begin(PROXY, i + 1, i + 1, 1, 0, &tickets[i]), 0);
    EXPECT_INT(table.request_count, DISPATCH_IDS_MAX);
    EXPECT(tickets[DISPATCH_IDS_MAX].request == NULL); // works, but isn't known
    struct dispatch_ticket again;
    EXPECT_INT(begin(PROXY, 1000000, 1, 2, 0, &again), E_BUSY);
    for (uint64_t i = 0; i <= DISPATCH_IDS_MAX; i++)
        dispatch_end(&tickets[i], i);
    EXPECT_INT(table.request_count, DISPATCH_IDS_MAX);
    EXPECT_INT(begin(PROXY, 1000001, 5000000, 1, DISPATCH_IDS_MAX, &again), 0);
    EXPECT_INT(table.request_count, DISPATCH_IDS_MAX); // in the place of the oldest
    dispatch_end(&again, DISPATCH_IDS_MAX);
    report(DISPATCH_IDS_MAX + DISPATCH_KEPT_MS);
    EXPECT_INT(table.request_count, 0);
    close_table();
    free(tickets);
}

static void test_proxies_are_bounded(void)
{
    struct dispatch_ticket held, t, all[AGENT_SEEN_MAX];
    open_table();
    EXPECT_INT(begin(1, 1, 1, 1, 0, &held), 0);
    for (uint64_t p = 2; p <= AGENT_SEEN_MAX + 10; p++) {
        EXPECT_INT(begin(p, 1, p, 1, p, &t), 0);
        dispatch_end(&t, p);
    }
    struct agent_load load = report(100);
    EXPECT_INT(load.seen_count, AGENT_SEEN_MAX);
    EXPECT(agent_load_seen(&load, 1) != NULL);  // it has a request here
    EXPECT(agent_load_seen(&load, 11) == NULL); // was silent for longest
    EXPECT(agent_load_seen(&load, 12) != NULL);
    load = report(100 + DISPATCH_KEPT_MS);
    EXPECT_INT(load.seen_count, 1);
    // all rows in use: one more works, uncounted
    for (int i = 0; i < AGENT_SEEN_MAX; i++)
        EXPECT_INT(begin(100 + (uint64_t)i, 1, 1000 + (uint64_t)i, 1, 0, &all[i]), 0);
    EXPECT(all[AGENT_SEEN_MAX - 2].proxy != NULL && all[AGENT_SEEN_MAX - 1].proxy == NULL);
    dispatch_enter_engine(&all[AGENT_SEEN_MAX - 1]);
    dispatch_leave_engine(&all[AGENT_SEEN_MAX - 1]);
    for (int i = 0; i < AGENT_SEEN_MAX; i++)
        dispatch_end(&all[i], 0);
    dispatch_end(&held, 0);
    close_table();
}

/* Requests that no proxy numbered. */
static void test_no_dispatch(void)
{
    struct dispatch_ticket t;
    open_table();
    EXPECT_INT(begin(0, 0, 0, 0, 0, &t), 0);
    dispatch_enter_engine(&t);
    dispatch_leave_engine(&t);
    dispatch_end(&t, 0);
    struct agent_load load = report(0);
    EXPECT_INT(load.seen_count, 0);
    close_table();
}

int main(void)
{
    RUN(test_parse);
    RUN(test_counted_or_over);
    RUN(test_random_order);
    RUN(test_gaps_are_bounded);
    RUN(test_duplicates);
    RUN(test_ids_are_bounded);
    RUN(test_proxies_are_bounded);
    RUN(test_no_dispatch);
    return TEST_END();
}
