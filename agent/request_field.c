#include "agent/request_field.h"

#include "shared/base/json_text.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

int field_type_error(struct api_error *e, const char *path, const char *expected,
                     const struct json *got)
{
    enum json_type type = json_type(got);
    const char *name =
        type == JSON_NUMBER && !json_is_integer(got) ? "a decimal" : json_type_name(type);
    return api_error_set(e, 400, "invalid_type", path,
                         "Invalid type for '%s': expected %s, but got %s instead.", path, expected,
                         name);
}

int field_missing_error(struct api_error *e, const char *path)
{
    return api_error_set(e, 400, "missing_required_parameter", path,
                         "Missing required parameter: '%s'.", path);
}

int field_unsupported_error(struct api_error *e, const char *path)
{
    return api_error_set(e, 400, "unsupported_parameter", path,
                         "Unsupported parameter: '%s' is not supported by this server.", path);
}

struct str field_str(const struct json *string)
{
    struct str s;
    s.data = json_string(string, &s.len);
    return s;
}

static int range_error(struct api_error *e, const char *name, const struct field_range *range,
                       double value, bool is_integer)
{
    bool is_above = value > range->max;
    const char *rule = is_above ? range->rule_above : range->rule_below;
    char got[JSON_DOUBLE_SIZE], bound[JSON_DOUBLE_SIZE];
    json_text_double(value, rule && !is_integer, got); // LMDeploy prints Python floats: `3.0`
    json_text_double(is_above ? range->max : range->min, false, bound);

    static const char *const codes[2][2] = {
        {"decimal_below_min_value", "decimal_above_max_value"},
        {"integer_below_min_value", "integer_above_max_value"},
    };
    const char *code = codes[is_integer][is_above];
    if (rule) {
        return api_error_set(e, 400, code, name, "The %s `%s` %s", name, got, rule);
    }
    return api_error_set(e, 400, code, name,
                         "Invalid '%s': %s %s value. Expected a value %s %s, but got %s instead.",
                         name, is_integer ? "integer" : "decimal",
                         is_above ? "above maximum" : "below minimum",
                         is_above ? "<=" : ">=", bound, got);
}

int field_number(const struct json *object, const char *name, const struct field_range *range,
                 double *value, struct api_error *e)
{
    const struct json *v = json_get_set(object, name);
    if (!v) return 0;
    if (json_type(v) != JSON_NUMBER) return field_type_error(e, name, "a decimal", v);
    double number = json_number(v);
    if (number < range->min || number > range->max) {
        return range_error(e, name, range, number, false);
    }
    *value = number;
    return 0;
}

int field_integer(const struct json *object, const char *name, const struct field_range *range,
                  int64_t *value, struct api_error *e)
{
    const struct json *v = json_get_set(object, name);
    if (!v) return 0;
    if (json_type(v) != JSON_NUMBER) return field_type_error(e, name, "an integer", v);
    double number = json_number(v);
    if (number != floor(number)) return field_type_error(e, name, "an integer", v);
    if (number < range->min || number > range->max) {
        return range_error(e, name, range, number, true);
    }
    *value = (int64_t)number; // bounds of all callers lie within 2^53
    return 0;
}

int field_bool(const struct json *object, const char *name, bool *value, struct api_error *e)
{
    const struct json *v = json_get_set(object, name);
    if (!v) return 0;
    if (json_type(v) == JSON_BOOL) {
        *value = json_is_true(v);
        return 0;
    }
    if (json_type(v) == JSON_STRING) { // LMDeploy's clients send "true"
        const char *text = json_string(v, NULL);
        bool is_true = strcasecmp(text, "true") == 0;
        if (is_true || strcasecmp(text, "false") == 0) {
            *value = is_true;
            return 0;
        }
    }
    return field_type_error(e, name, "a boolean", v);
}

int field_seed(const struct json *object, const char *name, uint64_t *value, bool *is_set,
               struct api_error *e)
{
    const struct json *v = json_get_set(object, name);
    if (!v) return 0;
    if (json_type(v) != JSON_NUMBER) return field_type_error(e, name, "an integer", v);
    /* A double can't hold all 64-bit integers, but the printer knows the digits. */
    struct buf digits;
    buf_init(&digits, 64);
    json_print(v, &digits, false);
    const char *text = digits.data;
    char *end;
    errno = 0;
    uint64_t number = *text == '-' ? (uint64_t)strtoll(text, &end, 10) : strtoull(text, &end, 10);
    bool fits = errno == 0 && *end == 0;
    buf_deinit(&digits);
    if (!fits && json_is_integer(v)) { // "5.0"
        number = (uint64_t)(int64_t)json_number(v);
        fits = true;
    }
    if (fits) {
        *value = number;
        *is_set = true;
        return 0;
    }
    double rough = json_number(v);
    if (rough != floor(rough)) return field_type_error(e, name, "an integer", v);
    return api_error_set(e, 400, rough > 0 ? "integer_above_max_value" : "integer_below_min_value",
                         name, "Invalid '%s': the integer does not fit in 64 bits.", name);
}

int field_string(const struct json *object, const char *name, const char *path, struct str *value,
                 struct api_error *e)
{
    const struct json *v = json_get_set(object, name);
    if (!v) return 0;
    if (json_type(v) != JSON_STRING) {
        return field_type_error(e, path ? path : name, "a string", v);
    }
    *value = field_str(v);
    return 0;
}

int field_typed(const struct json *object, const char *name, enum json_type type,
                const struct json **value, struct api_error *e)
{
    const struct json *v = json_get_set(object, name);
    *value = NULL;
    if (!v) return 0;
    if (json_type(v) != type) return field_type_error(e, name, json_type_name(type), v);
    *value = v;
    return 0;
}

int field_token(const struct json *v, const char *list, size_t index, int vocab_size,
                struct api_error *e)
{
    if (json_is_integer(v) && json_number(v) >= 0 && json_number(v) < vocab_size) return 0;
    char path[64];
    snprintf(path, sizeof path, "%s[%zu]", list, index);
    if (!json_is_integer(v)) return field_type_error(e, path, "a token id", v);
    return api_error_set(e, 400, "invalid_value", path,
                         "Invalid '%s': token id %.0f is out of the vocabulary's range [0, %d).",
                         path, json_number(v), vocab_size);
}
