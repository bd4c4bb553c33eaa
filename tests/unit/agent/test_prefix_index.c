#include "agent/prefix_index.h"

#include "shared/base/rng.h"
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>

#define FIRST 1000

static struct prefix_index prefixes;

static void live(uint64_t hash, int tokens, uint64_t block)
{
    struct engine_mark_event event = {.is_live = true, .block = block, .mark = {hash, tokens}};
    prefix_index_apply(&prefixes, &event);
    prefix_index_check(&prefixes);
}

static void gone(uint64_t block)
{
    struct engine_mark_event event = {.block = block};
    prefix_index_apply(&prefixes, &event);
    prefix_index_check(&prefixes);
}

static void expect_print(uint64_t since, const char *want)
{
    struct buf out;
    buf_init(&out, BUF_MAX_INTERNAL);
    prefix_index_print(&prefixes, since, &out);
    EXPECT_STR(out.data, want);
    buf_deinit(&out);
}

static void test_changes(void)
{
    prefix_index_init(&prefixes, FIRST);
    expect_print(FIRST, "lm-prefixes 1000 1000 delta\n");
    expect_print(0, "lm-prefixes 0 1000 full\n");
    live(0xa, 64, 1);
    live(0xb, 128, 2);
    live(0xc, 128, 2);
    EXPECT_INT(prefixes.version, 1003);
    expect_print(1000, "lm-prefixes 1000 1003 delta\n"
                       "+000000000000000a 64\n+000000000000000b 128\n+000000000000000c 128\n");
    expect_print(1002, "lm-prefixes 1002 1003 delta\n+000000000000000c 128\n");
    gone(2);
    gone(77); // of no interest to anybody
    EXPECT_INT(prefixes.count, 1);
    EXPECT_INT(prefixes.version, 1005);
    expect_print(1003, "lm-prefixes 1003 1005 delta\n-000000000000000c\n-000000000000000b\n");
    expect_print(5, "lm-prefixes 0 1005 full\n+000000000000000a 64\n");    // another process's
    expect_print(1006, "lm-prefixes 0 1005 full\n+000000000000000a 64\n"); // likewise
    prefix_index_deinit(&prefixes);
}

/* A hash that lives doesn't move; one whose block went comes back wherever it is found next. */
static void test_stays_where_it_is(void)
{
    prefix_index_init(&prefixes, FIRST);
    live(0xa, 64, 1);
    live(0xa, 128, 2);
    EXPECT_INT(prefixes.version, 1001);
    gone(2);
    EXPECT_INT(prefixes.count, 1);
    gone(1);
    live(0xa, 128, 2);
    expect_print(0, "lm-prefixes 0 1003 full\n+000000000000000a 128\n");
    prefix_index_deinit(&prefixes);
}

static void test_lost_events(void)
{
    prefix_index_init(&prefixes, FIRST);
    live(0xa, 64, 1);
    prefix_index_note_lost(&prefixes, 0);
    EXPECT_INT(prefixes.count, 1);
    prefix_index_note_lost(&prefixes, 3);
    prefix_index_check(&prefixes);
    EXPECT_INT(prefixes.count, 0);
    expect_print(1001, "lm-prefixes 0 1002 full\n"); // what it knows isn't true any more
    live(0xb, 64, 2);
    prefix_index_note_lost(&prefixes, 3);
    expect_print(1002, "lm-prefixes 1002 1003 delta\n+000000000000000b 64\n");
    prefix_index_deinit(&prefixes);
}

static void test_bounds(void)
{
    prefix_index_init(&prefixes, FIRST);
    for (uint64_t i = 1; i <= PREFIX_INDEX_MAX; i++) {
        struct engine_mark_event event = {.is_live = true, .block = i / 2, .mark = {i, 64}};
        prefix_index_apply(&prefixes, &event);
    }
    live(1, 64, 0); // in use again
    live(PREFIX_INDEX_MAX + 1, 64, 9999999);
    EXPECT_INT(prefixes.count, PREFIX_INDEX_MAX);
    struct buf out;
    buf_init(&out, BUF_MAX_INTERNAL);
    prefix_index_print(&prefixes, prefixes.version - 2, &out);
    EXPECT(strstr(out.data, "delta\n-0000000000000002\n+0000000000010001 64\n") != NULL);
    buf_clear(&out);
    prefix_index_print(&prefixes, prefixes.version - PREFIX_LOG_MAX - 1, &out);
    EXPECT(strstr(out.data, " full\n") != NULL);
    buf_clear(&out);
    prefix_index_print(&prefixes, prefixes.version - PREFIX_LOG_MAX, &out);
    EXPECT(strstr(out.data, " delta\n") != NULL);
    buf_deinit(&out);
    prefix_index_deinit(&prefixes);
}

