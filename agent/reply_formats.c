#define LOG_MODULE "template"
#include "agent/reply_formats.h"

#include "shared/base/check.h"
#include "shared/base/log.h"

#include <string.h>

#define PROBE "lm_probe_of_tools"

/* Whether a prompt of these messages and tools has the probe's name in it. */
static bool shows(const struct chat_template *t, struct str messages_text, struct str tools_text,
                  const char *word)
{
    struct json *messages = json_parse(messages_text.data, messages_text.len, NULL);
    struct json *tools = json_parse(tools_text.data, tools_text.len, NULL);
    CHECK(messages && tools);
    struct chat_template_input in = {
        .messages = messages, .tools = tools, .add_generation_prompt = true};
    struct buf text;
    struct error err = {0};
    buf_init(&text, BUF_MAX_INTERNAL);
    int rc = chat_template_render(t, &in, &text, &err);
    /* One that refuses this prompt may take others: then its source has to do. */
    struct str source = chat_template_source(t);
    bool is_there = rc == 0 ? text.len > 0 && strstr(text.data, PROBE)
                            : source.len > 0 && memmem(source.data, source.len, word, strlen(word));
    buf_deinit(&text);
    json_destroy(messages);
    json_destroy(tools);
    return is_there;
}

static bool shows_tools(const struct chat_template *t)
{
    return shows(t, STR("[{\"role\":\"user\",\"content\":\"x\"}]"),
                 STR("[{\"type\":\"function\",\"function\":{\"name\":\"" PROBE
                     "\",\"description\":\"x\",\"parameters\":{\"type\":\"object\",\"properties\":{"
                     "\"x\":{\"type\":\"string\",\"description\":\"x\"}},\"required\":[\"x\"]}}}]"),
                 "tools");
}

static bool shows_calls(const struct chat_template *t)
{
    return shows(
        t,
        STR("[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\",\"content\":\"\","
            "\"tool_calls\":[{\"id\":\"call00000\",\"type\":\"function\",\"function\":{"
            "\"name\":\"" PROBE "\",\"arguments\":{}}}]}]"),
        STR("[]"), "tool_calls");
}

static const struct tool_format *choose_tools(const char *name, const struct chat_template *t,
                                              bool template_has_tools)
{
    if (name) return strcmp(name, REPLY_PARSER_NONE) == 0 ? NULL : tool_format_find(name);
    const struct tool_format *format = NULL;
    if (template_has_tools) {
        format = tool_format_of_template(chat_template_source(t));
        if (!format)
            log_warn("calls of tools have an unknown form",
                     "parser=" REPLY_GENERIC_FORMAT " known=\"%s\"", tool_format_names());
    }
    return format ? format : tool_format_find(REPLY_GENERIC_FORMAT);
}

/* A form that has reasoning, content and calls in one has its own reader. */
static const struct tool_format *whole_of(const struct reply_formats *f)
{
    return f->reasoning ? f->reasoning->whole : NULL;
}

static void show(struct reply_formats *f, const struct tokenizer *t, const char *tag)
{
    int32_t id = tokenizer_find(t, str_of(tag));
    if (id < 0 || !tokenizer_is_special(t, id)) return;
    for (int i = 0; i < f->shown_count; i++)
        if (f->shown[i] == id) return;
    if (f->shown_count < SHOWN_TOKENS_MAX) f->shown[f->shown_count++] = id;
}

void reply_formats_init(struct reply_formats *f, const char *tool_parser,
                        const char *reasoning_parser, const struct chat_template *chat_template,
                        const struct tokenizer *tokenizer)
{
    *f = (struct reply_formats){.template_has_tools = shows_tools(chat_template),
                                .template_has_calls = shows_calls(chat_template)};
    f->tools = choose_tools(tool_parser, chat_template, f->template_has_tools);
    if (!reasoning_parser)
        f->reasoning = reasoning_format_of_template(chat_template_source(chat_template));
    else if (strcmp(reasoning_parser, REPLY_PARSER_NONE) != 0)
        f->reasoning = reasoning_format_find(reasoning_parser);
    const struct tool_format *whole = whole_of(f);
    if (whole && f->tools) f->tools = whole;
    if (f->reasoning && f->reasoning->close) {
        show(f, tokenizer, f->reasoning->open);
        show(f, tokenizer, f->reasoning->close);
    }
    for (int i = 0; whole && whole->tokens[i]; i++)
        show(f, tokenizer, whole->tokens[i]);
    f->shown_reasoning = f->shown_count;
    for (int i = 0; f->tools && f->tools->tokens[i]; i++)
        show(f, tokenizer, f->tools->tokens[i]);
    log_info("answers are taken apart", "tools=%s reasoning=%s template_has_tools=%d",
             f->tools ? f->tools->name : REPLY_PARSER_NONE,
             f->reasoning ? f->reasoning->name : REPLY_PARSER_NONE, f->template_has_tools);
}
