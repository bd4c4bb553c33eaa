/* Our matcher against PCRE2 on random text of characters that both know alike. */
#include "engine/pattern.h"
#include "engine/pretokenizer.h"
#include "shared/base/buf.h"
#include "shared/base/utf8.h"
#include "tests/test.h"

static struct pattern *parse(const char *source)
{
    struct pattern *p;
    struct error err = {0};
    if (pattern_create(str_of(source), &p, &err) != 0) {
        printf("%s\n", err.text);
        NEED(false);
    }
    return p;
}

static void expect_found(const char *source, const char *text, int begin, int end)
{
    struct pattern *p = parse(source);
    size_t from = 99, to = 99;
    bool found = pattern_find(p, str_of(text), 0, &from, &to);
    EXPECT_INT(found, begin >= 0);
    if (found && begin >= 0) {
        EXPECT_INT(from, begin);
        EXPECT_INT(to, end);
    }
    pattern_destroy(p);
}

static void test_syntax(void)
{
    expect_found("b+", "aabbb", 2, 5);
    expect_found("a|ab", "ab", 0, 1); // branches in order, not the longest
    expect_found("(?:a|b)?c", "xbc", 1, 3);
    expect_found("(?:ab)?abc", "ababc", 0, 5);
    expect_found("a{2,3}", "aaaa", 0, 3);
    expect_found("a{2}", "a", -1, 0);
    expect_found("a++a", "aaa", -1, 0); // possessive: gives nothing back
    expect_found("a+a", "aaa", 0, 3);
    expect_found("[^a-c\\n]", "abc\nd", 4, 5);
    expect_found("[\\]\\-x]", "-", 0, 1);
    expect_found("(?i:'S|k)", "'\xc5\xbf", 0, 3); // long s
    expect_found("\\s+(?!\\S)", "  a", 0, 1);
    expect_found("\\s+(?=a)", "   a", 0, 3);
    expect_found("\\P{L}", "a\xc3\xa9!", 3, 4);
    expect_found("[^\\S\\n]+", "\n \xc2\xa0", 1, 4);
    expect_found("\\x{e9}|\\u00e8", "\xc3\xa9", 0, 2);
    expect_found(".", "\n\xf0\x9f\x98\x80", 1, 5);
    expect_found("[\\p{Lu}\\p{Nd}]+", "aB2\xd9\xa3z", 1, 5);
    expect_found("\\p{L}", "\xf0\x90\x97\x80", 0, 4); // U+105C0, a letter since Unicode 16
}

static void test_refused(void)
{
    static const char *const sources[] = {
        "(",        ")",   "[a",     "a**",  "^a",      "a$",     "a+?", "(a)+",   "\\1",
        "\\p{Han}", "\\q", "[a[b]]", "{3}a", "(?<n>a)", "a{3,2}", "\\",  "a{2000}"};
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        struct pattern *p;
        struct error err = {0};
        int rc = pattern_create(str_of(sources[i]), &p, &err);
        if (rc != E_UNSUPPORTED) printf("'%s' gives %d\n", sources[i], rc);
        EXPECT_INT(rc, E_UNSUPPORTED);
        EXPECT(strstr(err.text, sources[i]) != NULL);
    }
}

/* ---- against PCRE2 ---- */

static uint64_t state = 7;

static uint32_t pick(uint32_t below)
{
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(state >> 33) % below;
}

/* Letters of both cases, digits, marks, spaces, signs; runs of them, as texts have. */
static size_t random_text(char *out, size_t max)
{
    static const uint32_t letters[] = {
        'a',   'b',   'S',  't',    'l',    '\'',   '1',    '9',     ' ',    ' ',    '\n',  '\r',
        '\t',  '.',   '!',  '/',    '-',    0xa0,   0x85,   0xe9,    0xc9,   0x17f,  0x1c5, 0x2b0,
        0x301, 0x663, 0xbd, 0x4f60, 0x3000, 0x2028, 0x20ac, 0x1f600, 0x200d, 0xfe0f, 0x2167};
    size_t len = 0;
    while (len + 40 < max) {
        uint32_t c = letters[pick(sizeof letters / sizeof *letters)];
        for (uint32_t n = pick(8) ? 1 : 1 + pick(8); n > 0; n--)
            len += utf8_encode(c, out + len);
    }
    return len;
}

static int on_piece(void *arg, struct str piece)
{
    buf_append(arg, piece.data, piece.len);
    buf_append_char(arg, '|');
    return 0;
}

static struct pretokenizer *splitter(const char *before, const char *source)
{
    struct pretokenizer *p = pretokenizer_create();
    char whole[1000];
    snprintf(whole, sizeof whole, "%s%s", before, source);
    NEED(pretokenizer_add_pattern(p, str_of(whole), SPLIT_ISOLATED, false, NULL) == 0);
    return p;
}

/* A comment is beyond our matcher, so that PCRE2 gets the same pattern. */
static void compare(const char *source, int rounds)
{
    struct pretokenizer *ours = splitter("", source), *theirs = splitter("(?#)", source);
    struct buf got, want;
    char text[300];
    pattern_destroy(parse(source)); // it is ours
    buf_init(&got, 1 << 16);
    buf_init(&want, 1 << 16);
    for (int round = 0; round < rounds; round++) {
        struct str all = {text, random_text(text, sizeof text)};
        buf_clear(&got);
        buf_clear(&want);
        EXPECT_INT(pretokenizer_split(ours, all, true, on_piece, &got, NULL), 0);
        EXPECT_INT(pretokenizer_split(theirs, all, true, on_piece, &want, NULL), 0);
        EXPECT_STR(got.data, want.data);
    }
    buf_deinit(&got);
    buf_deinit(&want);
    pretokenizer_destroy(ours);
    pretokenizer_destroy(theirs);
}

static void test_equal_to_pcre2(void)
{
#define SPACE     "\\p{White_Space}" // PCRE2's \s has U+180E too
#define NOT_SPACE "\\P{White_Space}"
    static const char *const sources[] = {
        "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" SPACE "\\p{L}\\p{N}]+|" SPACE
        "+(?!" NOT_SPACE ")|" SPACE "+",
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^" SPACE
        "\\p{L}\\p{N}]+[\\r\\n]*|" SPACE "*[\\r\\n]+|" SPACE "+(?!" NOT_SPACE ")|" SPACE "+",
        "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+"
        "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^" SPACE
        "\\p{L}\\p{N}]+[\\r\\n/]*|" SPACE "*[\\r\\n]+|" SPACE "+(?!" NOT_SPACE ")|" SPACE "+",
        "[!\"#$%&'()*+,\\-./"
        ":;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
        " ?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACE "+",
        "[\\p{P}\\p{S}]?[a-z]{2,}+|(?:\\p{M}|1)?[^\\P{N}9]+(?=\\n)|[\\x{4e00}-\\x{9fa5}\\-]",
    };
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++)
        compare(sources[i], 400);
}

int main(void)
{
    RUN(test_syntax);
    RUN(test_refused);
    RUN(test_equal_to_pcre2);
    return TEST_END();
}