/* A reader that follows, by deltas and now and then from the start. */
#define HASHES 40

static void follow(int *view, uint64_t *at)
{
    struct buf out;
    buf_init(&out, BUF_MAX_INTERNAL);
    prefix_index_print(&prefixes, *at, &out);
    char kind[8];
    unsigned long long from, to;
    NEED(sscanf(out.data, "lm-prefixes %llu %llu %7s", &from, &to, kind) == 3);
    if (kind[0] == 'f') memset(view, 0, HASHES * sizeof *view);
    *at = to;
    for (char *line = strchr(out.data, '\n') + 1; *line; line = strchr(line, '\n') + 1) {
        char sign;
        unsigned long long hash;
        int tokens = 0;
        NEED(sscanf(line, "%c%16llx", &sign, &hash) == 2 && hash < HASHES);
        if (sign == '+') NEED(sscanf(line + 17, " %d\n", &tokens) == 1 && tokens > 0);
        view[hash] = tokens;
    }
    buf_deinit(&out);
}

static void test_a_reader_follows(void)
{
    struct rng rng;
    rng_init(&rng, 3);
    int truth[HASHES] = {0}, view[HASHES] = {0};
    uint64_t block_of[HASHES] = {0}, at = 0, lost = 0;
    prefix_index_init(&prefixes, FIRST);
    for (int i = 0; i < 20000; i++) {
        uint64_t hash = 1 + rng_below(&rng, HASHES - 1), block = 1 + rng_below(&rng, 10);
        uint32_t what = rng_below(&rng, 1000);
        if (what == 0) {
            prefix_index_note_lost(&prefixes, ++lost);
            memset(truth, 0, sizeof truth);
        } else if (what < 500) {
            gone(block);
            for (int h = 0; h < HASHES; h++)
                if (block_of[h] == block) truth[h] = 0;
        } else {
            int tokens = 64 * (int)block;
            live(hash, tokens, block);
            if (!truth[hash]) {
                truth[hash] = tokens;
                block_of[hash] = block;
            }
        }
        if (rng_below(&rng, 20) > 0) continue;
        if (rng_below(&rng, 50) == 0) at = rng_below(&rng, 2) ? 0 : prefixes.version + 5;
        follow(view, &at);
        EXPECT_INT(at, prefixes.version);
        EXPECT(memcmp(view, truth, sizeof view) == 0);
    }
    prefix_index_deinit(&prefixes);
}

static void test_marks(void)
{
    struct engine_mark marks[ENGINE_MARKS_MAX];
    struct str header =
        STR("000000000000000a@300,000000000000000b@1000,000000000000000c@1500;1500");
    NEED(prefix_marks_of(header, 400, marks) == 3); // at 80, 266.7 and 400
    EXPECT(marks[0].name == 0xa && marks[0].tokens == 64);
    EXPECT(marks[1].name == 0xb && marks[1].tokens == 256);
    EXPECT(marks[2].name == 0xc && marks[2].tokens == 384);
    NEED(prefix_marks_of(header, 300, marks) == 2); // the first one has no whole block
    EXPECT(marks[0].name == 0xb && marks[0].tokens == 192);
    EXPECT_INT(prefix_marks_of(header, 0, marks), 0);
    EXPECT_INT(prefix_marks_of(STR("x"), 400, marks), 0);
    EXPECT_INT(prefix_marks_of((struct str){0}, 400, marks), 0);
}

int main(void)
{
    RUN(test_changes);
    RUN(test_stays_where_it_is);
    RUN(test_lost_events);
    RUN(test_bounds);
    RUN(test_a_reader_follows);
    RUN(test_marks);
    return TEST_END();
}
