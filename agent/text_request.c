#include "agent/text_request.h"

#include "agent/anthropic_request.h"
#include "agent/chat_messages.h"
#include "agent/prompt_guard.h"
#include "agent/request_field.h"
#include "shared/base/check.h"

#include <stdio.h>
#include <stdlib.h>

struct text_request {
    enum text_request_kind kind;
    const struct json *body;
    const struct request_limits *limits;
    const struct prompt_context *context;
    int64_t now;
    struct json_writer w;
    struct api_error *e;
};

/* ---- parts that several share ---- */

/* Optional here, since there is only one to mean. */
static int check_model(const struct text_request *r)
{
    struct str model = {0};
    if (field_string(r->body, "model", NULL, &model, r->e) != 0) return -1;
    if (!model.data || str_equal(model, str_of(r->limits->model))) return 0;
    return api_error_set(r->e, 404, "model_not_found", "model",
                         "The model `%.200s` does not exist.", model.data);
}

static int encode(const struct text_request *r, struct str text, unsigned flags, const char *param,
                  struct token_list *ids)
{
    struct error err = {0};
    if (tokenizer_encode(r->context->tokenizer, text.data, text.len, flags, ids, &err) == 0)
        return 0;
    return api_error_set(r->e, 400, NULL, param, "The text cannot be tokenised: %s.", err.text);
}

static int render(const struct text_request *r, const struct chat_template_input *in,
                  const char *param, struct buf *out)
{
    struct error err = {0};
    buf_init(out, BUF_MAX_INTERNAL);
    if (prompt_context_render(r->context, in, out, &err) == 0) return 0;
    buf_deinit(out);
    return api_error_set(r->e, 400, NULL, param,
                         "The model's chat template refused the messages: %s.", err.text);
}

static int encode_rendered(const struct text_request *r, struct str text, unsigned flags,
                           const char *param, struct token_list *ids)
{
    struct error err = {0};
    if (prompt_context_encode(r->context, text, flags, ids, &err) == 0) return 0;
    return api_error_set(r->e, 400, NULL, param, "The text cannot be tokenised: %s.", err.text);
}

/* messages, tools, add_generation_prompt and chat_template_kwargs of the body. */
static int render_body(const struct text_request *r, struct buf *out)
{
    struct chat_template_input in = {.add_generation_prompt = true, .now = r->now};
    const struct json *messages = json_get_set(r->body, "messages");
    struct json *rewritten;
    if (!messages) return field_missing_error(r->e, "messages");
    if (field_typed(r->body, "tools", JSON_ARRAY, &in.tools, r->e) != 0 ||
        field_typed(r->body, "chat_template_kwargs", JSON_OBJECT, &in.kwargs, r->e) != 0 ||
        field_bool(r->body, "add_generation_prompt", &in.add_generation_prompt, r->e) != 0) {
        return -1;
    }
    int rc = chat_messages_prepare(messages, &rewritten, &in.messages, r->e);
    if (rc == 0) rc = render(r, &in, "messages", out);
    json_destroy(rewritten);
    return rc;
}

static void put_ids(struct json_writer *w, const struct token_list *ids)
{
    json_array_begin(w);
    for (size_t i = 0; i < ids->count; i++)
        json_put_int(w, ids->ids[i]);
    json_array_end(w);
}

/* ---- /v1/encode ---- */

/* A user's turn around the text, as the template has it. */
static int render_turn(const struct text_request *r, struct str text, struct buf *out)
{
    struct buf json;
    struct json_writer w;
    buf_init(&json, BUF_MAX_INTERNAL);
    json_writer_init(&w, &json);
    json_array_begin(&w);
    json_object_begin(&w);
    json_field_text(&w, "role", "user");
    json_field_str(&w, "content", text);
    json_object_end(&w);
    json_array_end(&w);
    struct json *messages = json_parse(json.data, json.len, NULL);
    CHECK(messages);
    struct chat_template_input in = {
        .messages = messages, .add_generation_prompt = true, .now = r->now};
    int rc = render(r, &in, "input", out);
    json_destroy(messages);
    buf_deinit(&json);
    return rc;
}

