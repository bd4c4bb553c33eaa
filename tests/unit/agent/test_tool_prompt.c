/* Tools and their calls as messages that any template can render. */
#include "agent/tool_prompt.h"

#include "tests/test.h"

static struct buf out;

static void rewrite(const char *messages, const char *tools, bool explains)
{
    struct json *m = json_parse(messages, strlen(messages), NULL);
    struct json *t = tools ? json_parse(tools, strlen(tools), NULL) : NULL;
    struct error err = {0};
    NEED(m && (t || !tools));
    struct json *r = tool_prompt_rewrite(m, t, explains, &err);
    NEED(r);
    buf_clear(&out);
    json_print(r, &out, false);
    json_destroy(r);
    json_destroy(m);
    json_destroy(t);
}

static void test_tools_in_system_message(void)
{
    static const char tools[] = "[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]";
    rewrite(
        "[{\"role\":\"system\",\"content\":\"Be kind.\"},{\"role\":\"user\",\"content\":\"x\"}]",
        tools, false);
    EXPECT_STR(
        out.data,
        "[{\"role\":\"system\",\"content\":\"Be kind.\\n\\nYou can call these functions, which "
        "are described as JSON:\\n<tools>\\n{\\\"type\\\": \\\"function\\\", \\\"function\\\": "
        "{\\\"name\\\": \\\"f\\\"}}\\n</tools>\"},{\"role\":\"user\",\"content\":\"x\"}]");
    rewrite("[{\"role\":\"user\",\"content\":\"x\",\"name\":\"u\"}]", tools, true);
    EXPECT(strstr(out.data, "[{\"role\":\"system\",\"content\":\"You can call") == out.data);
    EXPECT(strstr(out.data, "<tool_call>\\n{\\\"name\\\": "));
    EXPECT(strstr(out.data, "{\"role\":\"user\",\"content\":\"x\",\"name\":\"u\"}]"));
}

static void test_history(void)
{
    rewrite("[{\"role\":\"user\",\"content\":\"x\"},"
            "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":["
            "{\"id\":\"1\",\"function\":{\"name\":\"f\",\"arguments\":{\"a\":1}}},{\"function\":{"
            "\"name\":\"g\"}}]},"
            "{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":\"r1\"},"
            "{\"role\":\"tool\",\"tool_call_id\":\"2\",\"content\":\"r2\"},"
            "{\"role\":\"assistant\",\"content\":\"so\"}]",
            NULL, true);
    EXPECT_STR(out.data,
               "[{\"role\":\"user\",\"content\":\"x\"},"
               "{\"role\":\"assistant\",\"content\":\"<tool_call>\\n{\\\"name\\\": \\\"f\\\", "
               "\\\"arguments\\\": {\\\"a\\\": 1}}\\n</tool_call>\\n<tool_call>\\n{\\\"name\\\": "
               "\\\"g\\\", "
               "\\\"arguments\\\": {}}\\n</tool_call>\"},"
               "{\"role\":\"user\",\"content\":\"<tool_response>\\nr1\\n</tool_response>\\n"
               "<tool_response>\\nr2\\n</tool_response>\"},"
               "{\"role\":\"assistant\",\"content\":\"so\"}]");
}

static void test_need(void)
{
    static const struct {
        const char *messages;
        bool is_needed;
    } rows[] = {
        {"[{\"role\":\"user\",\"content\":\"x\"}]", false},
        {"[{\"role\":\"assistant\",\"tool_calls\":[]}]", false},
        {"[{\"role\":\"assistant\",\"tool_calls\":[{}]}]", true},
        {"[{\"role\":\"tool\",\"content\":\"x\"}]", true},
        {"[{\"role\":\"function\",\"name\":\"f\",\"content\":\"x\"}]", true},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct json *m = json_parse(rows[i].messages, strlen(rows[i].messages), NULL);
        EXPECT(tool_prompt_is_needed(m) == rows[i].is_needed);
        json_destroy(m);
    }
}

int main(void)
{
    buf_init(&out, 1 << 20);
    RUN(test_tools_in_system_message);
    RUN(test_history);
    RUN(test_need);
    buf_deinit(&out);
    return TEST_END();
}
