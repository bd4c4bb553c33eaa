/* What a request demands of its answer, as the source of a grammar. The cache is this file's: it keeps the
 * source, and knows no schema with "uniqueItems". */
#include "agent/reply_grammar.h"

#include "shared/base/check.h"
#include "tests/test.h"

static struct buf source;
static enum grammar_kind kind;
static int asked;      // for grammars
static size_t longest; // of their sources

int grammar_cache_get(struct grammar_cache *c, const struct grammar_wish *wish,
                      struct grammar **out, struct error *err)
{
    (void)c;
    buf_clear(&source);
    buf_append(&source, wish->source.data, wish->source.len);
    kind = wish->kind;
    asked++;
    if (wish->source.len > longest) longest = wish->source.len;
    *out = NULL;
    if (strstr(source.data, "uniqueItems"))
        return error_set(err, E_UNSUPPORTED, "'uniqueItems' can't be enforced");
    return 0;
}

int grammar_cache_check(struct grammar_cache *c, const struct grammar_wish *wish, struct error *err)
{
    struct grammar *grammar;
    int before = asked, rc = grammar_cache_get(c, wish, &grammar, err);
    asked = before;
    return rc;
}

void grammar_unref(struct grammar *g)
{
    CHECK(!g);
}

/* -1 and *e, or 0 and what was compiled last. */
static int compile(const char *members, const char *tools, const char *reasoning,
                   const char *prompt, struct api_error *e)
{
    static const struct request_limits limits = {
        .model = "m", .vocab_size = 100, .prompts_max = 1, .choices_max = 1};
    struct reply_formats formats = {0};
    if (tools) formats.tools = tool_format_find(tools);
    if (reasoning) formats.reasoning = reasoning_format_find(reasoning);
    NEED((!tools || formats.tools) && (!reasoning || formats.reasoning));
    struct buf body;
    struct chat_request r;
    struct reply_plan plan;
    struct grammar *grammar = NULL;
    buf_init(&body, 1 << 16);
    buf_printf(&body, "{\"model\":\"m\",\"messages\":\"x\"%s%s}", *members ? "," : "", members);
    buf_clear(&source);
    buf_append_str(&source, "");
    asked = 0;
    if (chat_request_parse(COMPLETION_CHAT, buf_str(&body), &limits, &r, e) != 0) {
        printf("  %s: %s\n", body.data, e->message);
        NEED(false);
    }
    reply_plan_make(&formats, &r.tools.list, str_of(prompt), r.template_fields.thinking, &plan);
    int rc = reply_grammar_compile(&r, &formats, &plan, NULL, 0, &grammar, e);
    reply_plan_deinit(&plan);
    chat_request_deinit(&r);
    buf_deinit(&body);
    return rc;
}

#define F                                                                                          \
    "\"tools\":[{\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"object\",\"properties\":" \
    "{}}}}]"
#define STRICT   "\"tools\":[{\"function\":{\"name\":\"f\",\"strict\":true}}]"
#define REQUIRED ",\"tool_choice\":\"required\""
#define FORM     "\"response_format\":{\"type\":\"json_object\"}"
#define OBJECT   "{\"schema\":{\"type\":\"object\"}}"
#define THOUGHT  "{\"until\":[\"</think>\"]},{\"token\":\"</think>\"},{\"regex\":\"\\\\s{0,8}\"}"
/* Thoughts where a call would be read. */
#define CALLER                                                                        \
    "{\"until\":[\"</think>\",\"<tool_call>\"]},{\"token\":\"</think>\"},{\"regex\":" \
    "\"\\\\s{0,8}\"}"

static void test_sources(void)
{
    static const struct {
        const char *members, *tools, *reasoning, *prompt;
        const char *begin, *part; // of the source; "": nothing is enforced
    } rows[] = {
        {"", "hermes", NULL, "", "", ""},
        {F, "hermes", NULL, "", "", ""},
        {F, "hermes", "qwen3", "<think>", "", ""},
        {F, NULL, NULL, "", "", ""},
        {STRICT, "hermes", NULL, "", "{\"all\":[{\"until\":[\"<tool_call>\"]}", "\\\"f\\\""},
        {F REQUIRED, "hermes", NULL, "", "{\"all\":[{\"repeat\":",
         "{\"schema\":{\"type\":\"object\",\"properties\":{}}}"}, // its own, though it isn't strict
        {F ",\"tool_choice\":\"none\"", "hermes", NULL, "", "{\"until\":[\"<tool_call>\"]}", ""},
        {F ",\"tool_choice\":\"none\"," FORM, "hermes", NULL, "", OBJECT, ""},
        {F "," FORM, "hermes", NULL, "", "{\"any\":[{\"all\":[{\"repeat\":", "]}," OBJECT "]}"},
        {F REQUIRED "," FORM, "hermes", NULL, "", "{\"all\":[{\"repeat\":", ""},
        {FORM, "hermes", "qwen3", "x<think>\n", "{\"all\":[" THOUGHT "," OBJECT "]}", ""},
        {FORM, "hermes", "default", "", "{\"all\":[" THOUGHT "," OBJECT "]}", ""},
        {FORM, "hermes", "qwen3", "x",
         "{\"any\":[{\"all\":[{\"regex\":\"\\\\s{0,8}\"},{\"token\":\"<think>\"}," THOUGHT
         "," OBJECT "]}," OBJECT "]}",
         ""},
        {FORM ",\"enable_thinking\":false", "hermes", "default", "", OBJECT, ""},
        {"\"response_format\":{\"type\":\"regex_schema\",\"regex_schema\":\"a\\\"b\"}", NULL,
         "default", "", "{\"all\":[" THOUGHT ",{\"regex\":\"a\\\"b\"}]}", ""},
        {FORM, "gpt-oss", "gpt-oss", "", "{\"all\":[", "\"token\":\"<|message|>\"}," OBJECT "]}"},
        {F ",\"tool_choice\":\"none\"", "gpt-oss", "gpt-oss", "", "{\"all\":[{\"repeat\":",
         "\"final\"},{\"token\":\"<|message|>\"},{\"until\":[\"<|channel|>\","},
        {F "," FORM, "gpt-oss", "gpt-oss", "", "{\"any\":[", "," OBJECT "]}"},
        {F REQUIRED, "hermes", "default", "", "{\"all\":[" CALLER ",{\"all\":[{\"repeat\":", ""},
        {STRICT, "hermes", "default", "", "{\"all\":[" CALLER ",", ""},
        {F ",\"tool_choice\":\"none\"", "hermes", "default", "", "{\"all\":[" THOUGHT ",", ""},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct api_error e = {0};
        EXPECT_INT(compile(rows[i].members, rows[i].tools, rows[i].reasoning, rows[i].prompt, &e),
                   0);
        bool fits = strncmp(source.data, rows[i].begin, strlen(rows[i].begin)) == 0 &&
                    strstr(source.data, rows[i].part);
        EXPECT(fits && (asked > 0) == (*rows[i].begin != 0) &&
               (asked == 0 || kind == GRAMMAR_PARTS));
        if (!fits) printf("  row %zu: %s\n", i, source.data);
    }
}

