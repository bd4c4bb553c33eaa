#include "agent/interactive_request.h"

#include "agent/chat_messages.h"
#include "agent/request_field.h"
#include "shared/base/check.h"
#include "shared/base/json_cursor.h"

#include <stdlib.h>
#include <string.h>

/* ---- drawing tokens ---- */

static int parse_fields(const struct json *body, int vocab_size, struct interactive_request *r,
                        struct api_error *e)
{
    struct sampling_params *sampling = &r->fields.sampling;
    sampling->temperature = 0.8f; // LMDeploy's
    sampling->top_p = 0.8f;
    sampling->top_k = 40;
    int64_t max_tokens = -1;
    double top_p = 0;
    if (field_number(body, "top_p", &field_range_top_p_positive, &top_p, e) != 0 ||
        sampling_fields_parse(&r->fields, body, vocab_size, e) != 0 ||
        field_integer(body, "request_output_len", &field_range_count, &max_tokens, e) != 0) {
        return -1;
    }
    r->wants_nothing = max_tokens == 0;
    r->max_tokens = max_tokens > 0 ? (int)max_tokens : 0;
    return 0;
}

/* ---- the session ---- */

static int parse_session(const struct json *body, struct interactive_request *r,
                         struct api_error *e)
{
    r->session_id = r->fork_of = r->rewind_to = -1;
    if (field_integer(body, "session_id", &field_range_session_id, &r->session_id, e) != 0 ||
        field_bool(body, "cancel", &r->cancel, e) != 0 ||
        field_bool(body, "interactive_mode", &r->interactive_mode, e) != 0 ||
        field_integer(body, "fork_of", &field_range_named_session, &r->fork_of, e) != 0 ||
        field_integer(body, "rewind_to", &field_range_count, &r->rewind_to, e) != 0) {
        return -1;
    }
    if (r->fork_of >= 0 && r->fork_of == r->session_id) {
        return api_error_set(e, 400, "invalid_value", "fork_of",
                             "Invalid 'fork_of': a session cannot be forked into itself.");
    }
    if (r->rewind_to >= 0 && r->session_id < 0 && r->fork_of < 0) {
        return api_error_set(e, 400, "invalid_value", "rewind_to",
                             "Invalid 'rewind_to': a session that begins has nothing to rewind.");
    }
    return 0;
}

/* ---- the prompt ---- */

/* The members of a list, without its brackets. */
static char *print_members(const struct json *list)
{
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    for (const struct json *v = json_first(list); v; v = json_next(v)) {
        if (text.len > 0) buf_append_char(&text, ',');
        json_print(v, &text, false);
    }
    return buf_detach(&text, NULL);
}

static char *print_user(struct str prompt)
{
    struct buf text;
    struct json_writer w;
    buf_init(&text, BUF_MAX_INTERNAL);
    json_writer_init(&w, &text);
    json_object_begin(&w);
    json_field_text(&w, "role", "user");
    json_field_str(&w, "content", prompt);
    json_object_end(&w);
    return buf_detach(&text, NULL);
}

static int parse_list(const struct json *prompt, struct interactive_request *r, struct api_error *e)
{
    bool must_rewrite;
    struct json *rewritten = NULL;
    int rc = chat_messages_check(prompt, &must_rewrite, e);
    if (rc == 0 && must_rewrite) {
        rewritten = chat_messages_rewrite(prompt, e);
        rc = rewritten ? 0 : -1;
    }
    if (rc == 0) r->messages = print_members(rewritten ? rewritten : prompt);
    json_destroy(rewritten);
    return rc;
}

static int parse_prompt(const struct json *body, struct interactive_request *r, struct api_error *e)
{
    const struct json *prompt = json_get_set(body, "prompt");
    if (!prompt) return field_missing_error(e, "prompt");
    switch (json_type(prompt)) {
    case JSON_STRING:
        if (field_str(prompt).len > 0) r->messages = print_user(field_str(prompt));
        return 0;
    case JSON_ARRAY:
        if (json_len(prompt) == 0) return 0;
        return r->cancel ? 0 : parse_list(prompt, r, e);
    default:
        return field_type_error(e, "prompt", "a string or an array of messages", prompt);
    }
}

