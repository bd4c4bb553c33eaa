/* The ladder of sessions, over the memory of requests but without a scheduler. */
#include "engine/session_pages.h"

#include "engine/kv_memory.h"
#include "tests/test.h"

#define PAGE_BYTES 16

static struct kv_memory memory;

static void open_memory(int blocks, double pin_ratio, int host_pages)
{
    kv_memory_init(&memory, &(struct kv_memory_setup){.blocks = blocks,
                                                      .rope_sets = 2,
                                                      .prefix_caching = true,
                                                      .session_pin_ratio = pin_ratio,
                                                      .session_host_bytes = host_pages * PAGE_BYTES,
                                                      .page_bytes = PAGE_BYTES,
                                                      .ranks = 1});
}

/* A request of that many blocks (and half a one) for a session, computed and ended. Its tokens
 * depend on `text` only. Returns the tokens found. */
static int take_turn_in(int rope_set, uint64_t session, int text, int blocks)
{
    int32_t prompt[2048];
    int count = blocks * KV_BLOCK_TOKENS + KV_BLOCK_TOKENS / 2;
    for (int i = 0; i < count; i++)
        prompt[i] = text * 10000 + i;
    struct engine_request in = {.id = 1,
                                .prompt = prompt,
                                .prompt_count = (size_t)count,
                                .max_tokens = 1,
                                .session = session};
    struct request *r = request_create(&in, 4096, NULL, 0);
    struct prefix_match match;
    r->rope_set = rope_set;
    kv_memory_join(&memory, r);
    kv_memory_match(&memory, r, &match);
    NEED(kv_memory_spare(&memory, r, &match) >= 0);
    kv_memory_admit(&memory, r, &match);
    r->computed = r->count;
    kv_memory_publish(&memory, r);
    kv_memory_end(&memory, r);
    kv_memory_leave(&memory, r);
    kv_memory_check(&memory);
    kv_moves_clear(&memory.cache.moves);
    request_destroy(r);
    return match.tokens;
}

static int take_turn(uint64_t session, int text, int blocks)
{
    return take_turn_in(0, session, text, blocks);
}

static enum engine_session_state state(uint64_t session)
{
    return session_pages_state(&memory.sessions, session);
}

static void test_down_and_up(void)
{
    open_memory(10, 0.5, 3);
    EXPECT_INT(state(1), SESSION_TOKENS);
    take_turn(1, 1, 2);
    EXPECT_INT(state(1), SESSION_HOT);
    EXPECT_INT(memory.kv.count[KV_PINNED], 3);
    take_turn(2, 2, 2); // six blocks would be pinned, five may
    EXPECT_INT(state(1), SESSION_CACHED);
    EXPECT_INT(state(2), SESSION_HOT);
    take_turn(0, 3, 6); // seven blocks: four are free, three idle
    EXPECT_INT(state(1), SESSION_HOST);
    EXPECT_INT(state(2), SESSION_HOT);
    EXPECT_INT(take_turn(0, 1, 2), 2 * KV_BLOCK_TOKENS + 31); // whoever asks
    EXPECT_INT(state(1), SESSION_CACHED);
    take_turn(0, 4, 9); // the whole pool: hot ones yield, too, and host memory has room for three
    EXPECT(state(1) != SESSION_CACHED && state(2) != SESSION_HOT);
    take_turn(3, 5, 4);
    take_turn(4, 6, 4);
    take_turn(0, 7, 9);
    EXPECT_INT(state(1), SESSION_TOKENS);
    EXPECT_INT(memory.sessions.count[SESSION_TOKENS] + memory.sessions.count[SESSION_HOST], 4);
    kv_memory_deinit(&memory);
}