/* Definitions are written out for each parameter: not beyond what a grammar may have. */
static void test_repeated_definitions(void)
{
    struct api_error e = {0};
    struct buf members;
    buf_init(&members, 1 << 16);
    buf_append_str(&members, "\"tools\":[{\"function\":{\"name\":\"f\",\"parameters\":{\"type\":"
                             "\"object\",\"$defs\":{\"d\":{\"description\":\"");
    for (int i = 0; i < 30000; i++)
        buf_append_char(&members, 'x');
    buf_append_str(&members, "\"}},\"properties\":{");
    for (int i = 0; i < 500; i++)
        buf_printf(&members, "\"a%d\":{\"type\":\"integer\"},", i);
    buf_append_str(&members, "\"b\":{}}}}}]" REQUIRED);
    longest = 0;
    EXPECT_INT(compile(members.data, "qwen3coder", NULL, "", &e), 0);
    EXPECT(longest > 0 && longest <= GRAMMAR_SOURCE_MAX);
    EXPECT(strstr(source.data, "<function=") && !strstr(source.data, "xxx")); // not strict then
    buf_deinit(&members);
}

/* A form alone is the grammar that it is on all routes. */
static void test_a_form_alone(void)
{
    struct api_error e = {0};
    EXPECT_INT(compile(FORM, "hermes", NULL, "", &e), 0);
    EXPECT(asked == 1 && kind == GRAMMAR_JSON_OBJECT);
}

#define UNIQUE "\"parameters\":{\"type\":\"object\",\"uniqueItems\":true}"

static void test_what_cannot_be_enforced(void)
{
    struct api_error e = {0};
    EXPECT_INT(compile("\"tools\":[{\"function\":{\"name\":\"f\"," UNIQUE "}}]" REQUIRED, "hermes",
                       NULL, "", &e),
               0);
    EXPECT(strstr(source.data, OBJECT) && kind == GRAMMAR_PARTS);
    EXPECT_INT(asked,
               2); // of each schema only whether it can be enforced: the cache has better uses
    EXPECT_INT(compile("\"tools\":[{\"function\":{\"name\":\"g\"}},{\"function\":{\"name\":\"f\","
                       "\"strict\":true," UNIQUE "}}]" REQUIRED,
                       "hermes", NULL, "", &e),
               -1);
    EXPECT_STR(e.param, "tools[1].function.parameters");
    EXPECT_STR(e.code, "unsupported_value");
    EXPECT_INT(compile("\"tools\":[{\"function\":{\"name\":\"g\"}},{\"function\":{\"name\":\"f\","
                       "\"strict\":true," UNIQUE "}}],\"tool_choice\":{\"type\":\"allowed_tools\","
                       "\"allowed_tools\":{\"mode\":\"auto\",\"tools\":[{\"type\":\"function\","
                       "\"function\":{\"name\":\"f\"}}]}}",
                       "hermes", NULL, "", &e),
               -1);
    EXPECT_STR(e.param, "tools[1].function.parameters"); // where the client has it
    EXPECT_INT(compile(F ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":"
                         "\"n\",\"schema\":{\"uniqueItems\":true}}}",
                       "hermes", NULL, "", &e),
               -1);
    EXPECT_STR(e.param, "response_format.json_schema.schema");
    EXPECT_INT(compile(F REQUIRED, NULL, NULL, "", &e), -1);
    EXPECT(strcmp(e.param, "tool_choice") == 0 && strstr(e.message, "--tool-call-parser none"));
}

int main(void)
{
    buf_init(&source, 1 << 20);
    RUN(test_sources);
    RUN(test_repeated_definitions);
    RUN(test_a_form_alone);
    RUN(test_what_cannot_be_enforced);
    buf_deinit(&source);
    return TEST_END();
}
