#include "shared/base/arena.h"

#include "tests/test.h"

#include <stdint.h>

static void test_aligned_zeroed_and_apart(void)
{
    struct arena a;
    arena_init(&a);
    unsigned char *blocks[500];
    size_t sizes[500];
    for (size_t i = 0; i < 500; i++) {
        sizes[i] = (i * 7919) % 3000;
        blocks[i] = arena_alloc(&a, sizes[i]);
        NEED(blocks[i] != NULL);
        EXPECT((uintptr_t)blocks[i] % 16 == 0);
        for (size_t j = 0; j < sizes[i]; j++) {
            if (blocks[i][j] != 0) EXPECT(blocks[i][j] == 0);
            blocks[i][j] = (unsigned char)i;
        }
    }
    for (size_t i = 0; i < 500; i++) { // nobody wrote into a neighbour
        for (size_t j = 0; j < sizes[i]; j++) {
            if (blocks[i][j] != (unsigned char)i) EXPECT(blocks[i][j] == (unsigned char)i);
        }
    }
    EXPECT(a.bytes >= 500);
    arena_deinit(&a);
    EXPECT(a.chunks == NULL && a.bytes == 0);
    arena_deinit(&a);
}

static void test_large_block_keeps_the_small_chunk(void)
{
    struct arena a;
    arena_init(&a);
    char *small = arena_alloc(&a, 16);
    char *large = arena_alloc(&a, 1 << 20);
    char *next = arena_alloc(&a, 16);
    EXPECT(next == small + 16);
    memset(large, 1, 1 << 20);
    arena_deinit(&a);
}

static void test_first_block_may_be_large(void)
{
    struct arena a;
    arena_init(&a);
    char *large = arena_alloc(&a, 5 << 20);
    large[(5 << 20) - 1] = 1;
    char *small = arena_alloc(&a, 1);
    EXPECT(small != NULL);
    arena_deinit(&a);
}

static void test_texts(void)
{
    struct arena a;
    arena_init(&a);
    EXPECT_STR(arena_strndup(&a, "abcdef", 3), "abc");
    EXPECT_STR(arena_strndup(&a, NULL, 0), "");
    EXPECT_STR(arena_printf(&a, "%s/%05d", "x", 42), "x/00042");
    char long_text[9000];
    memset(long_text, 'y', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = 0;
    EXPECT_STR(arena_printf(&a, "%s", long_text), long_text);
    arena_deinit(&a);
}

int main(void)
{
    RUN(test_aligned_zeroed_and_apart);
    RUN(test_large_block_keeps_the_small_chunk);
    RUN(test_first_block_may_be_large);
    RUN(test_texts);
    return TEST_END();
}
