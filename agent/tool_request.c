#include "agent/tool_request.h"

#include "agent/request_field.h"
#include "shared/base/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_MAX_LEN 64
#define NAME_LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"

/* A place in the request, for errors: "tools[3].function.name". */
struct place {
    char path[96];
    struct api_error *error;
};

static struct place place_of(struct api_error *e, const char *list, size_t index,
                             const char *member)
{
    struct place at = {.error = e};
    snprintf(at.path, sizeof at.path, "%s[%zu]%s", list, index, member);
    return at;
}

/* A member that must be a string; the type "function" may be left out. */
static int need_string(struct place at, const struct json *object, const char *name,
                       struct str *value)
{
    const struct json *v = json_get_set(object, name);
    if (!v) return field_missing_error(at.error, at.path);
    if (json_type(v) != JSON_STRING) return field_type_error(at.error, at.path, "a string", v);
    *value = field_str(v);
    return 0;
}

/* ---- tools ---- */

static int check_type(struct place at, const struct json *tool)
{
    const struct json *type = json_get_set(tool, "type");
    if (!type) return 0;
    if (json_type(type) != JSON_STRING)
        return field_type_error(at.error, at.path, "a string", type);
    struct str name = field_str(type);
    if (str_equal(name, STR("function"))) return 0;
    if (str_equal(name, STR("custom"))) {
        return api_error_set(at.error, 400, "unsupported_parameter", at.path,
                             "Unsupported tool: those of type 'custom', whose input is any text, "
                             "are not built. Offer a function with a parameter for the text.");
    }
    return api_error_set(at.error, 400, "invalid_value", at.path,
                         "Invalid value: '%.64s'. Supported values are: 'function'.", name.data);
}

static int check_name(struct place at, struct str name)
{
    if (name.len > 0 && name.len <= NAME_MAX_LEN && strspn(name.data, NAME_LETTERS) == name.len)
        return 0;
    return api_error_set(
        at.error, 400, "invalid_value", at.path,
        "Invalid '%s': a function's name must have 1 to 64 characters of a-z, A-Z, "
        "0-9, underscores and dashes.",
        at.path);
}

/* The same schema with "type": "object" in front. */
static const struct json *add_type(struct tool_request *r, const struct json *schema)
{
    struct buf text;
    struct json_writer w;
    buf_init(&text, BUF_MAX_INTERNAL);
    json_print(schema, &text, false);
    struct buf typed;
    buf_init(&typed, BUF_MAX_INTERNAL);
    json_writer_init(&w, &typed);
    json_object_begin(&w);
    json_field_text(&w, "type", "object");
    buf_append_char(&typed, ',');
    buf_append(&typed, text.data + 1, text.len - 1); // its members and closing brace
    struct json *document = json_parse(typed.data, typed.len, NULL);
    buf_deinit(&typed);
    buf_deinit(&text);
    CHECK(document); // of a document that was parsed, with one value more
    if (!r->typed) r->typed = xcalloc(TOOLS_MAX, sizeof *r->typed);
    r->typed[r->typed_count++] = document;
    return document;
}

static int parse_parameters(struct tool_request *r, struct place at, const struct json *function,
                            struct tool *tool)
{
    const struct json *schema = json_get_set(function, "parameters");
    if (!schema) return 0;
    if (json_type(schema) != JSON_OBJECT)
        return field_type_error(at.error, at.path, "an object", schema);
    if (json_len(schema) == 0) return 0;
    const struct json *type = json_get_set(schema, "type");
    bool is_object =
        type && json_type(type) == JSON_STRING && str_equal(field_str(type), STR("object"));
    if (type && !is_object) {
        return api_error_set(
            at.error, 400, "invalid_function_parameters", at.path,
            "Invalid schema for function '%.64s': it must be of 'type: \"object\"'.",
            tool->name.data);
    }
    tool->parameters = type || json_get(schema, "type") ? schema : add_type(r, schema);
    return 0;
}

static int parse_tool(struct tool_request *r, const struct json *v, size_t index,
                      struct api_error *e)
{
    const struct json *function;
    struct str description = {0};
    struct tool *tool = &r->items[index];
    struct place at = place_of(e, "tools", index, "");
    if (json_type(v) != JSON_OBJECT) return field_type_error(e, at.path, "an object", v);
    if (check_type(place_of(e, "tools", index, ".type"), v) != 0) return -1;
    function = json_get_set(v, "function");
    at = place_of(e, "tools", index, ".function");
    if (!function) return field_missing_error(e, at.path);
    if (json_type(function) != JSON_OBJECT)
        return field_type_error(e, at.path, "an object", function);
    at = place_of(e, "tools", index, ".function.name");
    if (need_string(at, function, "name", &tool->name) != 0 || check_name(at, tool->name) != 0)
        return -1;
    for (size_t i = 0; i < index; i++) {
        if (!str_equal(r->items[i].name, tool->name)) continue;
        return api_error_set(e, 400, "invalid_value", at.path,
                             "Invalid '%s': there are two tools of the name '%s'.", at.path,
                             tool->name.data);
    }
    at = place_of(e, "tools", index, ".function.description");
    if (field_string(function, "description", at.path, &description, e) != 0) return -1;
    if (field_bool(function, "strict", &tool->is_strict, e) != 0) {
        snprintf(e->param, sizeof e->param, "tools[%zu].function.strict", index);
        return -1;
    }
    return parse_parameters(r, place_of(e, "tools", index, ".function.parameters"), function, tool);
}

