#include "agent/chat_request.h"

#include "agent/chat_messages.h"
#include "agent/request_field.h"
#include "shared/base/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- fields that both routes share ---- */

static int parse_lengths(const struct json *body, struct chat_request *r, struct api_error *e)
{
    const struct field_range *range =
        r->kind == COMPLETION_CHAT ? &field_range_positive : &field_range_count;
    int64_t max_tokens = -1;
    if (field_integer(body, "max_tokens", range, &max_tokens, e) != 0 ||
        field_integer(body, "max_completion_tokens", range, &max_tokens, e) != 0) {
        return -1;
    }
    if (max_tokens < 0 && r->kind == COMPLETION_TEXT) max_tokens = 16;
    r->has_max_tokens = max_tokens >= 0;
    r->max_tokens = r->has_max_tokens ? (int)max_tokens : 0;
    return 0;
}

static int parse_chat_logprobs(const struct json *body, struct chat_request *r, struct api_error *e)
{
    int64_t top = 0;
    if (field_bool(body, "logprobs", &r->logprobs, e) != 0 ||
        field_integer(body, "top_logprobs", &field_range_top_logprobs, &top, e) != 0) {
        return -1;
    }
    if (top > 0 && !r->logprobs) {
        return api_error_set(e, 400, NULL, "top_logprobs",
                             "The 'top_logprobs' parameter is only allowed when 'logprobs' is "
                             "enabled.");
    }
    r->top_logprobs = (int)top;
    return 0;
}

/* A number: 0 asks for the chosen tokens only. false (LMDeploy's clients) asks for none. */
static int parse_text_logprobs(const struct json *body, struct chat_request *r, struct api_error *e)
{
    const struct json *logprobs = json_get_set(body, "logprobs");
    int64_t top = 0;
    if (!logprobs || (json_type(logprobs) == JSON_BOOL && !json_is_true(logprobs))) return 0;
    if (field_integer(body, "logprobs", &field_range_text_logprobs, &top, e) != 0) return -1;
    r->logprobs = true;
    r->top_logprobs = (int)top;
    return 0;
}

static int parse_best_of(const struct json *body, struct chat_request *r, struct api_error *e)
{
    int64_t best_of = 0; // as absent
    if (field_integer(body, "best_of", &field_range_best_of, &best_of, e) != 0) return -1;
    r->candidates = best_of > 0 ? (int)best_of : r->n;
    if (r->candidates < r->n) {
        return api_error_set(e, 400, "invalid_value", "best_of",
                             "Invalid 'best_of': %d is less than 'n', which is %d.", r->candidates,
                             r->n);
    }
    if (r->stream && r->candidates > r->n) {
        return api_error_set(e, 400, "invalid_value", "best_of",
                             "Invalid 'best_of': the best of several answers is known when all are "
                             "complete, so it must not be above 'n' when 'stream' is enabled.");
    }
    return 0;
}

static int parse_choices(const struct json *body, struct chat_request *r,
                         const struct request_limits *limits, struct api_error *e)
{
    int64_t n = 1;
    if (field_integer(body, "n", &field_range_n, &n, e) != 0) return -1;
    r->n = r->candidates = (int)n;
    if (r->kind == COMPLETION_CHAT) {
        if (parse_chat_logprobs(body, r, e) != 0) return -1;
    } else if (parse_text_logprobs(body, r, e) != 0 || parse_best_of(body, r, e) != 0 ||
               field_bool(body, "echo", &r->echo, e) != 0) {
        return -1;
    }
    size_t wanted = r->prompt_count * (size_t)r->candidates;
    if (wanted <= limits->choices_max) return 0;
    const char *param = r->candidates > r->n ? "best_of" : "n";
    return api_error_set(e, 400, "integer_above_max_value", param,
                         "Invalid '%s': %zu answers at once are asked for, and this server can "
                         "hold %zu.",
                         param, wanted, limits->choices_max);
}