static void test_turns_move_the_pin(void)
{
    open_memory(20, 0.5, 0);
    for (int blocks = 1; blocks <= 8; blocks++) {
        int found = take_turn(1, 1, blocks);
        EXPECT_INT(found, blocks == 1 ? 0 : blocks * KV_BLOCK_TOKENS - KV_BLOCK_TOKENS / 2);
        EXPECT_INT(state(1), SESSION_HOT);
        EXPECT_INT(memory.kv.count[KV_PINNED], blocks + 1);
        EXPECT_INT(memory.kv.count[KV_CACHED], 0); // half blocks of earlier turns are not kept
    }
    take_turn(2, 1, 8); // two sessions, one text: pinned once
    EXPECT_INT(memory.kv.count[KV_PINNED], 9);
    EXPECT(state(1) == SESSION_HOT && state(2) == SESSION_HOT);
    take_turn(3, 3, 11); // more than the budget: hot for nobody
    EXPECT_INT(state(3), SESSION_CACHED);
    EXPECT_INT(memory.kv.count[KV_PINNED], 0);
    kv_memory_deinit(&memory);
}

/* A turn that is turned by other tables computes its history anew; what the session had is ordinary
 * cache then, and no longer what it would find. */
static void test_other_rope_tables(void)
{
    open_memory(20, 0.5, 8);
    take_turn(1, 1, 2);
    EXPECT_INT(take_turn_in(1, 1, 1, 3), 0);
    EXPECT_INT(state(1), SESSION_HOT);
    EXPECT_INT(memory.kv.count[KV_PINNED], 4);
    EXPECT_INT(memory.kv.count[KV_CACHED], 3);
    EXPECT_INT(take_turn_in(1, 1, 1, 4), 3 * KV_BLOCK_TOKENS + KV_BLOCK_TOKENS / 2);
    EXPECT_INT(take_turn(2, 1, 2), 2 * KV_BLOCK_TOKENS + KV_BLOCK_TOKENS / 2 - 1);
    take_turn(0, 3, 19); // both go to host memory, and come back apart
    EXPECT(state(1) == SESSION_HOST && state(2) == SESSION_HOST);
    EXPECT_INT(take_turn(0, 1, 4), 2 * KV_BLOCK_TOKENS + KV_BLOCK_TOKENS / 2);
    EXPECT_INT(take_turn_in(1, 0, 1, 4), 4 * KV_BLOCK_TOKENS + KV_BLOCK_TOKENS / 2 - 1);
    kv_memory_deinit(&memory);
}

static void test_release(void)
{
    open_memory(8, 1, 4);
    take_turn(1, 1, 2);
    session_pages_forget_soon(&memory.sessions, 1);
    EXPECT_INT(state(1), SESSION_TOKENS); // at once, though the pages are still pinned
    EXPECT_INT(memory.kv.count[KV_PINNED], 3);
    session_pages_forget(&memory.sessions, 1);
    session_pages_forget(&memory.sessions, 99);
    kv_memory_check(&memory);
    EXPECT_INT(memory.kv.count[KV_CACHED], 3);
    take_turn(0, 2, 7); // nobody's pages are not worth host memory
    EXPECT_INT(memory.cache.host_used, 0);
    take_turn(1, 1, 2);
    EXPECT_INT(state(1), SESSION_HOT); // it may come again
    kv_memory_deinit(&memory);
}

static void test_keys_are_bounded(void)
{
    open_memory(4, 0.5, 0);
    struct session_pages *s = &memory.sessions;
    take_turn(1, 1, 1);
    for (uint64_t key = 2; key < SESSION_KEYS_MAX + 10; key++)
        session_pages_keep(
            s, key,
            list_first(&memory.cache.everybody[0].root.children, struct prefix_node, sibling));
    EXPECT_INT(s->keys.len, SESSION_KEYS_MAX);
    EXPECT_INT(state(1), SESSION_TOKENS);
    EXPECT_INT(state(SESSION_KEYS_MAX), SESSION_HOT);
    kv_memory_check(&memory);
    kv_memory_deinit(&memory);
}

int main(void)
{
    RUN(test_down_and_up);
    RUN(test_turns_move_the_pin);
    RUN(test_other_rope_tables);
    RUN(test_release);
    RUN(test_keys_are_bounded);
    return TEST_END();
}