static int check_size(const struct json *tools, struct api_error *e)
{
    struct buf text;
    buf_init(&text, TOOLS_BYTES_MAX);
    json_print(tools, &text, false);
    bool is_large = text.overflow;
    buf_deinit(&text);
    if (!is_large) return 0;
    return api_error_set(e, 400, "string_above_max_length", "tools",
                         "Invalid 'tools': too long. Expected at most %zu bytes of JSON.",
                         TOOLS_BYTES_MAX);
}

static int parse_tools(const struct json *body, struct tool_request *r, struct api_error *e)
{
    const struct json *tools;
    size_t index = 0;
    if (field_typed(body, "tools", JSON_ARRAY, &tools, e) != 0) return -1;
    size_t count = json_len(tools);
    if (count == 0) return 0;
    if (count > TOOLS_MAX) {
        return api_error_set(e, 400, "array_above_max_length", "tools",
                             "Invalid 'tools': array too long. Expected an array with maximum "
                             "length %d, but got an array with length %zu instead.",
                             TOOLS_MAX, count);
    }
    if (check_size(tools, e) != 0) return -1;
    r->items = xcalloc(count, sizeof *r->items);
    for (const struct json *v = json_first(tools); v; v = json_next(v))
        if (parse_tool(r, v, index++, e) != 0) return -1;
    r->offered = tools;
    r->list = (struct tool_list){.items = r->items, .count = count, .choice = TOOL_CHOICE_AUTO};
    return 0;
}

/* ---- which of them ---- */

static int bad_choice(struct api_error *e, const char *path, struct str got, const char *expected)
{
    return api_error_set(e, 400, "invalid_value", path,
                         "Invalid value: '%.64s'. Supported values are: %s.", got.data, expected);
}

/* {"type":"function","function":{"name":"f"}}: an item that is in the list. */
static int find_named(struct tool_request *r, const struct json *v, const char *path,
                      const struct tool **out, struct api_error *e)
{
    struct place at = {.error = e};
    const struct json *function = json_get_set(v, "function");
    struct str name;
    snprintf(at.path, sizeof at.path, "%.64s.function", path);
    if (!function) return field_missing_error(e, at.path);
    if (json_type(function) != JSON_OBJECT)
        return field_type_error(e, at.path, "an object", function);
    snprintf(at.path, sizeof at.path, "%.64s.function.name", path);
    if (need_string(at, function, "name", &name) != 0) return -1;
    *out = tool_list_find(&r->list, name);
    if (*out) return 0;
    return api_error_set(e, 400, "invalid_value", at.path,
                         "Invalid value for '%s': there is no function '%.64s' in 'tools'.",
                         at.path, name.data);
}

/* The listed ones to the front. */
static int keep_allowed(struct tool_request *r, const struct json *allowed, struct api_error *e)
{
    static const char list[] = "tool_choice.allowed_tools.tools";
    const struct json *tools = json_get_set(allowed, "tools");
    size_t kept = 0, index = 0;
    if (!tools) return field_missing_error(e, list);
    if (json_type(tools) != JSON_ARRAY) return field_type_error(e, list, "an array", tools);
    for (const struct json *v = json_first(tools); v; v = json_next(v)) {
        struct place at = place_of(e, list, index++, "");
        const struct tool *tool = NULL;
        if (json_type(v) != JSON_OBJECT) return field_type_error(e, at.path, "an object", v);
        if (find_named(r, v, at.path, &tool, e) != 0) return -1;
        size_t found = (size_t)(tool - r->items);
        if (found < kept) continue; // named twice
        struct tool swapped = r->items[kept];
        r->items[kept++] = r->items[found];
        r->items[found] = swapped;
    }
    if (kept == 0)
        return api_error_set(e, 400, "empty_array", list,
                             "Invalid '%s': empty array. Expected at least one tool.", list);
    r->list.count = kept;
    return 0;
}

