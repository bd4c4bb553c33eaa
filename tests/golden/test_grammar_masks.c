/* Masks against the long way: a token is allowed if the matcher takes its bytes. */
#include "engine/grammar.h"
#include "engine/grammar_cache.h"
#include "engine/grammar_vocab.h"
#include "engine/tokenizer.h"

#include "shared/base/check.h"
#include "shared/base/rng.h"
#include "tests/golden/fixture_tokenizer.h"

#define STEPS_MAX  60
#define ADDED_LAST 30 // tokens at a vocabulary's end: tags, where it has any

static struct tokenizer *open_tokenizer(const char *name)
{
    struct tokenizer *t = fixture_tokenizer(name);
    if (!t) test_skip("a tokenizer of the fixtures, or xz, isn't here");
    int32_t stop = tokenizer_find(t, STR("<|im_end|>"));
    NEED(tokenizer_add_stop(t, stop >= 0 ? stop : 2));
    return t;
}

static int get(struct grammar_cache *c, enum grammar_kind kind, struct str source,
               struct grammar **out, struct error *err)
{
    return grammar_cache_get(c, &(struct grammar_wish){kind, source, 0}, out, err);
}

static bool is_allowed(const uint32_t *mask, int32_t token)
{
    return mask[token / 32] >> (token % 32) & 1;
}

static bool follow(const struct tokenizer *t, struct grammar_matcher *m, int32_t id)
{
    struct str text = tokenizer_token_bytes(t, id, true);
    if (text.len == 0) return false;
    return tokenizer_is_special(t, id) ? grammar_accept_special(m, text) : grammar_accept(m, text);
}

/* Whether the token may come behind those that the answer has. */
static bool can_follow(const struct tokenizer *t, struct grammar *g,
                       const struct token_list *answer, int32_t id)
{
    struct grammar_matcher probe;
    bool can = true;
    grammar_matcher_init(&probe, g);
    for (size_t i = 0; i < answer->count; i++)
        can &= follow(t, &probe, answer->ids[i]);
    can = can && follow(t, &probe, id);
    grammar_matcher_deinit(&probe);
    return can;
}

static void check_mask(const struct tokenizer *t, struct grammar_matcher *m,
                       const struct token_list *answer, const uint32_t *mask, int first)
{
    int wrong = 0, vocab = tokenizer_vocab_size(t);
    for (int32_t id = 0; id < vocab; id++) {
        if (id % 61 != first && !tokenizer_is_special(t, id) && id < vocab - ADDED_LAST) continue;
        bool want =
            tokenizer_is_stop(t, id) ? grammar_may_end(m) : can_follow(t, m->grammar, answer, id);
        if (is_allowed(mask, id) == want) continue;
        struct str bytes = tokenizer_token_bytes(t, id, true);
        if (wrong++ == 0)
            printf("token %d '" STR_FMT "' behind '%.*s': allowed %d\n", id, STR_ARG(bytes),
                   (int)m->len, m->text, is_allowed(mask, id));
    }
    EXPECT_INT(wrong, 0);
}

/* A token that the mask allows, short ones more often so that texts end; -1: only stops are left. */
static int32_t pick(const struct tokenizer *t, struct rng *rng, const uint32_t *mask)
{
    int32_t best = -1;
    size_t best_len = SIZE_MAX;
    for (int tries = 0; tries < 4000; tries++) {
        int32_t id = (int32_t)rng_below(rng, (uint32_t)tokenizer_vocab_size(t));
        if (!is_allowed(mask, id) || tokenizer_is_stop(t, id)) continue;
        size_t len = tokenizer_token_bytes(t, id, false).len;
        if (len < best_len) {
            best = id;
            best_len = len;
        }
        if (tries > 200 && best >= 0) break;
    }
    for (int32_t id = 0; best < 0 && id < tokenizer_vocab_size(t); id++)
        if (is_allowed(mask, id) && !tokenizer_is_stop(t, id)) best = id;
    return best;
}

static void take(const struct tokenizer *t, struct grammar_matcher *m, struct token_list *answer,
                 int32_t id)
{
    EXPECT(follow(t, m, id));
    token_list_push(answer, id);
}

static void walk(const struct tokenizer *t, struct grammar *g, uint64_t seed)
{
    struct grammar_matcher m;
    struct token_list answer = {0};
    struct rng rng;
    uint32_t *mask = xcalloc((size_t)grammar_mask_words(g), sizeof *mask);
    grammar_matcher_init(&m, g);
    rng_init(&rng, seed);
    for (int step = 0; step < STEPS_MAX; step++) {
        NEED(grammar_mask(&m, mask) == 0);
        check_mask(t, &m, &answer, mask, step % 61);
        int32_t id = pick(t, &rng, mask);
        if (id < 0) {
            EXPECT(grammar_may_end(&m));
            break;
        }
        take(t, &m, &answer, id);
    }
    free(mask);
    token_list_deinit(&answer);
    grammar_matcher_deinit(&m);
}

