#include "engine/grammar_regex.h"

#include "shared/base/check.h"
#include "shared/base/utf8.h"
#include "tests/test.h"

static int compile(const char *source, enum regex_scope scope, enum grammar_spelling spelling,
                   struct grammar_nfa *n, struct error *err)
{
    int end;
    nfa_init(n);
    int rule = nfa_add_rule(n);
    int rc = regex_emit(n, n->rule[rule].start, str_of(source), scope, spelling, &end, err);
    if (rc == 0) nfa_add_epsilon(n, end, n->rule[rule].accept);
    return rc;
}

/* Texts that match, NULL, texts that don't, NULL. */
static void check(const char *source, enum regex_scope scope, const char *const *texts)
{
    struct grammar_nfa n;
    struct error err = {0};
    int rc = compile(source, scope, SPELLING_UTF8, &n, &err);
    EXPECT_INT(rc, 0);
    if (rc < 0) printf("%s\n", err.text);
    for (int want = 1; want >= 0 && rc == 0; want--, texts++)
        for (; *texts; texts++) {
            bool got = nfa_matches(&n, str_of(*texts));
            if (got != want) printf("/%s/ on '%s': %d\n", source, *texts, got);
            EXPECT_INT(got, want);
        }
    nfa_deinit(&n);
}

#define WHOLE(source, ...)  check(source, REGEX_WHOLE, (const char *const[]){__VA_ARGS__, NULL})
#define SEARCH(source, ...) check(source, REGEX_SEARCH, (const char *const[]){__VA_ARGS__, NULL})

static void test_whole(void)
{
    WHOLE("", "", NULL, "a");
    WHOLE("abc", "abc", NULL, "", "ab", "abcd", "xabc");
    WHOLE("a|bc|", "a", "bc", "", NULL, "b", "abc");
    WHOLE("(a|b)*c", "c", "abbac", NULL, "", "ab", "ca");
    WHOLE("a+b?", "a", "ab", "aaab", NULL, "", "b", "abb");
    WHOLE("a{2}", "aa", NULL, "a", "aaa");
    WHOLE("a{2,}", "aa", "aaaaa", NULL, "a", "");
    WHOLE("a{1,3}?b", "ab", "aaab", NULL, "b", "aaaab");
    WHOLE("a{0}b", "b", NULL, "ab");
    WHOLE("a{0,2}", "", "a", "aa", NULL, "aaa");
    WHOLE("(?:ab){2}(?<tail>c)", "ababc", NULL, "abc");
    WHOLE("((a?)*)*", "", "aaa", NULL, "b");
    WHOLE("^a$", "a", NULL, "aa");
    WHOLE("^(a|b)$", "a", "b", NULL, "c");
    WHOLE("(^a$)|(^b$)", "a", "b", NULL, "ab");
}

static void test_search(void)
{
    SEARCH("b", "b", "abc", NULL, "", "ac");
    SEARCH("^b", "b", "bc", NULL, "ab");
    SEARCH("b$", "b", "ab", NULL, "ba");
    SEARCH("^a|b$", "ax", "xb", "a", NULL, "xax", "xbx");
    SEARCH("^(a|b)", "ax", "bx", NULL, "xa", "xb");
    SEARCH("(ab)*c", "c", "xxabcx", NULL, "ab", "");
    SEARCH("(^a|b)", "ax", "xxb", NULL, "xa", "x");
    SEARCH("(^a)|(b$)", "ax", "xb", NULL, "xa", "bx");
    SEARCH("", "", "x", NULL, NULL);
    SEARCH("$", "", "x", NULL, NULL);
    SEARCH("^$", "", NULL, "x");
    SEARCH("^[a-z]+$", "abc", NULL, "", "aBc", "ab1");
}

static void test_classes(void)
{
    WHOLE("[a-c-]", "a", "c", "-", NULL, "d");
    WHOLE("[^a-c]", "d", "\xc3\xa9", "\n", NULL, "a", "");
    WHOLE("[\\]\\-x]", "]", "-", "x", NULL, "\\");
    WHOLE("[\\d_]+", "1_2", NULL, "a");
    WHOLE("\\d\\D", "1a", NULL, "11", "a1");
    WHOLE("\\w\\W", "a-", "_ ", NULL, "ab", "a\xc3\xa9");
    WHOLE("\\s\\S", " a", "\tb", NULL, "  ");
    WHOLE(".", "a", "\xf0\x9f\x98\x80", NULL, "\n", "");
    WHOLE("\\p{Lu}\\P{L}", "A1", "\xc3\x84 ", NULL, "a1", "AB");
    WHOLE("\\x41\\u0042\\u{43}\\t\\n\\/\\.", "ABC\t\n/.", NULL, "ABC");
    WHOLE("\\uD83D\\uDE00+", "\xf0\x9f\x98\x80\xf0\x9f\x98\x80", NULL, "\xf0\x9f\x98\x81");
    WHOLE("\xc3\xa9+", "\xc3\xa9\xc3\xa9", NULL, "\xc3\xa8");
    WHOLE("[\xce\xb1-\xcf\x89]", "\xce\xb2", NULL, "a");
    WHOLE("[]", NULL, "", "a");
    WHOLE("[^]", "a", "\n", NULL, "");
}

