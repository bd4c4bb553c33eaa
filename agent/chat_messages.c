#include "agent/chat_messages.h"

#include "agent/request_field.h"
#include "shared/base/check.h"

#include <stdio.h>
#include <string.h>

enum role {
    ROLE_SYSTEM,
    ROLE_DEVELOPER,
    ROLE_USER,
    ROLE_ASSISTANT,
    ROLE_TOOL,
    ROLE_FUNCTION,
    ROLE_ENVIRONMENT,
    ROLE_COUNT
};

static const char *const role_names[ROLE_COUNT] = {
    [ROLE_SYSTEM] = "system",
    [ROLE_DEVELOPER] = "developer", // OpenAI's newer word for system
    [ROLE_USER] = "user",
    [ROLE_ASSISTANT] = "assistant",
    [ROLE_TOOL] = "tool",
    [ROLE_FUNCTION] = "function",
    [ROLE_ENVIRONMENT] = "environment", // InternLM's plugin results
};

/* One message being checked: where it stands, for the paths in errors. */
struct cursor {
    size_t index;
    char path[96]; // of the member being looked at
    struct api_error *error;
};

static const char *path_of(struct cursor *at, const char *member)
{
    snprintf(at->path, sizeof at->path, "messages[%zu]%s%s", at->index, member ? "." : "",
             member ? member : "");
    return at->path;
}

static const char *path_of_part(struct cursor *at, size_t part, const char *member)
{
    snprintf(at->path, sizeof at->path, "messages[%zu].content[%zu]%s%s", at->index, part,
             member ? "." : "", member ? member : "");
    return at->path;
}

static int check_role(struct cursor *at, const struct json *message, enum role *role)
{
    const char *path = path_of(at, "role");
    const struct json *v = json_get(message, "role");
    if (!v) return field_missing_error(at->error, path);
    if (json_type(v) != JSON_STRING) return field_type_error(at->error, path, "a string", v);
    const char *name = json_string(v, NULL);
    for (int i = 0; i < ROLE_COUNT; i++) {
        if (strcmp(name, role_names[i]) == 0) {
            *role = (enum role)i;
            return 0;
        }
    }
    return api_error_set(at->error, 400, "invalid_value", path,
                         "Invalid value: '%.64s'. Supported values are: 'system', 'developer', "
                         "'user', 'assistant', 'tool', 'function', and 'environment'.",
                         name);
}

/* The member that holds a part's text, or NULL for kinds of parts that are not text. */
static const char *part_member(const char *type, enum role role)
{
    if (strcmp(type, "text") == 0) return "text";
    if (role == ROLE_ASSISTANT && strcmp(type, "refusal") == 0) return "refusal";
    return NULL;
}

static int check_part(struct cursor *at, size_t index, const struct json *part, enum role role)
{
    if (json_type(part) != JSON_OBJECT) {
        return field_type_error(at->error, path_of_part(at, index, NULL), "an object", part);
    }
    const char *path = path_of_part(at, index, "type");
    const struct json *type = json_get(part, "type");
    if (!type) return field_missing_error(at->error, path);
    if (json_type(type) != JSON_STRING) return field_type_error(at->error, path, "a string", type);
    const char *kind = json_string(type, NULL);
    const char *member = part_member(kind, role);
    if (!member) {
        static const char *const media[] = {"image_url", "input_audio", "file", "video_url"};
        for (size_t i = 0; i < ARRAY_LEN(media); i++) {
            if (strcmp(kind, media[i]) != 0) continue;
            return api_error_set(at->error, 400, "unsupported_parameter", path,
                                 "This model takes text only, but the message has a part of type "
                                 "'%s'.",
                                 kind);
        }
        return api_error_set(at->error, 400, "invalid_value", path,
                             "Invalid value: '%.64s'. Supported values are: 'text'%s.", kind,
                             role == ROLE_ASSISTANT ? " and 'refusal'" : "");
    }
    path = path_of_part(at, index, member);
    const struct json *text = json_get(part, member);
    if (!text) return field_missing_error(at->error, path);
    if (json_type(text) != JSON_STRING) return field_type_error(at->error, path, "a string", text);
    return 0;
}