static int encode_input(const struct text_request *r, struct str text, struct token_list *ids)
{
    bool preprocess = false, add_bos = true;
    struct buf turn;
    if (field_bool(r->body, "do_preprocess", &preprocess, r->e) != 0 ||
        field_bool(r->body, "add_bos", &add_bos, r->e) != 0) {
        return -1;
    }
    if (!preprocess)
        return encode(r, text, TOKENIZER_SPECIAL | (add_bos ? TOKENIZER_ADD_BOS : 0u), "input",
                      ids);
    if (render_turn(r, text, &turn) != 0) return -1;
    int rc = encode_rendered(r, buf_str(&turn), 0, "input", ids); // bos is in the template
    buf_deinit(&turn);
    return rc;
}

static int encode_list(struct text_request *r, const struct json *input)
{
    size_t count = json_len(input), i = 0;
    struct token_list *lists = xcalloc(count + 1, sizeof *lists);
    int rc = 0;
    for (const struct json *v = json_first(input); v && rc == 0; v = json_next(v), i++) {
        char path[32];
        snprintf(path, sizeof path, "input[%zu]", i);
        rc = json_type(v) == JSON_STRING ? encode_input(r, field_str(v), &lists[i])
                                         : field_type_error(r->e, path, "a string", v);
    }
    if (rc == 0) {
        json_key(&r->w, "input_ids");
        json_array_begin(&r->w);
        for (i = 0; i < count; i++)
            put_ids(&r->w, &lists[i]);
        json_array_end(&r->w);
        json_key(&r->w, "length");
        json_array_begin(&r->w);
        for (i = 0; i < count; i++)
            json_put_int(&r->w, (int64_t)lists[i].count);
        json_array_end(&r->w);
    }
    for (i = 0; i < count; i++)
        token_list_deinit(&lists[i]);
    free(lists);
    return rc;
}

static int answer_encode(struct text_request *r)
{
    const struct json *input = json_get_set(r->body, "input");
    struct token_list ids = {0};
    if (!input) return field_missing_error(r->e, "input");
    if (json_type(input) == JSON_ARRAY) return encode_list(r, input);
    if (json_type(input) != JSON_STRING)
        return field_type_error(r->e, "input", "a string or an array of strings", input);
    int rc = encode_input(r, field_str(input), &ids);
    if (rc == 0) {
        json_key(&r->w, "input_ids");
        put_ids(&r->w, &ids);
        json_field_int(&r->w, "length", (int64_t)ids.count);
    }
    token_list_deinit(&ids);
    return rc;
}

/* ---- /tokenize, /detokenize ---- */

static int tokenize_prompt(const struct text_request *r, struct token_list *ids)
{
    struct str prompt = {0};
    bool add_special = true;
    if (field_string(r->body, "prompt", NULL, &prompt, r->e) != 0 ||
        field_bool(r->body, "add_special_tokens", &add_special, r->e) != 0) {
        return -1;
    }
    if (!prompt.data) return field_missing_error(r->e, "prompt");
    return encode(r, prompt, TOKENIZER_SPECIAL | (add_special ? TOKENIZER_ADD_BOS : 0u), "prompt",
                  ids);
}

static int tokenize_messages(const struct text_request *r, struct token_list *ids)
{
    bool add_special = false; // the template writes them
    struct buf prompt;
    if (field_bool(r->body, "add_special_tokens", &add_special, r->e) != 0 ||
        render_body(r, &prompt) != 0) {
        return -1;
    }
    int rc =
        encode_rendered(r, buf_str(&prompt), add_special ? TOKENIZER_ADD_BOS : 0u, "messages", ids);
    buf_deinit(&prompt);
    return rc;
}

static void put_token_strings(struct text_request *r, const struct token_list *ids)
{
    json_array_begin(&r->w);
    for (size_t i = 0; i < ids->count; i++) // half a character prints as U+FFFD
        json_put_str(&r->w, tokenizer_token_bytes(r->context->tokenizer, ids->ids[i], true));
    json_array_end(&r->w);
}

