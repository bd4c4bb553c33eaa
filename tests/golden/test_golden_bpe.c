/* Byte-level BPE of other families against their reference tokenizers: vocabularies and merges from
 * tokenizer.json, pre-tokenizers by the names that GGUF files give them. */
#include "engine/tokenizer.h"
#include "engine/tokenizer_load.h"
#include "tests/golden/fixtures.h"

static struct json *read_xz_json(const char *name, const char *file)
{
    char relative[200], command[1200];
    size_t len;
    snprintf(relative, sizeof relative, "tokenizers/%s/%s", name, file);
    const char *path = fixture_path(relative);
    if (!path) return NULL;
    snprintf(command, sizeof command, "xz -dc '%s'", path);
    char *text = fixture_command(command, &len);
    struct error err = {0};
    struct json *root = text ? json_parse(text, len, &err) : NULL;
    if (text && !root) printf("%s: %s\n", relative, err.text);
    free(text);
    return root;
}

static struct str string_of(const struct json *v)
{
    struct str s;
    s.data = json_string(v, &s.len);
    return s;
}

/* Tokens by id: the vocabulary, then added tokens over it. */
static void add_tokens(struct tokenizer_builder *b, const struct json *root, uint32_t count)
{
    struct token {
        struct str text;
        enum token_kind kind;
    } *tokens = calloc(count, sizeof *tokens);
    NEED(tokens);
    const struct json *t = json_first(json_get(json_get(root, "model"), "vocab"));
    for (; t; t = json_next(t))
        tokens[(size_t)json_number(t)] = (struct token){str_of(json_name(t)), TOKEN_NORMAL};
    for (t = json_first(json_get(root, "added_tokens")); t; t = json_next(t))
        tokens[(size_t)json_number(json_get(t, "id"))] =
            (struct token){string_of(json_get(t, "content")),
                           json_is_true(json_get(t, "special")) ? TOKEN_CONTROL : TOKEN_USER};
    for (uint32_t i = 0; i < count; i++) {
        struct token token =
            tokens[i].text.data ? tokens[i] : (struct token){STR(""), TOKEN_UNUSED};
        NEED(tokenizer_builder_token(b, token.text, token.kind, 0, NULL) == 0);
    }
    free(tokens);
}

static struct tokenizer *load(const struct json *root, const char *pre)
{
    struct tokenizer_builder b;
    struct tokenizer *t;
    struct error err = {0};
    const struct json *model = json_get(root, "model"), *v;
    const struct pretokenizer_preset *preset = pretokenizer_preset_find(str_of(pre));
    uint32_t count = 0;
    NEED(preset);
    for (v = json_first(json_get(model, "vocab")); v; v = json_next(v))
        if (json_number(v) >= count) count = (uint32_t)json_number(v) + 1;
    for (v = json_first(json_get(root, "added_tokens")); v; v = json_next(v))
        if (json_number(json_get(v, "id")) >= count)
            count = (uint32_t)json_number(json_get(v, "id")) + 1;
    tokenizer_builder_init(&b, TOKENIZER_BYTE_BPE, count, 0);
    b.patterns = preset->patterns;
    b.ignore_merges = preset->ignore_merges;
    add_tokens(&b, root, count);
    for (v = json_first(json_get(model, "merges")); v; v = json_next(v)) {
        struct str right, left;
        if (json_type(v) == JSON_ARRAY) {
            left = string_of(json_first(v));
            right = string_of(json_next(json_first(v)));
        } else {
            right = string_of(v);
            NEED(str_split(&right, ' ', &left));
        }
        tokenizer_builder_merge(&b, left, right);
    }
    if (tokenizer_build(&b, &t, &err) != 0) {
        printf("%s\n", err.text);
        NEED(false);
    }
    tokenizer_builder_deinit(&b);
    return t;
}

/* Whether NFC would change the text, as far as the cases go: combining marks and Hangul letters.
 * The reference normalises for Qwen; a GGUF file doesn't say so. */
static bool needs_nfc(struct str text)
{
    for (size_t i = 0; i + 1 < text.len; i++) {
        unsigned char a = (unsigned char)text.data[i], b = (unsigned char)text.data[i + 1];
        if (a == 0xcc || (a == 0xcd && b < 0xb0) || (a == 0xe1 && b >= 0x84 && b <= 0x87) ||
            (a == 0xe2 && b == 0x84))
            return true;
    }
    return false;
}

static bool same_ids(const struct tokenizer *t, const struct json *c)
{
    struct token_list got = {0};
    size_t len, i = 0;
    char *text = fixture_string(json_get(c, "text"), &len);
    bool ok = tokenizer_encode(t, text, len, TOKENIZER_SPECIAL, &got, NULL) == 0;
    const struct json *id = json_first(json_get(c, "ids"));
    for (; ok && id; id = json_next(id), i++)
        ok = i < got.count && got.ids[i] == (int32_t)json_number(id);
    ok = ok && i == got.count;
    token_list_deinit(&got);
    free(text);
    return ok;
}

static bool same_text(const struct tokenizer *t, const struct json *c)
{
    struct token_list ids = {0};
    struct buf out;
    size_t len;
    char *want = fixture_string(json_get(c, "decoded"), &len);
    buf_init(&out, BUF_MAX_INTERNAL);
    for (const struct json *id = json_first(json_get(c, "ids")); id; id = json_next(id))
        token_list_push(&ids, (int32_t)json_number(id));
    tokenizer_decode(t, ids.ids, ids.count, true, &out);
    bool ok = out.len == len && !memcmp(out.data ? out.data : "", want, len);
    token_list_deinit(&ids);
    buf_deinit(&out);
    free(want);
    return ok;
}

static void check(const char *name, const char *pre)
{
    char path[200];
    snprintf(path, sizeof path, "tokenizers/%s/cases.json", name);
    struct json *cases = fixture_json(path), *root = read_xz_json(name, "tokenizer.json.xz");
    if (!cases || !root) {
        printf("skipped: tokenizers/%s isn't here, or xz isn't\n", name);
        json_destroy(cases);
        json_destroy(root);
        return;
    }
    struct tokenizer *t = load(root, pre);
    int count = 0, wrong = 0, normalised = 0;
    bool nfc = json_type(json_get(root, "normalizer")) == JSON_OBJECT;
    for (const struct json *c = json_first(cases); c; c = json_next(c), count++) {
        size_t len;
        char *text = fixture_string(json_get(c, "text"), &len);
        bool ids = same_ids(t, c), decoded = same_text(t, c);
        if (!ids && nfc && needs_nfc((struct str){text, len}))
            normalised++;
        else if (!ids || !decoded) {
            printf("%s: '%.60s' %s differs\n", name, text, ids ? "decoded text" : "ids");
            wrong++;
        }
        free(text);
    }
    printf("%s: %d cases, %d wrong, %d need NFC\n", name, count, wrong, normalised);
    EXPECT(count > 100);
    EXPECT_INT(wrong, 0);
    tokenizer_destroy(t);
    json_destroy(root);
    json_destroy(cases);
}

static void test_llama3(void)
{
    check("llama3_1", "llama-bpe");
}

static void test_qwen2(void)
{
    check("qwen2_5", "qwen2");
    check("qwen3", "qwen2");
}

int main(void)
{
    RUN(test_llama3);
    RUN(test_qwen2);
    return TEST_END();
}
