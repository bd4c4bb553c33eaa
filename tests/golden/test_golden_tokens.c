/* Token ids of the default model against the reference tokenizer's, and chat prompts end to end. */
#include "engine/chat_template.h"
#include "engine/gguf.h"
#include "engine/tokenizer.h"
#include "tests/golden/fixtures.h"

static struct gguf *gguf;
static struct tokenizer *tokenizer;
static struct json *reference;

static void expect_ids(const char *text, size_t len, const struct json *want, const char *what)
{
    struct token_list got = {0};
    struct error err = {0};
    if (tokenizer_encode(tokenizer, text, len, TOKENIZER_SPECIAL, &got, &err) != 0) {
        printf("%s: %s\n", what, err.text);
        EXPECT(false);
        return;
    }
    size_t i = 0;
    const struct json *id = json_first(want);
    while (id && i < got.count && (int32_t)json_number(id) == got.ids[i]) {
        id = json_next(id);
        i++;
    }
    if (id || i < got.count) {
        printf("%s '%.60s': %zu ids, expected %zu, differ at %zu\n", what, text, got.count,
               json_len(want), i);
        EXPECT(false);
    }
    token_list_deinit(&got);
}

static void expect_decoded(const struct json *ids, bool keep_special, const char *want, size_t len)
{
    struct token_list list = {0};
    struct buf out;
    buf_init(&out, BUF_MAX_INTERNAL);
    for (const struct json *id = json_first(ids); id; id = json_next(id))
        token_list_push(&list, (int32_t)json_number(id));
    tokenizer_decode(tokenizer, list.ids, list.count, keep_special, &out);
    if (out.len != len || memcmp(out.data ? out.data : "", want, len) != 0) {
        printf("decoded '%s', expected '%s'\n", out.data ? out.data : "", want);
        EXPECT(false);
    }
    buf_deinit(&out);
    token_list_deinit(&list);
}

static void test_cases(void)
{
    size_t count = 0;
    const struct json *c = json_first(json_get(reference, "tokens"));
    for (; c; c = json_next(c), count++) {
        size_t len, decoded_len;
        char *text = fixture_string(json_get(c, "text"), &len);
        char *decoded = fixture_string(json_get(c, "decoded"), &decoded_len);
        expect_ids(text, len, json_get(c, "ids"), "case");
        expect_decoded(json_get(c, "ids"), true, decoded, decoded_len);
        free(text);
        free(decoded);
    }
    EXPECT(count >= 20);
}

static void test_conversations(void)
{
    size_t count = 0;
    const struct json *c = json_first(json_get(reference, "conversations"));
    for (; c; c = json_next(c), count++) {
        size_t len;
        const char *text = json_string(json_get(c, "rendered"), &len);
        expect_ids(text, len, json_get(c, "ids"), "conversation");
        expect_decoded(json_get(c, "ids"), true, text, len);
        text = json_string(json_get(c, "text"), &len);
        expect_decoded(json_get(c, "greedy"), false, text, len);
    }
    EXPECT(count >= 8);
}

/* The file's own template and tokenizer, as the engine puts them together. */
static void test_rendered_conversations(void)
{
    struct chat_template *t = NULL;
    struct error err = {0};
    struct str source;
    NEED(gguf_get_str(gguf, "tokenizer.chat_template", &source));
    struct str bos = tokenizer_token_bytes(tokenizer, tokenizer_bos(tokenizer), true);
    struct str eos = tokenizer_token_bytes(tokenizer, tokenizer_eos(tokenizer), true);
    NEED(chat_template_create(source, bos, eos, &t, &err) == 0);
    const struct json *c = json_first(json_get(reference, "conversations"));
    for (; c; c = json_next(c)) {
        struct chat_template_input in = {.messages = json_get(c, "messages"),
                                         .add_generation_prompt = true};
        struct buf prompt;
        buf_init(&prompt, 1 << 20);
        EXPECT_INT(chat_template_render(t, &in, &prompt, &err), 0);
        EXPECT_STR(prompt.data, json_string(json_get(c, "rendered"), NULL));
        if (prompt.data) expect_ids(prompt.data, prompt.len, json_get(c, "ids"), "rendered");
        buf_deinit(&prompt);
    }
    chat_template_destroy(t);
}

static void test_texts(void)
{
    size_t len;
    const struct json *c = json_get(reference, "perplexity");
    const char *text = json_string(json_get(c, "text"), &len);
    struct token_list ids = {0};
    EXPECT_INT(tokenizer_encode(tokenizer, text, len, 0, &ids, NULL), 0);
    EXPECT_INT(ids.count, json_number(json_get(c, "ids"))); // the fixture has their number only
    token_list_deinit(&ids);
    for (c = json_first(json_get(reference, "completions")); c; c = json_next(c)) {
        text = json_string(json_get(c, "prompt"), &len);
        expect_ids(text, len, json_get(c, "ids"), "completion");
        text = json_string(json_get(c, "text"), &len);
        expect_decoded(json_get(c, "greedy"), false, text, len);
    }
}

static void test_facts(void)
{
    EXPECT_INT(tokenizer_vocab_size(tokenizer), 49152);
    EXPECT_INT(tokenizer_bos(tokenizer), 1);
    EXPECT_INT(tokenizer_eos(tokenizer), 2);
    EXPECT_INT(tokenizer_find(tokenizer, STR("<|im_end|>")), 2);
    EXPECT_INT(tokenizer_find(tokenizer, STR("<|no_such|>")), -1);
    EXPECT(tokenizer_is_stop(tokenizer, 2));
    EXPECT(tokenizer_is_stop(tokenizer, 0));
    EXPECT(!tokenizer_is_stop(tokenizer, 1));
    EXPECT(tokenizer_is_special(tokenizer, 16));
    EXPECT(!tokenizer_is_special(tokenizer, 17));
}

int main(void)
{
    const char *model = fixture_model();
    struct error err = {0};
    if (!model) test_skip("no default model: scripts/fetch-model puts it into the cache");
    reference = fixture_json("smollm2/reference.json");
    NEED(reference);
    if (gguf_open(model, &gguf, &err) != 0 || tokenizer_load_gguf(gguf, &tokenizer, &err) != 0) {
        printf("%s: %s\n", model, err.text);
        NEED(false);
    }
    RUN(test_facts);
    RUN(test_cases);
    RUN(test_conversations);
    RUN(test_rendered_conversations);
    RUN(test_texts);
    tokenizer_destroy(tokenizer);
    gguf_close(gguf);
    json_destroy(reference);
    return TEST_END();
}
