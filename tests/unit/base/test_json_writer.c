#include "shared/base/check.h"
#include "shared/base/json.h"
#include "shared/base/rng.h"
#include "tests/test.h"

#include <float.h>
#include <math.h>

static struct buf out;
static struct json_writer w;

static void start(void)
{
    buf_clear(&out);
    json_writer_init(&w, &out);
}

static void test_nesting_and_commas(void)
{
    start();
    json_object_begin(&w);
    json_field_text(&w, "a", "x");
    json_key(&w, "list");
    json_array_begin(&w);
    json_put_int(&w, -1);
    json_put_uint(&w, UINT64_MAX);
    json_object_begin(&w);
    json_object_end(&w);
    json_array_begin(&w);
    json_put_null(&w);
    json_put_bool(&w, true);
    json_array_end(&w);
    json_array_end(&w);
    json_key(&w, "o");
    json_object_begin(&w);
    json_field_bool(&w, "b", false);
    json_field_null(&w, "n");
    json_object_end(&w);
    json_field_int(&w, "i", INT64_MIN);
    json_field_double(&w, "d", 0.25);
    json_field_str(&w, "s", STR("y"));
    json_field_text(&w, "none", NULL);
    json_field_raw(&w, "raw", STR("[1, 2]"));
    json_object_end(&w);
    EXPECT_STR(out.data, "{\"a\":\"x\",\"list\":[-1,18446744073709551615,{},[null,true]],"
                         "\"o\":{\"b\":false,\"n\":null},\"i\":-9223372036854775808,\"d\":0.25,"
                         "\"s\":\"y\",\"none\":null,\"raw\":[1, 2]}");
    EXPECT_INT(w.depth, 0);
}

static void test_strings_are_escaped(void)
{
    start();
    json_put_str(&w, STR("a\"b\\c/\b\f\n\r\t\x01\0\x1f\x7f\xc3\xa9"));
    EXPECT_STR(out.data, "\"a\\\"b\\\\c/\\b\\f\\n\\r\\t\\u0001\\u0000\\u001f\x7f\xc3\xa9\"");
    start();
    json_key(&w, "\n");
    EXPECT_STR(out.data, "\"\\n\":");
}

static void test_bad_utf8_becomes_replacement(void)
{
    start();
    json_put_str(&w, STR("a\xff"
                         "b\xe2\x82"
                         "c\xf0\x9f\x98"));
    EXPECT_STR(out.data, "\"a\xef\xbf\xbd"
                         "b\xef\xbf\xbd"
                         "c\xef\xbf\xbd\"");
    start();
    json_put_str(&w, STR("\xed\xa0\x80")); // three bytes that are no subpart of anything
    EXPECT_STR(out.data, "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
}

static const char *double_text(double value)
{
    start();
    json_put_double(&w, value);
    return out.data;
}

static void test_doubles_are_short(void)
{
    EXPECT_STR(double_text(1), "1");
    EXPECT_STR(double_text(-0.5), "-0.5");
    EXPECT_STR(double_text(0.1), "0.1");
    EXPECT_STR(double_text(1.0 / 3), "0.3333333333333333");
    EXPECT_STR(double_text(0.1 + 0.2), "0.30000000000000004");
    EXPECT_STR(double_text(1e15), "1000000000000000");
    EXPECT_STR(double_text(1e16), "1e+16");
    EXPECT_STR(double_text(123456.789), "123456.789");
    EXPECT_STR(double_text(0.0001), "0.0001");
    EXPECT_STR(double_text(0.00001), "1e-05");
    EXPECT_STR(double_text(DBL_MAX), "1.7976931348623157e+308");
    EXPECT_STR(double_text(-DBL_MAX), "-1.7976931348623157e+308");
    EXPECT_STR(double_text(5e-324), "5e-324");
    EXPECT_STR(double_text(-0.0), "-0");
    EXPECT_STR(double_text(0), "0");
    EXPECT_STR(double_text(NAN), "null");
    EXPECT_STR(double_text(INFINITY), "null");
    EXPECT_STR(double_text(-INFINITY), "null");
}

static void test_doubles_read_back(void)
{
    struct rng r;
    rng_init(&r, 3);
    for (int i = 0; i < 20000; i++) {
        uint64_t bits = rng_u64(&r);
        if (i % 4 == 0) bits &= 0x800fffffffffffffull; // subnormal
        double value;
        memcpy(&value, &bits, sizeof value);
        if (!isfinite(value)) continue;
        const char *text = double_text(value);
        struct json *back = json_parse(text, strlen(text), NULL);
        NEED(back != NULL);
        NEED(json_number(back) == value);
        json_destroy(back);
    }
}

static void test_deep_nesting(void)
{
    start();
    for (int i = 0; i < 63; i++)
        json_array_begin(&w);
    json_put_int(&w, 1);
    json_put_int(&w, 2);
    for (int i = 0; i < 63; i++)
        json_array_end(&w);
    struct json *root = json_parse(out.data, out.len, NULL);
    EXPECT(root != NULL);
    json_destroy(root);
}

static void test_full_buffer_is_sticky(void)
{
    struct buf small;
    buf_init(&small, 8);
    json_writer_init(&w, &small);
    json_array_begin(&w);
    json_put_text(&w, "0123456789");
    json_put_int(&w, 1);
    json_array_end(&w);
    EXPECT(small.overflow);
    EXPECT(small.len <= 8);
    buf_deinit(&small);
}

/* What the writer writes, the reader reads, whatever the bytes. */
static void test_random_strings_round_trip(void)
{
    struct rng r;
    rng_init(&r, 5);
    for (int i = 0; i < 5000; i++) {
        char bytes[40];
        size_t len = rng_below(&r, sizeof bytes);
        for (size_t j = 0; j < len; j++) {
            do
                bytes[j] = (char)rng_u64(&r);
            while (bytes[j] == 0);
        }
        start();
        json_put_str(&w, (struct str){bytes, len});
        struct error err;
        struct json *back = json_parse(out.data, out.len, &err);
        NEED(back != NULL);
        struct buf again;
        buf_init(&again, BUF_MAX_INTERNAL);
        json_print(back, &again, false);
        EXPECT_STR(again.data, out.data);
        buf_deinit(&again);
        json_destroy(back);
    }
}

int main(void)
{
    buf_init(&out, BUF_MAX_INTERNAL);
    RUN(test_nesting_and_commas);
    RUN(test_strings_are_escaped);
    RUN(test_bad_utf8_becomes_replacement);
    RUN(test_doubles_are_short);
    RUN(test_doubles_read_back);
    RUN(test_deep_nesting);
    RUN(test_full_buffer_is_sticky);
    RUN(test_random_strings_round_trip);
    buf_deinit(&out);
    return TEST_END();
}