/* One of the tokens that the text begins with, drawn; special ones are written as ^text^. */
static int32_t draw_token(const struct tokenizer *t, struct rng *rng, struct str text, size_t *len)
{
    int32_t found = -1;
    uint32_t count = 0;
    for (int32_t id = 0; id < tokenizer_vocab_size(t); id++) {
        struct str bytes = tokenizer_token_bytes(t, id, true);
        bool is_marked = text.data[0] == '^', is_special = tokenizer_is_special(t, id);
        struct str rest = {text.data + is_marked, text.len - is_marked};
        if (is_marked != is_special || bytes.len == 0 || !str_starts_with(rest, bytes)) continue;
        if (is_marked && rest.data[bytes.len] != '^') continue;
        if (rng_below(rng, ++count) > 0) continue;
        found = id;
        *len = bytes.len + (is_marked ? 2 : 0);
    }
    return found;
}

/* The same along a text, cut into tokens in some way. */
static void walk_text(const struct tokenizer *t, struct grammar *g, struct str text, uint64_t seed)
{
    struct grammar_matcher m;
    struct token_list answer = {0};
    struct rng rng;
    uint32_t *mask = xcalloc((size_t)grammar_mask_words(g), sizeof *mask);
    grammar_matcher_init(&m, g);
    rng_init(&rng, seed);
    for (size_t at = 0, len; at < text.len; at += len) {
        NEED(grammar_mask(&m, mask) == 0);
        check_mask(t, &m, &answer, mask, (int)(at % 61));
        int32_t id = draw_token(t, &rng, (struct str){text.data + at, text.len - at}, &len);
        NEED(id >= 0);
        EXPECT(is_allowed(mask, id));
        take(t, &m, &answer, id);
    }
    EXPECT(grammar_may_end(&m));
    free(mask);
    token_list_deinit(&answer);
    grammar_matcher_deinit(&m);
}

static void check_tokenizer(const char *name)
{
    static const struct {
        enum grammar_kind kind;
        const char *source;
    } cases[] = {
        {GRAMMAR_JSON_OBJECT, ""},
        {GRAMMAR_JSON_SCHEMA,
         "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\",\"maxLength\":9},"
         "\"tags\":{\"type\":\"array\",\"items\":{\"enum\":[\"a\",\"bc\",null]},\"maxItems\":3},"
         "\"n\":{\"type\":\"integer\",\"minimum\":-12,\"maximum\":340}},\"required\":[\"name\","
         "\"n\"]}"},
        {GRAMMAR_JSON_SCHEMA,
         "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\",\"pattern\":\"^[A-Z][a-z]"
         "{1,5}$\"}},"
         "\"additionalProperties\":{\"type\":\"boolean\"},\"required\":[\"a\"]}"},
        {GRAMMAR_JSON_SCHEMA, "{\"type\":\"string\"}"},
        {GRAMMAR_REGEX, "(\\d{3}-){2}\\p{L}+ (yes|no|\xe6\x97\xa5\xe6\x9c\xac)"},
    };
    struct tokenizer *t = open_tokenizer(name);
    struct grammar_cache *cache = grammar_cache_create(t, NULL);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct grammar *g;
        struct error err;
        int rc = get(cache, cases[i].kind, str_of(cases[i].source), &g, &err);
        if (rc < 0) printf("%s\n", err.text);
        NEED(rc == 0);
        for (uint64_t seed = 0; seed < 3; seed++)
            walk(t, g, seed);
        grammar_unref(g);
    }
    grammar_cache_destroy(cache);
    tokenizer_destroy(t);
}

/* Texts in parts, each along a text that they accept. */
static void check_parts(const char *name, const char *const (*cases)[2], size_t count)
{
    struct tokenizer *t = open_tokenizer(name);
    struct grammar_cache *cache = grammar_cache_create(t, NULL);
    for (size_t i = 0; i < count; i++) {
        struct grammar *g;
        struct error err;
        int rc = get(cache, GRAMMAR_PARTS, str_of(cases[i][0]), &g, &err);
        if (rc < 0) printf("%s\n", err.text);
        NEED(rc == 0);
        walk(t, g, i);
        for (uint64_t seed = 0; seed < 3; seed++)
            walk_text(t, g, str_of(cases[i][1]), seed);
        grammar_unref(g);
    }
    grammar_cache_destroy(cache);
    tokenizer_destroy(t);
}

