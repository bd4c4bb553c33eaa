/* Byte-level BPE on vocabularies small enough to follow by hand, and against the plain definition.
 */
#include "engine/tokenizer.h"
#include "engine/tokenizer_load.h"
#include "shared/base/clock.h"
#include "shared/base/rng.h"
#include "tests/test.h"

#include <pthread.h>

static const char *const whole_text[] = {"[\\s\\S]+",
                                         NULL}; // one piece: nothing in the way of merging

static void add(struct tokenizer_builder *b, const char *text, enum token_kind kind)
{
    NEED(tokenizer_builder_token(b, str_of(text), kind, 0, NULL) == 0);
}

static struct tokenizer *build(struct tokenizer_builder *b)
{
    struct tokenizer *t = NULL;
    struct error err = {0};
    if (tokenizer_build(b, &t, &err) != 0) {
        printf("%s\n", err.text);
        NEED(false);
    }
    tokenizer_builder_deinit(b);
    return t;
}

/* ids 0..4: a b c ab bc, 5: abc, 6: <x>, 7: <x>> (control), 8: user text, 9: space letter */
static struct tokenizer *small(bool ignore_merges)
{
    struct tokenizer_builder b;
    tokenizer_builder_init(&b, TOKENIZER_BYTE_BPE, 10, 3);
    b.patterns = whole_text;
    b.ignore_merges = ignore_merges;
    b.bos = 6;
    b.eos = 7;
    b.add_bos = true;
    const char *const pieces[] = {"a", "b", "c", "ab", "bc", "abc"};
    for (int i = 0; i < 6; i++)
        add(&b, pieces[i], TOKEN_NORMAL);
    add(&b, "<x>", TOKEN_CONTROL);
    add(&b, "<x>>", TOKEN_CONTROL);
    add(&b, "bb", TOKEN_USER);
    add(&b, "\xc4\xa0", TOKEN_NORMAL); // the letter that spells a space
    tokenizer_builder_merge(&b, STR("b"), STR("c"));
    tokenizer_builder_merge(&b, STR("a"), STR("b"));
    return build(&b);
}

static void expect_ids(const struct tokenizer *t, const char *text, unsigned flags,
                       const char *want)
{
    struct token_list ids = {0};
    char got[400] = "";
    EXPECT_INT(tokenizer_encode(t, text, strlen(text), flags, &ids, NULL), 0);
    for (size_t i = 0; i < ids.count; i++)
        snprintf(got + strlen(got), sizeof got - strlen(got), "%s%d", i ? " " : "", ids.ids[i]);
    EXPECT_STR(got, want);
    token_list_deinit(&ids);
}

static void test_ranks(void)
{
    struct tokenizer *t = small(false);
    expect_ids(t, "", 0, "");
    expect_ids(t, "abc", 0, "0 4"); // "b c" ranks before "a b", and nothing makes "abc"
    expect_ids(t, "ab", 0, "3");
    expect_ids(t, "aab", 0, "0 3");
    expect_ids(t, "abab", 0, "3 3");
    expect_ids(t, "ba", 0, "1 0");
    expect_ids(t, "a a", 0, "0 9 0");
    tokenizer_destroy(t);
}

static void test_ignore_merges(void)
{
    struct tokenizer *t = small(true);
    expect_ids(t, "abc", 0, "5");
    expect_ids(t, "abca", 0, "0 4 0");
    tokenizer_destroy(t);
}

static void test_missing_bytes_are_dropped(void)
{
    struct tokenizer *t = small(false);
    expect_ids(t, "axb", 0, "3"); // and their neighbours meet, as in the reference
    expect_ids(t, "\xc3\xa9", 0, "");
    tokenizer_destroy(t);
}

static void test_added_tokens(void)
{
    struct tokenizer *t = small(false);
    expect_ids(t, "a<x>b", TOKENIZER_SPECIAL, "0 6 1");
    expect_ids(t, "<x>>", TOKENIZER_SPECIAL, "7"); // the longest
    expect_ids(t, "<x><x>>a", TOKENIZER_SPECIAL, "6 7 0");
    expect_ids(t, "<x>", 0, "");       // not special: bytes, which this vocabulary lacks
    expect_ids(t, "abbc", 0, "0 8 2"); // a user's token is matched always, before merging
    expect_ids(t, "bbb", 0, "8 1");    // leftmost
    expect_ids(t, "ab", TOKENIZER_ADD_BOS, "6 3");
    tokenizer_destroy(t);
}

