#include "shared/base/json_cursor.h"
#include "tests/test.h"

static struct buf words;

static struct json_cursor cursor(const char *text, struct error *err)
{
    struct json_cursor c;
    buf_init(&words, 1 << 20);
    NEED(json_cursor_init(&c, str_of(text), &words, err) == 0);
    return c;
}

static void test_walk(void)
{
    struct error err = {0};
    struct json_cursor c = cursor(" { \"a\" : -7 , \"b\":[\"x\\u0000\\ud83d\\ude00\\n\", {}, []] "
                                  ",\"c\":{\"d\":[1,{\"e\":\"]\"}]}}  ",
                                  &err);
    struct str name, raw;
    struct buf text;
    int64_t value;
    buf_init(&text, 100);
    EXPECT_INT(json_cursor_open_object(&c), 0);
    EXPECT_INT(json_cursor_next_name(&c, &name), 1);
    EXPECT(str_equal(name, STR("a")));
    EXPECT_INT(json_cursor_int(&c, &value), 0);
    EXPECT_INT(value, -7);
    EXPECT_INT(json_cursor_next_name(&c, &name), 1);
    EXPECT_INT(json_cursor_open_array(&c), 0);
    EXPECT_INT(json_cursor_next_item(&c), 1);
    EXPECT_INT(json_cursor_peek(&c), '"');
    EXPECT_INT(json_cursor_string(&c, &text), 0);
    EXPECT(str_equal(buf_str(&text), STR("x\0\xf0\x9f\x98\x80\n")));
    EXPECT_INT(json_cursor_next_item(&c), 1);
    EXPECT_INT(json_cursor_open_object(&c), 0);
    EXPECT_INT(json_cursor_next_name(&c, &name), 0);
    EXPECT_INT(json_cursor_next_item(&c), 1);
    EXPECT_INT(json_cursor_skip(&c, NULL), 0);
    EXPECT_INT(json_cursor_next_item(&c), 0);
    EXPECT_INT(json_cursor_next_name(&c, &name), 1);
    EXPECT_INT(json_cursor_skip(&c, &raw), 0);
    EXPECT(str_equal(raw, STR("{\"d\":[1,{\"e\":\"]\"}]}")));
    EXPECT_INT(json_cursor_next_name(&c, &name), 0);
    EXPECT_INT(json_cursor_end(&c), 0);
    buf_deinit(&text);
    buf_deinit(&words);
}

/* Read an array of strings; the code of what stopped it. */
static int read_strings(const char *text)
{
    struct error err = {0};
    struct json_cursor c = cursor(text, &err);
    struct buf out;
    buf_init(&out, 1000);
    int rc = json_cursor_open_array(&c);
    while (!rc && (rc = json_cursor_next_item(&c)) > 0)
        rc = json_cursor_string(&c, &out);
    if (!rc) rc = json_cursor_end(&c);
    EXPECT(rc == 0 || strstr(err.text, "at byte") != NULL);
    buf_deinit(&out);
    buf_deinit(&words);
    return rc;
}

static void test_refused(void)
{
    static const char *const texts[] = {
        "",           "[",           "[\"a\"",        "[\"a\" \"b\"]", "[\"a]",
        "[\"\\q\"]",  "[\"\\u12\"]", "[\"\\ud800\"]", "[\"\\udc00\"]", "[\"\\ud800\\u0041\"]",
        "[\"\x01\"]", "[1]",         "[\"a\"]]",      "{\"a\"]"};
    EXPECT_INT(read_strings("[]"), 0);
    EXPECT_INT(read_strings("[\"a\",\"b\"]"), 0);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        EXPECT_INT(read_strings(texts[i]), E_FORMAT);
    struct json_cursor c;
    buf_init(&words, 10);
    EXPECT_INT(json_cursor_init(&c, STR("\"\xff\""), &words, NULL), E_FORMAT);
}

static void test_skip_is_bounded(void)
{
    char deep[300];
    struct error err = {0};
    memset(deep, '[', sizeof deep - 1);
    deep[sizeof deep - 1] = 0;
    struct json_cursor c = cursor(deep, &err);
    EXPECT_INT(json_cursor_skip(&c, NULL), E_FORMAT);
    static const char *const texts[] = {"[}", "{]", "\"a", "[1", "]", ",", "\"\\"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        c = cursor(texts[i], &err);
        EXPECT_INT(json_cursor_skip(&c, NULL), E_FORMAT);
    }
}

int main(void)
{
    RUN(test_walk);
    RUN(test_refused);
    RUN(test_skip_is_bounded);
    return TEST_END();
}
