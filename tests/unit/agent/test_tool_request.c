/* Which tools a request offers, and which of them may be called. What is wrong is in test_chat_request. */
#include "agent/tool_request.h"

#include "agent/template_fields.h"
#include "shared/base/check.h"
#include "tests/test.h"

#include <stdlib.h>

#define F                                                                                  \
    "{\"type\":\"function\",\"function\":{\"name\":\"f\",\"strict\":true,\"parameters\":{" \
    "\"type\":\"object\"}}}"
#define G     "{\"function\":{\"name\":\"g-2_X\",\"description\":null,\"parameters\":{}}}"
#define H     "{\"function\":{\"name\":\"h\",\"parameters\":{\"properties\":{\"a\":{}}}}}"
#define TOOLS "\"tools\":[" F "," G "," H "]"

static struct json *document;

static struct tool_request parse(const char *members)
{
    struct tool_request r;
    struct api_error e = {0};
    struct buf body;
    buf_init(&body, 1 << 20);
    buf_printf(&body, "{%s}", members);
    json_destroy(document);
    document = json_parse(body.data, body.len, NULL);
    NEED(document);
    if (tool_request_parse(document, &r, &e) != 0) {
        printf("  %s\n", e.message);
        NEED(false);
    }
    buf_deinit(&body);
    return r;
}

static void test_tools(void)
{
    struct tool_request r = parse(TOOLS);
    EXPECT(r.list.count == 3 && r.list.choice == TOOL_CHOICE_AUTO && r.list.calls_max == 0);
    EXPECT_INT(json_len(r.offered), 3);
    EXPECT(r.list.items[0].is_strict && !r.list.items[1].is_strict);
    EXPECT(r.list.items[0].parameters && !r.list.items[1].parameters); // {}: any object
    EXPECT(str_equal(r.list.items[1].name, STR("g-2_X")));
    struct buf text; // a schema that doesn't say that it is one of an object
    buf_init(&text, 1000);
    json_print(r.list.items[2].parameters, &text, false);
    EXPECT_STR(text.data, "{\"type\":\"object\",\"properties\":{\"a\":{}}}");
    buf_deinit(&text);
    tool_request_deinit(&r);
}