static void test_facts(void)
{
    struct tokenizer *t = small(false);
    EXPECT_INT(tokenizer_vocab_size(t), 10);
    EXPECT_INT(tokenizer_bos(t), 6);
    EXPECT_INT(tokenizer_eos(t), 7);
    EXPECT(tokenizer_is_stop(t, 7) && !tokenizer_is_stop(t, 6) && !tokenizer_is_stop(t, -1));
    EXPECT(tokenizer_is_special(t, 6) && !tokenizer_is_special(t, 8));
    EXPECT(!tokenizer_is_special(t, -1) && !tokenizer_is_special(t, 10));
    EXPECT_INT(tokenizer_find(t, STR("<x>>")), 7);
    EXPECT_INT(tokenizer_find(t, STR(" ")), 9);
    EXPECT_INT(tokenizer_find(t, STR("zz")), -1);
    EXPECT_INT(tokenizer_token_bytes(t, 6, false).len, 0);
    EXPECT_INT(tokenizer_token_bytes(t, 6, true).len, 3);
    EXPECT_INT(tokenizer_token_bytes(t, 99, true).len, 0);
    EXPECT_INT(tokenizer_token_bytes(t, -1, true).len, 0);
    tokenizer_destroy(t);
}

static void test_bad_input(void)
{
    struct tokenizer *t = small(false);
    struct token_list ids = {0};
    struct error err = {0};
    token_list_push(&ids, 42);
    EXPECT_INT(tokenizer_encode(t, "a\xff", 2, TOKENIZER_ADD_BOS, &ids, &err), E_FORMAT);
    EXPECT_STR(err.text, "text is not valid UTF-8 at byte 1");
    EXPECT_INT(tokenizer_encode(t, "\xed\xa0\x80", 3, 0, &ids, NULL), E_FORMAT); // a surrogate
    EXPECT_INT(ids.count, 1); // nothing was added
    token_list_deinit(&ids);
    tokenizer_destroy(t);
}

static void test_bad_vocabularies(void)
{
    struct tokenizer_builder b;
    struct tokenizer *t;
    struct error err = {0};
    tokenizer_builder_init(&b, TOKENIZER_BYTE_BPE, 1, 1);
    add(&b, "a", TOKEN_NORMAL);
    tokenizer_builder_merge(&b, STR("a"), STR("b"));
    EXPECT_INT(tokenizer_build(&b, &t, &err), E_FORMAT);
    EXPECT_STR(err.text, "merge 0 ('a' with 'b') has a part that isn't in the vocabulary");
    tokenizer_builder_deinit(&b);

    tokenizer_builder_init(&b, TOKENIZER_BYTE_BPE, 1, 0);
    add(&b, "a", TOKEN_NORMAL);
    b.eot = 1;
    EXPECT_INT(tokenizer_build(&b, &t, &err), E_FORMAT);
    EXPECT_STR(err.text, "eot token id 1 is beyond the vocabulary of 1");
    tokenizer_builder_deinit(&b);

    tokenizer_builder_init(&b, TOKENIZER_SPM, 1, 0);
    EXPECT_INT(tokenizer_builder_token(&b, STR("<0xZZ>"), TOKEN_BYTE, 0, &err), E_FORMAT);
    tokenizer_builder_deinit(&b);
}

/* ---- decoding ---- */

