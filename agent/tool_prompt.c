#include "agent/tool_prompt.h"

#include "agent/request_field.h"

#include <string.h>

static struct str text_of(const struct json *v)
{
    return v && json_type(v) == JSON_STRING ? field_str(v) : STR("");
}

static void append(struct buf *out, struct str text)
{
    buf_append(out, text.data, text.len);
}

static bool has_role(const struct json *message, struct str role)
{
    return str_equal(text_of(json_get(message, "role")), role);
}

static bool is_result(const struct json *message)
{
    return has_role(message, STR("tool")) || has_role(message, STR("function"));
}

bool tool_prompt_is_needed(const struct json *messages)
{
    for (const struct json *m = json_first(messages); m; m = json_next(m))
        if (is_result(m) || json_len(json_get(m, "tool_calls")) > 0) return true;
    return false;
}

static void append_tools(struct buf *out, const struct json *tools, bool explains)
{
    buf_append_str(out, "You can call these functions, which are described as JSON:\n<tools>\n");
    for (const struct json *t = json_first(tools); t; t = json_next(t)) {
        json_print(t, out, true);
        buf_append_char(out, '\n');
    }
    buf_append_str(out, "</tools>");
    if (!explains) return;
    buf_append_str(
        out,
        "\n\nTo call one, write its name and its arguments as JSON between these tags, once for "
        "each call:\n<tool_call>\n{\"name\": \"the function's name\", \"arguments\": {\"an "
        "argument's name\": \"its value\"}}\n</tool_call>\nWhat it returns comes in a "
        "<tool_response>. Where no function helps, answer as always.");
}

/* As Hermes' models write them. */
static void append_calls(struct buf *out, const struct json *calls)
{
    for (const struct json *c = json_first(calls); c; c = json_next(c)) {
        const struct json *function = json_get(c, "function");
        const struct json *arguments = json_get(function, "arguments");
        struct json_writer w;
        if (out->len > 0) buf_append_char(out, '\n');
        buf_append_str(out, "<tool_call>\n{\"name\": ");
        json_writer_init(&w, out);
        json_put_str(&w, text_of(json_get(function, "name")));
        buf_append_str(out, ", \"arguments\": ");
        if (arguments)
            json_print(arguments, out, true);
        else
            buf_append_str(out, "{}");
        buf_append_str(out, "}\n</tool_call>");
    }
}

static void put_message(struct json_writer *w, const char *role, const struct buf *content)
{
    json_object_begin(w);
    json_field_text(w, "role", role);
    json_field_str(w, "content", content->len > 0 ? buf_str(content) : STR(""));
    json_object_end(w);
}

/* Results that follow each other are one message: many templates want users and assistants to take
 * turns. Returns the last of them. */
static const struct json *put_results(struct json_writer *w, const struct json *first)
{
    struct buf content;
    const struct json *last = first;
    buf_init(&content, BUF_MAX_INTERNAL);
    for (const struct json *m = first; m && is_result(m); m = json_next(m)) {
        last = m;
        if (content.len > 0) buf_append_char(&content, '\n');
        buf_append_str(&content, "<tool_response>\n");
        append(&content, text_of(json_get(m, "content")));
        buf_append_str(&content, "\n</tool_response>");
    }
    put_message(w, "user", &content);
    buf_deinit(&content);
    return last;
}

static void put_as_sent(struct json_writer *w, const struct json *message)
{
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    json_print(message, &text, false);
    json_put_raw(w, buf_str(&text));
    buf_deinit(&text);
}

static void put_caller(struct json_writer *w, const struct json *message)
{
    struct buf content;
    buf_init(&content, BUF_MAX_INTERNAL);
    append(&content, text_of(json_get(message, "content")));
    append_calls(&content, json_get(message, "tool_calls"));
    put_message(w, "assistant", &content);
    buf_deinit(&content);
}

/* Returns the first message that isn't part of it. */
static const struct json *put_system(struct json_writer *w, const struct json *first,
                                     const struct json *tools, bool explains)
{
    struct buf content;
    bool has_own = has_role(first, STR("system"));
    if (json_len(tools) == 0) return first;
    buf_init(&content, BUF_MAX_INTERNAL);
    if (has_own) append(&content, text_of(json_get(first, "content")));
    if (content.len > 0) buf_append_str(&content, "\n\n");
    append_tools(&content, tools, explains);
    put_message(w, "system", &content);
    buf_deinit(&content);
    return has_own ? json_next(first) : first;
}

struct json *tool_prompt_rewrite(const struct json *messages, const struct json *tools,
                                 bool explains, struct error *err)
{
    struct buf text;
    struct json_writer w;
    buf_init(&text, BUF_MAX_INTERNAL);
    json_writer_init(&w, &text);
    json_array_begin(&w);
    const struct json *m = put_system(&w, json_first(messages), tools, explains);
    for (; m; m = json_next(m)) {
        if (is_result(m))
            m = put_results(&w, m);
        else if (json_len(json_get(m, "tool_calls")) > 0)
            put_caller(&w, m);
        else
            put_as_sent(&w, m);
    }
    json_array_end(&w);
    struct json *out = json_parse(text.data, text.len, err);
    buf_deinit(&text);
    return out;
}