static int parse_output(const struct json *body, struct chat_request *r, struct api_error *e)
{
    const struct json *options;
    if (field_bool(body, "stream", &r->stream, e) != 0 ||
        field_typed(body, "stream_options", JSON_OBJECT, &options, e) != 0 ||
        field_bool(body, "return_token_ids", &r->return_token_ids, e) != 0) {
        return -1;
    }
    if (options && !r->stream) {
        return api_error_set(e, 400, NULL, "stream_options",
                             "The 'stream_options' parameter is only allowed when 'stream' is "
                             "enabled.");
    }
    if (options && field_bool(options, "include_usage", &r->include_usage, e) != 0) {
        snprintf(e->param, sizeof e->param, "stream_options.include_usage");
        return -1;
    }
    r->service_tier = json_get_set(body, "service_tier") != NULL;
    return 0;
}

/* ---- features that are not built: neutral values pass, anything else gets a clear 400 ---- */

static int refuse_modalities(const struct json *body, struct api_error *e)
{
    const struct json *list;
    if (field_typed(body, "modalities", JSON_ARRAY, &list, e) != 0) return -1;
    for (const struct json *m = json_first(list); m; m = json_next(m)) {
        if (json_type(m) != JSON_STRING) return field_type_error(e, "modalities", "strings", m);
        if (strcmp(json_string(m, NULL), "text") != 0)
            return field_unsupported_error(e, "modalities");
    }
    static const char *const features[] = {"audio", "web_search_options"};
    for (size_t i = 0; i < ARRAY_LEN(features); i++) {
        if (json_get_set(body, features[i])) return field_unsupported_error(e, features[i]);
    }
    return 0;
}

static int parse_session(const struct json *body, struct chat_request *r, struct api_error *e)
{
    r->session_id = -1;
    return field_integer(body, "session_id", &field_range_session_id, &r->session_id, e);
}

static int refuse_unbuilt(const struct json *body, enum completion_kind kind, struct api_error *e)
{
    if (kind == COMPLETION_TEXT) {
        struct str suffix = {0};
        if (field_string(body, "suffix", NULL, &suffix, e) != 0) return -1;
        if (suffix.len == 0) return 0;
        return api_error_set(e, 400, "unsupported_parameter", "suffix",
                             "Unsupported parameter: 'suffix' needs a model that was trained to "
                             "fill in the middle, which this one was not.");
    }
    return refuse_modalities(body, e);
}

/* ---- prompts ---- */

static int parse_messages(const struct json *body, struct chat_request *r, struct api_error *e)
{
    const struct json *messages = json_get_set(body, "messages");
    if (!messages) return field_missing_error(e, "messages");
    r->prompt_count = 1;
    if (template_fields_parse(body, &r->template_fields, e) != 0) return -1;
    if (json_type(messages) == JSON_STRING) { // LMDeploy: a raw prompt, no template
        r->form = PROMPT_TEXT;
        r->text = field_str(messages);
        return 0;
    }
    r->form = PROMPT_MESSAGES;
    return chat_messages_prepare(messages, &r->rewritten, &r->messages, e);
}

static int check_token_list(const struct json *list, const char *path, int vocab_size,
                            struct api_error *e)
{
    if (json_len(list) == 0) {
        return api_error_set(e, 400, "empty_array", path,
                             "Invalid '%s': empty array. Expected at least one token id.", path);
    }
    size_t index = 0;
    for (const struct json *v = json_first(list); v; v = json_next(v)) {
        if (field_token(v, path, index++, vocab_size, e) != 0) return -1;
    }
    return 0;
}

/* An array of strings or of arrays of ids; the first element says which. */
static int check_prompts(const struct json *prompts, struct chat_request *r,
                         const struct request_limits *limits, struct api_error *e)
{
    bool are_texts = json_type(json_first(prompts)) == JSON_STRING;
    r->form = are_texts ? PROMPT_TEXTS : PROMPT_TOKEN_LISTS;
    r->prompt_count = json_len(prompts);
    if (r->prompt_count > limits->prompts_max) {
        return api_error_set(e, 400, "array_above_max_length", "prompt",
                             "Invalid 'prompt': array too long. Expected an array with maximum "
                             "length %zu, but got an array with length %zu instead.",
                             limits->prompts_max, r->prompt_count);
    }
    size_t index = 0;
    for (const struct json *v = json_first(prompts); v; v = json_next(v)) {
        char path[32];
        snprintf(path, sizeof path, "prompt[%zu]", index++);
        if (json_type(v) != (are_texts ? JSON_STRING : JSON_ARRAY)) {
            return field_type_error(e, path, are_texts ? "a string" : "an array of token ids", v);
        }
        if (!are_texts && check_token_list(v, path, limits->vocab_size, e) != 0) return -1;
    }
    return 0;
}

