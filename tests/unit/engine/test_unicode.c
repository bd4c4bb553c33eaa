#include "engine/unicode.h"
#include "shared/base/clock.h"
#include "tests/test.h"

static void expect_nfc(const char *text, const char *want)
{
    struct buf out;
    buf_init(&out, 1 << 20);
    buf_append_str(&out, "");
    unicode_nfc(str_of(text), &out);
    EXPECT_STR(out.data, want);
    buf_deinit(&out);
}

/* Cases of UAX #15, and the reference's own limits. */
static void test_nfc(void)
{
    expect_nfc("", "");
    expect_nfc("plain", "plain");
    expect_nfc("e\xcc\x81", "\xc3\xa9");
    expect_nfc("xe\xcc\x81y", "x\xc3\xa9y");
    expect_nfc("\xc3\xa9", "\xc3\xa9");
    expect_nfc("\xe2\x84\xab", "\xc3\x85");                 // Angstrom sign: a singleton
    expect_nfc("a\xcc\xa3\xcc\x82", "\xe1\xba\xad");        // two steps
    expect_nfc("a\xcc\x82\xcc\xa3", "\xe1\xba\xad");        // reordered first
    expect_nfc("\xe0\xa5\x98", "\xe0\xa4\x95\xe0\xa4\xbc"); // excluded from composition
    expect_nfc("\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8", "\xea\xb0\x81"); // Hangul
    expect_nfc("\xea\xb0\x80\xe1\x86\xa8", "\xea\xb0\x81");
    expect_nfc("\xcc\x81", "\xcc\x81"); // a mark with nothing before it
    expect_nfc("e\xcc\x81\xcc\x81", "\xc3\xa9\xcc\x81");
    /* U+11935 U+11930 compose since Unicode 13, which the reference's normaliser doesn't know. */
    expect_nfc("\xf0\x91\xa4\xb5\xf0\x91\xa4\xb0", "\xf0\x91\xa4\xb5\xf0\x91\xa4\xb0");
}

static void test_categories(void)
{
    const uint8_t *categories = unicode_categories();
    EXPECT_INT(categories['a'], UNICODE_LL);
    EXPECT_INT(categories[0x378], UNICODE_CN);
    EXPECT_INT(categories[0x1c89], UNICODE_LU); // new in Unicode 16
    EXPECT_INT(categories[0x10ffff], UNICODE_CN);
    EXPECT_INT(unicode_category_mask(STR("Lu")), 1 << UNICODE_LU);
    EXPECT_INT(unicode_category_mask(STR("Z")),
               1 << UNICODE_ZS | 1 << UNICODE_ZL | 1 << UNICODE_ZP);
    EXPECT_INT(unicode_category_mask(STR("Han")), 0);
    EXPECT_INT(unicode_category_mask(STR("")), 0);
    EXPECT(unicode_is_word('_') && unicode_is_word(0x301) && !unicode_is_word('-'));
    EXPECT(unicode_is_space(0x3000) && !unicode_is_space(0x200b));
}

static void test_long_runs_are_fast(void)
{
    static const char *const parts[] = {"\xcc\x81", "\xcc\xa3\xcc\x81", "e\xcc\x81",
                                        "\xe4\xbd\xa0"};
    uint64_t start = clock_ms();
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        struct buf in, out;
        buf_init(&in, 1 << 22);
        buf_init(&out, 1 << 22);
        while (in.len < 1 << 19)
            buf_append_str(&in, parts[i]);
        unicode_nfc(buf_str(&in), &out);
        EXPECT(out.len > 0 && out.len <= in.len);
        buf_deinit(&in);
        buf_deinit(&out);
    }
    EXPECT(clock_ms() - start < 20000);
}

int main(void)
{
    RUN(test_nfc);
    RUN(test_categories);
    RUN(test_long_runs_are_fast);
    return TEST_END();
}