/* ---- the whole ---- */

static int check_model(const struct json *body, const char *model, struct api_error *e)
{
    struct str name = {0};
    if (field_string(body, "model", NULL, &name, e) != 0) return -1;
    if (!name.data || str_equal(name, str_of(model))) return 0;
    return api_error_set(e, 404, "model_not_found", "model", "The model `%.200s` does not exist.",
                         name.data);
}

static int refuse_unbuilt(const struct json *body, struct api_error *e)
{
    const struct json *image = json_get_set(body, "image_url");
    if (image && !(json_type(image) == JSON_ARRAY && json_len(image) == 0)) {
        return api_error_set(e, 400, "unsupported_parameter", "image_url",
                             "`image_url` argument only works for VL model");
    }
    struct str adapter = {0};
    if (field_string(body, "adapter_name", NULL, &adapter, e) != 0) return -1;
    return adapter.len > 0 ? field_unsupported_error(e, "adapter_name") : 0;
}

static int parse_body(const struct json *body, const struct request_limits *limits,
                      struct interactive_request *r, struct api_error *e)
{
    if (json_type(body) != JSON_OBJECT) {
        return api_error_set(e, 400, "invalid_type", NULL,
                             "Invalid type for the request body: expected an object, but got %s "
                             "instead.",
                             json_type_name(json_type(body)));
    }
    if (parse_session(body, r, e) != 0 || parse_prompt(body, r, e) != 0) return -1;
    if (r->cancel) { // before everything else is looked at, as in LMDeploy
        if (r->session_id >= 0) return 0;
        return api_error_set(e, 400, "invalid_value", "session_id",
                             "please set a session_id to cancel a request");
    }
    if (check_model(body, limits->model, e) != 0 ||
        parse_fields(body, limits->vocab_size, r, e) != 0 ||
        field_bool(body, "stream", &r->stream, e) != 0 || refuse_unbuilt(body, e) != 0) {
        return -1;
    }
    if (r->messages || !r->interactive_mode) return 0;
    return api_error_set(e, 400, "invalid_value", "prompt",
                         "Invalid 'prompt': it is empty. With 'interactive_mode' false an empty "
                         "prompt ends the session.");
}

int interactive_request_parse(struct str body, const struct request_limits *limits,
                              struct interactive_request *out, struct api_error *e)
{
    memset(out, 0, sizeof *out);
    sampling_fields_init(&out->fields);
    struct error err = {0};
    out->document = json_parse(body.data, body.len, &err);
    if (!out->document) {
        return api_error_set(e, err.code == E_LIMIT ? 413 : 400, NULL, NULL,
                             "We could not parse the JSON body of your request: %s.", err.text);
    }
    if (parse_body(out->document, limits, out, e) != 0) {
        interactive_request_deinit(out);
        return -1;
    }
    return 0;
}

void interactive_request_deinit(struct interactive_request *r)
{
    sampling_fields_deinit(&r->fields);
    json_destroy(r->document);
    free(r->messages);
    memset(r, 0, sizeof *r);
}

bool interactive_request_is_cancel(struct str body)
{
    static const char member[] = "\"cancel\"";
    if (body.len == 0 || !memmem(body.data, body.len, member, sizeof member - 1)) return false;
    struct json_cursor c;
    struct buf words;
    struct str name, value;
    bool is_cancel = false;
    buf_init(&words, BUF_MAX_INTERNAL);
    int rc = json_cursor_init(&c, body, &words, NULL);
    if (rc == 0) rc = json_cursor_open_object(&c);
    while (rc == 0 && (rc = json_cursor_next_name(&c, &name)) > 0) {
        bool is_it = str_equal(name, STR("cancel"));
        rc = json_cursor_skip(&c, &value);
        if (is_it && rc == 0)
            is_cancel = !str_equal(value, STR("false")) && !str_equal(value, STR("null"));
    }
    buf_deinit(&words);
    return rc == 0 && is_cancel;
}
