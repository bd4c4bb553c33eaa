#include "engine/stopping.h"

#include "shared/base/check.h"
#include "shared/base/rng.h"
#include "shared/base/utf8.h"
#include "tests/test.h"

/* Feed pieces one after the other; text goes to *out. True: a stop string ended it. */
static bool run(const struct str *stops, int count, const struct str *pieces, int n, int min_pieces,
                struct buf *out)
{
    struct stopping s;
    bool stopped = false;
    stopping_init(&s, stops, count);
    for (int i = 0; i < n && !stopped; i++) {
        stopped = stopping_feed(&s, pieces[i], i >= min_pieces, out);
        EXPECT(utf8_is_valid(out->data, out->len));
    }
    if (!stopped) stopping_flush(&s, out);
    stopping_deinit(&s);
    return stopped;
}

static void check(const struct str *stops, int count, const struct str *pieces, int n,
                  const char *want, bool want_stopped)
{
    struct buf out;
    buf_init(&out, BUF_MAX_INTERNAL);
    bool stopped = run(stops, count, pieces, n, 0, &out);
    EXPECT_STR(out.data ? out.data : "", want);
    EXPECT_INT(stopped, want_stopped);
    buf_deinit(&out);
}

#define PIECES(...) (struct str[]){__VA_ARGS__}, ARRAY_LEN(((struct str[]){__VA_ARGS__}))

static void test_text_without_stops(void)
{
    check(NULL, 0, PIECES(STR("Hel"), STR("lo"), STR(""), STR(" world")), "Hello world", false);
    check(NULL, 0, NULL, 0, "", false);
}

static void test_stop_across_tokens(void)
{
    struct str stops[] = {STR("\n\nUser:"), STR("###")};
    check(stops, 2, PIECES(STR("ok\n"), STR("\nUs"), STR("er: x")), "ok", true);
    check(stops, 2, PIECES(STR("ok #"), STR("#"), STR("# more")), "ok ", true);
    check(stops, 2, PIECES(STR("ok ##"), STR("# more")), "ok ", true);
    check(stops, 2, PIECES(STR("####")), "", true);
    /* A prefix that turns out not to be a stop is delivered, also at the very end. */
    check(stops, 2, PIECES(STR("a #"), STR("#b"), STR(" \n\nUse")), "a ##b \n\nUse", false);
}

static void test_earliest_start_wins(void)
{
    struct str stops[] = {STR("bc"), STR("abcd"), STR("cde")};
    check(stops, 3, PIECES(STR("xxabcde")), "xx", true);
    check(stops, 3, PIECES(STR("xxabc"), STR("de")), "xxa", true);
    struct str same[] = {STR("ab"), STR("abab")};
    check(same, 2, PIECES(STR("xabab")), "x", true);
}

static void test_overlapping_prefixes(void)
{
    struct str stops[] = {STR("aabaaa")};
    check(stops, 1, PIECES(STR("aa"), STR("baab"), STR("aaa!")), "aab", true);
    check(stops, 1, PIECES(STR("aabaabaa")), "aabaabaa", false);
}

static void test_text_is_held_no_longer_than_needed(void)
{
    struct str stops[] = {STR("STOP")};
    struct stopping s;
    struct buf out;
    buf_init(&out, BUF_MAX_INTERNAL);
    stopping_init(&s, stops, 1);
    EXPECT(!stopping_feed(&s, STR("go S"), true, &out));
    EXPECT_STR(out.data, "go ");
    EXPECT(!stopping_feed(&s, STR("T"), true, &out));
    EXPECT_STR(out.data, "go ");
    EXPECT(!stopping_feed(&s, STR("AR"), true, &out));
    EXPECT_STR(out.data, "go STAR");
    EXPECT(stopping_feed(&s, STR(" STOP it"), true, &out));
    EXPECT_STR(out.data, "go STAR ");
    stopping_deinit(&s);
    buf_deinit(&out);
}

static void test_utf8_is_never_split(void)
{
    /* U+1F600 in four tokens, then one that is never completed, then a stray continuation byte. */
    check(NULL, 0, PIECES(STR("a\xf0"), STR("\x9f"), STR("\x98"), STR("\x80z")),
          "a\xf0\x9f\x98\x80z", false);
    check(NULL, 0, PIECES(STR("a\xe2\x82")), "a\xef\xbf\xbd", false);
    check(NULL, 0, PIECES(STR("a\xe2\x82"), STR("b")),
          "a\xef\xbf\xbd"
          "b",
          false);
    check(NULL, 0, PIECES(STR("\x80"), STR("\xff")), "\xef\xbf\xbd\xef\xbf\xbd", false);
    struct str stops[] = {STR("\xe2\x82\xac")};
    check(stops, 1, PIECES(STR("5\xe2"), STR("\x82"), STR("\xac off")), "5", true);
}

static void test_min_tokens_lets_stops_pass(void)
{
    struct str stops[] = {STR("end")};
    struct str pieces[] = {STR("end "), STR("the e"), STR("nd of"), STR(" end")};
    struct buf out;
    buf_init(&out, BUF_MAX_INTERNAL);
    EXPECT(run(stops, 1, pieces, 4, 2, &out));
    EXPECT_STR(out.data, "end the ");
    buf_clear(&out);
    EXPECT(run(stops, 1, pieces, 4, 3, &out));
    EXPECT_STR(out.data, "end the end of ");
    buf_deinit(&out);
}

/* However the bytes are cut into tokens, the text is the same: against a search of the whole. */
static void test_any_cut_gives_the_same_text(void)
{
    static const char alphabet[] = "aab\xe2\x82\xac";
    struct rng rng;
    rng_init(&rng, 7);
    for (int round = 0; round < 3000; round++) {
        char text[40], stop[5];
        size_t len = rng_below(&rng, sizeof text), stop_len = 1 + rng_below(&rng, 4);
        for (size_t i = 0; i < len; i++)
            text[i] = alphabet[rng_below(&rng, sizeof alphabet - 1)];
        for (size_t i = 0; i < stop_len; i++)
            stop[i] = "aab"[rng_below(&rng, 3)];
        struct str stops[1] = {{stop, stop_len}}, whole = {text, len}, pieces[40];
        int n = 0;
        for (size_t at = 0; at < len;) {
            size_t piece = 1 + rng_below(&rng, 5);
            if (piece > len - at) piece = len - at;
            pieces[n++] = (struct str){text + at, piece};
            at += piece;
        }
        struct buf plain, cut;
        buf_init(&plain, BUF_MAX_INTERNAL);
        buf_init(&cut, BUF_MAX_INTERNAL);
        run(NULL, 0, &whole, 1, 0, &plain);
        char *found = plain.len ? memmem(plain.data, plain.len, stop, stop_len) : NULL;
        size_t want = found ? (size_t)(found - plain.data) : plain.len;
        bool stopped = run(stops, 1, pieces, n, 0, &cut);
        EXPECT_INT(stopped, found != NULL);
        EXPECT_INT(cut.len, want);
        EXPECT(want == 0 || memcmp(cut.data, plain.data, want) == 0);
        buf_deinit(&plain);
        buf_deinit(&cut);
    }
}

int main(void)
{
    RUN(test_text_without_stops);
    RUN(test_stop_across_tokens);
    RUN(test_earliest_start_wins);
    RUN(test_overlapping_prefixes);
    RUN(test_text_is_held_no_longer_than_needed);
    RUN(test_utf8_is_never_split);
    RUN(test_min_tokens_lets_stops_pass);
    RUN(test_any_cut_gives_the_same_text);
    return TEST_END();
}