static int answer_tokenize(struct text_request *r)
{
    struct token_list ids = {0};
    bool strings = false;
    if (field_bool(r->body, "return_token_strs", &strings, r->e) != 0) return -1;
    int rc =
        json_get_set(r->body, "messages") ? tokenize_messages(r, &ids) : tokenize_prompt(r, &ids);
    if (rc == 0) {
        json_field_int(&r->w, "count", (int64_t)ids.count);
        json_field_int(&r->w, "max_model_len", r->context->context_len);
        json_key(&r->w, "tokens");
        put_ids(&r->w, &ids);
        json_key(&r->w, "token_strs");
        if (strings)
            put_token_strings(r, &ids);
        else
            json_put_null(&r->w);
    }
    token_list_deinit(&ids);
    return rc;
}

static int answer_detokenize(struct text_request *r)
{
    const struct json *tokens;
    struct token_list ids = {0};
    struct buf text;
    int vocab = tokenizer_vocab_size(r->context->tokenizer), rc = 0;
    if (field_typed(r->body, "tokens", JSON_ARRAY, &tokens, r->e) != 0) return -1;
    if (!tokens) return field_missing_error(r->e, "tokens");
    size_t index = 0;
    for (const struct json *v = json_first(tokens); v && rc == 0; v = json_next(v)) {
        rc = field_token(v, "tokens", index++, vocab, r->e);
        if (rc == 0) token_list_push(&ids, (int32_t)json_number(v));
    }
    if (rc == 0) {
        buf_init(&text, BUF_MAX_INTERNAL);
        tokenizer_decode(r->context->tokenizer, ids.ids, ids.count, true, &text);
        json_field_str(&r->w, "prompt", buf_str(&text));
        buf_deinit(&text);
    }
    token_list_deinit(&ids);
    return rc;
}

/* ---- /apply-template ---- */

static int answer_apply_template(struct text_request *r)
{
    struct buf prompt;
    if (render_body(r, &prompt) != 0) return -1;
    if (r->context->escape_special) prompt_guard_unmark(&prompt);
    json_field_str(&r->w, "prompt", buf_str(&prompt));
    buf_deinit(&prompt);
    return 0;
}

/* ---- /v1/messages/count_tokens ---- */

static int answer_count_tokens(struct text_request *r)
{
    struct buf chat;
    struct token_list ids = {0};
    buf_init(&chat, BUF_MAX_INTERNAL);
    int rc = anthropic_request_to_chat(r->body, true, &chat, r->e);
    if (rc == 0) {
        struct error err = {0};
        struct json *body = json_parse(chat.data, chat.len, &err);
        struct text_request inner = *r;
        inner.body = body;
        rc = body ? tokenize_messages(&inner, &ids)
                  : api_error_set(r->e, 400, NULL, NULL, "Invalid request: %s.", err.text);
        json_destroy(body);
    }
    if (rc == 0) json_field_int(&r->w, "input_tokens", (int64_t)ids.count);
    token_list_deinit(&ids);
    buf_deinit(&chat);
    return rc;
}

/* ---- the whole ---- */

static int answer(struct text_request *r)
{
    if (json_type(r->body) != JSON_OBJECT) {
        return api_error_set(r->e, 400, "invalid_type", NULL,
                             "Invalid type for the request body: expected an object, but got %s "
                             "instead.",
                             json_type_name(json_type(r->body)));
    }
    if (check_model(r) != 0) return -1;
    switch (r->kind) {
    case TEXT_ENCODE:
        return answer_encode(r);
    case TEXT_TOKENIZE:
        return answer_tokenize(r);
    case TEXT_DETOKENIZE:
        return answer_detokenize(r);
    case TEXT_APPLY_TEMPLATE:
        return answer_apply_template(r);
    case TEXT_COUNT_TOKENS:
        return answer_count_tokens(r);
    }
    UNREACHABLE();
}

int text_request_answer(enum text_request_kind kind, struct str body,
                        const struct request_limits *limits, const struct prompt_context *context,
                        int64_t now, struct buf *out, struct api_error *e)
{
    struct error err = {0};
    struct json *document = json_parse(body.data, body.len, &err);
    if (!document) {
        return api_error_set(e, err.code == E_LIMIT ? 413 : 400, NULL, NULL,
                             "We could not parse the JSON body of your request: %s.", err.text);
    }
    struct text_request r = {kind, document, limits, context, now, {0}, e};
    json_writer_init(&r.w, out);
    json_object_begin(&r.w);
    int rc = answer(&r);
    if (rc == 0) json_object_end(&r.w);
    json_destroy(document);
    return rc;
}
