#include "shared/base/backtrace.h"

#include "shared/base/check.h"

#define LOG_MODULE "crash"
#include "shared/base/log.h"

#include "tests/test.h"
#include "tests/unit/base/child.h"

#include <stdint.h>

static void crash_by_bad_address(void)
{
    backtrace_install("lm-test");
    log_init("lm-test", LOG_INFO);
    log_info("about to crash", "n=%d", 1);
    // not NULL: there UBSan would stop first
    volatile int *volatile nowhere = (volatile int *)(uintptr_t)0x40;
    *nowhere = 1;
}

static void crash_by_abort(void)
{
    backtrace_install("lm-test");
    abort();
}

static void crash_by_check(void)
{
    backtrace_install("lm-test");
    CHECK(1 == 2);
}

static void crash_by_kill(void)
{
    backtrace_install("lm-test");
    kill(getpid(), SIGSEGV);
}

/* Deeper than any stack: the handler has to stand on its own. */
static int overflow(int n)
{
    volatile char pad[4096];
    pad[0] = (char)n;
    return n < 0 ? 0 : overflow(n + 1) + pad[0];
}

static void crash_by_overflow(void)
{
    backtrace_install("lm-test");
    struct rlimit small = {1 << 20, 1 << 20};
    setrlimit(RLIMIT_STACK, &small);
    volatile int start = 1;
    printf("%d\n", overflow(start));
}

static int count_of(const char *text, const char *word)
{
    int count = 0;
    for (const char *at = strstr(text, word); at; at = strstr(at + 1, word))
        count++;
    return count;
}

static void test_report_names_signal_frames_and_log(void)
{
    static struct child c;
    child_run(&c, crash_by_bad_address);
    EXPECT(!WIFEXITED(c.status) || WEXITSTATUS(c.status) != 0);
    EXPECT(strstr(c.output, "*** lm-test " LM_VERSION " crashed: SIGSEGV"));
    EXPECT(strstr(c.output, "at 0x0000000000000040"));
    EXPECT(strstr(c.output, "backtrace"));
    EXPECT(strstr(c.output, "test_backtrace"));
    EXPECT(strstr(c.output, "last log lines"));
    // once when it was logged, once in the report
    EXPECT_INT(count_of(c.output, "crash: about to crash n=1"), 2);
}

static void test_abort_ends_by_abort(void)
{
    static struct child c;
    child_run(&c, crash_by_abort);
    EXPECT(child_was_killed_by(&c, SIGABRT));
    EXPECT(strstr(c.output, "SIGABRT"));
}

static void test_failed_check_prints_frames_once(void)
{
    static struct child c;
    child_run(&c, crash_by_check);
    EXPECT(child_was_killed_by(&c, SIGABRT));
    EXPECT(strstr(c.output, "CHECK(1 == 2) failed"));
    EXPECT_INT(count_of(c.output, "backtrace (addr2line"), 1);
}

static void test_sent_signal_is_sent_on(void)
{
    static struct child c;
    child_run(&c, crash_by_kill);
    EXPECT(!WIFEXITED(c.status) || WEXITSTATUS(c.status) != 0);
    EXPECT_INT(count_of(c.output, "*** lm-test"), 1);
    EXPECT(strstr(c.output, "SIGSEGV"));
}

static void test_stack_overflow_is_reported(void)
{
    static struct child c;
    child_run(&c, crash_by_overflow);
    EXPECT(!WIFEXITED(c.status) || WEXITSTATUS(c.status) != 0);
    EXPECT(strstr(c.output, "*** lm-test " LM_VERSION " crashed: SIGSEGV"));
}

static void print_frames(void)
{
    backtrace_print(STDERR_FILENO);
}

static void test_frames_without_a_crash(void)
{
    static struct child c;
    EXPECT(!backtrace_is_installed()); // the children above did that for themselves
    child_run(&c, print_frames);
    EXPECT(WIFEXITED(c.status) && WEXITSTATUS(c.status) == 0);
    EXPECT(strstr(c.output, "test_backtrace"));
}

int main(void)
{
    RUN(test_report_names_signal_frames_and_log);
    RUN(test_abort_ends_by_abort);
    RUN(test_failed_check_prints_frames_once);
    RUN(test_sent_signal_is_sent_on);
    RUN(test_stack_overflow_is_reported);
    RUN(test_frames_without_a_crash);
    return TEST_END();
}
