#include "agent/launcher_output.h"

#include "shared/base/check.h"
#include "tests/test.h"

/* `text` in pieces of `step` bytes. */
static char *run(const char *text, size_t step)
{
    struct launcher_output o;
    struct buf out;
    size_t len = strlen(text);
    launcher_output_init(&o, "gpu4");
    buf_init(&out, BUF_MAX_INTERNAL);
    for (size_t at = 0; at < len; at += step)
        launcher_output_feed(&o, text + at, len - at < step ? len - at : step, &out);
    launcher_output_end(&o, &out);
    launcher_output_end(&o, &out); // nothing twice
    launcher_output_deinit(&o);
    return buf_detach(&out, NULL);
}

static void expect(const char *text, const char *want)
{
    for (size_t step = 1; step <= strlen(text) + 1; step++) {
        char *got = run(text, step);
        EXPECT_STR(got, want);
        free(got);
    }
}

static void test_lines(void)
{
    expect("one\ntwo\n", "[gpu4] one\n[gpu4] two\n");
    expect("\nno end", "[gpu4] \n[gpu4] no end\n");
    expect("", "");
}

static void test_json(void)
{
    expect("{\"a\":1}\n", "{\"replica\":\"gpu4\",\"a\":1}\n");
    expect("{}\n{ }\n", "{\"replica\":\"gpu4\"}\n{\"replica\":\"gpu4\" }\n");
    expect("{\n{cut", "[gpu4] {\n[gpu4] {cut\n");
}

/* A line beyond the maximum comes as several, and none of it is lost. */
static void test_long_line(void)
{
    size_t len = 2 * LAUNCHER_LINE_MAX + 5;
    char *text = xcalloc(len + 2, 1);
    memset(text, 'x', len);
    text[len] = '\n';
    char *got = run(text, 1000);
    size_t letters = 0, lines = 0;
    for (const char *c = got; *c; c++) {
        letters += *c == 'x';
        lines += *c == '\n';
    }
    EXPECT_INT(letters, len);
    EXPECT_INT(lines, 3);
    free(got);
    text[LAUNCHER_LINE_MAX] = '\n'; // just at the end: no empty line behind it
    text[LAUNCHER_LINE_MAX + 1] = 0;
    got = run(text, 1);
    EXPECT_INT(strlen(got), LAUNCHER_LINE_MAX + strlen("[gpu4] \n"));
    free(got);
    free(text);
}

int main(void)
{
    RUN(test_lines);
    RUN(test_json);
    RUN(test_long_line);
    return TEST_END();
}
