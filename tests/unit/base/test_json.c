#include "shared/base/json.h"

#include "shared/base/check.h"
#include "tests/test.h"

static struct json *parse(const char *text)
{
    struct error err = {0};
    struct json *root = json_parse(text, strlen(text), &err);
    if (!root) printf("unexpected error: %s\n", err.text);
    NEED(root != NULL);
    return root;
}

/* The error text that `text` gives, or "accepted". */
static const char *refusal(const char *text, size_t len)
{
    static struct error err;
    err = (struct error){0};
    // an exact copy on the heap: the sanitizer sees any read behind it
    char *copy = xmemdup(text, len);
    struct json *root = json_parse(copy, len, &err);
    free(copy);
    if (root) {
        json_destroy(root);
        return "accepted";
    }
    if (err.code != E_FORMAT) EXPECT_INT(err.code, E_FORMAT);
    return err.text;
}

static void test_tree(void)
{
    struct json *root =
        parse(" {\"a\": [1, -2.5, \"x\", true, false, null, {}], \"b\": {\"c\": 7}, "
              "\"n\": null}\r\n");
    EXPECT_INT(json_type(root), JSON_OBJECT);
    EXPECT_INT(json_len(root), 3);
    const struct json *a = json_get(root, "a");
    EXPECT_INT(json_type(a), JSON_ARRAY);
    EXPECT_INT(json_len(a), 7);
    const struct json *item = json_first(a);
    EXPECT(json_number(item) == 1 && json_is_integer(item) && json_name(item) == NULL);
    item = json_next(item);
    EXPECT(json_number(item) == -2.5 && !json_is_integer(item));
    item = json_next(item);
    size_t len = 0;
    EXPECT_STR(json_string(item, &len), "x");
    EXPECT_INT(len, 1);
    item = json_next(item);
    EXPECT(json_is_true(item) && json_type(item) == JSON_BOOL);
    item = json_next(item);
    EXPECT(!json_is_true(item) && json_type(item) == JSON_BOOL);
    item = json_next(item);
    EXPECT_INT(json_type(item), JSON_NULL);
    item = json_next(item);
    EXPECT(json_type(item) == JSON_OBJECT && json_len(item) == 0 && json_first(item) == NULL);
    EXPECT(json_next(item) == NULL);
    EXPECT_STR(json_name(json_first(json_get(root, "b"))), "c");
    EXPECT(json_get(root, "n") != NULL && json_get_set(root, "n") == NULL);
    EXPECT(json_get_set(root, "b") != NULL);
    EXPECT(json_get(root, "missing") == NULL && json_get(NULL, "a") == NULL);
    EXPECT(json_get(a, "a") == NULL);
    EXPECT(json_get(root, "A") == NULL); // names are compared exactly
    EXPECT(json_len(NULL) == 0 && json_first(NULL) == NULL && !json_is_true(NULL));
    json_destroy(root);
    json_destroy(NULL);
}

static void test_strings_are_decoded(void)
{
    struct json *root = parse("[\"\\\"\\\\\\/\\b\\f\\n\\r\\t\", \"\\u00e9\\u20AC\\ud83d\\ude00\", "
                              "\"\xc3\xa9\", \"\x7f\", \"\"]");
    const struct json *item = json_first(root);
    EXPECT_STR(json_string(item, NULL), "\"\\/\b\f\n\r\t");
    item = json_next(item);
    EXPECT_STR(json_string(item, NULL), "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
    item = json_next(item);
    EXPECT_STR(json_string(item, NULL), "\xc3\xa9");
    item = json_next(item);
    EXPECT_STR(json_string(item, NULL), "\x7f");
    item = json_next(item);
    EXPECT_STR(json_string(item, NULL), "");
    json_destroy(root);
}

static void test_accepts_what_the_grammar_allows(void)
{
    static const char *const good[] = {
        "0",
        "-0",
        "1.5e+10",
        "1E5",
        "-0.0e-0",
        "10",
        "\"\"",
        "null",
        "true",
        "[]",
        "{}",
        "[[]]",
        " [ ] ",
        "\t1\n",
        "{\"\":1}",
        "[1 , 2]",
        "{\"a\" : 1 }",
        "\"\\u0020\"",
        "1e-400",
        "[0e1]",
        "\"\\\\u0000\"", // the last: a backslash and "u0000"
        "123456789012345678901234567890123456789012345678901234567890123", // 63 digits
    };
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        EXPECT_STR(refusal(good[i], strlen(good[i])), "accepted");
    }
}