static int parse_prompt(const struct json *body, struct chat_request *r,
                        const struct request_limits *limits, struct api_error *e)
{
    const struct json *prompt = json_get(body, "prompt");
    if (!prompt) return field_missing_error(e, "prompt");
    r->prompt_count = 1;
    r->form = PROMPT_TEXT;
    switch (json_type(prompt)) {
    case JSON_NULL: // OpenAI: as if a new document began
        return 0;
    case JSON_STRING:
        r->text = field_str(prompt);
        return 0;
    case JSON_ARRAY:
        break;
    default:
        return field_type_error(e, "prompt", "a string or an array", prompt);
    }
    r->prompts = prompt;
    const struct json *first = json_first(prompt);
    if (first && (json_type(first) == JSON_STRING || json_type(first) == JSON_ARRAY)) {
        return check_prompts(prompt, r, limits, e);
    }
    r->form = PROMPT_TOKENS;
    return check_token_list(prompt, "prompt", limits->vocab_size, e);
}

/* ---- the whole ---- */

static int check_model(const struct json *body, struct chat_request *r,
                       const struct request_limits *limits, struct api_error *e)
{
    const struct json *model = json_get_set(body, "model");
    if (!model) {
        return api_error_set(e, 400, "missing_required_parameter", "model",
                             "you must provide a model parameter");
    }
    if (json_type(model) != JSON_STRING) return field_type_error(e, "model", "a string", model);
    r->model = field_str(model);
    if (str_equal(r->model, str_of(limits->model))) return 0;
    return api_error_set(e, 404, "model_not_found", "model", "The model `%.200s` does not exist.",
                         r->model.data);
}

static int parse_body(struct chat_request *r, const struct request_limits *limits,
                      struct api_error *e)
{
    const struct json *body = r->document;
    if (json_type(body) != JSON_OBJECT) {
        return api_error_set(e, 400, "invalid_type", NULL,
                             "Invalid type for the request body: expected an object, but got %s "
                             "instead.",
                             json_type_name(json_type(body)));
    }
    if (check_model(body, r, limits, e) != 0) return -1;
    int rc =
        r->kind == COMPLETION_CHAT ? parse_messages(body, r, e) : parse_prompt(body, r, limits, e);
    if (rc != 0 || sampling_fields_parse(&r->fields, body, limits->vocab_size, e) != 0 ||
        parse_lengths(body, r, e) != 0 || parse_output(body, r, e) != 0 ||
        parse_choices(body, r, limits, e) != 0) {
        return -1;
    }
    if (parse_session(body, r, e) != 0) return -1;
    if (r->kind == COMPLETION_CHAT && (response_format_parse(body, &r->response_format, e) != 0 ||
                                       tool_request_parse(body, &r->tools, e) != 0)) {
        return -1;
    }
    return refuse_unbuilt(body, r->kind, e);
}

int chat_request_parse(enum completion_kind kind, struct str body,
                       const struct request_limits *limits, struct chat_request *out,
                       struct api_error *e)
{
    memset(out, 0, sizeof *out);
    out->kind = kind;
    sampling_fields_init(&out->fields);
    if (limits->sampling) out->fields.sampling = *limits->sampling;
    struct error err = {0};
    out->document = json_parse(body.data, body.len, &err);
    if (!out->document) {
        return api_error_set(e, err.code == E_LIMIT ? 413 : 400, NULL, NULL,
                             "We could not parse the JSON body of your request: %s.", err.text);
    }
    if (parse_body(out, limits, e) != 0) {
        chat_request_deinit(out);
        return -1;
    }
    return 0;
}

void chat_request_deinit(struct chat_request *r)
{
    sampling_fields_deinit(&r->fields);
    template_fields_deinit(&r->template_fields);
    tool_request_deinit(&r->tools);
    json_destroy(r->rewritten);
    json_destroy(r->document);
    free(r->repeats);
    memset(r, 0, sizeof *r);
}
