/* anthropic_request.c - see anthropic_request.h.
 *
 *     system: "..." or blocks of text         system message
 *     user: text, tool_result blocks          a tool's message for each result, then the user's text
 *     assistant: text, thinking, tool_use     content, reasoning_content, tool_calls
 */
#include "agent/anthropic_request.h"

#include "agent/chat_body.h"
#include "agent/request_field.h"
#include "shared/base/check.h"

#include <stdio.h>
#include <string.h>

struct converter {
    struct json_writer *w;
    struct api_error *e;
    char path[96];
    size_t message; // its index
};

static const char *path_of(struct converter *c, const char *member)
{
    snprintf(c->path, sizeof c->path, "messages[%zu].%s", c->message, member);
    return c->path;
}

static bool block_is(const struct json *block, const char *type)
{
    const struct json *v = json_get(block, "type");
    return v && json_type(v) == JSON_STRING && strcmp(json_string(v, NULL), type) == 0;
}

/* A string, or blocks of text joined with nothing between them; other blocks are skipped where
 * `only_text` is false. */
static int read_text(struct converter *c, const struct json *v, const char *path, bool only_text,
                     struct buf *out)
{
    if (json_type(v) == JSON_STRING) {
        struct str s = field_str(v);
        buf_append(out, s.data, s.len);
        return 0;
    }
    if (json_type(v) != JSON_ARRAY)
        return field_type_error(c->e, path, "a string or an array of blocks", v);
    for (const struct json *b = json_first(v); b; b = json_next(b)) {
        if (!block_is(b, "text")) {
            if (!only_text) continue;
            return api_error_set(c->e, 400, "unsupported_parameter", path,
                                 "This model takes text only: the blocks of '%s' must be of type "
                                 "'text'.",
                                 path);
        }
        const struct json *text = json_get(b, "text");
        if (!text || json_type(text) != JSON_STRING)
            return api_error_set(c->e, 400, "invalid_type", path,
                                 "Invalid '%s': a block of type 'text' has a string in 'text'.",
                                 path);
        struct str s = field_str(text);
        buf_append(out, s.data, s.len);
    }
    return 0;
}

static int put_text(struct converter *c, const struct json *v, const char *path, bool only_text,
                    const char *name)
{
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    int rc = read_text(c, v, path, only_text, &text);
    if (rc == 0) json_field_str(c->w, name, buf_str(&text));
    buf_deinit(&text);
    return rc;
}

/* ---- messages ---- */

/* Every block is of one of these types; an image is none of them. */
static int check_blocks(struct converter *c, const struct json *content, const char *const *types,
                        size_t count)
{
    for (const struct json *b = json_first(content); b; b = json_next(b)) {
        bool is_known = false;
        for (size_t i = 0; i < count && !is_known; i++)
            is_known = block_is(b, types[i]);
        if (is_known) continue;
        const struct json *type = json_get(b, "type");
        bool has_name = type && json_type(type) == JSON_STRING;
        return api_error_set(c->e, 400, "unsupported_parameter", path_of(c, "content"),
                             "Invalid '%s': blocks of type '%.64s' are not supported here. This "
                             "model takes text only.",
                             c->path, has_name ? json_string(type, NULL) : "(none)");
    }
    return 0;
}

static int put_result(struct converter *c, const struct json *block)
{
    struct str id = {0};
    const char *path = path_of(c, "content.tool_use_id");
    if (field_string(block, "tool_use_id", path, &id, c->e) != 0) return -1;
    if (!id.data) return field_missing_error(c->e, path);
    json_object_begin(c->w);
    json_field_text(c->w, "role", "tool");
    json_field_str(c->w, "tool_call_id", id);
    const struct json *content = json_get_set(block, "content");
    int rc = 0;
    if (content)
        rc = put_text(c, content, path_of(c, "content.content"), true, "content");
    else
        json_field_text(c->w, "content", "");
    json_object_end(c->w);
    return rc;
}

static int put_user(struct converter *c, const struct json *content)
{
    static const char *const types[] = {"text", "tool_result"};
    bool has_text = json_type(content) == JSON_STRING;
    if (!has_text && check_blocks(c, content, types, ARRAY_LEN(types)) != 0) return -1;
    for (const struct json *b = has_text ? NULL : json_first(content); b; b = json_next(b)) {
        if (block_is(b, "text")) has_text = true;
        if (block_is(b, "tool_result") && put_result(c, b) != 0) return -1;
    }
    if (!has_text) return 0;
    json_object_begin(c->w);
    json_field_text(c->w, "role", "user");
    int rc = put_text(c, content, path_of(c, "content"), false, "content");
    json_object_end(c->w);
    return rc;
}