#define CALL                                                                                     \
    "{\"all\":[{\"token\":\"<tool_call>\"},{\"text\":\"\\n\"},{\"schema\":{\"type\":\"object\"," \
    "\"properties\":{\"n\":{\"type\":\"integer\"}}}},{\"text\":\"\\n\"},{\"token\":\"</"         \
    "tool_call>\"}"                                                                              \
    "]}"

static void test_parts_with_tags(void)
{
    static const char *const cases[][2] = {
        {"{\"all\":[{\"until\":[\"<tool_call>\"]},{\"repeat\":" CALL
         ",\"max\":2,\"between\":{\"text\":\"\\n\"}}]}",
         "So: <tool_cal \xe6\x97\xa5<<tool_call>\n{\"n\":1}\n</tool_call>\n<tool_call>\n{}\n</"
         "tool_call>"},
        {"{\"all\":[{\"until\":[\"</think>\"]},{\"token\":\"</think>\"},{\"schema\":{\"enum\":"
         "[\"a</think>\"]}}]}",
         "</</think</think>\"a</think>\""},
        {"{\"all\":[{\"until\":[\"<|box_start|>\"]},{\"token\":\"<|box_start|>\"},{\"regex\":"
         "\".*\"},{\"any\":[{\"token\":\"<|box_end|>\"},{\"text\":\".\"}]}]}",
         "a <|box_start^<|box_start|>^<|box_end|>^<|box_end|>^"},
        {"{\"all\":[{\"until\":[]},{\"token\":\"<|im_start|>\"},{\"text\":\"<|im_start|>\"}]}",
         "<|im_start|>^<|im_start|>^<|im_start|>"},
    };
    check_parts("qwen2_5", cases, ARRAY_LEN(cases));
}

static void test_parts_with_byte_tokens(void)
{
    static const char *const cases[][2] = {
        {"{\"all\":[{\"until\":[\"\xe6\x97\xa5\",\"[/T]\"]},{\"token\":\"[/T]\"},{\"token\":"
         "\"<s>\"},{\"regex\":\"(a|<s>){0,3}\"}]}",
         "\xe6\x97\xa4[/[/T]^<s>^<s>a"},
    };
    check_parts("llama2", cases, ARRAY_LEN(cases));
}

static void test_byte_level(void)
{
    check_tokenizer("qwen2_5");
}

static void test_sentencepiece(void)
{
    check_tokenizer("llama2");
}

static void test_cache(void)
{
    struct tokenizer *t = open_tokenizer("spm_bpe");
    struct grammar_cache *cache = grammar_cache_create(t, NULL);
    struct grammar *first, *again, *other;
    struct error err;
    EXPECT_INT(get(cache, GRAMMAR_REGEX, STR("a+"), &first, &err), 0);
    EXPECT_INT(get(cache, GRAMMAR_REGEX, STR("a+"), &again, &err), 0);
    EXPECT(first == again);
    for (int i = 0; i < GRAMMAR_CACHE_MAX; i++) {
        char source[16];
        snprintf(source, sizeof source, "a{%d}", i + 1);
        EXPECT_INT(get(cache, GRAMMAR_REGEX, str_of(source), &other, &err), 0);
        grammar_unref(other);
    }
    grammar_unref(again);
    EXPECT_INT(get(cache, GRAMMAR_REGEX, STR("a+"), &again, &err), 0);
    EXPECT(first != again); // it was the oldest; who has it keeps it
    grammar_unref(first);
    grammar_unref(again);
    grammar_cache_destroy(cache);
    tokenizer_destroy(t);
}

