#include "agent/session_history.h"

#include "shared/base/check.h"
#include "shared/base/rng.h"
#include "tests/test.h"

static const struct session_limits limits = {.vocab_size = 1000, .tokens_max = 200};

static void add(struct session_history *h, int base, int first, int count, const char *messages)
{
    int32_t ids[64];
    for (int i = 0; i < count; i++)
        ids[i] = first + i;
    struct session_step step = {.base = base,
                                .keep_turns = session_history_turns_within(h, base),
                                .ids = ids,
                                .count = count,
                                .seed = 42,
                                .serial = h->serial + 1,
                                .messages = str_of(messages)};
    session_history_apply(h, &step);
    session_history_check(h);
}

static bool same(const struct session_history *a, const struct session_history *b)
{
    if (a->ids.count != b->ids.count || a->turn_count != b->turn_count || a->seed != b->seed ||
        a->serial != b->serial)
        return false;
    for (size_t i = 0; i < a->ids.count; i++) {
        if (a->ids.ids[i] != b->ids.ids[i]) return false;
    }
    for (int i = 0; i < a->turn_count; i++) {
        const char *x = a->turns[i].messages, *y = b->turns[i].messages;
        if (a->turns[i].end != b->turns[i].end || !x != !y || (x && strcmp(x, y) != 0))
            return false;
    }
    return true;
}

static void test_turns_and_rewinds(void)
{
    struct session_history h = {0};
    add(&h, 0, 10, 5, NULL);
    add(&h, 5, 20, 4, NULL);
    add(&h, 9, 30, 3, "{}");
    EXPECT_INT(h.ids.count, 12);
    EXPECT_INT(h.turn_count, 3);
    EXPECT(session_history_is_boundary(&h, 0) && session_history_is_boundary(&h, 9));
    EXPECT(!session_history_is_boundary(&h, 7));
    static const int within[][2] = {{0, 0}, {1, 1}, {5, 1}, {6, 2}, {9, 2}, {10, 3}, {12, 3}};
    for (size_t i = 0; i < ARRAY_LEN(within); i++)
        EXPECT_INT(session_history_turns_within(&h, within[i][0]), within[i][1]);

    add(&h, 7, 40, 2, NULL); // into the second turn
    EXPECT_INT(h.turn_count, 3);
    EXPECT_INT(h.turns[1].end, 7);
    EXPECT_INT(h.turns[2].end, 9);
    EXPECT_INT(h.ids.ids[6], 21);
    EXPECT_INT(h.ids.ids[7], 40);
    EXPECT_INT(h.serial, 4);
    add(&h, 0, 50, 1, NULL); // to the beginning
    EXPECT_INT(h.turn_count, 1);
    EXPECT_INT(h.ids.ids[0], 50);
    session_history_deinit(&h);
}

struct replayed {
    struct session_history *history;
    int count;
};

static void replay(void *arg, struct str record)
{
    struct replayed *r = arg;
    struct error err = {0};
    EXPECT_INT(session_record_apply(r->history, record, &limits, &err), 0);
    r->count++;
}

static void test_printed_and_read(void)
{
    struct session_history h = {0}, back = {0}, copy;
    add(&h, 0, 10, 5, "{\"role\":\"user\"}");
    add(&h, 5, 20, 4, NULL);
    add(&h, 7, 30, 6, "");
    add(&h, 13, 1, 1, NULL);
    struct replayed r = {&back, 0};
    session_history_print(&h, replay, &r);
    EXPECT_INT(r.count, h.turn_count);
    session_history_check(&back);
    EXPECT(same(&h, &back));
    session_history_copy(&copy, &h);
    EXPECT(same(&h, &copy));
    EXPECT(copy.bytes_owned > 0);
    session_history_deinit(&copy);
    session_history_deinit(&back);
    session_history_deinit(&h);
}

