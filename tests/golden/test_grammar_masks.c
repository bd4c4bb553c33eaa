/* Masks against the long way: a token is allowed if the matcher takes its bytes. */
#include "engine/grammar.h"
#include "engine/grammar_cache.h"
#include "engine/grammar_vocab.h"
#include "engine/tokenizer.h"

#include "shared/base/check.h"
#include "shared/base/rng.h"
#include "tests/golden/fixture_tokenizer.h"

#define STEPS_MAX 60

static struct tokenizer *open_tokenizer(const char *name)
{
    struct tokenizer *t = fixture_tokenizer(name);
    if (!t) test_skip("a tokenizer of the fixtures, or xz, isn't here");
    int32_t stop = tokenizer_find(t, STR("<|im_end|>"));
    NEED(tokenizer_add_stop(t, stop >= 0 ? stop : 2));
    return t;
}

static bool is_allowed(const uint32_t *mask, int32_t token)
{
    return mask[token / 32] >> (token % 32) & 1;
}

static bool can_follow(const struct grammar_matcher *m, struct str bytes)
{
    struct grammar_matcher probe;
    grammar_matcher_init(&probe, m->grammar);
    bool can =
        grammar_accept(&probe, (struct str){m->text, m->len}) && grammar_accept(&probe, bytes);
    grammar_matcher_deinit(&probe);
    return can;
}

static void check_mask(const struct tokenizer *t, struct grammar_matcher *m, const uint32_t *mask,
                       int first)
{
    int wrong = 0;
    for (int32_t id = first; id < tokenizer_vocab_size(t); id += 61) {
        struct str bytes = tokenizer_token_bytes(t, id, false);
        bool want = tokenizer_is_stop(t, id)      ? grammar_may_end(m)
                    : tokenizer_is_special(t, id) ? false
                                                  : bytes.len > 0 && can_follow(m, bytes);
        if (is_allowed(mask, id) == want) continue;
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

static void walk(const struct tokenizer *t, struct grammar *g, uint64_t seed)
{
    struct grammar_matcher m;
    struct rng rng;
    uint32_t *mask = xcalloc((size_t)grammar_mask_words(g), sizeof *mask);
    grammar_matcher_init(&m, g);
    rng_init(&rng, seed);
    for (int step = 0; step < STEPS_MAX; step++) {
        NEED(grammar_mask(&m, mask) == 0);
        check_mask(t, &m, mask, step % 61);
        int32_t id = pick(t, &rng, mask);
        if (id < 0) {
            EXPECT(grammar_may_end(&m));
            break;
        }
        EXPECT(grammar_accept(&m, tokenizer_token_bytes(t, id, false)));
    }
    free(mask);
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
    struct grammar_cache *cache = grammar_cache_create(t);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct grammar *g;
        struct error err;
        int rc = grammar_cache_get(cache, cases[i].kind, str_of(cases[i].source), &g, &err);
        if (rc < 0) printf("%s\n", err.text);
        NEED(rc == 0);
        for (uint64_t seed = 0; seed < 3; seed++)
            walk(t, g, seed);
        grammar_unref(g);
    }
    grammar_cache_destroy(cache);
    tokenizer_destroy(t);
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
    struct grammar_cache *cache = grammar_cache_create(t);
    struct grammar *first, *again, *other;
    struct error err;
    EXPECT_INT(grammar_cache_get(cache, GRAMMAR_REGEX, STR("a+"), &first, &err), 0);
    EXPECT_INT(grammar_cache_get(cache, GRAMMAR_REGEX, STR("a+"), &again, &err), 0);
    EXPECT(first == again);
    for (int i = 0; i < GRAMMAR_CACHE_MAX; i++) {
        char source[16];
        snprintf(source, sizeof source, "a{%d}", i + 1);
        EXPECT_INT(grammar_cache_get(cache, GRAMMAR_REGEX, str_of(source), &other, &err), 0);
        grammar_unref(other);
    }
    grammar_unref(again);
    EXPECT_INT(grammar_cache_get(cache, GRAMMAR_REGEX, STR("a+"), &again, &err), 0);
    EXPECT(first != again); // it was the oldest; who has it keeps it
    grammar_unref(first);
    grammar_unref(again);
    EXPECT_INT(grammar_cache_get(cache, GRAMMAR_REGEX, STR("a("), &again, &err), E_INVALID);
    EXPECT_INT(grammar_cache_get(cache, GRAMMAR_JSON_SCHEMA, STR("{"), &again, &err), E_FORMAT);
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
    RUN(test_cache);
    RUN(test_matcher);
    return TEST_END();
}
