#include "agent/sampling_fields.h"

#include "agent/request_field.h"
#include "shared/base/check.h"

#include <float.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void sampling_fields_init(struct sampling_fields *f)
{
    memset(f, 0, sizeof *f);
    f->sampling.temperature = f->sampling.top_p = 1;
    f->skip_special = true;
}

void sampling_fields_deinit(struct sampling_fields *f)
{
    free(f->bias);
    f->bias = NULL;
    f->sampling.bias = NULL;
    f->sampling.bias_count = 0;
}

static int parse_float(const struct json *body, const char *name, const struct field_range *range,
                       float *value, struct api_error *e)
{
    double number = (double)*value;
    if (field_number(body, name, range, &number, e) != 0) return -1;
    *value = (float)number;
    return 0;
}

static int parse_int(const struct json *body, const char *name, const struct field_range *range,
                     int *value, struct api_error *e)
{
    int64_t number = *value;
    if (field_integer(body, name, range, &number, e) != 0) return -1;
    *value = (int)number;
    return 0;
}

_Static_assert(FIELD_LOGIT_BIAS_MAX == LOGIT_BIAS_MAX, "the API promises what the engine takes");

/* ---- how tokens are drawn ---- */

static int parse_filters(struct sampling_params *s, const struct json *body, struct api_error *e)
{
    if (parse_float(body, "temperature", &field_range_temperature, &s->temperature, e) != 0 ||
        parse_float(body, "top_p", &field_range_top_p, &s->top_p, e) != 0 ||
        parse_int(body, "top_k", &field_range_top_k, &s->top_k, e) != 0 ||
        parse_float(body, "min_p", &field_range_share, &s->min_p, e) != 0) {
        return -1;
    }
    // OpenAI allows 0, which means the most likely token only; the engine wants a positive share.
    if (s->top_p < FLT_MIN) s->top_p = FLT_MIN;
    return 0;
}

static int parse_penalties(struct sampling_params *s, const struct json *body, struct api_error *e)
{
    if (parse_float(body, "presence_penalty", &field_range_penalty, &s->presence_penalty, e) != 0 ||
        parse_float(body, "frequency_penalty", &field_range_penalty, &s->frequency_penalty, e) !=
            0) {
        return -1;
    }
    return parse_float(body, "repetition_penalty", &field_range_repetition_penalty,
                       &s->repetition_penalty, e);
}

/* A member of logit_bias: its name is the token. */
static int parse_bias_token(const struct json *v, int vocab_size, int32_t *token,
                            struct api_error *e)
{
    char path[64];
    int64_t id;
    const char *name = json_name(v);
    snprintf(path, sizeof path, "logit_bias.%.32s", name);
    bool is_number = str_to_int(str_of(name), &id) == 0 && name[0] != '-' && name[0] != '+' &&
                     (name[0] != '0' || name[1] == 0); // one spelling, so that no token comes twice
    if (!is_number) {
        return api_error_set(e, 400, "invalid_value", path,
                             "Invalid '%s': a member's name must be a token id.", path);
    }
    if (id >= vocab_size) {
        return api_error_set(e, 400, "invalid_value", path,
                             "Invalid '%s': the token id is out of the vocabulary's range [0, %d).",
                             path, vocab_size);
    }
    *token = (int32_t)id;
    return 0;
}

static int parse_bias(struct sampling_fields *f, const struct json *body, int vocab_size,
                      struct api_error *e)
{
    const struct json *object;
    if (field_typed(body, "logit_bias", JSON_OBJECT, &object, e) != 0) return -1;
    size_t count = json_len(object);
    if (count == 0) return 0;
    if (count > LOGIT_BIAS_MAX) {
        return api_error_set(e, 400, "object_above_max_properties", "logit_bias",
                             "Invalid 'logit_bias': too many tokens. Expected at most %d, but got "
                             "%zu instead.",
                             LOGIT_BIAS_MAX, count);
    }
    f->bias = xcalloc(count, sizeof *f->bias);
    f->sampling.bias = f->bias;
    for (const struct json *v = json_first(object); v; v = json_next(v)) {
        struct logit_bias *bias = &f->bias[f->sampling.bias_count++];
        double value = 0;
        if (parse_bias_token(v, vocab_size, &bias->token, e) != 0) return -1;
        if (field_number(object, json_name(v), &field_range_logit_bias, &value, e) != 0) {
            snprintf(e->param, sizeof e->param, "logit_bias.%d", bias->token);
            return -1;
        }
        bias->bias = (float)value;
    }
    return 0;
}

/* ---- where it stops ---- */

