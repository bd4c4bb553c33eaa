/* Prompts as token ids and as the text that they are echoed as. The tokenizer is this file's: a token
 * per byte, 1 is <s>, which stands before every text if the test says so. */
#include "agent/prompt_build.h"

#include "shared/base/check.h"
#include "tests/test.h"
#include "tests/unit/agent/no_grammars.h"

static bool adds_bos;

struct str tokenizer_token_bytes(const struct tokenizer *t, int32_t id, bool keep_special)
{
    static char letters[256];
    (void)t;
    if (id == 1) return keep_special ? STR("<s>") : STR("");
    letters[id] = (char)id;
    return (struct str){&letters[id], 1};
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, unsigned flags,
                     struct token_list *out, struct error *err)
{
    (void)t, (void)err;
    size_t at = 0;
    if (adds_bos && (flags & TOKENIZER_ADD_BOS)) token_list_push(out, 1);
    if (len >= 3 && memcmp(text, "<s>", 3) == 0) {
        token_list_push(out, 1);
        at = 3;
    }
    for (; at < len; at++)
        token_list_push(out, text[at]);
    return 0;
}

/* ---- not under test: --escape-special ---- */

int tokenizer_encode_guarded(const struct tokenizer *t, const char *text, size_t len,
                             unsigned flags, const struct token_guard *guard,
                             struct token_list *out, struct error *err)
{
    (void)guard;
    return tokenizer_encode(t, text, len, flags, out, err);
}

size_t tokenizer_next_special(const struct tokenizer *t, struct str text, size_t from)
{
    (void)t, (void)text, (void)from;
    return SIZE_MAX;
}

void token_list_push(struct token_list *l, int32_t id)
{
    l->ids = xrealloc_array(l->ids, ++l->count, sizeof *l->ids);
    l->ids[l->count - 1] = id;
}

void token_list_deinit(struct token_list *l)
{
    free(l->ids);
    *l = (struct token_list){0};
}

int tokenizer_vocab_size(const struct tokenizer *t)
{
    (void)t;
    return 128;
}

int32_t tokenizer_bos(const struct tokenizer *t)
{
    (void)t;
    return 1;
}

int32_t tokenizer_eos(const struct tokenizer *t)
{
    (void)t;
    return 2;
}

int chat_template_render(const struct chat_template *t, const struct chat_template_input *in,
                         struct buf *out, struct error *err)
{
    (void)t, (void)in, (void)err;
    buf_append_str(out, "rendered");
    return 0;
}

static struct prompt_set build(enum completion_kind kind, const char *body)
{
    static const struct request_limits limits = {
        .model = "m", .vocab_size = 128, .prompts_max = 4, .choices_max = 8};
    struct prompt_context context;
    struct prompt_set set = {0};
    struct chat_request r;
    struct api_error e = {0};
    prompt_context_init(&context, NULL, NULL, 50);
    if (chat_request_parse(kind, str_of(body), &limits, &r, &e) != 0 ||
        prompt_build(&r, &context, 0, &set, &e) != 0) {
        printf("refused: %s\n  %s\n", body, e.message);
        exit(1);
    }
    chat_request_deinit(&r);
    return set;
}

static void test_texts(void)
{
    static const struct {
        bool adds_bos;
        const char *prompt, *text;
        size_t tokens, invisible;
    } rows[] = {
        {false, "\"ab\"", "ab", 2, 0},
        {true, "\"ab\"", "ab", 3, 1},
        {false, "\"<s>b\"", "<s>b", 2, 0},
        {true, "\"<s>b\"", "<s>b", 3, 1},
        {false, "null", "", 1, 1}, // a document's beginning
        {true, "\"\"", "", 1, 1},
        {true, "[97,98]", "ab", 2, 0}, // ids are taken as they are
        {true, "[1,98]", "<s>b", 2, 0},
        {true, "[[1,98]]", "<s>b", 2, 0},
        {true, "[\"x\"]", "x", 2, 1},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char body[128];
        adds_bos = rows[i].adds_bos;
        snprintf(body, sizeof body, "{\"model\":\"m\",\"echo\":true,\"prompt\":%s}",
                 rows[i].prompt);
        struct prompt_set set = build(COMPLETION_TEXT, body);
        EXPECT_INT(set.items[0].count, rows[i].tokens);
        EXPECT(str_equal(buf_str(&set.texts[0].text), str_of(rows[i].text)));
        EXPECT_INT(set.texts[0].invisible, rows[i].invisible);
        prompt_set_deinit(&set);
    }
}

static void test_many_texts(void)
{
    adds_bos = true;
    struct prompt_set set =
        build(COMPLETION_TEXT, "{\"model\":\"m\",\"logprobs\":1,\"prompt\":[\"ab\",\"<s>\"]}");
    EXPECT(set.count == 2 && str_equal(buf_str(&set.texts[1].text), STR("<s>")));
    EXPECT_INT(set.texts[0].invisible, 1);
    prompt_set_deinit(&set);
}

/* Nobody pays for a text that nobody reads. */
static void test_no_texts(void)
{
    struct prompt_set set = build(COMPLETION_TEXT, "{\"model\":\"m\",\"prompt\":\"ab\"}");
    EXPECT(!set.texts);
    prompt_set_deinit(&set);
    set = build(COMPLETION_CHAT, "{\"model\":\"m\",\"logprobs\":true,\"messages\":[{\"role\":"
                                 "\"user\",\"content\":\"x\"}]}");
    EXPECT(!set.texts && set.items[0].count == 8);
    prompt_set_deinit(&set);
}

/* Threads that build prompts don't compile: there are no grammars here. */
static void test_grammars_come_later(void)
{
    static const struct {
        const char *members;
        bool needs_grammar;
    } rows[] = {
        {"\"stream\":true", false},
        {"\"response_format\":{\"type\":\"json_object\"}", true},
        {"\"tools\":[{\"function\":{\"name\":\"f\"}}]", false},
        {"\"tools\":[{\"function\":{\"name\":\"f\",\"strict\":true}}]", true},
        {"\"tools\":[{\"function\":{\"name\":\"f\"}}],\"tool_choice\":\"none\"", true},
        {"\"tools\":[{\"function\":{\"name\":\"f\"}}],\"tool_choice\":\"required\"", true},
    };
    static const struct request_limits limits = {
        .model = "m", .vocab_size = 128, .prompts_max = 4, .choices_max = 8};
    struct prompt_context context;
    prompt_context_init(&context, NULL, NULL, 50);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char body[200];
        struct chat_request r;
        struct prompt_set set = {0};
        struct api_error e = {0};
        snprintf(body, sizeof body, "{\"model\":\"m\",\"messages\":\"x\",%s}", rows[i].members);
        NEED(chat_request_parse(COMPLETION_CHAT, str_of(body), &limits, &r, &e) == 0);
        EXPECT_INT(prompt_build(&r, &context, 0, &set, &e), 0);
        EXPECT(prompt_needs_grammar(&r) == rows[i].needs_grammar);
        prompt_set_deinit(&set);
        chat_request_deinit(&r);
    }
}

int main(void)
{
    RUN(test_texts);
    RUN(test_many_texts);
    RUN(test_no_texts);
    RUN(test_grammars_come_later);
    return TEST_END();
}