static int put_call(struct converter *c, const struct json *block)
{
    struct str id = {0}, name = {0};
    if (field_string(block, "id", path_of(c, "content.id"), &id, c->e) != 0) return -1;
    if (field_string(block, "name", path_of(c, "content.name"), &name, c->e) != 0) return -1;
    if (!id.data) return field_missing_error(c->e, path_of(c, "content.id"));
    if (!name.data) return field_missing_error(c->e, path_of(c, "content.name"));
    struct buf input;
    buf_init(&input, BUF_MAX_INTERNAL);
    const struct json *v = json_get_set(block, "input");
    if (v) json_print(v, &input, false);
    chat_body_put_call(c->w, id, name, v ? buf_str(&input) : STR("{}"));
    buf_deinit(&input);
    return 0;
}

static void put_thinking(struct converter *c, const struct json *content)
{
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    for (const struct json *b = json_first(content); b; b = json_next(b)) {
        const struct json *v = block_is(b, "thinking") ? json_get(b, "thinking") : NULL;
        if (!v || json_type(v) != JSON_STRING) continue;
        struct str s = field_str(v);
        buf_append(&text, s.data, s.len);
    }
    if (text.len > 0) json_field_str(c->w, "reasoning_content", buf_str(&text));
    buf_deinit(&text);
}

static int put_assistant(struct converter *c, const struct json *content)
{
    static const char *const types[] = {"text", "tool_use", "thinking", "redacted_thinking"};
    bool has_blocks = json_type(content) != JSON_STRING, has_calls = false;
    if (has_blocks && check_blocks(c, content, types, ARRAY_LEN(types)) != 0) return -1;
    json_object_begin(c->w);
    json_field_text(c->w, "role", "assistant");
    if (put_text(c, content, path_of(c, "content"), false, "content") != 0) return -1;
    if (has_blocks) put_thinking(c, content);
    for (const struct json *b = has_blocks ? json_first(content) : NULL; b; b = json_next(b)) {
        if (!block_is(b, "tool_use")) continue;
        if (!has_calls) {
            json_key(c->w, "tool_calls");
            json_array_begin(c->w);
            has_calls = true;
        }
        if (put_call(c, b) != 0) return -1;
    }
    if (has_calls) json_array_end(c->w);
    json_object_end(c->w);
    return 0;
}

static int put_message(struct converter *c, const struct json *message)
{
    struct str role = {0};
    if (json_type(message) != JSON_OBJECT) {
        snprintf(c->path, sizeof c->path, "messages[%zu]", c->message);
        return field_type_error(c->e, c->path, "an object", message);
    }
    if (field_string(message, "role", path_of(c, "role"), &role, c->e) != 0) return -1;
    const struct json *content = json_get_set(message, "content");
    if (!content) return field_missing_error(c->e, path_of(c, "content"));
    if (json_type(content) != JSON_STRING && json_type(content) != JSON_ARRAY)
        return field_type_error(c->e, path_of(c, "content"), "a string or an array of blocks",
                                content);
    if (str_equal(role, STR("user"))) return put_user(c, content);
    if (str_equal(role, STR("assistant"))) return put_assistant(c, content);
    return api_error_set(c->e, 400, "invalid_value", path_of(c, "role"),
                         "Invalid '%s': it is 'user' or 'assistant'; what the system says stands "
                         "in 'system'.",
                         c->path);
}

static int put_messages(struct converter *c, const struct json *body)
{
    const struct json *messages = json_get_set(body, "messages");
    const struct json *system = json_get_set(body, "system");
    if (!messages) return field_missing_error(c->e, "messages");
    if (json_type(messages) != JSON_ARRAY)
        return field_type_error(c->e, "messages", "an array of objects", messages);
    json_key(c->w, "messages");
    json_array_begin(c->w);
    if (system) {
        json_object_begin(c->w);
        json_field_text(c->w, "role", "system");
        if (put_text(c, system, "system", true, "content") != 0) return -1;
        json_object_end(c->w);
    }
    for (const struct json *m = json_first(messages); m; m = json_next(m), c->message++) {
        if (put_message(c, m) != 0) return -1;
    }
    json_array_end(c->w);
    return 0;
}

