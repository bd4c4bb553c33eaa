/* test.h - the whole C test harness. A test file is a list of functions and RUN lines in main().
 *
 *     static void test_thing(void) { EXPECT(thing() == 3); }
 *     int main(void) { RUN(test_thing); return TEST_END(); }
 *
 * EXPECT failures are counted and the test goes on; NEED failures end the process, for what the
 * rest of the test cannot do without. A test that can't run here calls test_skip(reason). */
#ifndef LM_TEST_H
#define LM_TEST_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int test_failures;

#define EXPECT(cond)                                                         \
    do {                                                                     \
        if (!(cond)) {                                                       \
            test_failures++;                                                 \
            printf("%s:%d: EXPECT(%s) failed\n", __FILE__, __LINE__, #cond); \
        }                                                                    \
    } while (0)

#define EXPECT_INT(got, want)                                                                    \
    do {                                                                                         \
        long long got_ = (long long)(got), want_ = (long long)(want);                            \
        if (got_ != want_) {                                                                     \
            test_failures++;                                                                     \
            printf("%s:%d: %s is %lld, expected %lld\n", __FILE__, __LINE__, #got, got_, want_); \
        }                                                                                        \
    } while (0)

#define EXPECT_STR(got, want)                                                          \
    do {                                                                               \
        const char *got_ = (got), *want_ = (want);                                     \
        if (!got_ || strcmp(got_, want_) != 0) {                                       \
            test_failures++;                                                           \
            printf("%s:%d: %s is \"%s\", expected \"%s\"\n", __FILE__, __LINE__, #got, \
                   got_ ? got_ : "(null)", want_);                                     \
        }                                                                              \
    } while (0)

#define NEED(cond)                                                         \
    do {                                                                   \
        if (!(cond)) {                                                     \
            printf("%s:%d: NEED(%s) failed\n", __FILE__, __LINE__, #cond); \
            exit(1);                                                       \
        }                                                                  \
    } while (0)

#define RUN(function)                                                             \
    do {                                                                          \
        int before_ = test_failures;                                              \
        function();                                                               \
        printf("%s %s\n", test_failures == before_ ? "ok  " : "FAIL", #function); \
        fflush(stdout);                                                           \
    } while (0)

#define TEST_END() (test_failures ? 1 : 0)

static inline void test_skip(const char *reason)
{
    printf("skipped: %s\n", reason);
    exit(77);
}

/* Path of a file under tests/, e.g. test_data("fixtures/smollm2/reference.json"). Static buffer. */
static inline const char *test_data(const char *relative)
{
    static char path[1024];
    const char *root = getenv("LM_TEST_DATA");
    snprintf(path, sizeof path, "%s/%s", root ? root : "tests", relative);
    return path;
}

#endif
