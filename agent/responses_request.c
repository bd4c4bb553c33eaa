/* responses_request.c - see responses_request.h.
 *
 *     instructions, input: "..."            system message, user message
 *     {"type": "message", role, content}    the message, its parts as parts of text
 *     {"type": "function_call"} ...         one assistant message with the calls, joined with the text
 *                                           before them
 *     {"type": "function_call_output"}      a tool's message
 *     {"type": "reasoning"}                 the next assistant message's reasoning_content
 */
#include "agent/responses_request.h"

#include "agent/chat_body.h"
#include "agent/request_field.h"
#include "shared/base/check.h"

#include <stdio.h>
#include <string.h>

#define PATH_MAX_LEN 96

/* Where messages are written, and which assistant message is open: its calls may still come. */
struct converter {
    struct json_writer *w;
    struct api_error *e;
    char path[PATH_MAX_LEN];
    size_t index;               // of the item
    bool is_open, has_calls;    // an assistant message, its array of calls
    const struct json *thought; // reasoning item that the next assistant message gets
};

static const char *path_of(struct converter *c, const char *member)
{
    snprintf(c->path, sizeof c->path, "input[%zu]%s%s", c->index, member ? "." : "",
             member ? member : "");
    return c->path;
}

/* ---- text of items ---- */

/* The member of a part that holds text, NULL: it holds something else. */
static const char *text_member(const char *type)
{
    static const char *const kinds[][2] = {
        {"input_text", "text"}, {"output_text", "text"},    {"text", "text"},
        {"refusal", "refusal"}, {"reasoning_text", "text"}, {"summary_text", "text"},
    };
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (strcmp(type, kinds[i][0]) == 0) return kinds[i][1];
    }
    return NULL;
}

static int append_part(struct converter *c, const char *member, const struct json *part,
                       struct buf *out)
{
    const struct json *type = json_get(part, "type");
    if (!type || json_type(type) != JSON_STRING)
        return api_error_set(c->e, 400, "invalid_value", path_of(c, member),
                             "Invalid '%s': each part is an object with a 'type'.", c->path);
    const char *kind = json_string(type, NULL);
    const char *holder = text_member(kind);
    if (!holder)
        return api_error_set(c->e, 400, "unsupported_parameter", path_of(c, member),
                             "This model takes text only, but '%s' has a part of type '%.64s'.",
                             c->path, kind);
    const struct json *text = json_get(part, holder);
    if (!text || json_type(text) != JSON_STRING)
        return api_error_set(c->e, 400, "invalid_type", path_of(c, member),
                             "Invalid '%s': a part of type '%s' has its text in '%s'.", c->path,
                             kind, holder);
    struct str s = field_str(text);
    buf_append(out, s.data, s.len);
    return 0;
}

/* A string, or parts of text joined with nothing between them. */
static int read_text(struct converter *c, const struct json *item, const char *member,
                     struct buf *out)
{
    const struct json *v = json_get_set(item, member);
    if (!v) return field_missing_error(c->e, path_of(c, member));
    if (json_type(v) == JSON_STRING) {
        struct str s = field_str(v);
        buf_append(out, s.data, s.len);
        return 0;
    }
    if (json_type(v) != JSON_ARRAY)
        return field_type_error(c->e, path_of(c, member), "a string or an array of parts", v);
    for (const struct json *part = json_first(v); part; part = json_next(part)) {
        if (append_part(c, member, part, out) != 0) return -1;
    }
    return 0;
}

static int put_text(struct converter *c, const struct json *item, const char *member,
                    const char *name)
{
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    int rc = read_text(c, item, member, &text);
    if (rc == 0) json_field_str(c->w, name, buf_str(&text));
    buf_deinit(&text);
    return rc;
}

/* ---- items ---- */

static void close_message(struct converter *c)
{
    if (c->has_calls) json_array_end(c->w);
    if (c->is_open) json_object_end(c->w);
    c->is_open = c->has_calls = false;
}

