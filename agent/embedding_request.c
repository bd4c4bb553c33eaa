#include "agent/embedding_request.h"

#include "agent/request_field.h"
#include "shared/base/check.h"
#include "shared/base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct reader {
    const struct request_limits *limits;
    const struct prompt_context *context;
    struct embedding_request *out;
    struct api_error *e;
};

/* ---- inputs ---- */

static int too_long(const struct reader *r, const char *path, size_t tokens, const char *at_least)
{
    return api_error_set(r->e, 400, "context_length_exceeded", "input",
                         "This model's maximum input length is %d tokens, but %s has %s%zu.",
                         r->context->context_len - 1, path, at_least, tokens);
}

static int check_ids(const struct reader *r, const char *path, const struct token_list *ids)
{
    if (ids->count >= (size_t)r->context->context_len) return too_long(r, path, ids->count, "");
    if (ids->count > 0) return 0;
    return api_error_set(r->e, 400, "invalid_value", "input",
                         "Invalid '%s': the input must not be empty.", path);
}

static int read_text(const struct reader *r, const char *path, struct str text,
                     struct token_list *ids)
{
    /* A text that can't fit whatever its tokens are isn't worth seconds of a worker. */
    size_t tokens_min = text.len / r->context->token_bytes_max;
    struct error err = {0};
    if (text.len == 0) return check_ids(r, path, ids);
    if (tokens_min > (size_t)r->context->context_len)
        return too_long(r, path, tokens_min, "at least ");
    if (tokenizer_encode(r->context->tokenizer, text.data, text.len,
                         TOKENIZER_SPECIAL | TOKENIZER_ADD_BOS, ids, &err) != 0) {
        return api_error_set(r->e, 400, NULL, "input", "The text cannot be tokenised: %s.",
                             err.text);
    }
    return check_ids(r, path, ids);
}

static int read_ids(const struct reader *r, const char *path, const struct json *list,
                    struct token_list *ids)
{
    size_t i = 0;
    for (const struct json *v = json_first(list); v; v = json_next(v), i++) {
        if (field_token(v, path, i, r->limits->vocab_size, r->e) != 0) return -1;
        token_list_push(ids, (int32_t)json_number(v));
    }
    return check_ids(r, path, ids);
}

static int read_one(const struct reader *r, const char *path, const struct json *v,
                    struct token_list *ids)
{
    if (json_type(v) == JSON_STRING) return read_text(r, path, field_str(v), ids);
    if (json_type(v) == JSON_ARRAY) return read_ids(r, path, v, ids);
    return field_type_error(r->e, path, "a string or an array of token ids", v);
}

static int read_list(const struct reader *r, const struct json *list)
{
    size_t count = json_len(list), i = 0;
    if (count > EMBEDDING_INPUTS_MAX) {
        return api_error_set(r->e, 400, "invalid_value", "input",
                             "Invalid 'input': at most %d inputs, but got %zu.",
                             EMBEDDING_INPUTS_MAX, count);
    }
    r->out->inputs = xcalloc(count, sizeof *r->out->inputs);
    r->out->count = count;
    for (const struct json *v = json_first(list); v; v = json_next(v), i++) {
        char path[32];
        snprintf(path, sizeof path, "input[%zu]", i);
        if (read_one(r, path, v, &r->out->inputs[i]) != 0) return -1;
    }
    return 0;
}

static int read_input(const struct reader *r, const struct json *body)
{
    const struct json *input = json_get_set(body, "input");
    if (!input) return field_missing_error(r->e, "input");
    const struct json *first = json_type(input) == JSON_ARRAY ? json_first(input) : NULL;
    if (json_type(input) == JSON_ARRAY && !first) { // LMDeploy's words, of /pooling
        return api_error_set(r->e, 400, "invalid_value", "input", "Input list cannot be empty.");
    }
    if (first && json_type(first) != JSON_NUMBER) return read_list(r, input);
    r->out->inputs = xcalloc(1, sizeof *r->out->inputs);
    r->out->count = 1;
    return read_one(r, "input", input, r->out->inputs);
}

/* ---- the body ---- */

static int read_model(const struct reader *r, const struct json *body)
{
    struct str model = {0};
    if (field_string(body, "model", NULL, &model, r->e) != 0) return -1;
    if (!model.data || str_equal(model, str_of(r->limits->model))) return 0;
    return api_error_set(r->e, 404, "model_not_found", "model",
                         "The model `%.200s` does not exist.", model.data);
}

