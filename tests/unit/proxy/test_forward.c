#include "proxy/forward.h"

#include "shared/base/buf.h"
#include "shared/base/check.h"
#include "tests/test.h"

static char *print(struct http_headers h)
{
    struct buf b;
    buf_init(&b, BUF_MAX_INTERNAL);
    for (int i = 0; i < h.count; i++)
        buf_printf(&b, STR_FMT "=" STR_FMT "\n", STR_ARG(h.items[i].name),
                   STR_ARG(h.items[i].value));
    return buf_detach(&b, NULL);
}

static void expect_forwarded(struct http_header *items, int count, bool keeps_authorization,
                             const char *want)
{
    struct arena arena;
    arena_init(&arena);
    struct http_request request = {.headers = {items, count}, .peer = "10.0.0.9"};
    struct trace trace = {.id = {0}};
    char *got = print(forward_request(&arena, &request, keeps_authorization, STR("req_1"),
                                      STR("1.1 us"), &trace));
    EXPECT_STR(got, want);
    free(got);
    arena_deinit(&arena);
}

static void expect_request(struct http_header *items, int count, const char *want)
{
    expect_forwarded(items, count, true, want);
}

static void test_request(void)
{
    struct http_header items[] = {
        {STR("Host"), STR("proxy:8000")},         {STR("User-Agent"), STR("OpenAI/Python")},
        {STR("Content-Length"), STR("17")},       {STR("Transfer-Encoding"), STR("chunked")},
        {STR("Expect"), STR("100-continue")},     {STR("Connection"), STR("keep-alive, X-Private")},
        {STR("x-private"), STR("for this hop")},  {STR("X-LM-Resume"), STR("forged")},
        {STR("x-lm-tenant"), STR("forged")},      {STR("X-Request-Id"), STR("theirs")},
        {STR("Authorization"), STR("Bearer k")},  {STR("Content-Type"), STR("application/json")},
        {STR("x-stainless-lang"), STR("python")},
    };
    expect_request(items, ARRAY_LEN(items),
                   "User-Agent=OpenAI/Python\nAuthorization=Bearer k\n"
                   "Content-Type=application/json\nx-stainless-lang=python\n"
                   "x-request-id=req_1\nvia=1.1 us\nx-forwarded-for=10.0.0.9\n");
    struct http_header twice[] = {
        {STR("Connection"), STR("close")},
        {STR("Connection"), STR("x-private")},
        {STR("x-private"), STR("for this hop")},
    };
    expect_request(twice, ARRAY_LEN(twice),
                   "x-request-id=req_1\nvia=1.1 us\nx-forwarded-for=10.0.0.9\n");
    expect_request(NULL, 0, "x-request-id=req_1\nvia=1.1 us\nx-forwarded-for=10.0.0.9\n");
}

static void test_a_key_of_ours_stays_here(void)
{
    struct http_header items[] = {
        {STR("AUTHORIZATION"), STR("Bearer k")},
        {STR("a"), STR("b")},
    };
    expect_forwarded(items, ARRAY_LEN(items), false,
                     "a=b\nx-request-id=req_1\nvia=1.1 us\nx-forwarded-for=10.0.0.9\n");
}

static void test_hops_are_one_list(void)
{
    struct http_header items[] = {
        {STR("X-Forwarded-For"), STR("1.1.1.1")},
        {STR("a"), STR("b")},
        {STR("x-forwarded-for"), STR("2.2.2.2, 3.3.3.3")},
    };
    expect_request(items, ARRAY_LEN(items),
                   "a=b\nx-request-id=req_1\nvia=1.1 us\n"
                   "x-forwarded-for=1.1.1.1, 2.2.2.2, 3.3.3.3, 10.0.0.9\n");
}

static void test_response(void)
{
    struct http_header items[] = {
        {STR("content-type"), STR("text/event-stream; charset=utf-8")},
        {STR("Transfer-Encoding"), STR("chunked")},
        {STR("Connection"), STR("close")},
        {STR("Keep-Alive"), STR("timeout=5")},
        {STR("X-Request-Id"), STR("req_1")},
        {STR("Access-Control-Allow-Origin"), STR("*")},
        {STR("x-lm-not-started"), STR("1")},
        {STR("Retry-After"), STR("3")},
        {STR("openai-processing-ms"), STR("12")},
        {STR("X-Empty"), {NULL, 0}},
        {STR("set-cookie"), STR("a=1")},
        {STR("set-cookie"), STR("b=2")},
    };
    struct arena arena;
    arena_init(&arena);
    struct http_headers from = {items, ARRAY_LEN(items)};
    struct http_headers to = forward_response(&arena, &from, false);
    for (int i = 0; i < to.count; i++) { // copies: the call's own die with it
        for (int k = 0; k < from.count; k++)
            EXPECT(to.items[i].value.data != from.items[k].value.data);
    }
    char *got = print(to);
    EXPECT_STR(got, "content-type=text/event-stream; charset=utf-8\nRetry-After=3\n"
                    "openai-processing-ms=12\nX-Empty=\nset-cookie=a=1\nset-cookie=b=2\n");
    free(got);
    arena_deinit(&arena);
}

static void test_agents_of_ours_speak_of_sessions(void)
{
    struct http_header items[] = {
        {STR("X-LM-Session-New"), STR("1")},
        {STR("x-lm-session-moved"), STR("1")},
        {STR("x-lm-usage"), STR("1,2,3")},
    };
    struct arena arena;
    arena_init(&arena);
    struct http_headers from = {items, ARRAY_LEN(items)};
    char *ours = print(forward_response(&arena, &from, true));
    EXPECT_STR(ours, "X-LM-Session-New=1\nx-lm-session-moved=1\n");
    char *theirs = print(forward_response(&arena, &from, false));
    EXPECT_STR(theirs, "");
    free(ours);
    free(theirs);
    arena_deinit(&arena);
}

static void test_content_length(void)
{
    static const struct {
        const char *text;
        long long want;
    } rows[] = {{"0", 0},   {"17", 17}, {"-1", -1},
                {"1x", -1}, {"", -1},   {"99999999999999999999", -1}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct http_header item = {STR("Content-Length"), str_of(rows[i].text)};
        struct http_headers h = {&item, 1};
        EXPECT_INT(forward_content_length(&h), rows[i].want);
    }
    struct http_headers none = {NULL, 0};
    EXPECT_INT(forward_content_length(&none), -1);
}

int main(void)
{
    RUN(test_request);
    RUN(test_a_key_of_ours_stays_here);
    RUN(test_hops_are_one_list);
    RUN(test_response);
    RUN(test_agents_of_ours_speak_of_sessions);
    RUN(test_content_length);
    return TEST_END();
}