static int open_assistant(struct converter *c, const struct json *message)
{
    close_message(c);
    json_object_begin(c->w);
    c->is_open = true;
    json_field_text(c->w, "role", "assistant");
    if (message && put_text(c, message, "content", "content") != 0) return -1;
    if (!message) json_field_null(c->w, "content");
    const struct json *thought = c->thought;
    c->thought = NULL;
    const char *member = json_len(json_get(thought, "content")) > 0 ? "content" : "summary";
    if (json_len(json_get(thought, member)) == 0) return 0;
    return put_text(c, thought, member, "reasoning_content");
}

static int put_message(struct converter *c, const struct json *item)
{
    struct str role = {0};
    if (field_string(item, "role", path_of(c, "role"), &role, c->e) != 0) return -1;
    if (role.len == 0) return field_missing_error(c->e, path_of(c, "role"));
    if (str_equal(role, STR("assistant"))) return open_assistant(c, item);
    close_message(c);
    json_object_begin(c->w);
    json_field_str(c->w, "role", role);
    int rc = put_text(c, item, "content", "content");
    json_object_end(c->w);
    return rc;
}

static int put_call(struct converter *c, const struct json *item)
{
    struct str id = {0}, name = {0}, arguments = {0};
    if (field_string(item, "call_id", path_of(c, "call_id"), &id, c->e) != 0) return -1;
    if (field_string(item, "name", path_of(c, "name"), &name, c->e) != 0) return -1;
    if (field_string(item, "arguments", path_of(c, "arguments"), &arguments, c->e) != 0) return -1;
    if (!id.data) return field_missing_error(c->e, path_of(c, "call_id"));
    if (!name.data) return field_missing_error(c->e, path_of(c, "name"));
    if ((!c->is_open || c->thought) && open_assistant(c, NULL) != 0) return -1;
    if (!c->has_calls) {
        json_key(c->w, "tool_calls");
        json_array_begin(c->w);
        c->has_calls = true;
    }
    chat_body_put_call(c->w, id, name, arguments.data ? arguments : STR("{}"));
    return 0;
}

static int put_output(struct converter *c, const struct json *item)
{
    struct str id = {0};
    if (field_string(item, "call_id", path_of(c, "call_id"), &id, c->e) != 0) return -1;
    if (!id.data) return field_missing_error(c->e, path_of(c, "call_id"));
    close_message(c);
    json_object_begin(c->w);
    json_field_text(c->w, "role", "tool");
    json_field_str(c->w, "tool_call_id", id);
    int rc = put_text(c, item, "output", "content");
    json_object_end(c->w);
    return rc;
}

static int put_item(struct converter *c, const struct json *item)
{
    struct str type = STR("message");
    if (json_type(item) != JSON_OBJECT)
        return field_type_error(c->e, path_of(c, NULL), "an object", item);
    if (field_string(item, "type", path_of(c, "type"), &type, c->e) != 0) return -1;
    if (str_equal(type, STR("message"))) return put_message(c, item);
    if (str_equal(type, STR("function_call"))) return put_call(c, item);
    if (str_equal(type, STR("function_call_output"))) return put_output(c, item);
    if (str_equal(type, STR("reasoning"))) {
        c->thought = item;
        return 0;
    }
    return api_error_set(c->e, 400, "unsupported_parameter", path_of(c, "type"),
                         "Items of type '%.*s' are not supported by this server, which stores "
                         "nothing and has no tools of its own. Supported are 'message', "
                         "'function_call', 'function_call_output' and 'reasoning'.",
                         type.len < 64 ? (int)type.len : 64, type.data);
}

static int put_messages(struct json_writer *w, const struct json *body, struct api_error *e)
{
    struct converter c = {.w = w, .e = e};
    struct str instructions = {0};
    const struct json *input = json_get_set(body, "input");
    if (field_string(body, "instructions", NULL, &instructions, e) != 0) return -1;
    if (!input) return field_missing_error(e, "input");
    json_key(w, "messages");
    json_array_begin(w);
    if (instructions.len > 0) {
        chat_body_put_message(w, "system", instructions);
    }
    int rc = 0;
    if (json_type(input) == JSON_STRING) {
        chat_body_put_message(w, "user", field_str(input));
    } else if (json_type(input) == JSON_ARRAY) {
        for (const struct json *i = json_first(input); i && rc == 0; i = json_next(i), c.index++)
            rc = put_item(&c, i);
        close_message(&c);
    } else {
        rc = field_type_error(e, "input", "a string or an array of items", input);
    }
    json_array_end(w);
    return rc;
}