static int check_content(struct cursor *at, const struct json *message, enum role role,
                         bool *must_rewrite)
{
    const struct json *content = json_get(message, "content");
    if (!content) {
        if (role != ROLE_ASSISTANT) return field_missing_error(at->error, path_of(at, "content"));
        *must_rewrite = true;
        return 0;
    }
    switch (json_type(content)) {
    case JSON_NULL: // the template renders it as the empty string
    case JSON_STRING:
        return 0;
    case JSON_ARRAY:
        break;
    default:
        return field_type_error(at->error, path_of(at, "content"),
                                "a string or an array of content parts", content);
    }
    *must_rewrite = true;
    if (json_len(content) == 0) {
        return api_error_set(at->error, 400, "empty_array", path_of(at, "content"),
                             "Invalid '%s': empty array. Expected at least one content part.",
                             at->path);
    }
    size_t index = 0;
    for (const struct json *part = json_first(content); part; part = json_next(part)) {
        if (check_part(at, index++, part, role) != 0) return -1;
    }
    return 0;
}

static int check_required_string(struct cursor *at, const struct json *message, const char *name)
{
    const struct json *v = json_get_set(message, name);
    if (!v) return field_missing_error(at->error, path_of(at, name));
    if (json_type(v) == JSON_STRING) return 0;
    return field_type_error(at->error, path_of(at, name), "a string", v);
}

static bool is_string(const struct json *v)
{
    return v && json_type(v) == JSON_STRING;
}

/* OpenAI's clients send a call's arguments as JSON in a string. */
static int check_arguments(struct cursor *at, const struct json *calls, bool *must_rewrite)
{
    size_t index = 0;
    for (const struct json *c = json_first(calls); c; c = json_next(c), index++) {
        const struct json *arguments = json_get(json_get(c, "function"), "arguments");
        if (!is_string(arguments)) continue;
        *must_rewrite = true;
        struct str text = str_trim(field_str(arguments));
        struct error err = {0};
        struct json *value = text.len > 0 ? json_parse(text.data, text.len, &err) : NULL;
        json_destroy(value);
        if (value || text.len == 0) continue;
        char member[64];
        snprintf(member, sizeof member, "tool_calls[%zu].function.arguments", index);
        path_of(at, member);
        return api_error_set(at->error, 400, "invalid_value", at->path,
                             "Invalid '%s': a call's arguments must be JSON in a string: %s.",
                             at->path, err.text);
    }
    return 0;
}

static int check_message(struct cursor *at, const struct json *message, bool *calls_open,
                         bool *must_rewrite)
{
    if (json_type(message) != JSON_OBJECT) {
        return field_type_error(at->error, path_of(at, NULL), "an object", message);
    }
    enum role role = ROLE_USER; // gcc does not see that check_role sets it
    if (check_role(at, message, &role) != 0) return -1;
    if (role == ROLE_DEVELOPER) *must_rewrite = true;
    if (check_content(at, message, role, must_rewrite) != 0) return -1;
    if (role == ROLE_FUNCTION) return check_required_string(at, message, "name");
    if (role == ROLE_TOOL) {
        if (!*calls_open) {
            return api_error_set(at->error, 400, NULL, path_of(at, "role"),
                                 "Invalid parameter: messages with role 'tool' must be a response "
                                 "to a preceding message with 'tool_calls'.");
        }
        return check_required_string(at, message, "tool_call_id");
    }
    const struct json *calls = role == ROLE_ASSISTANT ? json_get(message, "tool_calls") : NULL;
    *calls_open = json_len(calls) > 0;
    return check_arguments(at, calls, must_rewrite);
}

int chat_messages_check(const struct json *messages, bool *must_rewrite, struct api_error *e)
{
    *must_rewrite = false;
    if (json_type(messages) != JSON_ARRAY) {
        return field_type_error(e, "messages", "an array of objects", messages);
    }
    if (json_len(messages) == 0) {
        return api_error_set(e, 400, "empty_array", "messages",
                             "Invalid 'messages': empty array. Expected an array with minimum "
                             "length 1, but got an empty array instead.");
    }
    struct cursor at = {.error = e};
    bool calls_open = false;
    for (const struct json *m = json_first(messages); m; m = json_next(m), at.index++) {
        if (check_message(&at, m, &calls_open, must_rewrite) != 0) return -1;
    }
    return 0;
}