static int too_long(struct api_error *e, const char *path, size_t max, size_t len)
{
    return api_error_set(e, 400, "array_above_max_length", path,
                         "Invalid '%s': array too long. Expected an array with maximum length %zu, "
                         "but got an array with length %zu instead.",
                         path, max, len);
}

static int add_stop(struct sampling_fields *f, const char *path, const struct json *v,
                    struct api_error *e)
{
    if (json_type(v) != JSON_STRING) return field_type_error(e, path, "a string", v);
    struct str text = field_str(v);
    if (text.len == 0) {
        return api_error_set(e, 400, "invalid_value", path,
                             "Invalid '%s': a stop string must not be empty.", path);
    }
    if (text.len > STOP_BYTES_MAX) {
        return api_error_set(
            e, 400, "string_above_max_length", path,
            "Invalid '%s': string too long. Expected at most %d bytes, but got %zu instead.", path,
            STOP_BYTES_MAX, text.len);
    }
    f->stop[f->stop_count] = text.data;
    f->stop_len[f->stop_count++] = text.len;
    return 0;
}

static int parse_stop(struct sampling_fields *f, const struct json *body, struct api_error *e)
{
    const struct json *stop = json_get_set(body, "stop");
    if (!stop) return 0;
    if (json_type(stop) == JSON_STRING) return add_stop(f, "stop", stop, e);
    if (json_type(stop) != JSON_ARRAY) {
        return field_type_error(e, "stop", "a string or an array of strings", stop);
    }
    if (json_len(stop) == 0) {
        return api_error_set(e, 400, "empty_array", "stop",
                             "Invalid 'stop': empty array. Expected an array with minimum length "
                             "1, but got an empty array instead.");
    }
    if (json_len(stop) > REQUEST_STOPS_MAX) {
        return too_long(e, "stop", REQUEST_STOPS_MAX, json_len(stop));
    }
    char path[32];
    size_t index = 0;
    for (const struct json *v = json_first(stop); v; v = json_next(v)) {
        snprintf(path, sizeof path, "stop[%zu]", index++);
        if (add_stop(f, path, v, e) != 0) return -1;
    }
    return 0;
}

static int parse_stop_ids(struct sampling_fields *f, const struct json *body, int vocab_size,
                          struct api_error *e)
{
    const struct json *list;
    if (field_typed(body, "stop_token_ids", JSON_ARRAY, &list, e) != 0) return -1;
    if (json_len(list) > REQUEST_STOP_IDS_MAX) {
        return too_long(e, "stop_token_ids", REQUEST_STOP_IDS_MAX, json_len(list));
    }
    for (const struct json *v = json_first(list); v; v = json_next(v)) {
        if (field_token(v, "stop_token_ids", (size_t)f->stop_id_count, vocab_size, e) != 0)
            return -1;
        f->stop_ids[f->stop_id_count++] = (int32_t)json_number(v);
    }
    return 0;
}

/* ---- the whole ---- */

int sampling_fields_parse(struct sampling_fields *f, const struct json *body, int vocab_size,
                          struct api_error *e)
{
    bool keep_stop_text = false;
    if (parse_filters(&f->sampling, body, e) != 0 || parse_penalties(&f->sampling, body, e) != 0 ||
        parse_bias(f, body, vocab_size, e) != 0 ||
        field_seed(body, "seed", &f->sampling.seed, &f->has_seed, e) != 0 ||
        parse_int(body, "min_new_tokens", &field_range_count, &f->min_tokens, e) != 0 ||
        parse_stop(f, body, e) != 0 || parse_stop_ids(f, body, vocab_size, e) != 0 ||
        field_bool(body, "ignore_eos", &f->ignore_eos, e) != 0 ||
        field_bool(body, "skip_special_tokens", &f->skip_special, e) != 0 ||
        field_bool(body, "include_stop_str_in_output", &keep_stop_text, e) != 0 ||
        parse_int(body, "priority", &field_range_priority, &f->priority, e) != 0) {
        return -1;
    }
    return keep_stop_text ? field_unsupported_error(e, "include_stop_str_in_output") : 0;
}

void sampling_fields_apply(const struct sampling_fields *f, struct engine_request *out)
{
    out->sampling = f->sampling;
    out->min_tokens = f->min_tokens;
    out->ignore_eos = f->ignore_eos;
    out->skip_special = f->skip_special;
    out->priority = f->priority;
    out->stop = f->stop;
    out->stop_len = f->stop_len;
    out->stop_count = f->stop_count;
    out->stop_ids = f->stop_ids;
    out->stop_id_count = f->stop_id_count;
}