static void test_choices(void)
{
    static const struct {
        const char *members;
        enum tool_choice choice;
        size_t count;
        const char *first;
        bool is_named;
        int calls_max;
    } rows[] = {
        {"\"tools\":[]", TOOL_CHOICE_NONE, 0, "", false, 0},
        {"\"tools\":null,\"tool_choice\":\"auto\",\"function_call\":\"none\"", TOOL_CHOICE_NONE, 0,
         "", false, 0},
        {TOOLS ",\"tool_choice\":null", TOOL_CHOICE_AUTO, 3, "f", false, 0},
        {TOOLS ",\"tool_choice\":\"none\"", TOOL_CHOICE_NONE, 3, "f", false, 0},
        {TOOLS ",\"tool_choice\":\"auto\",\"parallel_tool_calls\":false", TOOL_CHOICE_AUTO, 3, "f",
         false, 1},
        {TOOLS ",\"tool_choice\":\"required\"", TOOL_CHOICE_REQUIRED, 3, "f", false, 0},
        {TOOLS ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"h\"}}",
         TOOL_CHOICE_REQUIRED, 1, "h", true, 1},
        {TOOLS ",\"tool_choice\":{\"function\":{\"name\":\"f\"}}", TOOL_CHOICE_REQUIRED, 1, "f",
         true, 1},
        {TOOLS
         ",\"tool_choice\":{\"type\":\"allowed_tools\",\"allowed_tools\":{\"mode\":\"required\","
         "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"h\"}},{\"function\":{"
         "\"name\":\"h\"}},{\"function\":{\"name\":\"f\"}}]}}",
         TOOL_CHOICE_REQUIRED, 2, "h", false, 0},
        {TOOLS ",\"tool_choice\":{\"type\":\"allowed_tools\",\"allowed_tools\":{\"mode\":\"auto\","
               "\"tools\":[{\"function\":{\"name\":\"g-2_X\"}}]}}",
         TOOL_CHOICE_AUTO, 1, "g-2_X", false, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct tool_request r = parse(rows[i].members);
        EXPECT_INT(r.list.choice, rows[i].choice);
        EXPECT_INT(r.list.count, rows[i].count);
        EXPECT(r.list.is_named == rows[i].is_named && r.list.calls_max == rows[i].calls_max);
        if (r.list.count > 0) EXPECT(str_equal(r.list.items[0].name, str_of(rows[i].first)));
        EXPECT((r.offered != NULL) == (rows[i].count > 0));
        tool_request_deinit(&r);
    }
}

/* Refused for its size, whatever is in it, before anything is made of it. */
static void test_large(void)
{
    struct buf body;
    struct api_error e = {0};
    struct tool_request r;
    buf_init(&body, 16 << 20);
    buf_append_str(&body, "{\"tools\":[{\"function\":{\"name\":\"f\",\"description\":\"");
    for (size_t i = 0; i < 10 << 20; i++)
        buf_append_char(&body, 'x');
    buf_append_str(&body, "\"}}]}");
    struct json *large = json_parse(body.data, body.len, NULL);
    NEED(large);
    EXPECT_INT(tool_request_parse(large, &r, &e), -1);
    EXPECT(e.status == 400 && strcmp(e.param, "tools") == 0 && strstr(e.message, "too long"));
    tool_request_deinit(&r);
    json_destroy(large);
    buf_clear(&body);
    buf_append_str(&body, "{\"tools\":[");
    for (int i = 0; i <= TOOLS_MAX; i++)
        buf_printf(&body, "%s{\"function\":{\"name\":\"f%d\"}}", i ? "," : "", i);
    buf_append_str(&body, "]}");
    struct json *many = json_parse(body.data, body.len, NULL);
    NEED(many);
    EXPECT_INT(tool_request_parse(many, &r, &e), -1);
    EXPECT_STR(e.code, "array_above_max_length");
    tool_request_deinit(&r);
    json_destroy(many);
    buf_deinit(&body);
}

/* Beside the tools: what the template gets as variables. */
static void test_template_fields(void)
{
    static const struct {
        const char *body, *kwargs; // NULL: none
        int thinking;
    } rows[] = {
        {"{}", NULL, -1},
        {"{\"enable_thinking\":null,\"reasoning_effort\":null}", NULL, -1},
        {"{\"chat_template_kwargs\":{\"x\":1}}", "{\"x\":1}", -1},
        {"{\"chat_template_kwargs\":{\"enable_thinking\":false}}", "{\"enable_thinking\":false}",
         0},
        {"{\"chat_template_kwargs\":{\"thinking\":true}}", "{\"thinking\":true}", 1},
        {"{\"enable_thinking\":true}", "{\"enable_thinking\":true,\"thinking\":true}", 1},
        {"{\"enable_thinking\":true,\"chat_template_kwargs\":{\"enable_thinking\":false}}",
         "{\"thinking\":false,\"enable_thinking\":false}", 0},
        {"{\"reasoning_effort\":\"high\"}", "{\"reasoning_effort\":\"high\"}", -1},
        {"{\"reasoning_effort\":\"none\"}",
         "{\"reasoning_effort\":\"none\",\"enable_thinking\":false,\"thinking\":false}", 0},
        {"{\"reasoning_effort\":\"none\",\"enable_thinking\":true}",
         "{\"reasoning_effort\":\"none\",\"enable_thinking\":true,\"thinking\":true}", 1},
        {"{\"reasoning_effort\":\"low\",\"chat_template_kwargs\":{\"reasoning_effort\":\"odd\"}}",
         "{\"reasoning_effort\":\"odd\"}", -1},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct json *body = json_parse(rows[i].body, strlen(rows[i].body), NULL);
        struct template_fields f;
        struct api_error e = {0};
        struct buf text;
        buf_init(&text, 1000);
        NEED(body && template_fields_parse(body, &f, &e) == 0);
        EXPECT_INT(f.thinking, rows[i].thinking);
        if (f.kwargs) json_print(f.kwargs, &text, false);
        EXPECT_STR(text.data ? text.data : "", rows[i].kwargs ? rows[i].kwargs : "");
        template_fields_deinit(&f);
        json_destroy(body);
        buf_deinit(&text);
    }
}

int main(void)
{
    RUN(test_tools);
    RUN(test_choices);
    RUN(test_large);
    RUN(test_template_fields);
    json_destroy(document);
    return TEST_END();
}
