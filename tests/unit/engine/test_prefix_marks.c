/* Marks of prompts, over the memory of requests but without a scheduler: each is live from the step
 * that computes its block until that block can't be found any more. */
#include "engine/prefix_marks.h"

#include "engine/kv_memory.h"
#include "tests/test.h"

#define PAGE_BYTES 16

static struct kv_memory memory;
static struct prefix_marks marks;

static void open_memory(int blocks, bool keep, int host_pages, size_t events)
{
    prefix_marks_init(&marks, events);
    kv_memory_init(&memory, &(struct kv_memory_setup){.blocks = blocks,
                                                      .prefix_caching = keep,
                                                      .session_host_bytes = host_pages * PAGE_BYTES,
                                                      .page_bytes = PAGE_BYTES,
                                                      .ranks = 1,
                                                      .marks = &marks});
}

static void close_memory(void)
{
    kv_memory_deinit(&memory);
    prefix_marks_deinit(&marks);
}

/* Names of marks are text * 100 + blocks; each prompt has one at each of its blocks. */
static struct request *begin(uint64_t session, int text, int blocks)
{
    int32_t prompt[2048];
    struct engine_mark at[32];
    int count = blocks * KV_BLOCK_TOKENS + KV_BLOCK_TOKENS / 2;
    for (int i = 0; i < count; i++)
        prompt[i] = text * 10000 + i;
    for (int i = 0; i < blocks; i++)
        at[i] = (struct engine_mark){(uint64_t)(text * 100 + i + 1), (i + 1) * KV_BLOCK_TOKENS};
    struct engine_request in = {.id = 1,
                                .prompt = prompt,
                                .prompt_count = (size_t)count,
                                .max_tokens = 1,
                                .session = session,
                                .marks = at,
                                .mark_count = blocks};
    struct request *r = request_create(&in, 4096, NULL, 0);
    struct prefix_match match;
    kv_memory_join(&memory, r);
    kv_memory_match(&memory, r, &match);
    kv_memory_admit(&memory, r, &match);
    return r;
}

static void compute(struct request *r, int positions)
{
    r->computed = positions < r->count ? positions : r->count;
    kv_memory_publish(&memory, r);
    kv_memory_check(&memory);
}

static void end(struct request *r)
{
    kv_memory_end(&memory, r);
    kv_memory_leave(&memory, r);
    kv_memory_check(&memory);
    kv_moves_clear(&memory.cache.moves);
    request_destroy(r);
}

static void run(uint64_t session, int text, int blocks)
{
    struct request *r = begin(session, text, blocks);
    compute(r, r->count);
    end(r);
}

static struct engine_mark_event next(void)
{
    struct engine_mark_event event = {0};
    NEED(prefix_marks_take(&marks, &event));
    return event;
}

static bool is_quiet(void)
{
    struct engine_mark_event event;
    return !prefix_marks_take(&marks, &event);
}

static uint64_t expect_live(uint64_t name, int tokens)
{
    struct engine_mark_event event = next();
    EXPECT(event.is_live);
    EXPECT_INT(event.mark.name, name);
    EXPECT_INT(event.mark.tokens, tokens);
    return event.block;
}

static void test_live_as_computed(void)
{
    open_memory(8, true, 0, 64);
    struct request *r = begin(0, 1, 3);
    EXPECT(is_quiet());
    compute(r, 100);
    uint64_t first = expect_live(101, 64);
    EXPECT(is_quiet());
    compute(r, 191);
    uint64_t second = expect_live(102, 128);
    EXPECT(first != second && is_quiet());
    compute(r, 192);
    expect_live(103, 192);
    end(r);
    EXPECT(is_quiet());
    // one that finds them says the same again, at once
    r = begin(0, 1, 3);
    compute(r, r->computed);
    EXPECT(expect_live(101, 64) == first);
    EXPECT(expect_live(102, 128) == second);
    end(r);
    close_memory();
}

static void test_gone_with_their_blocks(void)
{
    open_memory(8, true, 0, 64);
    uint64_t blocks[3];
    run(0, 1, 3);
    for (int i = 0; i < 3; i++)
        blocks[i] = expect_live((uint64_t)(101 + i), 64 * (i + 1));
    run(0, 2, 3); // four blocks each: room for both
    for (int i = 0; i < 3; i++)
        expect_live((uint64_t)(201 + i), 64 * (i + 1));
    EXPECT(is_quiet());
    run(0, 3, 3); // the first one's go, from the end
    for (int i = 2; i >= 0; i--) {
        struct engine_mark_event event = next();
        EXPECT(!event.is_live && event.block == blocks[i]);
    }
    for (int i = 0; i < 3; i++)
        expect_live((uint64_t)(301 + i), 64 * (i + 1));
    EXPECT(is_quiet());
    close_memory();
}

/* A copy in host memory is found like a page. */
static void test_host_memory_counts(void)
{
    open_memory(4, true, 8, 64);
    run(7, 1, 3);
    for (int i = 0; i < 3; i++)
        expect_live((uint64_t)(101 + i), 64 * (i + 1));
    run(0, 2, 3);
    for (int i = 0; i < 3; i++)
        expect_live((uint64_t)(201 + i), 64 * (i + 1));
    EXPECT(is_quiet());
    close_memory();
}

static void test_distrusted(void)
{
    open_memory(8, true, 0, 64);
    struct request *r = begin(0, 1, 2);
    compute(r, r->count);
    uint64_t first = expect_live(101, 64), second = expect_live(102, 128);
    kv_memory_end_distrusted(&memory, r);
    kv_memory_leave(&memory, r);
    request_destroy(r);
    EXPECT(next().block == first && next().block == second && is_quiet());
    close_memory();
}

static void test_nothing_is_kept(void)
{
    open_memory(8, false, 0, 64);
    run(0, 1, 3);
    EXPECT(is_quiet());
    close_memory();
}

static void test_overflow_is_counted(void)
{
    open_memory(16, true, 0, 4);
    run(0, 1, 6);
    EXPECT_INT(prefix_marks_lost(&marks), 2);
    for (int i = 0; i < 4; i++)
        expect_live((uint64_t)(101 + i), 64 * (i + 1));
    EXPECT(is_quiet());
    close_memory();
}

int main(void)
{
    RUN(test_live_as_computed);
    RUN(test_gone_with_their_blocks);
    RUN(test_host_memory_counts);
    RUN(test_distrusted);
    RUN(test_nothing_is_kept);
    RUN(test_overflow_is_counted);
    return TEST_END();
}
