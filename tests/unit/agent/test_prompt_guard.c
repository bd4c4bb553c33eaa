/* Special tokens in the texts of clients, before and behind a rendering. The tokenizer is real and
 * small: characters, <s> special, <<s>> special and longer, "word" added by a user. */
#include "agent/prompt_guard.h"
#include "engine/tokenizer_json.h"
#include "tests/test.h"

#define MARK "\xf4\x8f\xbf\xbe"

static struct tokenizer *t;

static void create(void)
{
    static const char model[] =
        "{\"added_tokens\":[{\"id\":10,\"content\":\"<s>\",\"special\":true},{\"id\":11,"
        "\"content\":"
        "\"<<s>>\",\"special\":true},{\"id\":12,\"content\":\"word\"},{\"id\":13,\"content\":\"<sp>"
        "\","
        "\"special\":true,\"lstrip\":true}],\"decoder\":{\"type\":\"Fuse\"},\"model\":{\"type\":"
        "\"BPE\","
        "\"vocab\":{\"<\":0,\"s\":1,\">\":2,\"a\":3,\" \":4,\"p\":5},\"merges\":[]}}";
    struct error err = {0};
    if (tokenizer_load_json(STR(model), NULL, &t, &err) != 0) printf("%s\n", err.text);
    NEED(t);
}

static void expect_marked(const char *json, const char *want)
{
    struct buf out;
    buf_init(&out, 10000);
    prompt_guard_mark(t, str_of(json), &out);
    EXPECT_STR(out.data, want);
    buf_deinit(&out);
}

static void expect_ids(const char *text, const char *want)
{
    struct token_list ids = {0};
    char got[200] = "";
    EXPECT_INT(prompt_guard_encode(t, str_of(text), 0, &ids, NULL), 0);
    for (size_t i = 0; i < ids.count; i++)
        snprintf(got + strlen(got), sizeof got - strlen(got), i ? " %d" : "%d", (int)ids.ids[i]);
    EXPECT_STR(got, want);
    token_list_deinit(&ids);
}

static void test_mark(void)
{
    expect_marked("[\"a\"]", "[\"a\"]");
    expect_marked("[\"a<s>\",\"<s>\"]", "[\"a" MARK "<s>\",\"" MARK "<s>\"]");
    expect_marked("{\"<s>\":\"word\"}", "{\"" MARK "<s>\":\"word\"}");
    expect_marked("[\"<<s>>\"]", "[\"" MARK "<" MARK "<s>>\"]"); // the inner one, too
    expect_marked("[\"\\\"<s>\\\\\",\"<s>\"]", "[\"\\\"" MARK "<s>\\\\\",\"" MARK "<s>\"]");
    expect_marked("[\"" MARK "<s>\"]", "[\"" MARK "<s>\"]"); // a client's own mark is nothing
    expect_marked("[\"<" MARK "s>\"]", "[\"" MARK "<s>\"]");
}

static void test_encode(void)
{
    expect_ids("<s>a", "10 3");
    expect_ids(MARK "<s>a", "0 1 2 3");
    expect_ids("<s>" MARK "<s><s>", "10 0 1 2 10");
    expect_ids(MARK "<" MARK "<s>>word", "0 0 1 2 2 12"); // user tokens stay tokens
    expect_ids("a " MARK "<sp>", "3 4 0 1 5 2");          // its space stays, too
    expect_ids("a <sp>", "3 13");
    expect_ids(MARK, "");
    expect_ids("", "");
}

static void test_unmark(void)
{
    struct buf text;
    buf_init(&text, 100);
    buf_append_str(&text, "a" MARK "<s>" MARK);
    prompt_guard_unmark(&text);
    EXPECT_STR(text.data, "a<s>");
    buf_deinit(&text);
}

int main(void)
{
    create();
    RUN(test_mark);
    RUN(test_encode);
    RUN(test_unmark);
    tokenizer_destroy(t);
    return TEST_END();
}