static int parse_allowed(struct tool_request *r, const struct json *choice, struct api_error *e)
{
    static const char path[] = "tool_choice.allowed_tools";
    const struct json *allowed = json_get_set(choice, "allowed_tools");
    struct place at = {"tool_choice.allowed_tools.mode", e};
    struct str mode;
    if (!allowed) return field_missing_error(e, path);
    if (json_type(allowed) != JSON_OBJECT) return field_type_error(e, path, "an object", allowed);
    if (need_string(at, allowed, "mode", &mode) != 0) return -1;
    if (str_equal(mode, STR("required")))
        r->list.choice = TOOL_CHOICE_REQUIRED;
    else if (!str_equal(mode, STR("auto")))
        return bad_choice(e, at.path, mode, "'auto' and 'required'");
    return keep_allowed(r, allowed, e);
}

static int parse_named(struct tool_request *r, const struct json *choice, struct api_error *e)
{
    const struct tool *tool = NULL;
    if (find_named(r, choice, "tool_choice", &tool, e) != 0) return -1;
    r->list.items = tool;
    r->list.count = 1;
    r->list.choice = TOOL_CHOICE_REQUIRED;
    r->list.is_named = true;
    return 0;
}

static int parse_choice_object(struct tool_request *r, const struct json *choice,
                               struct api_error *e)
{
    struct str type = STR("function");
    if (field_string(choice, "type", "tool_choice.type", &type, e) != 0) return -1;
    if (str_equal(type, STR("function"))) return parse_named(r, choice, e);
    if (str_equal(type, STR("allowed_tools"))) return parse_allowed(r, choice, e);
    if (str_equal(type, STR("custom"))) return field_unsupported_error(e, "tool_choice.type");
    return bad_choice(e, "tool_choice.type", type, "'function' and 'allowed_tools'");
}

static int parse_choice(const struct json *body, struct tool_request *r, struct api_error *e)
{
    const struct json *choice = json_get_set(body, "tool_choice");
    if (!choice) return 0;
    bool is_object = json_type(choice) == JSON_OBJECT;
    if (!is_object && json_type(choice) != JSON_STRING)
        return field_type_error(e, "tool_choice", "a string or an object", choice);
    struct str text = is_object ? STR("") : field_str(choice);
    bool is_neutral = str_equal(text, STR("none")) || str_equal(text, STR("auto"));
    if (!is_object && !is_neutral && !str_equal(text, STR("required")))
        return bad_choice(e, "tool_choice", text, "'none', 'auto', and 'required'");
    if (!r->offered) {
        if (is_neutral) return 0;
        return api_error_set(e, 400, "invalid_value", "tool_choice",
                             "Invalid value for 'tool_choice': it is only allowed when 'tools' are "
                             "specified.");
    }
    if (is_object) return parse_choice_object(r, choice, e);
    if (str_equal(text, STR("none"))) r->list.choice = TOOL_CHOICE_NONE;
    if (str_equal(text, STR("required"))) r->list.choice = TOOL_CHOICE_REQUIRED;
    return 0;
}

/* ---- the whole ---- */

/* OpenAI's first form of all this, which its clients have dropped. */
static int refuse_functions(const struct json *body, struct api_error *e)
{
    const struct json *list, *choice = json_get_set(body, "function_call");
    const char *param = NULL;
    if (field_typed(body, "functions", JSON_ARRAY, &list, e) != 0) return -1;
    if (json_len(list) > 0) param = "functions";
    bool is_text = choice && json_type(choice) == JSON_STRING;
    if (choice && !is_text && json_type(choice) != JSON_OBJECT)
        return field_type_error(e, "function_call", "a string or an object", choice);
    bool is_neutral = is_text && (str_equal(field_str(choice), STR("none")) ||
                                  str_equal(field_str(choice), STR("auto")));
    if (choice && !is_neutral) param = "function_call";
    if (!param) return 0;
    return api_error_set(e, 400, "unsupported_parameter", param,
                         "'%s' is not supported by this server. Send 'tools' and 'tool_choice', "
                         "which have taken its place.",
                         param);
}

int tool_request_parse(const struct json *body, struct tool_request *out, struct api_error *e)
{
    bool is_parallel = true;
    *out = (struct tool_request){.list.choice = TOOL_CHOICE_NONE};
    if (refuse_functions(body, e) != 0 || parse_tools(body, out, e) != 0 ||
        parse_choice(body, out, e) != 0 ||
        field_bool(body, "parallel_tool_calls", &is_parallel, e) != 0) {
        return -1;
    }
    out->list.calls_max = is_parallel && !out->list.is_named ? 0 : 1;
    return 0;
}

void tool_request_deinit(struct tool_request *r)
{
    for (size_t i = 0; i < r->typed_count; i++)
        json_destroy(r->typed[i]);
    free(r->typed);
    free(r->items);
    *r = (struct tool_request){0};
}
