/* Against a second, slower definition: a byte sequence is valid if it is what encoding some Unicode
 * scalar value from the formula in RFC 3629 gives. */
#include "shared/base/utf8.h"

#include "shared/base/check.h"
#include "tests/test.h"

static bool is_scalar(uint32_t c)
{
    return c <= 0x10ffff && !(c >= 0xd800 && c <= 0xdfff);
}

static size_t plain_encode(uint32_t c, unsigned char out[4])
{
    size_t len = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const unsigned char mark[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = len; i-- > 1; c >>= 6)
        out[i] = (unsigned char)(0x80 | (c & 0x3f));
    out[0] = (unsigned char)(mark[len] | c);
    return len;
}

static void test_every_code_point(void)
{
    size_t bad = 0;
    for (uint32_t c = 0; c <= 0x110010; c++) {
        char got[4];
        unsigned char want[4];
        size_t len = utf8_encode(c, got);
        if (!is_scalar(c)) {
            bad += len != 0;
            continue;
        }
        uint32_t decoded = 0xffffffff;
        size_t want_len = plain_encode(c, want);
        bad += len != want_len || memcmp(got, want, len) != 0;
        bad += utf8_decode(got, len, &decoded) != len || decoded != c;
        bad += !utf8_is_valid(got, len) || utf8_incomplete_tail(got, len) != 0;
        for (size_t cut = 1; cut < len; cut++) { // each cut is an incomplete tail, and not valid
            bad += utf8_decode(got, cut, &decoded) != 0 || utf8_is_valid(got, cut);
            bad += utf8_incomplete_tail(got, cut) != cut || utf8_invalid_len(got, cut) != cut;
        }
    }
    EXPECT_INT(bad, 0);
    char out[4];
    EXPECT_INT(utf8_encode(0xffffffff, out), 0);
}

/* Marks of all sequences that encode a scalar value, by length. */
static unsigned char one[0x100], two[0x10000 / 8], three[0x1000000 / 8];

static bool bit_of(const unsigned char *set, uint32_t i)
{
    return set[i / 8] >> (i % 8) & 1;
}

static void mark_valid_sequences(void)
{
    for (uint32_t c = 0; c < 0x10000; c++) {
        unsigned char b[4];
        if (!is_scalar(c)) continue;
        size_t len = plain_encode(c, b);
        uint32_t pair = (uint32_t)b[0] << 8 | b[1];
        if (len == 1) one[b[0]] = 1;
        if (len == 2) two[pair / 8] |= (unsigned char)(1 << pair % 8);
        uint32_t triple = pair << 8 | b[2];
        if (len == 3) three[triple / 8] |= (unsigned char)(1 << triple % 8);
    }
}

/* The length of the valid character at b, of at most 3 bytes; 0: none. */
static size_t plain_length(const unsigned char *b, size_t len)
{
    if (len >= 1 && one[b[0]]) return 1;
    if (len >= 2 && bit_of(two, (uint32_t)b[0] << 8 | b[1])) return 2;
    if (len >= 3 && bit_of(three, (uint32_t)b[0] << 16 | (uint32_t)b[1] << 8 | b[2])) return 3;
    return 0;
}

static void test_every_sequence_up_to_three_bytes(void)
{
    size_t bad = 0;
    uint32_t c;
    for (uint32_t i = 0; i < 0x1000000; i++) {
        unsigned char b[3] = {(unsigned char)(i >> 16), (unsigned char)(i >> 8), (unsigned char)i};
        if (b[0] < 0x80 && i % 251) continue; // ASCII first: a sample will do
        size_t want = plain_length(b, 3);
        bad += utf8_decode(b, 3, &c) != want;
        size_t prefix = 0, step;
        while ((step = plain_length(b + prefix, 3 - prefix)) > 0)
            prefix += step;
        bad += utf8_valid_prefix(b, 3) != prefix;
        bad += utf8_is_valid(b, 3) != (prefix == 3);
    }
    EXPECT_INT(bad, 0);
}

