#include "shared/base/str.h"

#include "shared/base/check.h"
#include "tests/test.h"

static void test_compare(void)
{
    EXPECT(str_equal(STR("abc"), str_of("abc")));
    EXPECT(!str_equal(STR("abc"), STR("abd")));
    EXPECT(!str_equal(STR("abc"), STR("ab")));
    EXPECT(str_equal(STR(""), (struct str){NULL, 0}));
    EXPECT(str_equal((struct str){"a\0b", 3}, STR("a\0b")));
    EXPECT(str_equal_nocase(STR("Content-Type"), STR("cONTENT-tYPE")));
    EXPECT(!str_equal_nocase(STR("a"), STR("ab")));
    EXPECT(!str_equal_nocase(STR("["), STR("{"))); // 32 apart, no letters
    EXPECT(str_starts_with(STR("abc"), STR("ab")));
    EXPECT(str_starts_with(STR("abc"), STR("")));
    EXPECT(!str_starts_with(STR("a"), STR("ab")));
    EXPECT(str_ends_with(STR("abc"), STR("bc")));
    EXPECT(str_ends_with(STR("abc"), STR("")));
    EXPECT(!str_ends_with(STR("b"), STR("ab")));
    EXPECT(!str_ends_with(STR("abc"), STR("ab")));
    EXPECT_INT(str_of(NULL).len, 0);
}

static void test_trim(void)
{
    EXPECT(str_equal(str_trim(STR(" \t a b\r\n")), STR("a b")));
    EXPECT(str_equal(str_trim(STR(" \n ")), STR("")));
    EXPECT(str_equal(str_trim((struct str){NULL, 0}), STR("")));
    EXPECT(str_equal(str_trim(STR("\va")), STR("\va"))); // only the four blanks of HTTP and files
}

static void test_split(void)
{
    struct str s = STR("a,,b"), head;
    EXPECT(str_split(&s, ',', &head) && str_equal(head, STR("a")));
    EXPECT(str_split(&s, ',', &head) && str_equal(head, STR("")));
    EXPECT(str_split(&s, ',', &head) && str_equal(head, STR("b")));
    head = STR("kept");
    EXPECT(!str_split(&s, ',', &head));
    EXPECT(str_equal(head, STR("kept")));
    s = STR("a,"); // a last empty field is not reported: *s is exhausted
    EXPECT(str_split(&s, ',', &head) && str_equal(head, STR("a")));
    EXPECT(!str_split(&s, ',', &head));
}

static int to_int(const char *text, int64_t *value)
{
    return str_to_int(str_of(text), value);
}

static void test_to_int(void)
{
    int64_t value = 0;
    EXPECT_INT(to_int("0", &value), 0);
    EXPECT_INT(value, 0);
    EXPECT_INT(to_int("-17", &value), 0);
    EXPECT_INT(value, -17);
    EXPECT_INT(to_int("9223372036854775807", &value), 0);
    EXPECT(value == INT64_MAX);
    EXPECT_INT(to_int("-9223372036854775808", &value), 0);
    EXPECT(value == INT64_MIN);
    EXPECT_INT(to_int("9223372036854775808", &value), E_LIMIT);
    EXPECT_INT(to_int("-9223372036854775809", &value), E_LIMIT);
    EXPECT_INT(to_int("99999999999999999999999999", &value), E_LIMIT);
    const char *bad[] = {"",    "-",    "+1",  " 1",  "1 ",
                         "1.0", "0x10", "1e3", "--1", "99999999999999999999x"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        EXPECT_INT(to_int(bad[i], &value), E_INVALID);
    EXPECT_INT(str_to_int((struct str){"12x", 2}, &value), 0); // the slice counts, not what follows
    EXPECT_INT(value, 12);
}

static void test_to_double(void)
{
    double value = 0;
    static const struct {
        const char *text;
        double want;
    } good[] = {{"0", 0},      {"-1.5", -1.5}, {".5", 0.5},   {"5.", 5},
                {"1e3", 1000}, {"2E-2", 0.02}, {"1e+2", 100}, {"1e-400", 0}};
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        EXPECT_INT(str_to_double(str_of(good[i].text), &value), 0);
        EXPECT(value == good[i].want);
    }
    const char *bad[] = {"",   "-",  ".",     "+1",  "inf", "nan",  "1e", "1e+",
                         " 1", "1 ", "0x1p3", "1,5", "e5",  "1..2", "-.", "1_000"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        EXPECT_INT(str_to_double(str_of(bad[i]), &value), E_INVALID);
    }
    EXPECT_INT(str_to_double(STR("1e400"), &value), E_LIMIT);
    char zeros[500];
    memset(zeros, '0', sizeof zeros);
    EXPECT_INT(str_to_double((struct str){zeros, sizeof zeros}, &value), E_INVALID);
    EXPECT_INT(str_to_double((struct str){"1\0", 2}, &value), E_INVALID);
}

