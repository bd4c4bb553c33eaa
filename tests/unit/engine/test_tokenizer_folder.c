/* Folders written here: which files count, what they say about tokens, and what is refused. */
#include "engine/tokenizer_folder.h"
#include "tests/test.h"

#include <unistd.h>

static char dir[64];

static void put(const char *name, const char *text)
{
    char path[200];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    NEED(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

static void begin(void)
{
    snprintf(dir, sizeof dir, "/tmp/lm_folder_XXXXXX");
    NEED(mkdtemp(dir));
}

static void end(void)
{
    static const char *const names[] = {"tokenizer.json",         "tokenizer_config.json",
                                        "generation_config.json", "config.json",
                                        "chat_template.jinja",    "chat_template.json"};
    char path[200];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
    NEED(rmdir(dir) == 0);
}

/* Characters a, b, U+2581, a merge, byte tokens for "!" and the rest unknown. */
#define MODEL                                                                             \
    "\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"fuse_unk\":true,"              \
    "\"byte_fallback\":true,\"vocab\":{\"<unk>\":0,\"<s>\":1,\"</s>\":2,\"a\":3,\"b\":4," \
    "\"\xe2\x96\x81\":5,\"ab\":6,\"\xe2\x96\x81"                                          \
    "ab\":7,\"<0x21>\":8,\"[FREE]\":9},"                                                  \
    "\"merges\":[\"a b\",[\"\xe2\x96\x81\",\"ab\"]]}"
#define NORMALIZER                                                                           \
    "\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xe2" \
    "\x96\x81\"},"
#define DECODER                                                                              \
    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"" \
    "String\":\"\xe2\x96\x81\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"" \
    "Fuse\"}]},"
#define ADDED                                                                                    \
    "\"added_tokens\":[{\"id\":1,\"content\":\"<s>\",\"special\":true},{\"id\":2,\"content\":\"" \
    "</s>\",\"special\":true,\"lstrip\":true}],"

static void expect_ids(const struct tokenizer *t, const char *text, unsigned flags,
                       const char *want)
{
    struct token_list ids = {0};
    char got[200] = "";
    EXPECT_INT(tokenizer_encode(t, text, strlen(text), flags, &ids, NULL), 0);
    for (size_t i = 0; i < ids.count; i++)
        snprintf(got + strlen(got), sizeof got - strlen(got), i ? " %d" : "%d", (int)ids.ids[i]);
    EXPECT_STR(got, want);
    token_list_deinit(&ids);
}

static struct tokenizer *open_folder(void)
{
    struct tokenizer *t = NULL;
    struct error err = {0};
    int rc = tokenizer_open_folder(dir, &t, &err);
    if (rc) printf("%s\n", err.text);
    NEED(rc == 0);
    return t;
}

static void test_settings(void)
{
    begin();
    put("tokenizer.json", "{" NORMALIZER DECODER ADDED MODEL "}");
    put("tokenizer_config.json",
        "{\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"</s>\"},\"add_bos_token\":true,"
        "\"added_tokens_decoder\":{\"1\":{\"content\":\"<s>\",\"special\":true},\"9\":{\"content\":"
        "\"<|im_end|>\",\"special\":true},\"10\":{\"content\":\"word\",\"single_word\":true}}}");
    put("generation_config.json", "{\"eos_token_id\":[2,9,4]}");
    struct tokenizer *t = open_folder();
    EXPECT_INT(tokenizer_vocab_size(t), 11);
    EXPECT_INT(tokenizer_bos(t), 1);
    EXPECT_INT(tokenizer_eos(t), 2);
    EXPECT(tokenizer_is_stop(t, 2) && tokenizer_is_stop(t, 9) && tokenizer_is_stop(t, 4));
    EXPECT(!tokenizer_is_stop(t, 1));
    expect_ids(t, "ab ab", 0, "6 7");
    expect_ids(t, "ab", TOKENIZER_ADD_BOS, "1 6");
    expect_ids(t, "a!xyb", 0, "3 8 0 4"); // a byte token, unknowns fused
    expect_ids(t, "a<|im_end|> </s>b", TOKENIZER_SPECIAL, "3 9 2 4"); // lstrip takes the space
    expect_ids(t, "<s>", 0, "0"); // text of a user: no control token
    expect_ids(t, "word aword", 0, "10 5 3 0");
    tokenizer_destroy(t);
    end();
}

static void test_template_or_config(void)
{
    static const char post[] =
        "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":"
        "\"<s>\"}},{\"Sequence\":{\"id\":\"A\"}},{\"SpecialToken\":{\"id\":\"</s>\"}}],"
        "\"special_tokens\":{\"<s>\":{\"ids\":[1]},\"</s>\":{\"ids\":[2]}}},";
    char text[4000];
    begin();
    snprintf(text, sizeof text, "{%s%s}", post, NORMALIZER DECODER ADDED MODEL);
    put("tokenizer.json", text);
    put("tokenizer_config.json", "{\"bos_token\":\"<s>\",\"eos_token\":\"</s>\","
                                 "\"add_bos_token\":false,\"add_eos_token\":false}");
    struct tokenizer *t = open_folder();
    expect_ids(t, "ab", TOKENIZER_ADD_BOS, "1 6 2"); // the template stands
    tokenizer_destroy(t);
    put("tokenizer_config.json",
        "{\"bos_token\":\"<s>\",\"eos_token\":\"</s>\",\"add_bos_token\":true,"
        "\"add_eos_token\":false,\"tokenizer_class\":\"LlamaTokenizerFast\"}");
    t = open_folder();
    expect_ids(t, "ab", TOKENIZER_ADD_BOS, "1 6"); // this class rewrites it
    tokenizer_destroy(t);
    end();
}

static void expect_shown(const struct tokenizer *t, int32_t id, const char *want)
{
    struct str got = tokenizer_token_bytes(t, id, true);
    EXPECT(str_equal(got, str_of(want)));
}

/* Ways in which the reference reads what a file says otherwise. */
static void test_added_tokens(void)
{
    begin();
    put("tokenizer.json",
        "{\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"_\"},\"added_tokens\":[{\"id\":7,"
        "\"content\":\"ab\",\"special\":true},{\"id\":5,\"content\":\"xy\",\"normalized\":true},"
        "{\"id\":6,\"content\":\"b\",\"single_word\":true}],\"decoder\":{\"type\":\"Fuse\"},"
        "\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":0,\"ab\":1,\"_\":2,"
        "\"<0x21>\":3,\"c\":4},\"merges\":[]}}");
    struct tokenizer *t = open_folder();
    expect_ids(t, "ab", TOKENIZER_SPECIAL, "1"); // the vocabulary's id, not 7
    expect_ids(t, "xy", 0, "5");                 // "_xy" is what is looked for,
    expect_shown(t, 5, "_xy");                   // and what prints
    expect_ids(t, "!", 0, "2 3");
    expect_shown(t, 3, "<0x21>"); // the decoder has no ByteFallback
    expect_ids(t, "b c", 0, "6 2 4");
    expect_ids(t, "b\xe2\x80\x8d", 0, "2"); // a joiner is part of a word
    tokenizer_destroy(t);
    end();
}

static void expect_refused(const char *json, int code, const char *part)
{
    struct tokenizer *t = NULL;
    struct error err = {0};
    put("tokenizer.json", json);
    EXPECT_INT(tokenizer_open_folder(dir, &t, &err), code);
    if (!strstr(err.text, part) || !strstr(err.text, "tokenizer.json"))
        printf("'%s' lacks '%s'\n", err.text, part);
    EXPECT(strstr(err.text, part) != NULL && strstr(err.text, "tokenizer.json") != NULL);
}

static void test_refused(void)
{
    struct tokenizer *t;
    struct error err = {0};
    begin();
    EXPECT_INT(tokenizer_open_folder(dir, &t, &err), E_NOT_FOUND);
    expect_refused("{", E_FORMAT, "invalid JSON");
    expect_refused("{}", E_FORMAT, "vocab");
    expect_refused("{\"normalizer\":{\"type\":\"Bert\"}," DECODER MODEL "}", E_UNSUPPORTED,
                   "'Bert'");
    expect_refused("{\"pre_tokenizer\":{\"type\":\"Odd\"}," DECODER MODEL "}", E_UNSUPPORTED,
                   "'Odd'");
    expect_refused("{\"post_processor\":{\"type\":\"Bert\"}," DECODER MODEL "}", E_UNSUPPORTED,
                   "post_processor 'Bert'");
    expect_refused("{\"decoder\":{\"type\":\"CTC\"}," MODEL "}", E_UNSUPPORTED, "decoder 'CTC'");
    expect_refused("{" MODEL "}", E_UNSUPPORTED, "decoder");
    expect_refused("{" DECODER "\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"a\":0}}}",
                   E_UNSUPPORTED, "WordPiece");
    expect_refused("{" DECODER "\"model\":{\"vocab\":{\"a\":-1}}}", E_FORMAT, "id -1");
    expect_refused("{" DECODER "\"model\":{\"vocab\":{\"a\":4194304}}}", E_FORMAT, "4194304");
    expect_refused("{" DECODER "\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}", E_FORMAT,
                   "merge 0");
    expect_refused("{" DECODER "\"model\":{\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", E_FORMAT,
                   "merge 0");
    expect_refused("{\"added_tokens\":[{\"id\":1}]," DECODER MODEL "}", E_FORMAT, "added_tokens");
    put("tokenizer.json", "{" DECODER MODEL "}");
    put("tokenizer_config.json", "{\"bos_token\":\"<none>\"}");
    EXPECT_INT(tokenizer_open_folder(dir, &t, &err), E_FORMAT);
    EXPECT(strstr(err.text, "bos_token '<none>'") != NULL);
    put("tokenizer_config.json", "[]");
    EXPECT_INT(tokenizer_open_folder(dir, &t, &err), E_FORMAT);
    EXPECT(strstr(err.text, "tokenizer_config.json") != NULL);
    end();
}

static void expect_template(const char *want)
{
    struct buf source;
    struct error err = {0};
    bool found = false;
    buf_init(&source, 1000);
    EXPECT_INT(tokenizer_folder_template(dir, &source, &found, &err), 0);
    EXPECT_INT(found, want != NULL);
    if (found && want) EXPECT_STR(source.data, want);
    buf_deinit(&source);
}

static void test_template(void)
{
    begin();
    expect_template(NULL);
    put("tokenizer_config.json", "{\"chat_template\":null}");
    expect_template(NULL);
    put("tokenizer_config.json", "{\"chat_template\":\"one\"}");
    expect_template("one");
    put("tokenizer_config.json", "{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"two\"},"
                                 "{\"name\":\"default\",\"template\":\"three\"}]}");
    expect_template("three");
    put("chat_template.json", "{\"chat_template\":\"four\"}");
    expect_template("four");
    put("chat_template.jinja", "five\n");
    expect_template("five\n");
    end();
}

int main(void)
{
    RUN(test_settings);
    RUN(test_template_or_config);
    RUN(test_added_tokens);
    RUN(test_refused);
    RUN(test_template);
    return TEST_END();
}
