#include "shared/base/check.h"

#include "tests/test.h"
#include "tests/unit/base/child.h"

#include <stdint.h>

static void fail_a_check(void)
{
    int x = 3;
    CHECK(x == 4);
}

static void ask_for_too_much(void)
{
    volatile size_t count = SIZE_MAX / 4;
    free(xrealloc_array(NULL, count, 16));
}

static void reach_the_unreachable(void)
{
    UNREACHABLE();
}

static void test_failed_check_says_where_and_aborts(void)
{
    static struct child c;
    child_run(&c, fail_a_check);
    EXPECT(child_was_killed_by(&c, SIGABRT));
    EXPECT(strstr(c.output, "test_check.c:"));
    EXPECT(strstr(c.output, "CHECK(x == 4) failed"));
    EXPECT(strstr(c.output, "backtrace"));
    child_run(&c, reach_the_unreachable);
    EXPECT(child_was_killed_by(&c, SIGABRT));
    EXPECT(strstr(c.output, "unreachable"));
}

static void test_exhausted_memory_aborts_with_size(void)
{
    static struct child c;
    child_run(&c, ask_for_too_much);
    EXPECT(child_was_killed_by(&c, SIGABRT));
    EXPECT(strstr(c.output, "out of memory"));
    EXPECT(strstr(c.output, " x 16 bytes"));
}

static void test_passing_check_evaluates_once(void)
{
    int calls = 0;
    CHECK(++calls == 1);
    EXPECT_INT(calls, 1);
}

static void test_copies(void)
{
    char *dup = xstrdup("abc"), *ndup = xstrndup("abcdef", 3), *bytes = xmemdup("x\0y", 3);
    char *text = xasprintf("%s-%d", "n", 7), *empty = xstrndup(NULL, 0);
    EXPECT_STR(dup, "abc");
    EXPECT_STR(ndup, "abc");
    EXPECT(memcmp(bytes, "x\0y", 3) == 0);
    EXPECT_STR(text, "n-7");
    EXPECT_STR(empty, "");
    free(dup);
    free(ndup);
    free(bytes);
    free(text);
    free(empty);
}

static void test_zero_sizes_are_not_null(void)
{
    void *a = xmalloc(0), *b = xcalloc(0, 8), *c = xmemdup(NULL, 0), *d = xaligned(0);
    EXPECT(a && b && c && d);
    a = xrealloc(a, 0);
    EXPECT(a);
    free(a);
    free(b);
    free(c);
    free(d);
}

static void test_aligned_and_zeroed(void)
{
    for (size_t size = 1; size < 300; size += 37) {
        char *p = xaligned(size);
        EXPECT((uintptr_t)p % 64 == 0);
        for (size_t i = 0; i < size; i++)
            EXPECT(p[i] == 0);
        free(p);
    }
}

int main(void)
{
    RUN(test_failed_check_says_where_and_aborts);
    RUN(test_exhausted_memory_aborts_with_size);
    RUN(test_passing_check_evaluates_once);
    RUN(test_copies);
    RUN(test_zero_sizes_are_not_null);
    RUN(test_aligned_and_zeroed);
    return TEST_END();
}
