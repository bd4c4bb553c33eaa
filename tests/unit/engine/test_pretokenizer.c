#include "engine/pretokenizer.h"
#include "shared/base/buf.h"
#include "shared/base/clock.h"
#include "tests/test.h"

static int on_piece(void *arg, struct str piece)
{
    struct buf *out = arg;
    EXPECT(piece.len > 0);
    if (out->len) buf_append_char(out, '|');
    buf_append(out, piece.data, piece.len);
    return 0;
}

static struct pretokenizer *create(const char *const *patterns)
{
    struct pretokenizer *p = pretokenizer_create();
    for (; *patterns; patterns++)
        NEED(pretokenizer_add_pattern(p, str_of(*patterns), SPLIT_ISOLATED, false, NULL) == 0);
    return p;
}

static struct pretokenizer *named(const char *name)
{
    const struct pretokenizer_preset *preset = pretokenizer_preset_find(str_of(name));
    NEED(preset);
    return create(preset->patterns);
}

static void expect_split(const struct pretokenizer *p, const char *text, const char *want)
{
    struct buf out;
    buf_init(&out, 1 << 20);
    buf_append_str(&out, "");
    EXPECT_INT(pretokenizer_split(p, str_of(text), true, on_piece, &out, NULL), 0);
    EXPECT_STR(out.data ? out.data : "", want);
    buf_deinit(&out);
}

static void test_gpt2(void)
{
    struct pretokenizer *p = named("gpt-2");
    expect_split(p, "", "");
    expect_split(p, "Hello, world!", "Hello|,| world|!");
    expect_split(p, "I'm 12345 WE'LL", "I|'m| 12345| WE|'|LL");
    expect_split(p, "a  b   ", "a| | b|   ");
    expect_split(p, "x\n\ny", "x|\n|\n|y"); // the last blank of a run belongs to what follows
    pretokenizer_destroy(p);
}

static void test_smollm(void)
{
    struct pretokenizer *p = named("smollm");
    expect_split(p, "a 12 b", "a| |1|2| b");
    expect_split(p, "a  1", "a|  |1"); // digits cut first: the blanks stand at an end
    expect_split(p,
                 "\xc2\xbd"
                 "x",
                 "\xc2\xbd|x");
    pretokenizer_destroy(p);
}

static void test_llama3(void)
{
    struct pretokenizer *p = named("llama-bpe");
    expect_split(p, "1234567 you'RE", "123|456|7| you|'RE");
    expect_split(p, "a.\n\n b", "a|.\n\n| b");
    expect_split(p, "  \n x", "  \n| x");
    EXPECT(pretokenizer_preset_find(STR("llama-bpe"))->ignore_merges);
    pretokenizer_destroy(p);
}

static void test_qwen2(void)
{
    struct pretokenizer *p = named("qwen2");
    expect_split(p, "x12", "x|1|2");
    /* U+180E has not been whitespace since Unicode 6.3, whatever \s thinks. */
    expect_split(p,
                 "a \xe1\xa0\x8e"
                 "b",
                 "a| \xe1\xa0\x8e|b");
    pretokenizer_destroy(p);
}

static void test_names(void)
{
    EXPECT(pretokenizer_preset_find(STR("nonsense")) == NULL);
    EXPECT(pretokenizer_preset_find(STR("")) == NULL);
    EXPECT(pretokenizer_preset_find(STR("qwen")) == NULL); // no prefix match
}

static void test_patterns(void)
{
    static const char *const empty_matches[] = {"x*", NULL};
    static const char *const beyond[] = {"\\bfoo\\b|x{2,}?y", NULL}; // for PCRE2
    static const char *const none[] = {NULL};
    struct pretokenizer *p = pretokenizer_create();
    struct error err = {0};
    EXPECT_INT(pretokenizer_add_pattern(p, STR("("), SPLIT_ISOLATED, false, &err), E_FORMAT);
    EXPECT(strstr(err.text, "'('") != NULL);
    pretokenizer_destroy(p);
    p = create(empty_matches);
    expect_split(p, "a\xc3\xa9xxb", "a\xc3\xa9|xx|b");
    pretokenizer_destroy(p);
    p = create(beyond);
    expect_split(p, "foo food xxy", "foo| food |xxy");
    pretokenizer_destroy(p);
    p = create(none);
    expect_split(p, "all of it", "all of it");
    pretokenizer_destroy(p);
}