/* What failed once fails again, in the same words, without being compiled. */
static void test_failures_are_kept(void)
{
    struct tokenizer *t = open_tokenizer("spm_bpe");
    struct grammar_cache *cache = grammar_cache_create(t, NULL);
    struct grammar_wish schema = {GRAMMAR_JSON_SCHEMA, STR("{\"uniqueItems\":true}"), 0};
    struct grammar_wish good = {GRAMMAR_JSON_SCHEMA, STR("{\"type\":\"null\"}"), 0};
    struct grammar *g;
    struct error first, again;
    EXPECT_INT(get(cache, GRAMMAR_REGEX, STR("a("), &g, &first), E_INVALID);
    EXPECT_INT(get(cache, GRAMMAR_REGEX, STR("a("), &g, &again), E_INVALID);
    EXPECT(!g && again.code == E_INVALID);
    EXPECT_STR(first.text, again.text);
    EXPECT_INT(get(cache, GRAMMAR_REGEX, STR("a("), &g, NULL), E_INVALID);
    EXPECT_INT((int)grammar_cache_compiled(cache), 1);
    EXPECT_INT(get(cache, GRAMMAR_JSON_SCHEMA, STR("a("), &g, &again), E_FORMAT); // another kind
    int rc = grammar_cache_check(cache, &schema, &first);
    EXPECT(rc < 0);
    EXPECT_INT(grammar_cache_get(cache, &schema, &g, &again), rc);
    EXPECT_STR(first.text, again.text);
    EXPECT_INT((int)grammar_cache_compiled(cache), 3);
    EXPECT_INT(grammar_cache_check(cache, &good, NULL), 0);
    EXPECT_INT(grammar_cache_get(cache, &good, &g, NULL), 0); // a check gives no grammar to keep
    EXPECT_INT(grammar_cache_check(cache, &good, NULL), 0);
    EXPECT_INT((int)grammar_cache_compiled(cache), 5);
    grammar_unref(g);
    grammar_cache_destroy(cache);
    tokenizer_destroy(t);
}

/* Large ones drive each other out before there are too many of them. */
static void test_failures_are_bounded(void)
{
    struct tokenizer *t = open_tokenizer("spm_bpe");
    struct grammar_cache *cache = grammar_cache_create(t, NULL);
    size_t len = GRAMMAR_SOURCE_MAX + 1;
    char *source = xmalloc(len);
    struct grammar *g;
    memset(source, '(', len);
    int large = (int)(GRAMMAR_CACHE_SOURCES / GRAMMAR_SOURCE_MAX);
    NEED(large > 0 && large < GRAMMAR_CACHE_MAX);
    EXPECT_INT(get(cache, GRAMMAR_REGEX, STR("a("), &g, NULL), E_INVALID);
    for (int i = 0; i < large; i++) {
        source[0] = (char)('a' + i);
        EXPECT(get(cache, GRAMMAR_REGEX, (struct str){source, len - 1}, &g, NULL) < 0);
    }
    EXPECT_INT((int)grammar_cache_compiled(cache), large + 1);
    for (int i = 0; i < large; i++) { // all of them are there
        source[0] = (char)('a' + i);
        EXPECT(get(cache, GRAMMAR_REGEX, (struct str){source, len - 1}, &g, NULL) < 0);
    }
    EXPECT_INT((int)grammar_cache_compiled(cache), large + 1);
    EXPECT_INT(get(cache, GRAMMAR_REGEX, STR("a("), &g, NULL), E_INVALID); // the small one isn't
    EXPECT_INT((int)grammar_cache_compiled(cache), large + 2);
    for (int i = 0; i < 2; i++) // too large to be looked at, and to be kept
        EXPECT_INT(get(cache, GRAMMAR_REGEX, (struct str){source, len}, &g, NULL), E_LIMIT);
    EXPECT_INT((int)grammar_cache_compiled(cache), large + 4);
    free(source);
    grammar_cache_destroy(cache);
    tokenizer_destroy(t);
}

/* Two bytes that only byte tokens can spell, and a restart. */
static void test_matcher(void)
{
    struct tokenizer *t = open_tokenizer("llama2");
    struct grammar_vocab *vocab = grammar_vocab_create(t);
    struct grammar *g;
    struct grammar_matcher m;
    NEED(grammar_compile(GRAMMAR_REGEX, STR("ab|cd"), vocab, &g, NULL) == 0);
    grammar_matcher_init(&m, g);
    grammar_unref(g);
    EXPECT(!grammar_accept(&m, STR("b")));
    EXPECT(grammar_accept(&m, STR("a")));
    EXPECT(!grammar_accept(&m, STR("d")));
    EXPECT(!grammar_may_end(&m));
    EXPECT(grammar_accept(&m, STR("b")));
    EXPECT(grammar_may_end(&m));
    EXPECT(!grammar_accept(&m, STR("\xff")));
    EXPECT(!grammar_accept_special(&m, STR("</s>")));
    grammar_matcher_restart(&m);
    EXPECT(!grammar_may_end(&m));
    EXPECT(grammar_accept(&m, STR("cd")));
    EXPECT(grammar_may_end(&m));
    grammar_matcher_deinit(&m);
    grammar_vocab_destroy(vocab);
    tokenizer_destroy(t);
}

int main(void)
{
    RUN(test_byte_level);
    RUN(test_sentencepiece);
    RUN(test_parts_with_tags);
    RUN(test_parts_with_byte_tokens);
    RUN(test_cache);
    RUN(test_failures_are_kept);
    RUN(test_failures_are_bounded);
    RUN(test_matcher);
    return TEST_END();
}