/* ---- the other members ---- */

/* A tool of this API is flat; the chat's has its function in a member of that name. */
static int put_tools(struct json_writer *w, const struct json *body, struct api_error *e)
{
    const struct json *tools;
    if (field_typed(body, "tools", JSON_ARRAY, &tools, e) != 0) return -1;
    if (json_len(tools) == 0) return 0;
    json_key(w, "tools");
    json_array_begin(w);
    size_t index = 0;
    for (const struct json *t = json_first(tools); t; t = json_next(t), index++) {
        char path[48];
        struct str type = {0};
        snprintf(path, sizeof path, "tools[%zu].type", index);
        if (field_string(t, "type", path, &type, e) != 0) return -1;
        if (!str_equal(type, STR("function")))
            return api_error_set(e, 400, "unsupported_parameter", path,
                                 "Unsupported tool: this server runs no tools of its own, so that "
                                 "'%s' can only be 'function'.",
                                 path);
        json_object_begin(w);
        json_field_text(w, "type", "function");
        json_key(w, "function");
        json_object_begin(w);
        for (const struct json *m = json_first(t); m; m = json_next(m)) {
            if (strcmp(json_name(m), "type") == 0) continue;
            json_key(w, json_name(m));
            json_put_value(w, m);
        }
        json_object_end(w);
        json_object_end(w);
    }
    json_array_end(w);
    return 0;
}

/* The chat's has mode and tools in a member, and each name in one of its tool's. */
static void put_allowed_tools(struct json_writer *w, const struct json *choice)
{
    const struct json *tools = json_get_set(choice, "tools");
    json_key(w, "tool_choice");
    json_object_begin(w);
    json_field_text(w, "type", "allowed_tools");
    json_key(w, "allowed_tools");
    json_object_begin(w);
    chat_body_copy(w, choice, "mode", "mode");
    if (tools && json_type(tools) == JSON_ARRAY) {
        json_key(w, "tools");
        json_array_begin(w);
        for (const struct json *t = json_first(tools); t; t = json_next(t)) {
            json_object_begin(w);
            chat_body_copy(w, t, "type", "type");
            json_key(w, "function");
            json_object_begin(w);
            chat_body_copy(w, t, "name", "name");
            json_object_end(w);
            json_object_end(w);
        }
        json_array_end(w);
    } else
        chat_body_copy(w, choice, "tools", "tools");
    json_object_end(w);
    json_object_end(w);
}

static int put_tool_choice(struct json_writer *w, const struct json *body, struct api_error *e)
{
    const struct json *choice = json_get_set(body, "tool_choice");
    if (!choice) return 0;
    struct str name = {0}, type = {0};
    if (json_type(choice) == JSON_OBJECT) {
        if (field_string(choice, "name", "tool_choice.name", &name, e) != 0 ||
            field_string(choice, "type", "tool_choice.type", &type, e) != 0)
            return -1;
    }
    if (str_equal(type, STR("allowed_tools"))) {
        put_allowed_tools(w, choice);
    } else if (name.data) {
        chat_body_put_named_choice(w, name);
    } else {
        json_key(w, "tool_choice");
        json_put_value(w, choice);
    }
    return 0;
}

/* text.format is the chat's response_format, with the schema's members a level higher. */
static int put_format(struct json_writer *w, const struct json *body, struct api_error *e)
{
    const struct json *text, *format;
    if (field_typed(body, "text", JSON_OBJECT, &text, e) != 0) return -1;
    format = json_get_set(text, "format");
    if (!format) return 0;
    if (json_type(format) != JSON_OBJECT)
        return field_type_error(e, "text.format", "an object", format);
    struct str type = {0};
    if (field_string(format, "type", "text.format.type", &type, e) != 0) return -1;
    json_key(w, "response_format");
    json_object_begin(w);
    if (type.data) json_field_str(w, "type", type);
    if (str_equal(type, STR("json_schema"))) {
        json_key(w, "json_schema");
        json_object_begin(w);
        for (const struct json *m = json_first(format); m; m = json_next(m)) {
            if (strcmp(json_name(m), "type") == 0) continue;
            json_key(w, json_name(m));
            json_put_value(w, m);
        }
        json_object_end(w);
    }
    json_object_end(w);
    return 0;
}

