#include "shared/net/http_message.h"

#include "shared/base/check.h"
#include "tests/test.h"

static struct http_header items[] = {
    {STR("Host"), STR("h")},
    {STR("CONNECTION"), STR("keep-alive, X-Foo")},
    {STR("connection"), STR(" close ")},
    {STR("X"), STR("")},
};
static const struct http_headers headers = {items, ARRAY_LEN(items)};

static void test_headers(void)
{
    EXPECT(str_equal(http_headers_get(&headers, "host"), STR("h")));
    EXPECT(http_headers_get(&headers, "hos").data == NULL);
    EXPECT(http_headers_get(&headers, "x").data != NULL); // there, and empty
    EXPECT(http_headers_has_token(&headers, "connection", "x-foo"));
    EXPECT(http_headers_has_token(&headers, "Connection", "Keep-Alive"));
    EXPECT(http_headers_has_token(&headers, "Connection", "close")); // in the second one
    EXPECT(!http_headers_has_token(&headers, "connection", "keep"));
    EXPECT(!http_headers_has_token(&headers, "accept", "x"));
}

static void test_hop_by_hop(void)
{
    EXPECT(http_header_is_hop_by_hop(STR("Transfer-Encoding")));
    EXPECT(http_header_is_hop_by_hop(STR("CONTENT-LENGTH")));
    EXPECT(http_header_is_hop_by_hop(STR("te")));
    EXPECT(http_header_is_hop_by_hop(STR("Host")));
    EXPECT(!http_header_is_hop_by_hop(STR("content-type")));
    EXPECT(!http_header_is_hop_by_hop(STR("authorization")));
    EXPECT(!http_header_is_hop_by_hop(STR("hos")));
}

static void test_status_text(void)
{
    EXPECT_STR(http_status_text(200), "OK");
    EXPECT_STR(http_status_text(404), "Not Found");
    EXPECT_STR(http_status_text(799), "");
}

static void check_decoded(struct arena *a, const char *in, const char *want)
{
    struct str got = http_percent_decode(a, str_of(in));
    EXPECT((got.data == NULL) == (want == NULL));
    if (want && got.data) EXPECT(str_equal(got, str_of(want)));
}

static void test_percent_decode(void)
{
    struct arena a;
    arena_init(&a);
    check_decoded(&a, "", "");
    check_decoded(&a, "abc", "abc");
    check_decoded(&a, "a%2Fb%2f", "a/b/");
    check_decoded(&a, "%41%c3%a9+", "A\xc3\xa9+");
    check_decoded(&a, "%", NULL);
    check_decoded(&a, "a%4", NULL);
    check_decoded(&a, "%4g", NULL);
    check_decoded(&a, "%%41", NULL);
    check_decoded(&a, "a%00b", NULL);
    EXPECT(http_percent_decode(&a, (struct str){"a\0b", 3}).data == NULL);
    arena_deinit(&a);
}

static void test_query(void)
{
    struct arena a;
    arena_init(&a);
    struct str q = STR("a=1&b=x%20y&c&%64=4&a=2&=e&bad=%");
    EXPECT(str_equal(http_query_get(&a, q, "a"), STR("1")));
    EXPECT(str_equal(http_query_get(&a, q, "b"), STR("x y")));
    EXPECT(http_query_get(&a, q, "c").data != NULL && http_query_get(&a, q, "c").len == 0);
    EXPECT(str_equal(http_query_get(&a, q, "d"), STR("4")));
    EXPECT(http_query_get(&a, q, "e").data == NULL);
    EXPECT(http_query_get(&a, q, "bad").data == NULL);
    EXPECT(http_query_get(&a, (struct str){NULL, 0}, "a").data == NULL);
    arena_deinit(&a);
}

int main(void)
{
    RUN(test_headers);
    RUN(test_hop_by_hop);
    RUN(test_status_text);
    RUN(test_percent_decode);
    RUN(test_query);
    return TEST_END();
}
