#include "engine/config_reader.h"

#include <stdarg.h>
#include <stdio.h>

void config_fail(struct config_reader *r, int code, const char *fmt, ...)
{
    char text[256];
    va_list args;
    if (r->rc < 0) return;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    r->rc = error_set(r->err, code, "%s", text);
}

const struct json *config_get(const struct config_reader *r, const char *key)
{
    return r->rc < 0 ? NULL : json_get_set(r->object, key);
}

void config_require(struct config_reader *r, const char *key)
{
    if (!config_get(r, key)) config_fail(r, E_FORMAT, "key '%s' is missing", key);
}

void config_int(struct config_reader *r, const char *key, int64_t min, int64_t max, int *value)
{
    const struct json *v = config_get(r, key);
    if (!v) return;
    if (json_type(v) != JSON_NUMBER || !json_is_integer(v))
        config_fail(r, E_FORMAT, "key '%s' is not an integer", key);
    else if (json_number(v) < (double)min || json_number(v) > (double)max)
        config_fail(r, E_FORMAT, "key '%s' is %.0f, expected %lld to %lld", key, json_number(v),
                    (long long)min, (long long)max);
    else
        *value = (int)json_number(v);
}

void config_double(struct config_reader *r, const char *key, double min, double max, double *value)
{
    const struct json *v = config_get(r, key);
    if (!v) return;
    if (json_type(v) != JSON_NUMBER || !(json_number(v) >= min && json_number(v) <= max))
        config_fail(r, E_FORMAT, "key '%s' is not a number from %g to %g", key, min, max);
    else
        *value = json_number(v);
}

void config_bool(struct config_reader *r, const char *key, bool *value)
{
    const struct json *v = config_get(r, key);
    if (!v) return;
    if (json_type(v) != JSON_BOOL)
        config_fail(r, E_FORMAT, "key '%s' is not true or false", key);
    else
        *value = json_is_true(v);
}

void config_string(struct config_reader *r, const char *key, const char **value)
{
    const struct json *v = config_get(r, key);
    if (!v) return;
    if (json_type(v) != JSON_STRING)
        config_fail(r, E_FORMAT, "key '%s' is not a string", key);
    else
        *value = json_string(v, NULL);
}
