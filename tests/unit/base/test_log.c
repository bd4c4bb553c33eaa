#define LOG_MODULE "registry"
#include "shared/base/log.h"

#include "shared/base/check.h"
#include "tests/test.h"
#include "tests/unit/base/child.h"

#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

static struct child c;

static void log_one_line(void)
{
    log_init("lm-proxy", LOG_INFO);
    log_info("agent lost", "agent=%s reason=%s", "a1", "timeout");
}

/* Digits where '0' stands, other characters as they are. */
static bool has_shape(const char *text, const char *shape)
{
    for (; *shape; text++, shape++) {
        if (*shape == '0' ? !isdigit((unsigned char)*text) : *text != *shape) return false;
    }
    return true;
}

static void test_line_format(void)
{
    child_run(&c, log_one_line);
    EXPECT(has_shape(c.output, "0000-00-00T00:00:00.000Z INFO  "));
    EXPECT_STR(c.output + strlen("0000-00-00T00:00:00.000Z "),
               "INFO  lm-proxy registry: agent lost agent=a1 reason=timeout\n");
}

static void log_at_each_level(void)
{
    log_init("p", LOG_WARN);
    log_error("one", "n=%d", 1);
    log_warn("two", "n=%d", 2);
    log_info("three", "n=%d", 3);
    log_debug("four", "n=%d", 4);
    log_level_max = LOG_TRACE;
    log_trace("five", "n=%d", 5);
}

static void test_levels_filter(void)
{
    child_run(&c, log_at_each_level);
    EXPECT(strstr(c.output, "Z ERROR p registry: one n=1\n"));
    EXPECT(strstr(c.output, "Z WARN  p registry: two n=2\n"));
    EXPECT(!strstr(c.output, "three"));
    EXPECT(!strstr(c.output, "four"));
    EXPECT(strstr(c.output, "Z TRACE p registry: five n=5\n"));
}

static void log_hostile_values(void)
{
    log_init("p", LOG_INFO);
    log_info("x", "v=%s", "a\nb\r\t\x1b[31m\x7f");
    log_info("y", "v=%s", "caf\xc3\xa9 \xff \xc2\x9b bad\xe2\x82");
    log_info("bare", "%s", "");
}

static void test_values_cannot_forge_lines(void)
{
    child_run(&c, log_hostile_values);
    EXPECT(strstr(c.output, "x v=a\\nb\\r\\t\\x1b[31m\\x7f\n"));
    EXPECT(strstr(c.output, "y v=caf\xc3\xa9 \\xff \\xc2\\x9b bad\\xe2\\x82\n"));
    EXPECT(strstr(c.output, "registry: bare\n"));
    int lines = 0;
    for (const char *at = c.output; *at; at++)
        lines += *at == '\n';
    EXPECT_INT(lines, 3);
}

static void log_long_values(void)
{
    static char text[10000];
    memset(text, 'z', sizeof text - 1);
    log_init("p", LOG_INFO);
    log_info("long", "v=%s", text);
    memset(text, '\x1b', sizeof text - 1);
    log_info("escaped", "v=%s", text);
}

static void test_long_lines_are_cut(void)
{
    child_run(&c, log_long_values);
    char *end = strchr(c.output, '\n');
    NEED(end != NULL);
    EXPECT(end - c.output < 2048);
    EXPECT(strncmp(end - 3, "...", 3) == 0);
    char *second_end = strchr(end + 1, '\n');
    NEED(second_end != NULL);
    EXPECT(second_end - end <= 2048);
    EXPECT(strncmp(second_end - 7, "\\x1b...", 7) == 0);
}

static void log_to_nowhere_and_dump(void)
{
    close(STDERR_FILENO);
    log_init("p", LOG_INFO);
    errno = E2BIG;
    for (int i = 0; i < 100; i++)
        log_info("kept", "i=%d.", i);
    if (errno != E2BIG) printf("errno changed\n");
    log_dump_recent(STDOUT_FILENO);
}

static void test_recent_lines_are_kept(void)
{
    child_run(&c, log_to_nowhere_and_dump);
    EXPECT(!strstr(c.output, "errno changed"));
    EXPECT(!strstr(c.output, "i=35."));
    const char *at = c.output;
    for (int i = 36; i < 100; i++) { // 64 lines, oldest first
        char want[32];
        snprintf(want, sizeof want, "registry: kept i=%d.\n", i);
        at = strstr(at, want);
        NEED(at != NULL);
    }
}

static void test_level_names(void)
{
    enum log_level level = LOG_ERROR;
    EXPECT_INT(log_level_parse("debug", &level), 0);
    EXPECT_INT(level, LOG_DEBUG);
    EXPECT_INT(log_level_parse("WARNING", &level), 0);
    EXPECT_INT(level, LOG_WARN);
    EXPECT_INT(log_level_parse("Trace", &level), 0);
    EXPECT_INT(level, LOG_TRACE);
    EXPECT_INT(log_level_parse("CRITICAL", &level), 0);
    EXPECT_INT(level, LOG_ERROR);
    EXPECT_INT(log_level_parse("loud", &level), E_INVALID);
    EXPECT_INT(level, LOG_ERROR);
}

static void *log_many(void *arg)
{
    for (int i = 0; i < 100; i++)
        log_info("threaded", "who=%s i=%d", (const char *)arg, i);
    return NULL;
}

static void log_from_threads(void)
{
    pthread_t threads[4];
    static const char *const names[] = {"a", "b", "c", "d"};
    log_init("p", LOG_INFO);
    for (size_t i = 0; i < ARRAY_LEN(threads); i++) {
        pthread_create(&threads[i], NULL, log_many, (void *)(uintptr_t)names[i]);
    }
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        pthread_join(threads[i], NULL);
}

static void test_lines_of_threads_stay_whole(void)
{
    child_run(&c, log_from_threads);
    int lines = 0, good = 0;
    for (char *at = c.output, *end; (end = strchr(at, '\n')); at = end + 1, lines++) {
        good += has_shape(at, "0000-00-00T00:00:00.000Z INFO  p registry: threaded who=");
    }
    EXPECT_INT(lines, 400);
    EXPECT_INT(good, 400);
}

int main(void)
{
    RUN(test_line_format);
    RUN(test_levels_filter);
    RUN(test_values_cannot_forge_lines);
    RUN(test_long_lines_are_cut);
    RUN(test_recent_lines_are_kept);
    RUN(test_level_names);
    RUN(test_lines_of_threads_stay_whole);
    return TEST_END();
}
