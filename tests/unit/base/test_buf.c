#include "shared/base/buf.h"

#include "tests/test.h"

static void test_appends_and_terminates(void)
{
    struct buf b;
    buf_init(&b, 100);
    EXPECT(b.data == NULL);
    EXPECT_INT(buf_append_str(&b, "ab"), 0);
    EXPECT_INT(buf_append_char(&b, 'c'), 0);
    EXPECT_INT(buf_append(&b, "d\0e", 3), 0);
    EXPECT_INT(buf_printf(&b, "%d", 42), 0);
    EXPECT_INT(b.len, 8);
    EXPECT(memcmp(b.data, "abcd\0e42", 9) == 0);
    EXPECT(str_equal(buf_str(&b), STR("abcd\0e42")));
    buf_deinit(&b);
    EXPECT(b.data == NULL && b.len == 0 && b.max == 100);
}

static void test_max_is_exact_and_sticky(void)
{
    struct buf b;
    buf_init(&b, 5);
    EXPECT_INT(buf_append_str(&b, "abc"), 0);
    EXPECT_INT(buf_append_str(&b, "def"), E_LIMIT);
    EXPECT(b.overflow);
    EXPECT_STR(b.data, "abc");
    // what would fit alone is refused too: content has no gaps
    EXPECT_INT(buf_append_char(&b, 'x'), E_LIMIT);
    EXPECT_INT(buf_printf(&b, "%d", 1), E_LIMIT);
    EXPECT_STR(b.data, "abc");
    buf_clear(&b);
    EXPECT(!b.overflow);
    EXPECT_INT(buf_append_str(&b, "12345"), 0);
    EXPECT_STR(b.data, "12345");
    EXPECT(b.cap <= 6);
    buf_deinit(&b);
}

static void test_printf_at_the_edge(void)
{
    for (size_t max = 0; max < 12; max++) {
        struct buf b;
        buf_init(&b, max);
        int first = buf_printf(&b, "%s", "abc"), second = buf_printf(&b, "%s", "defgh");
        EXPECT_INT(first, max >= 3 ? 0 : E_LIMIT);
        EXPECT_INT(second, max >= 8 ? 0 : E_LIMIT);
        EXPECT_INT(b.len, max >= 8 ? 8 : max >= 3 ? 3 : 0);
        if (b.data) EXPECT(b.data[b.len] == 0);
        buf_deinit(&b);
    }
}

static void test_printf_grows(void)
{
    struct buf b;
    buf_init(&b, BUF_MAX_INTERNAL);
    for (int i = 0; i < 1000; i++)
        EXPECT_INT(buf_printf(&b, "%03d,", i), 0);
    EXPECT_INT(b.len, 4000);
    EXPECT(memcmp(b.data + 4 * 517, "517,", 4) == 0);
    buf_deinit(&b);
}

static void test_reserve_commit(void)
{
    struct buf b;
    buf_init(&b, 1000);
    char *room = buf_reserve(&b, 600);
    NEED(room != NULL);
    memset(room, 'x', 600);
    EXPECT_INT(b.len, 0);
    buf_commit(&b, 500);
    EXPECT_INT(b.len, 500);
    EXPECT(b.data[500] == 0);
    EXPECT(buf_reserve(&b, 501) == NULL);
    EXPECT(b.overflow);
    buf_deinit(&b);
}

static void test_huge_requests_do_not_wrap(void)
{
    struct buf b;
    buf_init(&b, 1000);
    buf_append_str(&b, "abc");
    EXPECT(buf_reserve(&b, SIZE_MAX) == NULL);
    EXPECT(buf_reserve(&b, SIZE_MAX - 2) == NULL);
    EXPECT_STR(b.data, "abc");
    buf_deinit(&b);
}

static void test_consume(void)
{
    struct buf b;
    buf_init(&b, 100);
    buf_consume(&b, 0);
    buf_append_str(&b, "abcdef");
    buf_consume(&b, 2);
    EXPECT_STR(b.data, "cdef");
    buf_consume(&b, 4);
    EXPECT_STR(b.data, "");
    EXPECT_INT(b.len, 0);
    buf_deinit(&b);
}

static void test_detach(void)
{
    struct buf b;
    size_t len = 99;
    buf_init(&b, 100);
    char *empty = buf_detach(&b, &len);
    EXPECT_STR(empty, "");
    EXPECT_INT(len, 0);
    free(empty);
    buf_append_str(&b, "abc");
    char *text = buf_detach(&b, &len);
    EXPECT_STR(text, "abc");
    EXPECT_INT(len, 3);
    EXPECT(b.data == NULL && b.len == 0);
    free(text);
    EXPECT_INT(buf_append_str(&b, "again"), 0);
    buf_deinit(&b);
}

int main(void)
{
    RUN(test_appends_and_terminates);
    RUN(test_max_is_exact_and_sticky);
    RUN(test_printf_at_the_edge);
    RUN(test_printf_grows);
    RUN(test_reserve_commit);
    RUN(test_huge_requests_do_not_wrap);
    RUN(test_consume);
    RUN(test_detach);
    return TEST_END();
}