/* tidy: long because it is one table of inputs */
static void test_refuses_what_it_does_not(void)
{
    static const char *const bad[] = {
        "",
        " ",
        "nul",
        "nulL",
        "NaN",
        "Infinity",
        "-Infinity",
        "-",
        "+1",
        "01",
        "-01",
        "1.",
        ".5",
        "1e",
        "1e+",
        "0x10",
        "1.e5",
        "1_0",
        "--1",
        "- 1",
        "1 2",
        "1,",
        "[",
        "]",
        "[1",
        "[1,",
        "[1,]",
        "[,1]",
        "[1 2]",
        "[1}",
        "{",
        "}",
        "{]",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":}",
        "{\"a\":1",
        "{\"a\":1,",
        "{\"a\":1,}",
        "{a:1}",
        "{'a':1}",
        "{1:1}",
        "{\"a\" 1}",
        "{\"a\":1 \"b\":2}",
        "{,}",
        "'a'",
        "\"",
        "\"a",
        "\"\\\"",
        "\"\\x\"",
        "\"\\",
        "\"\\u\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\\U1234\"",
        "truefalse",
        "true false",
        "[true]x",
        "{}{}",
        "// c\n1",
        "/* c */ 1",
        "1//",
        "\f1",
        "\v1",
        "\xc2\xa0"
        "1",
        "[1,\n,2]",
        "\"a\nb\"",
        "\"a\tb\"",
        "\"\x01\"",
        "tru",
        "fals",
        "n",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        const char *text = refusal(bad[i], strlen(bad[i]));
        if (strcmp(text, "accepted") == 0) printf("accepted: %s\n", bad[i]);
        EXPECT(strstr(text, "invalid JSON: ") == text);
        EXPECT(strstr(text, "at byte ") != NULL);
    }
}

static void test_refuses_zero_bytes_everywhere(void)
{
    EXPECT_STR(refusal("\"a\\u0000b\"", 10), "invalid JSON: \\u0000 is not accepted at byte 2");
    EXPECT_STR(refusal("{\"\\u0000\":1}", 12), "invalid JSON: \\u0000 is not accepted at byte 2");
    EXPECT(strstr(refusal("\"a\0b\"", 5), "control character in a string at byte 2"));
    EXPECT(strstr(refusal("1\0", 2), "text after the value at byte 1"));
    EXPECT(strstr(refusal("\0", 1), "expected a value at byte 0"));
    EXPECT(strstr(refusal("[1]\0\0", 5), "at byte 3"));
}

static void test_refuses_bad_utf8_and_surrogates(void)
{
    EXPECT_STR(refusal("\"ab\xff\"", 5), "invalid JSON: malformed UTF-8 at byte 3");
    EXPECT(strstr(refusal("\"\xc0\xaf\"", 4), "malformed UTF-8"));     // overlong
    EXPECT(strstr(refusal("\"\xed\xa0\x80\"", 5), "malformed UTF-8")); // surrogate
    EXPECT(strstr(refusal("\xef\xbb\xbf{}", 5), "expected a value at byte 0"));
    static const char *const lone[] = {"\"\\ud800\"",        "\"\\udc00\"",        "\"\\ud800x\"",
                                       "\"\\ud800\\ud800\"", "\"\\udc00\\ud800\"", "\"\\ud800\\n\"",
                                       "\"\\ud800\\u0041\""};
    for (size_t i = 0; i < ARRAY_LEN(lone); i++) {
        EXPECT(strstr(refusal(lone[i], strlen(lone[i])), "unpaired surrogate"));
    }
}

static void test_refuses_infinite_and_endless_numbers(void)
{
    EXPECT_STR(refusal("[1, 1e400]", 10), "invalid JSON: number out of range at byte 4");
    EXPECT(strstr(refusal("-1e999", 6), "out of range"));
    char digits[64];
    memset(digits, '1', sizeof digits);
    EXPECT(strstr(refusal(digits, 64), "number of more than 63 characters"));
}

static void test_depth_limit(void)
{
    char text[200001];
    for (size_t depth = 63; depth <= 66; depth++) {
        memset(text, '[', depth);
        memset(text + depth, ']', depth);
        const char *result = refusal(text, 2 * depth);
        if (depth <= 64) {
            EXPECT_STR(result, "accepted");
        } else {
            EXPECT_STR(result, "invalid JSON: nesting of more than 64 levels at byte 64");
        }
    }
    memset(text, '[', sizeof text);
    EXPECT(strstr(refusal(text, sizeof text), "more than 64 levels"));
    for (size_t i = 0; i + 5 <= 200000; i += 5)
        memcpy(text + i, "{\"a\":", 5);
    EXPECT(strstr(refusal(text, 200000), "more than 64 levels"));
}

static void test_value_limit(void)
{
    struct error err;
    const char *text = "[1,2,[3],{\"a\":4}]"; // 7 values
    struct json *root = json_parse_limited(text, strlen(text), 7, &err);
    EXPECT(root != NULL);
    json_destroy(root);
    EXPECT(json_parse_limited(text, strlen(text), 6, &err) == NULL);
    EXPECT_INT(err.code, E_LIMIT);
    EXPECT_STR(err.text, "JSON with more than 6 values");

    size_t len = 2 * JSON_VALUES_MAX + 1;
    char *many = xmalloc(len);
    for (size_t i = 0; i < len; i++)
        many[i] = i % 2 ? '0' : ',';
    many[0] = '[';
    many[len - 1] = ']';
    EXPECT(json_parse(many, len, &err) == NULL); // the array is a value too
    EXPECT_INT(err.code, E_LIMIT);
    free(many);
}

