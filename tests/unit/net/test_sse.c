#include "shared/net/sse.h"

#include "shared/base/check.h"
#include "tests/test.h"

static struct buf seen; // each event as [data]

static void on_data(void *arg, struct str data)
{
    (void)arg;
    buf_printf(&seen, "[%.*s]", (int)data.len, data.data ? data.data : "");
}

static const struct {
    const char *stream, *events;
} cases[] = {
    {"data: a\n\n", "[a]"},
    {"data:a\n\n", "[a]"},
    {"data:  a\n\n", "[ a]"}, // one space goes
    {"data: a\r\n\r\ndata: b\r\rdata: c\n\n", "[a][b][c]"},
    {"data: a\ndata: b\n\n", "[a\nb]"},
    {"data\n\n", "[]"},
    {"data:\n\n", "[]"},
    {"data: a\n", ""}, // not ended
    {"data: a\n\ndata: b", "[a]"},
    {": comment\n\n: lm t=1,2\n\ndata: x\n\n", "[x]"},
    {"event: e\nid: 1\nretry: 5\ndata: x\n\n", "[x]"},
    {"event: e\n\n", ""}, // no data, no event
    {"database: x\ndat: y\ndata : z\n\n", ""},
    {"\n\n\ndata: a\n\n\n\n", "[a]"},
    {"data: {\"a\":\"\xc3\xa9\"}\n\ndata: [DONE]\n\n", "[{\"a\":\"\xc3\xa9\"}][[DONE]]"},
};

static void feed_in_pieces(const char *text, size_t piece, const char *want)
{
    struct sse_parser p;
    buf_init(&seen, BUF_MAX_INTERNAL);
    sse_parser_init(&p, 1000, on_data, NULL);
    size_t len = strlen(text);
    for (size_t at = 0; at < len; at += piece) {
        size_t n = len - at < piece ? len - at : piece;
        EXPECT_INT(sse_parser_feed(&p, text + at, n), 0);
    }
    EXPECT_STR(seen.len ? seen.data : "", want);
    sse_parser_deinit(&p);
    buf_deinit(&seen);
}

static void test_streams(void)
{
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        for (size_t piece = 1; piece <= 40; piece++) {
            feed_in_pieces(cases[i].stream, piece, cases[i].events);
        }
    }
}

static void test_limit(void)
{
    char line[200];
    memset(line, 'x', sizeof line);
    struct sse_parser p;
    buf_init(&seen, BUF_MAX_INTERNAL);
    sse_parser_init(&p, 100, on_data, NULL);
    EXPECT_INT(sse_parser_feed(&p, line, sizeof line), E_LIMIT); // a line without end
    EXPECT(p.failed);
    EXPECT_INT(sse_parser_feed(&p, "\n\n", 2), E_LIMIT); // and it stays so
    sse_parser_deinit(&p);

    sse_parser_init(&p, 100, on_data, NULL); // many short lines of one event
    int rc = 0;
    for (int i = 0; i < 50 && rc == 0; i++)
        rc = sse_parser_feed(&p, "data: 12345\n", 12);
    EXPECT_INT(rc, E_LIMIT);
    sse_parser_deinit(&p);

    sse_parser_init(&p, 100, on_data, NULL); // a limit per event, not per stream
    for (int i = 0; i < 50; i++)
        EXPECT_INT(sse_parser_feed(&p, "data: 12345\n\n", 13), 0);
    EXPECT_INT(seen.len, 50 * 7);
    sse_parser_deinit(&p);
    buf_deinit(&seen);
}

static void test_writer(void)
{
    struct buf out;
    buf_init(&out, 100);
    sse_write_data(&out, STR("{}"));
    sse_write_comment(&out, STR("lm t=1"));
    EXPECT_STR(out.data, "data: {}\n\n: lm t=1\n\n");
    buf_deinit(&out);
}

int main(void)
{
    RUN(test_streams);
    RUN(test_limit);
    RUN(test_writer);
    return TEST_END();
}