/* Every code point between two random ones matches, and no other. */
static void test_ranges_of_code_points(void)
{
    static const uint32_t edges[] = {0,       1,        0x7f,    0x80,    0x81,    0x7fe,
                                     0x7ff,   0x800,    0xfff,   0x1000,  0x1001,  0xd7ff,
                                     0xe000,  0xfffd,   0xffff,  0x10000, 0x10001, 0x3ffff,
                                     0x40000, 0x10fffe, 0x10ffff};
    for (size_t i = 0; i < ARRAY_LEN(edges); i++)
        for (size_t j = i; j < ARRAY_LEN(edges); j++) {
            struct grammar_nfa n;
            struct char_set s = {0};
            nfa_init(&n);
            int rule = nfa_add_rule(&n);
            char_set_add(&s, edges[i], edges[j]);
            nfa_add_chars(&n, n.rule[rule].start, &s, SPELLING_UTF8, n.rule[rule].accept);
            for (size_t k = 0; k < ARRAY_LEN(edges); k++) {
                char text[4];
                size_t len = utf8_encode(edges[k], text);
                EXPECT_INT(nfa_matches(&n, (struct str){text, len}), k >= i && k <= j);
            }
            char_set_deinit(&s);
            nfa_deinit(&n);
        }
}

static void test_spelled_for_json(void)
{
    struct grammar_nfa n;
    EXPECT_INT(compile("[^a]{1,3}", REGEX_WHOLE, SPELLING_JSON, &n, NULL), 0);
    EXPECT(nfa_matches(&n, STR("b")));
    EXPECT(nfa_matches(&n, STR("\\\"\\\\\\n")));
    EXPECT(nfa_matches(&n, STR("\\u0001")));
    EXPECT(!nfa_matches(&n, STR("\"")));
    EXPECT(!nfa_matches(&n, STR("\n")));
    EXPECT(!nfa_matches(&n, STR("\\a")));
    EXPECT(!nfa_matches(&n, STR("a")));
    nfa_deinit(&n);
}

static void test_refusals(void)
{
    static const struct {
        const char *source;
        int code;
    } cases[] = {
        {"(a", E_INVALID},
        {"a)", E_INVALID},
        {"[a", E_INVALID},
        {"*a", E_INVALID},
        {"a**", E_INVALID},
        {"a{2,1}", E_INVALID},
        {"a{", E_INVALID},
        {"a{,2}", E_INVALID},
        {"\\", E_INVALID},
        {"\\u12", E_INVALID},
        {"\\ud800", E_INVALID},
        {"[b-a]", E_INVALID},
        {"(?<n", E_INVALID},
        {"\\u{110000}", E_INVALID},
        {"(?=a)", E_UNSUPPORTED},
        {"(?!a)b", E_UNSUPPORTED},
        {"(?<=a)b", E_UNSUPPORTED},
        {"(a)\\1", E_UNSUPPORTED},
        {"a\\b", E_UNSUPPORTED},
        {"a^b", E_UNSUPPORTED},
        {"a$b", E_UNSUPPORTED},
        {"\\p{Greek}", E_UNSUPPORTED},
        {"\\y", E_UNSUPPORTED},
        {"(?i)a", E_UNSUPPORTED},
        {"a{99999}", E_LIMIT},
        {"((a{1000}){1000}){1000}", E_LIMIT},
        {"(((a|){60000}){60000}){60000}", E_LIMIT},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct grammar_nfa n;
        struct error err = {0};
        int rc = compile(cases[i].source, REGEX_SEARCH, SPELLING_JSON, &n, &err);
        if (rc != cases[i].code) printf("/%s/: %d %s\n", cases[i].source, rc, err.text);
        EXPECT_INT(rc, cases[i].code);
        EXPECT(err.text[0]);
        nfa_deinit(&n);
    }
}

int main(void)
{
    RUN(test_whole);
    RUN(test_search);
    RUN(test_classes);
    RUN(test_ranges_of_code_points);
    RUN(test_spelled_for_json);
    RUN(test_refusals);
    return TEST_END();
}