static void test_duplicate_names(void)
{
    EXPECT_STR(refusal("{\"a\":1,\"b\":2,\"a\":3}", 19), "invalid JSON: duplicate member name 'a'");
    EXPECT(strstr(refusal("{\"a\":1,\"\\u0061\":2}", 18), "duplicate")); // the same after decoding
    EXPECT(strstr(refusal("[{\"x\":{\"\":1,\"\":2}}]", 19), "duplicate"));
    EXPECT_STR(refusal("{\"a\":1,\"A\":2}", 13), "accepted");
    EXPECT_STR(refusal("[{\"a\":1},{\"a\":1}]", 17), "accepted");

    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    buf_append_char(&text, '{');
    for (int i = 0; i < 20000; i++)
        buf_printf(&text, "\"key%d\":%d,", i, i);
    size_t unique = text.len - 1;
    buf_append_str(&text, "\"key777\":0}");
    EXPECT(strstr(refusal(text.data, text.len), "duplicate member name 'key777'"));
    text.data[unique] = '}';
    EXPECT_STR(refusal(text.data, unique + 1), "accepted");
    buf_deinit(&text);
}

static void test_integers(void)
{
    struct json *root =
        parse("[9007199254740992, 9007199254740994, -9007199254740992, 1.0, 1e3, 0.5, "
              "\"1\", 1e300]");
    const bool want[] = {true, false, true, true, true, false, false, false};
    size_t i = 0;
    for (const struct json *item = json_first(root); item; item = json_next(item)) {
        EXPECT(json_is_integer(item) == want[i++]);
    }
    EXPECT_INT(i, 8);
    EXPECT(!json_is_integer(NULL));
    json_destroy(root);
}

static void expect_print(const char *text, bool python_style, const char *want)
{
    struct buf out;
    buf_init(&out, BUF_MAX_INTERNAL);
    struct json *root = parse(text);
    json_print(root, &out, python_style);
    EXPECT_STR(out.data, want);
    json_destroy(root);
    buf_deinit(&out);
}

/* The expected texts are what json.dumps(json.loads(text), ensure_ascii=False) gives. */
static void test_print_like_python(void)
{
    expect_print("{\"a\":[1,2,{\"b\":null}],\"c\":true,\"d\":{},\"e\":[]}", true,
                 "{\"a\": [1, 2, {\"b\": null}], \"c\": true, \"d\": {}, \"e\": []}");
    expect_print(
        "[1.0,1e3,-0,-0.0,0,1e16,1e15,123456789012345678901234567890,-9007199254740993,"
        "0.0001,0.00001,1.5E-7,100000000000000000000.0,5e-324,1.7976931348623157e308]",
        true,
        "[1.0, 1000.0, 0, -0.0, 0, 1e+16, 1000000000000000.0, "
        "123456789012345678901234567890, -9007199254740993, 0.0001, 1e-05, 1.5e-07, 1e+20, "
        "5e-324, 1.7976931348623157e+308]");
    expect_print("[0.1,0.30000000000000004,3.141592653589793,2.5,1e22,1e23]", true,
                 "[0.1, 0.30000000000000004, 3.141592653589793, 2.5, 1e+22, 1e+23]");
    expect_print("\"\\u00e9\\n\\u001f\\u007f<>&'\\/\\\"\\\\\"", true,
                 "\"\xc3\xa9\\n\\u001f\x7f<>&'/\\\"\\\\\"");
}

static void test_print_compact(void)
{
    expect_print("{ \"a\" : [ 1 , 2.50 , \"x y\" ] }", false, "{\"a\":[1,2.5,\"x y\"]}");
    expect_print("\"\\b\\f\\r\\t\"", false, "\"\\b\\f\\r\\t\"");
}

static void test_type_names(void)
{
    EXPECT_STR(json_type_name(JSON_OBJECT), "an object");
    EXPECT_STR(json_type_name(JSON_NULL), "null");
}

int main(void)
{
    RUN(test_tree);
    RUN(test_strings_are_decoded);
    RUN(test_accepts_what_the_grammar_allows);
    RUN(test_refuses_what_it_does_not);
    RUN(test_refuses_zero_bytes_everywhere);
    RUN(test_refuses_bad_utf8_and_surrogates);
    RUN(test_refuses_infinite_and_endless_numbers);
    RUN(test_depth_limit);
    RUN(test_value_limit);
    RUN(test_duplicate_names);
    RUN(test_integers);
    RUN(test_print_like_python);
    RUN(test_print_compact);
    RUN(test_type_names);
    return TEST_END();
}
