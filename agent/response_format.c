#include "agent/response_format.h"

#include "agent/request_field.h"
#include "shared/base/check.h"

#include <string.h>

#define NAME_MAX_LEN 64

/* OpenAI's rule for the name of a schema, which nothing here uses. */
static int check_name(const struct json *v, struct api_error *e)
{
    const struct json *name = json_get(v, "name");
    if (!name) return field_missing_error(e, "response_format.json_schema.name");
    if (json_type(name) != JSON_STRING)
        return field_type_error(e, "response_format.json_schema.name", "a string", name);
    const char *text = json_string(name, NULL);
    size_t len = strlen(text);
    size_t good = strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-");
    if (len > 0 && len <= NAME_MAX_LEN && good == len) return 0;
    return api_error_set(
        e, 400, "invalid_value", "response_format.json_schema.name",
        "Invalid 'response_format.json_schema.name': it must have 1 to 64 characters "
        "of a-z, A-Z, 0-9, underscores and dashes.");
}

static int parse_schema(const struct json *format, struct response_format *out, struct api_error *e)
{
    const struct json *v = json_get_set(format, "json_schema");
    if (!v) return field_missing_error(e, "response_format.json_schema");
    if (json_type(v) != JSON_OBJECT)
        return field_type_error(e, "response_format.json_schema", "an object", v);
    if (check_name(v, e) != 0) return -1;
    out->kind = GRAMMAR_JSON_SCHEMA;
    out->schema = json_get_set(v, "schema");
    if (out->schema) return 0;
    out->kind = GRAMMAR_JSON_OBJECT; // OpenAI: a name without a schema is JSON mode
    return 0;
}

static int parse_regex(const struct json *format, struct response_format *out, struct api_error *e)
{
    const struct json *v = json_get_set(format, "regex_schema");
    if (!v) return field_missing_error(e, "response_format.regex_schema");
    if (json_type(v) != JSON_STRING)
        return field_type_error(e, "response_format.regex_schema", "a string", v);
    out->kind = GRAMMAR_REGEX;
    out->regex.data = json_string(v, &out->regex.len);
    return 0;
}

int response_format_parse(const struct json *body, struct response_format *out, struct api_error *e)
{
    const struct json *format, *type;
    *out = (struct response_format){0};
    if (field_typed(body, "response_format", JSON_OBJECT, &format, e) != 0) return -1;
    if (!format) return 0;
    type = json_get(format, "type");
    if (!type) return field_missing_error(e, "response_format.type");
    if (json_type(type) != JSON_STRING)
        return field_type_error(e, "response_format.type", "a string", type);
    const char *text = json_string(type, NULL);
    if (strcmp(text, "text") == 0) return 0;
    out->is_set = true;
    out->kind = GRAMMAR_JSON_OBJECT;
    if (strcmp(text, "json_object") == 0) return 0;
    if (strcmp(text, "json_schema") == 0) return parse_schema(format, out, e);
    if (strcmp(text, "regex_schema") == 0) return parse_regex(format, out, e);
    return api_error_set(e, 400, "invalid_value", "response_format.type",
                         "Invalid value: '%.64s'. Supported values are: 'text', 'json_object', "
                         "'json_schema', and 'regex_schema'.",
                         text);
}

const char *response_format_param(const struct response_format *f)
{
    return f->kind == GRAMMAR_REGEX ? "response_format.regex_schema"
                                    : "response_format.json_schema.schema";
}

int response_format_compile(const struct response_format *f, struct grammar_cache *cache,
                            uint64_t since_ms, struct grammar **out, struct api_error *e)
{
    struct error err = {0};
    struct buf source;
    *out = NULL;
    if (!f->is_set) return 0;
    buf_init(&source, BUF_MAX_INTERNAL);
    if (f->kind == GRAMMAR_JSON_SCHEMA) json_print(f->schema, &source, false);
    if (f->kind == GRAMMAR_REGEX) buf_append(&source, f->regex.data, f->regex.len);
    struct grammar_wish wish = {f->kind, buf_str(&source), since_ms};
    int rc = grammar_cache_get(cache, &wish, out, &err);
    buf_deinit(&source);
    if (rc == 0) return 0;
    const char *param = response_format_param(f);
    return api_error_set(e, 400, rc == E_UNSUPPORTED ? "unsupported_value" : "invalid_value", param,
                         "Invalid '%s': %s.", param, err.text);
}