static int read_format(const struct reader *r, const struct json *body, int hidden)
{
    const struct field_range range = {.min = 1, .max = hidden};
    struct str format = {0}, user = {0};
    int64_t dimensions = hidden;
    if (field_string(body, "encoding_format", NULL, &format, r->e) != 0 ||
        field_string(body, "user", NULL, &user, r->e) != 0 ||
        field_integer(body, "dimensions", &range, &dimensions, r->e) != 0) {
        return -1;
    }
    r->out->dimensions = (int)dimensions;
    r->out->is_base64 = format.data && str_equal(format, STR("base64"));
    if (!format.data || r->out->is_base64 || str_equal(format, STR("float"))) return 0;
    return api_error_set(r->e, 400, "invalid_value", "encoding_format",
                         "Invalid 'encoding_format': it must be 'float' or 'base64'.");
}

int embedding_request_parse(struct str body, const struct request_limits *limits,
                            const struct prompt_context *context, int hidden,
                            struct embedding_request *out, struct api_error *e)
{
    struct reader r = {limits, context, out, e};
    struct error err = {0};
    *out = (struct embedding_request){0};
    struct json *root = json_parse(body.data, body.len, &err);
    if (!root) {
        return api_error_set(e, 400, "invalid_json", NULL,
                             "We could not parse the JSON body of your request: %s.", err.text);
    }
    int rc = json_type(root) == JSON_OBJECT
                 ? 0
                 : api_error_set(e, 400, "invalid_type", NULL, "The body must be a JSON object.");
    if (rc == 0) rc = read_model(&r, root);
    if (rc == 0) rc = read_format(&r, root, hidden);
    if (rc == 0) rc = read_input(&r, root);
    json_destroy(root);
    return rc;
}

void embedding_request_deinit(struct embedding_request *r)
{
    for (size_t i = 0; i < r->count; i++)
        token_list_deinit(&r->inputs[i]);
    free(r->inputs);
    *r = (struct embedding_request){0};
}

/* ---- the answer ---- */

static void put_base64(struct buf *out, const unsigned char *data, size_t len)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < len; i += 3) {
        size_t n = len - i < 3 ? len - i : 3;
        uint32_t bits = (uint32_t)data[i] << 16;
        if (n > 1) bits |= (uint32_t)data[i + 1] << 8;
        if (n > 2) bits |= data[i + 2];
        char four[4] = {digits[bits >> 18], digits[bits >> 12 & 63],
                        n > 1 ? digits[bits >> 6 & 63] : '=', n > 2 ? digits[bits & 63] : '='};
        buf_append(out, four, sizeof four);
    }
}

/* Of the first dimensions, length 1 again: what models trained for that (Kusupati et al. 2022,
 * "Matryoshka representation learning") are used with. */
static float scale_of(const struct embedding_request *r, const float *vector)
{
    double squares = 0;
    for (int i = 0; i < r->dimensions; i++)
        squares += (double)vector[i] * (double)vector[i];
    return squares > 0 ? (float)(1 / sqrt(squares)) : 0;
}

void embedding_print(const struct embedding_request *r, const float *vector, struct buf *out)
{
    float scale = scale_of(r, vector);
    buf_append_char(out, r->is_base64 ? '"' : '[');
    unsigned char *bytes = xmalloc((size_t)r->dimensions * sizeof *vector);
    for (int i = 0; i < r->dimensions; i++) {
        float value = vector[i] * scale;
        uint32_t word;
        memcpy(&word, &value, sizeof word);
        for (int k = 0; k < 4; k++)
            bytes[4 * i + k] = (unsigned char)(word >> (8 * k));
        if (!r->is_base64) buf_printf(out, i ? ",%.9g" : "%.9g", (double)value);
    }
    if (r->is_base64) put_base64(out, bytes, (size_t)r->dimensions * sizeof *vector);
    free(bytes);
    buf_append_char(out, r->is_base64 ? '"' : ']');
}

void embedding_print_answer(const struct buf *vectors, size_t count, struct str model,
                            int64_t prompt_tokens, struct buf *out)
{
    struct json_writer w;
    json_writer_init(&w, out);
    json_object_begin(&w);
    json_field_text(&w, "object", "list");
    json_key(&w, "data");
    json_array_begin(&w);
    for (size_t i = 0; i < count; i++) {
        json_object_begin(&w);
        json_field_text(&w, "object", "embedding");
        json_field_int(&w, "index", (int64_t)i);
        json_field_raw(&w, "embedding", buf_str(&vectors[i]));
        json_object_end(&w);
    }
    json_array_end(&w);
    json_field_str(&w, "model", model);
    json_key(&w, "usage");
    json_object_begin(&w);
    json_field_int(&w, "prompt_tokens", prompt_tokens);
    json_field_int(&w, "total_tokens", prompt_tokens);
    json_object_end(&w);
    json_object_end(&w);
}
