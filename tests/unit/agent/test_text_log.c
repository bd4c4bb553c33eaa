/* What of prompts and outputs gets into the log: read back from standard error. */
#include "agent/text_log.h"

#include "shared/base/log.h"
#include "shared/base/utf8.h"
#include "tests/test.h"

#include <stdio.h>
#include <unistd.h>

static char logged[1 << 16];

/* Writes `text` in pieces of `step` bytes, 0: at once; what standard error had is in `logged`. */
static struct text_log write_text(const char *text, size_t step, int64_t max)
{
    struct text_log l = {.id = "chatcmpl-1", .left = max};
    FILE *file = tmpfile();
    NEED(file);
    int saved = dup(STDERR_FILENO);
    NEED(dup2(fileno(file), STDERR_FILENO) >= 0);
    for (size_t at = 0, len = strlen(text); at < len;) {
        size_t n = step && step < len - at ? step : len - at;
        text_log_write(&l, "output", STR("req_1"), (struct str){text + at, n});
        at += n;
    }
    NEED(dup2(saved, STDERR_FILENO) >= 0);
    close(saved);
    rewind(file);
    size_t n = fread(logged, 1, sizeof logged - 1, file);
    logged[n] = 0;
    fclose(file);
    return l;
}

static int count_lines(void)
{
    int count = 0;
    for (const char *at = logged; (at = strchr(at, '\n')); at++)
        count++;
    return count;
}

static void test_off(void)
{
    log_level_max = LOG_DEBUG;
    EXPECT(!text_log_is_on());
    write_text("secret", 0, -1);
    EXPECT_STR(logged, "");
    log_level_max = LOG_TRACE;
    EXPECT(text_log_is_on());
}

static void test_lines(void)
{
    write_text("one\ntwo", 0, -1);
    EXPECT(strstr(logged, "TRACE test text: output id=chatcmpl-1 request=req_1 part=0 cut=0 "
                          "text=\"one\\ntwo\"\n"));
    write_text("abcdef", 2, -1);
    EXPECT_INT(count_lines(), 3);
    EXPECT(strstr(logged, "part=2 cut=0 text=\"ef\""));
}

static void test_cut(void)
{
    write_text("abcdef", 0, 6);
    EXPECT(strstr(logged, "cut=0 text=\"abcdef\""));
    struct text_log l = write_text("abcdef", 0, 5);
    EXPECT(strstr(logged, "cut=1 text=\"abcde\"") && l.has_been_cut);
    write_text("abcdef", 4, 5);
    EXPECT(strstr(logged, "part=0 cut=0 text=\"abcd\"") &&
           strstr(logged, "part=1 cut=1 text=\"e\""));
    write_text("abcdef", 0, 0);
    EXPECT(strstr(logged, "cut=1 text=\"\"") && count_lines() == 1);
    write_text("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80x", 0, 3); // characters, not bytes
    EXPECT(strstr(logged, "cut=1 text=\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\""));
}

/* Long texts take lines of their own length, none of which begins or ends inside a character. */
static void test_long(void)
{
    static char text[9000];
    size_t len = 0;
    while (len + 4 < sizeof text) {
        memcpy(text + len, len % 7 ? "\xe2\x82\xac" : "\x1b", len % 7 ? 3 : 1);
        len += len % 7 ? 3 : 1;
    }
    struct text_log l = write_text(text, 0, -1);
    EXPECT(count_lines() == l.part && l.part > 20);
    EXPECT(utf8_is_valid(logged, strlen(logged)));
    EXPECT(!strstr(logged, "\x1b") && !strstr(logged, "\\xe2") && !strstr(logged, "..."));
    static char joined[9000];
    size_t joined_len = 0;
    for (const char *at = logged; (at = strstr(at, " text=\""));) {
        at += 7;
        const char *end = strstr(at, "\"\n");
        NEED(end);
        for (; at < end; at++) {
            bool is_escape = strncmp(at, "\\x1b", 4) == 0;
            joined[joined_len++] = is_escape ? '\x1b' : *at;
            at += is_escape ? 3 : 0;
        }
    }
    EXPECT(joined_len == len && memcmp(joined, text, len) == 0);
}

int main(void)
{
    log_init("test", LOG_INFO);
    RUN(test_off);
    RUN(test_lines);
    RUN(test_cut);
    RUN(test_long);
    return TEST_END();
}