static int put_reasoning(struct json_writer *w, const struct json *body, struct api_error *e)
{
    const struct json *reasoning;
    if (field_typed(body, "reasoning", JSON_OBJECT, &reasoning, e) != 0) return -1;
    chat_body_copy(w, reasoning, "effort", "reasoning_effort");
    return 0;
}

/* What needs something stored, or somebody who works on when the client has left. */
static int refuse_state(const struct json *body, struct api_error *e)
{
    static const char *const names[] = {"previous_response_id", "conversation", "prompt",
                                        "context_management"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (!json_get_set(body, names[i])) continue;
        return api_error_set(e, 400, "unsupported_parameter", names[i],
                             "Unsupported parameter: '%s' goes on from something stored, and this "
                             "server stores nothing. Send the whole conversation as 'input'.",
                             names[i]);
    }
    bool background = false;
    if (field_bool(body, "background", &background, e) != 0) return -1;
    if (!background) return 0;
    return api_error_set(e, 400, "unsupported_parameter", "background",
                         "Unsupported parameter: this server answers while the client waits, so "
                         "'background' must be false.");
}

/* Members that both APIs have, those that only other servers' chats have among them. */
static const char *const shared_members[] = {
    "model",
    "stream",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "user",
    "metadata",
    "parallel_tool_calls",
    "service_tier",
    "ignore_eos",
    "min_new_tokens",
    "repetition_penalty",
    "presence_penalty",
    "logit_bias",
    "priority",
    "frequency_penalty",
    "chat_template_kwargs",
    "session_id",
    "stop_token_ids",
    "skip_special_tokens",
    "enable_thinking",
};

static void put_repeats(struct buf *repeats, const struct json *body)
{
    static const struct {
        const char *name, *otherwise;
    } members[] = {
        {"instructions", "null"},
        {"max_output_tokens", "null"},
        {"metadata", "{}"},
        {"parallel_tool_calls", "true"},
        {"reasoning", "{\"effort\":null,\"summary\":null}"},
        {"temperature", "1.0"},
        {"text", "{\"format\":{\"type\":\"text\"}}"},
        {"tool_choice", "\"auto\""},
        {"tools", "[]"},
        {"top_p", "1.0"},
        {"truncation", "\"disabled\""},
        {"user", "null"},
    };
    for (size_t i = 0; i < ARRAY_LEN(members); i++) {
        const struct json *v = json_get_set(body, members[i].name);
        buf_printf(repeats, "\"%s\":", members[i].name);
        if (v)
            json_print(v, repeats, false);
        else
            buf_append(repeats, members[i].otherwise, strlen(members[i].otherwise));
        buf_append(repeats, ",", 1);
    }
}

int responses_request_to_chat(const struct json *body, struct buf *chat, struct buf *repeats,
                              struct api_error *e)
{
    struct json_writer w;
    if (json_type(body) != JSON_OBJECT)
        return api_error_set(e, 400, "invalid_type", NULL, "The body must be a JSON object.");
    if (refuse_state(body, e) != 0) return -1;
    json_writer_init(&w, chat);
    json_object_begin(&w);
    for (size_t i = 0; i < ARRAY_LEN(shared_members); i++)
        chat_body_copy(&w, body, shared_members[i], shared_members[i]);
    chat_body_copy(&w, body, "max_output_tokens", "max_completion_tokens");
    if (put_tools(&w, body, e) != 0 || put_tool_choice(&w, body, e) != 0 ||
        put_format(&w, body, e) != 0 || put_reasoning(&w, body, e) != 0 ||
        put_messages(&w, body, e) != 0) {
        return -1;
    }
    json_object_end(&w);
    put_repeats(repeats, body);
    if (chat->overflow || repeats->overflow)
        return api_error_set(e, 413, NULL, NULL, "The request is too large.");
    return 0;
}