static void write_content(struct json_writer *w, const struct json *content, enum role role)
{
    if (json_type(content) != JSON_ARRAY) {
        json_put_value(w, content);
        return;
    }
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    for (const struct json *part = json_first(content); part; part = json_next(part)) {
        const char *member = part_member(json_string(json_get(part, "type"), NULL), role);
        struct str piece = field_str(json_get(part, member));
        buf_append(&text, piece.data, piece.len);
    }
    json_put_str(w, buf_str(&text));
    buf_deinit(&text);
}

/* JSON that isn't an object stays in its string: the template may know what to do with it. */
static void write_arguments(struct json_writer *w, const struct json *arguments)
{
    struct str text = str_trim(field_str(arguments));
    struct json *object = text.len ? json_parse(text.data, text.len, NULL) : NULL;
    if (object && json_type(object) == JSON_OBJECT)
        json_put_raw(w, text);
    else if (text.len == 0)
        json_put_raw(w, STR("{}"));
    else
        json_put_value(w, arguments);
    json_destroy(object);
}

static void write_function(struct json_writer *w, const struct json *function)
{
    json_object_begin(w);
    for (const struct json *m = json_first(function); m; m = json_next(m)) {
        json_key(w, json_name(m));
        if (strcmp(json_name(m), "arguments") == 0 && is_string(m))
            write_arguments(w, m);
        else
            json_put_value(w, m);
    }
    json_object_end(w);
}

static void write_tool_calls(struct json_writer *w, const struct json *calls)
{
    json_array_begin(w);
    for (const struct json *c = json_first(calls); c; c = json_next(c)) {
        if (json_type(c) != JSON_OBJECT) {
            json_put_value(w, c);
            continue;
        }
        json_object_begin(w);
        for (const struct json *m = json_first(c); m; m = json_next(m)) {
            json_key(w, json_name(m));
            if (strcmp(json_name(m), "function") == 0 && json_type(m) == JSON_OBJECT)
                write_function(w, m);
            else
                json_put_value(w, m);
        }
        json_object_end(w);
    }
    json_array_end(w);
}

static void write_message(struct json_writer *w, const struct json *message)
{
    const char *role = json_string(json_get(message, "role"), NULL);
    bool is_assistant = strcmp(role, role_names[ROLE_ASSISTANT]) == 0;
    json_object_begin(w);
    for (const struct json *m = json_first(message); m; m = json_next(m)) {
        json_key(w, json_name(m));
        if (strcmp(json_name(m), "role") == 0) {
            bool is_developer = strcmp(role, role_names[ROLE_DEVELOPER]) == 0;
            json_put_text(w, is_developer ? role_names[ROLE_SYSTEM] : role);
        } else if (strcmp(json_name(m), "content") == 0) {
            write_content(w, m, is_assistant ? ROLE_ASSISTANT : ROLE_USER);
        } else if (strcmp(json_name(m), "tool_calls") == 0 && json_type(m) == JSON_ARRAY) {
            write_tool_calls(w, m);
        } else {
            json_put_value(w, m);
        }
    }
    if (!json_get(message, "content")) json_field_null(w, "content");
    json_object_end(w);
}

struct json *chat_messages_rewrite(const struct json *messages, struct api_error *e)
{
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    struct json_writer w;
    json_writer_init(&w, &text);
    json_array_begin(&w);
    for (const struct json *m = json_first(messages); m; m = json_next(m)) {
        write_message(&w, m);
    }
    json_array_end(&w);

    struct error err = {0};
    struct json *out = NULL;
    if (text.overflow) {
        api_error_set(e, 413, NULL, "messages", "The messages are too large.");
    } else {
        out = json_parse(text.data, text.len, &err);
        if (!out) api_error_set(e, 400, NULL, "messages", "Invalid 'messages': %s.", err.text);
    }
    buf_deinit(&text);
    return out;
}

int chat_messages_prepare(const struct json *messages, struct json **rewritten,
                          const struct json **out, struct api_error *e)
{
    bool must_rewrite;
    *rewritten = NULL;
    if (chat_messages_check(messages, &must_rewrite, e) != 0) return -1;
    if (must_rewrite && !(*rewritten = chat_messages_rewrite(messages, e))) return -1;
    *out = *rewritten ? *rewritten : messages;
    return 0;
}