static void test_four_byte_boundaries(void)
{
    static const struct {
        const char *bytes;
        bool valid;
    } cases[] = {
        {"\xf0\x90\x80\x80", true},  {"\xf0\x8f\xbf\xbf", false}, {"\xf4\x8f\xbf\xbf", true},
        {"\xf4\x90\x80\x80", false}, {"\xf5\x80\x80\x80", false}, {"\xf8\x88\x80\x80", false},
        {"\xf1\x80\x80\x7f", false}, {"\xf1\x80\xc0\x80", false}, {"\xff\xff\xff\xff", false},
        {"\xf3\xbf\xbf\xbf", true},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        EXPECT(utf8_is_valid(cases[i].bytes, 4) == cases[i].valid);
    }
}

static void test_valid_prefix_at_every_offset(void)
{
    char text[64];
    for (size_t at = 0; at < 40; at++) { // past the eight-byte steps and inside them
        memset(text, 'a', sizeof text);
        text[at] = '\xff';
        EXPECT_INT(utf8_valid_prefix(text, 40), at);
        memcpy(text + at, "\xe2\x82\xac", 3);
        EXPECT_INT(utf8_valid_prefix(text, 48), 48);
        EXPECT_INT(utf8_valid_prefix(text, at + 2), at);
    }
    EXPECT(utf8_is_valid(NULL, 0));
    EXPECT(utf8_is_valid("a\0b", 3));
}

static void test_incomplete_tail_can_still_become_a_character(void)
{
    static const struct {
        const char *bytes;
        size_t tail;
    } cases[] = {
        {"", 0},
        {"abc", 0},
        {"abc\xe2\x82", 2},
        {"abc\xf0\x9f\x98", 3},
        {"\xe0\x80", 0},     // overlong: no third byte helps
        {"\xed\xa0", 0},     // surrogate
        {"\xf4\x90", 0},     // beyond U+10FFFF
        {"\xc0", 0},         // never a lead byte
        {"\x80\x80\x80", 0}, // continuation bytes with no lead
        {"\xff\xe2", 1},     // the rest may be invalid
        {"\xe2\x82\xac", 0},
        {"\xe2\x82\xac\x80", 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        EXPECT_INT(utf8_incomplete_tail(cases[i].bytes, strlen(cases[i].bytes)), cases[i].tail);
    }
}

/* The table of Unicode 15, section 3.9 ("U+FFFD for maximal subparts"). */
static void test_invalid_runs_like_python_and_rust(void)
{
    const unsigned char text[] = {0x61, 0xf1, 0x80, 0x80, 0xe1, 0x80, 0xc2,
                                  0x62, 0x80, 0x63, 0x80, 0xbf, 0x64};
    const size_t want[] = {0, 3, 2, 1, 0, 1, 0, 1, 1, 0}; // 0: a valid ASCII character
    size_t at = 0;
    for (size_t i = 0; i < ARRAY_LEN(want); i++) {
        uint32_t c;
        size_t len = utf8_decode(text + at, sizeof text - at, &c);
        EXPECT_INT(len, want[i] == 0 ? 1 : 0);
        if (len == 0) EXPECT_INT(utf8_invalid_len(text + at, sizeof text - at), want[i]);
        at += len ? len : utf8_invalid_len(text + at, sizeof text - at);
    }
    EXPECT_INT(at, sizeof text);
    EXPECT_INT(utf8_invalid_len(text, 0), 0);
}

int main(void)
{
    mark_valid_sequences();
    RUN(test_every_code_point);
    RUN(test_every_sequence_up_to_three_bytes);
    RUN(test_four_byte_boundaries);
    RUN(test_valid_prefix_at_every_offset);
    RUN(test_incomplete_tail_can_still_become_a_character);
    RUN(test_invalid_runs_like_python_and_rust);
    return TEST_END();
}