static void test_lossy_decoding(void)
{
    static const struct {
        const char *bytes, *want;
    } cases[] = {
        {"abc", "abc"},
        {"\xe4\xbd\xa0", "\xe4\xbd\xa0"},
        {"\xe4\xbd", "\xef\xbf\xbd"}, // a cut character is one
        {"\xe4\xbd"
         "a",
         "\xef\xbf\xbd"
         "a"},
        {"\xff\xff", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf0\x9f\x98", "\xef\xbf\xbd"},
        {"\xf0\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, // overlong: no prefix of anything
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, // a surrogate, likewise
        {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xe4\xe4\xbd\xa0", "\xef\xbf\xbd\xe4\xbd\xa0"},
        {"\x80"
         "a",
         "\xef\xbf\xbd"
         "a"},
        {"\xc3", "\xef\xbf\xbd"},
    };
    struct tokenizer_builder b;
    tokenizer_builder_init(&b, TOKENIZER_BYTE_BPE, sizeof cases / sizeof *cases, 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases;
         i++) // not byte-level letters: taken as they are
        add(&b, cases[i].bytes, TOKEN_NORMAL);
    struct tokenizer *t = build(&b);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf out;
        int32_t id = (int32_t)i;
        buf_init(&out, 1000);
        tokenizer_decode(t, &id, 1, true, &out);
        EXPECT_STR(out.data, cases[i].want);
        buf_deinit(&out);
    }
    int32_t halves[] = {2, 9}; // a character cut by another: each is replaced
    struct buf out;
    buf_init(&out, 1000);
    tokenizer_decode(t, halves, 2, true, &out);
    EXPECT_STR(out.data, "\xef\xbf\xbd\xef\xbf\xbd\xe4\xbd\xa0");
    buf_deinit(&out);
    tokenizer_destroy(t);
}

/* ---- stops ---- */

static struct tokenizer *with_stops(int32_t eos, int32_t eot, const char *const *controls,
                                    int count)
{
    struct tokenizer_builder b;
    tokenizer_builder_init(&b, TOKENIZER_BYTE_BPE, (uint32_t)count, 0);
    b.eos = eos;
    b.eot = eot;
    for (int i = 0; i < count; i++)
        add(&b, controls[i], TOKEN_CONTROL);
    return build(&b);
}

static void test_stops(void)
{
    static const char *const texts[] = {"<|endoftext|>", "<|im_end|>", "<|eot_id|>",
                                        "<|im_start|>"};
    struct tokenizer *t = with_stops(0, -1, texts, 4);
    EXPECT(tokenizer_is_stop(t, 0) && tokenizer_is_stop(t, 1) && tokenizer_is_stop(t, 2));
    EXPECT(!tokenizer_is_stop(t, 3));
    tokenizer_destroy(t);
    t = with_stops(-1, 2, texts, 4); // the file says what ends a turn: no guessing by text
    EXPECT(tokenizer_is_stop(t, 0) && !tokenizer_is_stop(t, 1) && tokenizer_is_stop(t, 2));
    tokenizer_destroy(t);
    static const char *const harmony[] = {"<|end|>", "<|return|>", "<|call|>"};
    t = with_stops(-1, -1, harmony, 3);
    EXPECT(!tokenizer_is_stop(t, 0) && tokenizer_is_stop(t, 1) && tokenizer_is_stop(t, 2));
    tokenizer_destroy(t);
}

/* ---- the definition ---- */

#define LETTERS 4

struct rule {
    int32_t left, right, merged;
};

/* Ids by the definition: find the lowest rank, leftmost, merge, again. */
static size_t merge_plainly(const struct rule *rules, size_t rule_count, int32_t *ids, size_t count)
{
    for (;;) {
        size_t best = rule_count, at = 0;
        for (size_t i = 0; i + 1 < count; i++)
            for (size_t r = 0; r < best; r++)
                if (rules[r].left == ids[i] && rules[r].right == ids[i + 1]) best = r, at = i;
        if (best == rule_count) return count;
        ids[at] = rules[best].merged;
        memmove(ids + at + 1, ids + at + 2, (count - at - 2) * sizeof *ids);
        count--;
    }
}

/* A vocabulary of random merges, each of two tokens that are there already. */
static struct tokenizer *random_tokenizer(struct rng *rng, char names[][40], struct rule *rules,
                                          int merges, int *rule_count)
{
    struct tokenizer_builder b;
    int tokens = 0;
    *rule_count = 0;
    for (; tokens < LETTERS; tokens++)
        snprintf(names[tokens], 40, "%c", 'a' + tokens);
    for (int i = 0; i < merges; i++) {
        int left = (int)rng_below(rng, (uint32_t)tokens),
            right = (int)rng_below(rng, (uint32_t)tokens);
        char text[80];
        snprintf(text, sizeof text, "%s%s", names[left], names[right]);
        bool known = strlen(text) > 12;
        for (int t = 0; t < tokens; t++)
            known |= !strcmp(names[t], text);
        if (known) continue;
        memcpy(names[tokens], text, 40); // at most 12 characters
        rules[(*rule_count)++] = (struct rule){left, right, tokens++};
    }
    tokenizer_builder_init(&b, TOKENIZER_BYTE_BPE, (uint32_t)tokens, 0);
    b.patterns = whole_text;
    for (int i = 0; i < tokens; i++)
        add(&b, names[i], TOKEN_NORMAL);
    for (int i = 0; i < *rule_count; i++)
        tokenizer_builder_merge(&b, str_of(names[rules[i].left]), str_of(names[rules[i].right]));
    return build(&b);
}

static void test_equals_definition(void)
{
    static char names[LETTERS + 60][40];
    struct rule rules[60];
    struct rng rng;
    rng_init(&rng, 7);
    for (int round = 0; round < 60; round++) {
        int rule_count;
        struct tokenizer *t = random_tokenizer(&rng, names, rules, 60, &rule_count);
        for (size_t len = 1; len < 300; len += 1 + rng_below(&rng, 23)) {
            char text[300];
            int32_t want[300];
            struct token_list got = {0};
            for (size_t i = 0; i < len; i++) {
                want[i] = (int32_t)rng_below(&rng, LETTERS);
                text[i] = (char)('a' + want[i]);
            }
            size_t count = merge_plainly(rules, (size_t)rule_count, want, len);
            NEED(tokenizer_encode(t, text, len, 0, &got, NULL) == 0);
            EXPECT_INT(got.count, count);
            EXPECT(got.count == count && !memcmp(got.ids, want, count * sizeof *want));
            token_list_deinit(&got);
        }
        tokenizer_destroy(t);
    }
}

/* ---- threads ---- */

struct shared {
    const struct tokenizer *t;
    bool ok;
};

static void *encode_repeatedly(void *arg)
{
    struct shared *s = arg;
    s->ok = true;
    for (int i = 0; i < 200; i++) {
        struct token_list ids = {0};
        s->ok &= tokenizer_encode(s->t, "ab", 2, 0, &ids, NULL) == 0 && ids.count == 1;
        s->ok &= tokenizer_encode(s->t, "abc", 3, 0, &ids, NULL) == 0 && ids.count == 3;
        token_list_deinit(&ids);
    }
    return NULL;
}

static void test_threads(void)
{
    struct tokenizer *t = small(false);
    struct shared shared[4];
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        shared[i] = (struct shared){t, false};
        NEED(pthread_create(&threads[i], NULL, encode_repeatedly, &shared[i]) == 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        EXPECT(shared[i].ok);
    }
    tokenizer_destroy(t);
}

/* A quadratic merge of these would take minutes. */
static void test_long_pieces_are_fast(void)
{
    struct tokenizer_builder b;
    size_t len = 1 << 20;
    char *text = malloc(len);
    struct token_list ids = {0};
    NEED(text);
    tokenizer_builder_init(&b, TOKENIZER_BYTE_BPE, 4, 2);
    b.patterns = whole_text;
    add(&b, "a", TOKEN_NORMAL);
    add(&b, "aa", TOKEN_NORMAL);
    add(&b, "aaaa", TOKEN_NORMAL);
    add(&b, "b", TOKEN_NORMAL);
    tokenizer_builder_merge(&b, STR("a"), STR("a"));
    tokenizer_builder_merge(&b, STR("aa"), STR("aa"));
    struct tokenizer *t = build(&b);
    memset(text, 'a', len);
    uint64_t start = clock_ms();
    EXPECT_INT(tokenizer_encode(t, text, len, 0, &ids, NULL), 0);
    EXPECT(clock_ms() - start < 20000);
    EXPECT_INT(ids.count, len / 4);
    token_list_deinit(&ids);
    tokenizer_destroy(t);
    free(text);
}

int main(void)
{
    RUN(test_ranks);
    RUN(test_ignore_merges);
    RUN(test_missing_bytes_are_dropped);
    RUN(test_added_tokens);
    RUN(test_facts);
    RUN(test_bad_input);
    RUN(test_bad_vocabularies);
    RUN(test_lossy_decoding);
    RUN(test_stops);
    RUN(test_equals_definition);
    RUN(test_threads);
    RUN(test_long_pieces_are_fast);
    return TEST_END();
}