static void expect_behavior(enum split_behavior behavior, bool invert, const char *text,
                            const char *want)
{
    struct pretokenizer *p = pretokenizer_create();
    EXPECT_INT(pretokenizer_add_literal(p, STR("-"), behavior, invert, NULL), 0);
    expect_split(p, text, want);
    pretokenizer_destroy(p);
}

/* The results that the reference's own documentation gives for "the-final--countdown". */
static void test_behaviors(void)
{
    static const char text[] = "the-final--countdown";
    expect_behavior(SPLIT_REMOVED, false, text, "the|final|countdown");
    expect_behavior(SPLIT_ISOLATED, false, text, "the|-|final|-|-|countdown");
    expect_behavior(SPLIT_MERGED_WITH_PREVIOUS, false, text, "the-|final-|-|countdown");
    expect_behavior(SPLIT_MERGED_WITH_NEXT, false, text, "the|-final|-|-countdown");
    expect_behavior(SPLIT_CONTIGUOUS, false, text, "the|-|final|--|countdown");
    expect_behavior(SPLIT_REMOVED, true, text, "-|-|-");
}

static void test_marks(void)
{
    struct pretokenizer *p = pretokenizer_create();
    struct str mark = STR("_");
    EXPECT_INT(pretokenizer_add_mark(p, mark, SPACE_FIRST, NULL), 0);
    EXPECT_INT(pretokenizer_add_literal(p, mark, SPLIT_MERGED_WITH_NEXT, false, NULL), 0);
    expect_split(p, "to be  or", "_to|_be|_|_or");
    expect_split(p, " to", "_to");
    struct buf out;
    buf_init(&out, 1 << 20);
    EXPECT_INT(pretokenizer_split(p, STR("to be"), false, on_piece, &out, NULL), 0);
    EXPECT_STR(out.data, "to|_be"); // nothing in front when something stands before
    buf_deinit(&out);
    pretokenizer_destroy(p);
}

static int stop_at_second(void *arg, struct str piece)
{
    (void)piece;
    return ++*(int *)arg == 2 ? E_CANCELLED : 0;
}

static void test_callback_stops(void)
{
    struct pretokenizer *p = named("gpt-2");
    int calls = 0;
    EXPECT_INT(pretokenizer_split(p, STR("a b c d"), true, stop_at_second, &calls, NULL),
               E_CANCELLED);
    EXPECT_INT(calls, 2);
    pretokenizer_destroy(p);
}

static int count_bytes(void *arg, struct str piece)
{
    *(size_t *)arg += piece.len;
    return 0;
}

/* Matches of a megabyte, which need more than PCRE2's usual stack and limits. */
static void test_pcre2_has_no_limit(void)
{
    static const char *const patterns[] = {"(?#)(?:a|b)+\\s*[\\r\\n]|\\s+(?!\\S)|\\S+", NULL};
    size_t len = 1 << 20, bytes = 0;
    char *text = malloc(len);
    NEED(text);
    struct pretokenizer *p = create(patterns);
    memset(text, 'a', len);
    memset(text + len / 2, ' ', len / 2);
    EXPECT_INT(pretokenizer_split(p, (struct str){text, len}, true, count_bytes, &bytes, NULL), 0);
    EXPECT_INT(bytes, len);
    pretokenizer_destroy(p);
    free(text);
}

static void test_long_runs_are_fast(void)
{
    static const char *const names[] = {"gpt-2", "smollm", "llama-bpe", "qwen2"};
    static const char fills[] = "a \n1'.";
    size_t len = 1 << 20;
    char *text = malloc(len);
    NEED(text);
    uint64_t start = clock_ms();
    for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
        struct pretokenizer *p = named(names[n]);
        for (const char *fill = fills; *fill; fill++) {
            size_t bytes = 0;
            memset(text, *fill, len);
            EXPECT_INT(
                pretokenizer_split(p, (struct str){text, len}, true, count_bytes, &bytes, NULL), 0);
            EXPECT_INT(bytes, len);
        }
        pretokenizer_destroy(p);
    }
    EXPECT(clock_ms() - start < 60000);
    free(text);
}

int main(void)
{
    RUN(test_gpt2);
    RUN(test_smollm);
    RUN(test_llama3);
    RUN(test_qwen2);
    RUN(test_names);
    RUN(test_patterns);
    RUN(test_behaviors);
    RUN(test_marks);
    RUN(test_callback_stops);
    RUN(test_pcre2_has_no_limit);
    RUN(test_long_runs_are_fast);
    return TEST_END();
}