/* Each record alone, as Redis keeps them: the replay goes through the rewinds. */
static void test_records_replay_rewinds(void)
{
    struct session_history h = {0}, back = {0};
    static const int bases[] = {0, 5, 3, 8, 0, 4};
    for (size_t i = 0; i < ARRAY_LEN(bases); i++) {
        int32_t ids[5] = {(int)i, 2, 3, 4, 5};
        struct session_step step = {.base = bases[i],
                                    .keep_turns = session_history_turns_within(&h, bases[i]),
                                    .ids = ids,
                                    .count = 5,
                                    .seed = i,
                                    .serial = i + 1};
        struct buf record;
        struct error err = {0};
        buf_init(&record, 4096);
        session_record_print(&record, &step);
        session_history_apply(&h, &step);
        EXPECT_INT(session_record_apply(&back, buf_str(&record), &limits, &err), 0);
        EXPECT(same(&h, &back));
        // once more: it has been taken
        EXPECT_INT(session_record_apply(&back, buf_str(&record), &limits, &err), E_FORMAT);
        EXPECT(same(&h, &back));
        buf_deinit(&record);
    }
    session_history_deinit(&h);
    session_history_deinit(&back);
}

static void test_refused(void)
{
    int32_t ids[4] = {1, 2, 3, 4};
    struct session_step good = {.ids = ids, .count = 4, .serial = 1};
    struct session_step steps[8] = {good, good, good, good, good, good, good, good};
    int32_t foreign[4] = {1, 2, 3, 1000}, negative[4] = {1, 2, 3, -1};
    steps[0].ids = foreign;
    steps[1].ids = negative;
    steps[2].base = 1; // there is none
    steps[3].keep_turns = 1;
    steps[4].serial = 0;
    steps[5].base = -1;
    steps[6].serial = SESSION_SERIAL_MAX + 1;
    steps[7].messages = (struct str){"Hi\0Hi", 5}; // they are kept as a string
    for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
        struct session_history h = {0};
        struct error err = {0};
        struct buf record;
        buf_init(&record, 4096);
        session_record_print(&record, &steps[i]);
        EXPECT_INT(session_record_apply(&h, buf_str(&record), &limits, &err), E_FORMAT);
        EXPECT(err.text[0] && h.turn_count == 0);
        buf_deinit(&record);
    }
    struct session_history h = {0};
    for (int i = 0; i < 3; i++)
        add(&h, 60 * i, 1, 60, NULL);
    int32_t many[30] = {0};
    struct session_step beyond = {
        .base = 180, .keep_turns = 3, .ids = many, .count = 30, .serial = 4};
    struct buf record;
    struct error err = {0};
    buf_init(&record, 4096);
    session_record_print(&record, &beyond);
    EXPECT_INT(session_record_apply(&h, buf_str(&record), &limits, &err), E_FORMAT);
    buf_deinit(&record);
    session_history_deinit(&h);
}

/* Bytes of any kind, and every length of a real record: an error or a history that holds. */
static void test_rubbish(void)
{
    struct rng rng;
    rng_init(&rng, 7);
    for (int round = 0; round < 20000; round++) {
        struct session_history h = {0};
        struct error err = {0};
        int32_t ids[8] = {1, 2, 3, 4, 5, 6, 7, 8};
        add(&h, 0, 1, 8, NULL);
        struct session_step step = {
            .base = 8, .keep_turns = 1, .ids = ids, .count = 8, .serial = 2, .messages = STR("[]")};
        struct buf record;
        buf_init(&record, 4096);
        session_record_print(&record, &step);
        for (uint32_t i = rng_below(&rng, 3); i > 0; i--)
            record.data[rng_below(&rng, (uint32_t)record.len)] ^= (char)(1 + rng_below(&rng, 255));
        record.len -= rng_below(&rng, 2) ? rng_below(&rng, (uint32_t)record.len) : 0;
        (void)!session_record_apply(&h, buf_str(&record), &limits, &err);
        session_history_check(&h);
        buf_deinit(&record);
        session_history_deinit(&h);
    }
}

/* A file may hold as many records as fit: reading them must not take the square of their number. */
static void test_many_records(void)
{
    static char text[1 << 20];
    memset(text, 'x', sizeof text);
    struct session_history h = {0};
    for (int i = 0; i < 100000; i++) {
        struct session_step step = {.base = 0, .keep_turns = i, .serial = (uint64_t)i + 1};
        if (i == 0) step.messages = (struct str){text, sizeof text};
        session_history_apply(&h, &step);
    }
    session_history_check(&h);
    EXPECT_INT(h.turn_count, 100000);
    EXPECT_INT(h.message_bytes, sizeof text + 1);
    session_history_deinit(&h);
}

int main(void)
{
    RUN(test_turns_and_rewinds);
    RUN(test_printed_and_read);
    RUN(test_records_replay_rewinds);
    RUN(test_refused);
    RUN(test_rubbish);
    RUN(test_many_records);
    return TEST_END();
}