/* ---- the other members ---- */

static int put_tools(struct json_writer *w, const struct json *body, struct api_error *e)
{
    const struct json *tools;
    if (field_typed(body, "tools", JSON_ARRAY, &tools, e) != 0) return -1;
    if (json_len(tools) == 0) return 0;
    json_key(w, "tools");
    json_array_begin(w);
    for (const struct json *t = json_first(tools); t; t = json_next(t)) {
        const struct json *type = json_get_set(t, "type");
        if (type && !block_is(t, "custom"))
            return api_error_set(e, 400, "unsupported_parameter", "tools",
                                 "Unsupported tool: this server runs no tools of its own, so that "
                                 "a tool has 'name' and 'input_schema' and no 'type' but "
                                 "'custom'.");
        json_object_begin(w);
        json_field_text(w, "type", "function");
        json_key(w, "function");
        json_object_begin(w);
        chat_body_copy(w, t, "name", "name");
        chat_body_copy(w, t, "description", "description");
        chat_body_copy(w, t, "input_schema", "parameters");
        chat_body_copy(w, t, "strict", "strict");
        json_object_end(w);
        json_object_end(w);
    }
    json_array_end(w);
    return 0;
}

static int put_tool_choice(struct json_writer *w, const struct json *body, struct api_error *e)
{
    const struct json *choice;
    struct str type = {0}, name = {0};
    bool is_single = false;
    if (field_typed(body, "tool_choice", JSON_OBJECT, &choice, e) != 0) return -1;
    if (!choice) return 0;
    if (field_string(choice, "type", "tool_choice.type", &type, e) != 0 ||
        field_string(choice, "name", "tool_choice.name", &name, e) != 0 ||
        field_bool(choice, "disable_parallel_tool_use", &is_single, e) != 0) {
        return -1;
    }
    if (is_single) json_field_bool(w, "parallel_tool_calls", false);
    if (str_equal(type, STR("tool")) && name.data) {
        chat_body_put_named_choice(w, name);
        return 0;
    }
    bool is_any = str_equal(type, STR("any"));
    if (!is_any && !str_equal(type, STR("auto")) && !str_equal(type, STR("none")))
        return api_error_set(e, 400, "invalid_value", "tool_choice.type",
                             "Invalid 'tool_choice.type': it is 'auto', 'any', 'none', or 'tool' "
                             "with a 'name'.");
    json_field_str(w, "tool_choice", is_any ? STR("required") : type);
    return 0;
}

/* Thinking is on or off; how long it may take is the model's affair. */
static int put_thinking_switch(struct json_writer *w, const struct json *body, struct api_error *e)
{
    const struct json *thinking;
    struct str type = {0};
    if (field_typed(body, "thinking", JSON_OBJECT, &thinking, e) != 0) return -1;
    if (field_string(thinking, "type", "thinking.type", &type, e) != 0) return -1;
    if (type.data) json_field_bool(w, "enable_thinking", !str_equal(type, STR("disabled")));
    return 0;
}

int anthropic_request_to_chat(const struct json *body, bool is_count, struct buf *chat,
                              struct api_error *e)
{
    static const char *const same[] = {"model", "stream", "temperature", "top_p", "top_k", "seed"};
    struct json_writer w;
    if (json_type(body) != JSON_OBJECT)
        return api_error_set(e, 400, "invalid_type", NULL, "The body must be a JSON object.");
    if (!is_count && !json_get_set(body, "max_tokens")) return field_missing_error(e, "max_tokens");
    json_writer_init(&w, chat);
    struct converter c = {.w = &w, .e = e};
    json_object_begin(&w);
    for (size_t i = 0; i < ARRAY_LEN(same); i++)
        chat_body_copy(&w, body, same[i], same[i]);
    chat_body_copy(&w, body, "max_tokens", "max_completion_tokens");
    chat_body_copy(&w, body, "stop_sequences", "stop");
    if (put_tools(&w, body, e) != 0 || put_tool_choice(&w, body, e) != 0 ||
        put_thinking_switch(&w, body, e) != 0 || put_messages(&c, body) != 0) {
        return -1;
    }
    json_object_end(&w);
    if (chat->overflow) return api_error_set(e, 413, NULL, NULL, "The request is too large.");
    return 0;
}
