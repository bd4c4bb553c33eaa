/* Which formats there are, and which of them a chat template means:
 * tests/fixtures/replies/templates.json says so of every template that is on this machine. */
#include "agent/reasoning_format.h"
#include "agent/tool_format.h"
#include "shared/base/check.h"
#include "tests/golden/fixtures.h"

static void test_names(void)
{
    EXPECT(tool_format_find("hermes") == tool_format_find("qwen2d5"));
    EXPECT(tool_format_find("qwen3coder") == tool_format_find("qwen3_coder"));
    EXPECT(!tool_format_find("hermes2") && !tool_format_find(""));
    EXPECT(reasoning_format_find("deepseek-r1") == reasoning_format_find("default"));
    EXPECT(!reasoning_format_find("r2"));
    /* What --help names is there. */
    const char *const lists[] = {tool_format_names(), reasoning_format_names()};
    for (int i = 0; i < 2; i++) {
        struct str rest = str_of(lists[i]), name;
        int count = 0;
        for (; str_split(&rest, ',', &name); count++) {
            char text[64];
            name = str_trim(name);
            snprintf(text, sizeof text, STR_FMT, STR_ARG(name));
            EXPECT(i == 0 ? tool_format_find(text) != NULL : reasoning_format_find(text) != NULL);
        }
        EXPECT(count >= 10);
    }
}

static const char *tool_name(struct str source)
{
    const struct tool_format *f = tool_format_of_template(source);
    return f ? f->name : "none";
}

static const char *reasoning_name(struct str source)
{
    const struct reasoning_format *f = reasoning_format_of_template(source);
    return f ? f->name : "none";
}

static char *peer_template(const char *name, size_t *len)
{
    char path[1200];
    const char *folder = getenv("LM_PEER_TEMPLATES"), *home = getenv("HOME");
    if (folder && *folder)
        snprintf(path, sizeof path, "%s/%s.jinja", folder, name);
    else
        snprintf(path, sizeof path, "%s/.cache/lm-cluster/templates/%s.jinja", home ? home : "",
                 name);
    return fixture_is_file(path) ? fixture_read(path, len) : NULL;
}

static void test_templates(void)
{
    struct json *own = fixture_json("templates/own.json");
    struct json *root = fixture_json("replies/templates.json");
    NEED(own && root);
    int seen = 0, missing = 0;
    for (const struct json *t = json_first(root); t; t = json_next(t)) {
        const char *name = json_name(t);
        const struct json *mine = json_get(json_get(own, "templates"), name);
        struct str source = {0};
        char *file = mine ? NULL : peer_template(name, &source.len);
        source.data = file;
        if (mine) source.data = json_string(json_get(mine, "template"), &source.len);
        missing += !source.data;
        if (!source.data) continue;
        const struct json *tools = json_first(t), *reasoning = json_next(tools);
        const char *want[] = {json_string(tools, NULL), json_string(reasoning, NULL)};
        const char *got[] = {tool_name(source), reasoning_name(source)};
        if (strcmp(want[0], got[0]) != 0 || strcmp(want[1], got[1]) != 0) {
            printf("%s: %s, %s; expected %s, %s\n", name, got[0], got[1], want[0], want[1]);
            test_failures++;
        }
        free(file);
        seen++;
    }
    /* A new template in the fixtures is one that somebody has looked at. */
    for (const struct json *t = json_first(json_get(own, "templates")); t; t = json_next(t))
        if (!json_get(root, json_name(t))) {
            printf("%s isn't in templates.json\n", json_name(t));
            test_failures++;
        }
    printf("%d templates, %d aren't here\n", seen, missing);
    EXPECT(seen >= 6);
    json_destroy(own);
    json_destroy(root);
}

static void test_starts_in_reasoning(void)
{
    const struct reasoning_format *r1 = reasoning_format_find("deepseek-r1"),
                                  *qwen3 = reasoning_format_find("qwen3"),
                                  *v3 = reasoning_format_find("deepseek-v3");
    static const char plain[] = "<|im_start|>assistant\n", open[] = "assistant\n<think>\n",
                      closed[] = "assistant\n<think>\n\n</think>\n\n";
    for (int thinking = -1; thinking <= 1; thinking++) {
        EXPECT(reasoning_format_starts_in(r1, STR(plain), thinking) == (thinking != 0));
        EXPECT(!reasoning_format_starts_in(qwen3, STR(plain), thinking));
        EXPECT(reasoning_format_starts_in(v3, STR(plain), thinking) == (thinking == 1));
        EXPECT(reasoning_format_starts_in(r1, STR(open), thinking));
        EXPECT(reasoning_format_starts_in(qwen3, STR(open), thinking));
        EXPECT(reasoning_format_starts_in(v3, STR(open), thinking));
        EXPECT(!reasoning_format_starts_in(r1, STR(closed), thinking));
        EXPECT(!reasoning_format_starts_in(qwen3, STR(closed), thinking));
        EXPECT(!reasoning_format_starts_in(reasoning_format_find("gpt-oss"), STR(plain), thinking));
    }
}

int main(void)
{
    RUN(test_names);
    RUN(test_templates);
    RUN(test_starts_in_reasoning);
    return TEST_END();
}