static void test_to_bytes(void)
{
    uint64_t value = 0;
    static const struct {
        const char *text;
        uint64_t want;
    } good[] = {{"0", 0},
                {"4096", 4096},
                {"64k", 64 << 10},
                {"8M", 8 << 20},
                {"2G", 2ull << 30},
                {"2GiB", 2ull << 30},
                {"2gb", 2ull << 30},
                {"1T", 1ull << 40},
                {"10B", 10},
                {"18446744073709551615", UINT64_MAX}};
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        EXPECT_INT(str_to_bytes(str_of(good[i].text), &value), 0);
        EXPECT(value == good[i].want);
    }
    const char *bad[] = {"", "k", "-1", "1.5G", "1kk", "1iB", "1Gi", "1Gx", "1 G", "5Bi"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        EXPECT_INT(str_to_bytes(str_of(bad[i]), &value), E_INVALID);
    }
    EXPECT_INT(str_to_bytes(STR("17179869184G"), &value), E_LIMIT);
    EXPECT_INT(str_to_bytes(STR("18446744073709551616"), &value), E_LIMIT);
}

static void test_to_hex64(void)
{
    uint64_t value = 7;
    EXPECT_INT(str_to_hex64(STR("0123456789abcDEF"), &value), 0);
    EXPECT(value == UINT64_C(0x0123456789abcdef));
    EXPECT_INT(str_to_hex64(STR("ffffffffffffffff"), &value), 0);
    EXPECT(value == UINT64_MAX);
    EXPECT_INT(str_to_hex64(STR("0123456789abcde"), &value), E_INVALID);
    EXPECT_INT(str_to_hex64(STR("0123456789abcdef0"), &value), E_INVALID);
    EXPECT_INT(str_to_hex64(STR("0123456789abcdeg"), &value), E_INVALID);
    EXPECT_INT(str_to_hex64(STR("0x23456789abcdef"), &value), E_INVALID);
}

static void test_put(void)
{
    static const struct {
        uint64_t value;
        const char *decimal, *hex;
    } rows[] = {{0, "0", "0000000000000000"},
                {7, "7", "0000000000000007"},
                {4294967296u, "4294967296", "0000000100000000"},
                {UINT64_MAX, "18446744073709551615", "ffffffffffffffff"}};
    char text[64];
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        *str_put_uint(text, rows[i].value) = 0;
        EXPECT_STR(text, rows[i].decimal);
        *str_put_hex64(text, rows[i].value) = 0;
        EXPECT_STR(text, rows[i].hex);
    }
    *str_put(str_put(text, STR("ab")), (struct str){NULL, 0}) = 0;
    EXPECT_STR(text, "ab");
    str_copy(text, 4, "abcdef");
    EXPECT_STR(text, "abc");
    str_copy(text, 4, "");
    EXPECT_STR(text, "");
}

int main(void)
{
    RUN(test_compare);
    RUN(test_trim);
    RUN(test_split);
    RUN(test_to_int);
    RUN(test_to_hex64);
    RUN(test_to_double);
    RUN(test_to_bytes);
    RUN(test_put);
    return TEST_END();
}
