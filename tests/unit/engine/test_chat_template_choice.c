/* Which template is taken, LMDeploy's JSON, and what errors say. The tokenizer is made here: its
 * special tokens are <s>, </s> and <end>. */
#include "engine/chat_template_choice.h"
#include "engine/tokenizer_json.h"
#include "tests/test.h"

#include <unistd.h>

static const char model[] =
    "{\"added_tokens\":[{\"id\":1,\"content\":\"<s>\",\"special\":true},{\"id\":2,\"content\":"
    "\"</s>\",\"special\":true},{\"id\":3,\"content\":\"<end>\",\"special\":true}],"
    "\"decoder\":{\"type\":\"Fuse\"},\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}"
    "}";

static struct tokenizer *tokenizer(bool adds_bos)
{
    struct tokenizer *t;
    struct tokenizer_settings settings = {.bos = STR("<s>"), .eos = STR("</s>")};
    settings.add_bos = adds_bos ? SETTING_YES : SETTING_NO;
    NEED(tokenizer_load_json(STR(model), &settings, &t, NULL) == 0);
    return t;
}

static char path[] = "/tmp/lm_template_XXXXXX";

static void put(const char *text)
{
    FILE *f = fopen(path, "w");
    NEED(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

/* What the chosen template makes of one message; NULL: it refuses, see *err. */
static const char *rendered(const char *option, const char *own, const char *name,
                            struct tokenizer *t, struct error *err)
{
    static char text[1000];
    struct chat_template *template = NULL;
    struct json *messages = json_parse("[{\"role\":\"user\",\"content\":\"hi\"}]", 32, NULL);
    struct chat_template_input in = {.messages = messages, .add_generation_prompt = true};
    struct buf out;
    NEED(messages);
    buf_init(&out, sizeof text - 1);
    *err = (struct error){0};
    int rc = chat_template_choose(option, str_of(own), name, t, &template, err);
    if (!rc) rc = chat_template_render(template, &in, &out, err);
    snprintf(text, sizeof text, "%s", out.data ? out.data : "");
    buf_deinit(&out);
    json_destroy(messages);
    chat_template_destroy(template);
    EXPECT_INT(rc, err->code);
    return rc ? NULL : text;
}

static void expect(const char *option, const char *own, const char *name, bool adds_bos,
                   const char *want)
{
    struct tokenizer *t = tokenizer(adds_bos);
    struct error err;
    const char *got = rendered(option, own, name, t, &err);
    if (!got) printf("%s\n", err.text);
    EXPECT_STR(got ? got : "", want);
    tokenizer_destroy(t);
}

static void expect_error(const char *option, int code, const char *part)
{
    struct tokenizer *t = tokenizer(false);
    struct error err;
    EXPECT(rendered(option, "", "x", t, &err) == NULL);
    EXPECT_INT(err.code, code);
    if (!strstr(err.text, part)) printf("'%s' lacks '%s'\n", err.text, part);
    EXPECT(strstr(err.text, part) != NULL);
    tokenizer_destroy(t);
}

static void test_order(void)
{
    put("file {{ messages[0].content }}");
    expect(path, "own", "gemma-7b", false, "file hi");
    expect("mistral", "own", "gemma-7b", false, "[INST] hi [/INST]");
    expect(NULL, "own", "gemma-7b", false, "own");
    expect(NULL, "", "gemma-7b", false,
           "<start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n");
    expect(NULL, "", "nobody", false, "user: hi\n\nassistant:");
    expect("mistral", "", "x", true, "<s>[INST] hi [/INST]"); // as a lone tokenizer would add it
}

static void test_json(void)
{
    put(" {\"user\":\"U'\\n\",\"eoh\":\"\\\\\",\"assistant\":\"A\",\"stop_words\":[\"<end>\"],"
        "\"model_path\":\"x\",\"meta_instruction\":null,\"system\":\"S\"}");
    struct tokenizer *t = tokenizer(false);
    struct error err;
    EXPECT(!tokenizer_is_stop(t, 3));
    EXPECT_STR(rendered(path, "", "x", t, &err), "SU'\nhi\\A");
    EXPECT(tokenizer_is_stop(t, 3));
    tokenizer_destroy(t);
    put("{\"user\":\"a\\r\\nb\\r\",\"eoh\":\"{{ x }}%}\",\"capability\":\"chat\"}");
    expect(path, "", "x", false, "a\r\nb\rhi{{ x }}%}");
    put("{\"model_name\":\"mistral\",\"user\":\"[Q]\"}");
    expect(path, "", "x", false, "[Q]hi [/INST]");
    put("{\"capability\":\"completion\"}");
    expect(path, "", "x", false, "hi");
}

static void test_errors(void)
{
    expect_error("no-such-template", E_NOT_FOUND, "neither a file nor one of: base, vicuna");
    put("{\"users\":\"x\"}");
    expect_error(path, E_FORMAT, "'users' is not a member");
    put("{\"user\":7}");
    expect_error(path, E_FORMAT, "'user' is a number, expected a string");
    put("{\"stop_words\":\"x\"}");
    expect_error(path, E_FORMAT, "'stop_words'");
    put("{\"capability\":\"python\"}");
    expect_error(path, E_UNSUPPORTED, "'python'");
    put("{\"user\":");
    expect_error(path, E_FORMAT, path);
    put("a\n  {% if %}");
    expect_error(path, E_FORMAT, path);
    expect_error(path, E_FORMAT, "2:");
    put("a\n{{ messages[0].content.x.y }}");
    expect_error(path, E_INVALID, strrchr(path, '/') + 1); // without its folder
    expect_error(path, E_INVALID, ":2:");
}

int main(void)
{
    int fd = mkstemp(path);
    NEED(fd >= 0);
    close(fd);
    RUN(test_order);
    RUN(test_json);
    RUN(test_errors);
    unlink(path);
    return TEST_END();
}
