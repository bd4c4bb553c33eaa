/* Which parsers a model gets, and how answers to a request are taken apart. The tokenizer is this file's:
 * </tool_call>, [THINK] and [/THINK] are special tokens. */
#include "agent/reply_formats.h"

#include "agent/reply.h"
#include "agent/reply_plan.h"
#include "shared/base/check.h"
#include "tests/test.h"

int32_t tokenizer_find(const struct tokenizer *t, struct str piece)
{
    static const char *const tokens[] = {"<tool_call>", "</tool_call>", "[THINK]", "[/THINK]"};
    (void)t;
    for (size_t i = 0; i < ARRAY_LEN(tokens); i++)
        if (str_equal(piece, str_of(tokens[i]))) return (int32_t)i + 7;
    return -1;
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
    (void)t;
    return id >= 8; // all but <tool_call>
}

#define PLAIN "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
#define TOOLS "{% for t in tools %}{{ t.function.name }}{% endfor %}"

static struct reply_formats formats_of(const char *source, const char *tools, const char *reasoning)
{
    struct chat_template *t = NULL;
    struct error err = {0};
    struct reply_formats f;
    NEED(chat_template_create(str_of(source), STR(""), STR(""), &t, &err) == 0);
    EXPECT(str_equal(chat_template_source(t), str_of(source)));
    reply_formats_init(&f, tools, reasoning, t, NULL);
    chat_template_destroy(t);
    return f;
}

static void test_chosen(void)
{
    static const struct {
        const char *source, *tools, *reasoning; // as asked for
        const char *has_tools, *has_reasoning;  // NULL: none
        bool template_has_tools;
        int shown, shown_reasoning;
    } rows[] = {
        {PLAIN, NULL, NULL, "hermes", NULL, false, 1, 0},
        {PLAIN, "none", "none", NULL, NULL, false, 0, 0},
        {PLAIN, "llama3", "qwen3", "llama3", "qwen3", false, 0, 0},
        {PLAIN TOOLS, NULL, NULL, "hermes", NULL, true, 1, 0}, // of a form that nobody knows
        {PLAIN TOOLS "<tool_call>{\"name\": }</tool_call>", NULL, NULL, "hermes", NULL, true, 1, 0},
        {PLAIN "{# [THINK] [/THINK] #}", NULL, NULL, "hermes", "mistral", false, 3, 2},
        {PLAIN "{# <think></think> #}", NULL, NULL, "hermes", "qwen3", false, 1, 0},
        {PLAIN "{# <think></think> #}", NULL, "none", "hermes", NULL, false, 1, 0},
        {"{{ raise_exception('no') }} {# tools #}", NULL, NULL, "hermes", NULL, true, 1, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct reply_formats f = formats_of(rows[i].source, rows[i].tools, rows[i].reasoning);
        EXPECT_STR(f.tools ? f.tools->name : "-", rows[i].has_tools ? rows[i].has_tools : "-");
        EXPECT_STR(f.reasoning ? f.reasoning->name : "-",
                   rows[i].has_reasoning ? rows[i].has_reasoning : "-");
        EXPECT(f.template_has_tools == rows[i].template_has_tools);
        EXPECT_INT(f.shown_count, rows[i].shown);
        EXPECT_INT(f.shown_reasoning, rows[i].shown_reasoning);
    }
}

static void test_what_templates_show(void)
{
    static const struct {
        const char *source;
        bool has_tools, has_calls;
    } rows[] = {
        {PLAIN, false, false},
        {PLAIN TOOLS, true, false},
        {"{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}"
         "{% endfor %}{{ tools | length }}",
         false, true},
        {"{{ tools }}{{ messages }}", true, true},
        {"{{ raise_exception('tool_calls') }}", false, true},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct reply_formats f = formats_of(rows[i].source, NULL, NULL);
        EXPECT(f.template_has_tools == rows[i].has_tools);
        EXPECT(f.template_has_calls == rows[i].has_calls);
    }
}

static void test_plans(void)
{
    struct reply_formats f = formats_of(PLAIN "{# [THINK] [/THINK] #}", NULL, NULL);
    struct tool tool = {.name = STR("f")};
    struct tool_list list = {.choice = TOOL_CHOICE_NONE};
    struct reply_plan plan;
    reply_plan_make(&f, &list, STR("x"), -1, &plan);
    EXPECT(plan.is_parsed && !plan.options.tools && plan.options.reasoning == f.reasoning);
    EXPECT(!plan.options.starts_in_reasoning && !plan.must_call);
    EXPECT_INT(plan.shown_count, 2); // what is of calls stays hidden
    list = (struct tool_list){&tool, 1, TOOL_CHOICE_REQUIRED, true, 1};
    reply_plan_make(&f, &list, STR("x [THINK]\n"), -1, &plan);
    EXPECT(plan.options.tools == f.tools && plan.options.list == plan.list);
    EXPECT(plan.options.starts_in_reasoning && plan.must_call && plan.is_named);
    EXPECT(plan.calls_max == 1 && plan.shown_count == 3);
    reply_plan_deinit(&plan);
    f = formats_of(PLAIN, "none", NULL);
    reply_plan_make(&f, &list, STR("x"), -1, &plan);
    EXPECT(!plan.is_parsed && !plan.must_call && plan.shown_count == 0);
}

/* The request is gone when its answers are made, and many of them share one list. */
static void test_plan_has_its_own_tools(void)
{
    struct reply_formats f = formats_of(PLAIN, "qwen3coder", NULL);
    static const char schema[] = "{\"properties\":{\"n\":{\"type\":\"integer\"}}}";
    struct json *parameters = json_parse(schema, sizeof schema - 1, NULL);
    char *name = xstrndup("f", 1);
    struct tool tool = {.name = {name, 1}, .parameters = parameters};
    struct tool_list list = {.items = &tool, .count = 1, .choice = TOOL_CHOICE_AUTO};
    struct reply_plan plan;
    struct reply replies[2];
    reply_plan_make(&f, &list, STR("x"), -1, &plan);
    free(name);
    json_destroy(parameters);
    for (int i = 0; i < 2; i++)
        reply_init(&replies[i], &plan);
    for (int i = 0; i < 2; i++) {
        struct buf arguments;
        buf_init(&arguments, 100);
        reply_feed(&replies[i], STR("<tool_call>\n<function=f>\n<parameter=n>\n7\n</parameter>\n"
                                    "</function>\n</tool_call>"));
        reply_finish(&replies[i]);
        reply_join_arguments(&replies[i], 0, &arguments);
        EXPECT_STR(arguments.data, "{\"n\": 7}");
        buf_deinit(&arguments);
        reply_deinit(&replies[i]);
    }
    reply_plan_deinit(&plan);
}

int main(void)
{
    RUN(test_chosen);
    RUN(test_what_templates_show);
    RUN(test_plans);
    RUN(test_plan_has_its_own_tools);
    return TEST_END();
}
