#include "agent/prompt_build.h"

#include "agent/prompt_guard.h"
#include "agent/reply_grammar.h"
#include "agent/request_field.h"
#include "agent/tool_prompt.h"
#include "shared/base/check.h"

#include <stdlib.h>

void prompt_context_init(struct prompt_context *c, const struct tokenizer *tokenizer,
                         const struct chat_template *chat_template, int context_len)
{
    c->tokenizer = tokenizer;
    c->chat_template = chat_template;
    c->context_len = context_len;
    c->grammars = NULL;
    c->formats = NULL;
    c->escape_special = false;
    c->token_bytes_max = 1;
    for (int32_t id = 0; id < tokenizer_vocab_size(tokenizer); id++) {
        size_t len = tokenizer_token_bytes(tokenizer, id, true).len;
        if (len > c->token_bytes_max) c->token_bytes_max = len;
    }
}

static int render(const struct prompt_context *c, const struct chat_template_input *in,
                  struct buf *out, struct error *err)
{
    if (!c->escape_special) return chat_template_render(c->chat_template, in, out, err);
    const struct json *sent[] = {in->messages, in->tools, in->kwargs};
    struct json *marked[ARRAY_LEN(sent)] = {NULL};
    int rc = 0;
    for (size_t i = 0; i < ARRAY_LEN(sent) && rc == 0; i++) {
        if (!sent[i]) continue;
        marked[i] = prompt_guard_mark_json(c->tokenizer, sent[i], err);
        if (!marked[i]) rc = err->code;
    }
    struct chat_template_input input = *in;
    input.messages = marked[0];
    input.tools = marked[1];
    input.kwargs = marked[2];
    if (rc == 0) rc = chat_template_render(c->chat_template, &input, out, err);
    for (size_t i = 0; i < ARRAY_LEN(sent); i++)
        json_destroy(marked[i]);
    return rc;
}

/* A template that shows no tools gets messages that say them, and then the calls, too, in one form. One
 * that shows calls is left alone where there are no tools. */
static bool must_rewrite(const struct reply_formats *f, const struct chat_template_input *in)
{
    if (!f || f->template_has_tools) return false;
    return json_len(in->tools) > 0 ||
           (!f->template_has_calls && tool_prompt_is_needed(in->messages));
}

int prompt_context_render(const struct prompt_context *c, const struct chat_template_input *in,
                          struct buf *out, struct error *err)
{
    if (!must_rewrite(c->formats, in)) return render(c, in, out, err);
    struct chat_template_input plain = *in;
    bool explains = c->formats->tools == tool_format_find(REPLY_GENERIC_FORMAT);
    struct json *messages = tool_prompt_rewrite(in->messages, in->tools, explains, err);
    if (!messages) return err->code;
    plain.messages = messages;
    int rc = render(c, &plain, out, err);
    json_destroy(messages);
    return rc;
}

int prompt_context_encode(const struct prompt_context *c, struct str text, unsigned flags,
                          struct token_list *out, struct error *err)
{
    if (c->escape_special) return prompt_guard_encode(c->tokenizer, text, flags, out, err);
    return tokenizer_encode(c->tokenizer, text.data, text.len, flags | TOKENIZER_SPECIAL, out, err);
}

static int too_long(const struct chat_request *r, const struct prompt_context *c, size_t tokens,
                    const char *at_least, struct api_error *e)
{
    const char *what = r->kind == COMPLETION_CHAT ? "messages" : "prompt";
    return api_error_set(e, 400, "context_length_exceeded", what,
                         "This model's maximum context length is %d tokens. However, your %s "
                         "resulted in %s%zu tokens. Please reduce the length of the %s.",
                         c->context_len, what, at_least, tokens, what);
}

static int check_length(const struct chat_request *r, const struct prompt_context *c,
                        const struct token_list *ids, struct api_error *e)
{
    if (ids->count < (size_t)c->context_len) return 0; // one token of answer must fit
    return too_long(r, c, ids->count, "", e);
}

static int encode(const struct chat_request *r, const struct prompt_context *c, struct str text,
                  unsigned flags, struct token_list *out, struct api_error *e)
{
    /* A text that can't fit whatever its tokens are isn't worth seconds of a worker. */
    size_t tokens_min = text.len / c->token_bytes_max;
    if (tokens_min > (size_t)c->context_len) return too_long(r, c, tokens_min, "at least ", e);

    struct error err = {0};
    bool rendered = r->form == PROMPT_MESSAGES;
    int rc = rendered ? prompt_context_encode(c, text, flags, out, &err)
                      : tokenizer_encode(c->tokenizer, text.data, text.len, flags, out, &err);
    if (rc != 0) {
        const char *param = r->kind == COMPLETION_CHAT ? "messages" : "prompt";
        return api_error_set(e, 400, NULL, param, "The text cannot be tokenised: %s.", err.text);
    }
    return check_length(r, c, out, e);
}

static void plan_reply(const struct chat_request *r, const struct prompt_context *c,
                       struct str prompt, struct prompt_set *out)
{
    if (!c->formats) return;
    reply_plan_make(c->formats, &r->tools.list, prompt, r->template_fields.thinking, &out->plan);
}

static int encode_chat(const struct chat_request *r, const struct prompt_context *c, int64_t now,
                       struct prompt_set *out, struct api_error *e)
{
    struct chat_template_input input = {.messages = r->messages,
                                        .tools = r->tools.offered,
                                        .kwargs = r->template_fields.kwargs,
                                        .add_generation_prompt = true,
                                        .now = now};
    struct buf text;
    struct error err = {0};
    buf_init(&text, BUF_MAX_INTERNAL);
    int rc;
    if (prompt_context_render(c, &input, &text, &err) != 0) {
        rc = api_error_set(e, 400, NULL, "messages",
                           "The model's chat template refused the messages: %s.", err.text);
    } else {
        // The template itself writes bos where the model wants one.
        rc = encode(r, c, buf_str(&text), TOKENIZER_SPECIAL, &out->items[0], e);
    }
    if (rc == 0) plan_reply(r, c, buf_str(&text), out);
    buf_deinit(&text);
    return rc;
}

/* Special tokens written out in a raw prompt count as such: that's how clients bring their own
 * template. A prompt with no token at all begins a document: bos, else eos (GPT's <|endoftext|>).
 */
static int encode_text(const struct chat_request *r, const struct prompt_context *c,
                       struct str text, struct token_list *out, struct api_error *e)
{
    if (encode(r, c, text, TOKENIZER_SPECIAL | TOKENIZER_ADD_BOS, out, e) != 0) return -1;
    if (out->count > 0) return 0;
    int32_t first = tokenizer_bos(c->tokenizer);
    if (first < 0) first = tokenizer_eos(c->tokenizer);
    if (first < 0) {
        const char *param = r->kind == COMPLETION_CHAT ? "messages" : "prompt";
        return api_error_set(e, 400, "invalid_value", param,
                             "Invalid '%s': the text is empty and this model has no token to begin "
                             "with.",
                             param);
    }
    token_list_push(out, first);
    return 0;
}

static int copy_ids(const struct chat_request *r, const struct prompt_context *c,
                    const struct json *ids, struct token_list *out, struct api_error *e)
{
    if (json_len(ids) >= (size_t)c->context_len) return too_long(r, c, json_len(ids), "", e);
    for (const struct json *v = json_first(ids); v; v = json_next(v)) {
        token_list_push(out, (int32_t)json_number(v));
    }
    return 0;
}

static int build_each(const struct chat_request *r, const struct prompt_context *c,
                      struct prompt_set *out, struct api_error *e)
{
    size_t i = 0;
    for (const struct json *v = json_first(r->prompts); v; v = json_next(v), i++) {
        int rc = r->form == PROMPT_TEXTS ? encode_text(r, c, field_str(v), &out->items[i], e)
                                         : copy_ids(r, c, v, &out->items[i], e);
        if (rc != 0) return -1;
    }
    return 0;
}

/* ---- prompts as text ---- */

static void decode_ids(const struct tokenizer *t, const struct token_list *ids, struct buf *out)
{
    for (size_t i = 0; i < ids->count; i++) {
        struct str bytes = tokenizer_token_bytes(t, ids->ids[i], true);
        buf_append(out, bytes.data, bytes.len);
    }
}

static void build_text(const struct chat_request *r, const struct tokenizer *t, struct str sent,
                       const struct token_list *ids, struct prompt_text *out)
{
    buf_init(&out->text, BUF_MAX_INTERNAL);
    if (r->form == PROMPT_TOKENS || r->form == PROMPT_TOKEN_LISTS) {
        decode_ids(t, ids, &out->text);
        return;
    }
    buf_append(&out->text, sent.data, sent.len);
    int32_t first = ids->ids[0];
    if (first != tokenizer_bos(t) && sent.len > 0) return;
    bool was_sent = str_starts_with(sent, tokenizer_token_bytes(t, first, true));
    bool is_double = ids->count > 1 && ids->ids[1] == first; // sent, and added before it
    out->invisible = !was_sent || is_double;
}

static void build_texts(const struct chat_request *r, const struct prompt_context *c,
                        struct prompt_set *out)
{
    const struct json *v = json_first(r->prompts);
    out->texts = xcalloc(out->count, sizeof *out->texts);
    for (size_t i = 0; i < out->count; i++) {
        struct str sent = r->form == PROMPT_TEXTS ? field_str(v) : r->text;
        build_text(r, c->tokenizer, sent, &out->items[i], &out->texts[i]);
        if (r->form == PROMPT_TEXTS) v = json_next(v);
    }
}

bool prompt_needs_grammar(const struct chat_request *request)
{
    const struct tool_request *tools = &request->tools;
    bool is_strict = request->response_format.is_set ||
                     (tools->offered && tools->list.choice != TOOL_CHOICE_AUTO);
    for (size_t i = 0; i < tools->list.count && !is_strict; i++)
        is_strict = tools->list.items[i].is_strict;
    return is_strict;
}

int prompt_compile(const struct chat_request *request, const struct prompt_context *context,
                   uint64_t since_ms, struct prompt_set *set, struct api_error *e)
{
    int rc = request->kind == COMPLETION_CHAT && context->formats
                 ? reply_grammar_compile(request, context->formats, &set->plan, context->grammars,
                                         since_ms, &set->grammar, e)
                 : response_format_compile(&request->response_format, context->grammars, since_ms,
                                           &set->grammar, e);
    if (rc != 0) prompt_set_deinit(set);
    return rc;
}

int prompt_build(const struct chat_request *request, const struct prompt_context *context,
                 int64_t now, struct prompt_set *out, struct api_error *e)
{
    out->count = request->prompt_count;
    out->items = xcalloc(out->count, sizeof *out->items);
    int rc = -1;
    switch (request->form) {
    case PROMPT_MESSAGES:
        rc = encode_chat(request, context, now, out, e);
        break;
    case PROMPT_TEXT:
        rc = encode_text(request, context, request->text, &out->items[0], e);
        if (request->kind == COMPLETION_CHAT) plan_reply(request, context, request->text, out);
        break;
    case PROMPT_TOKENS:
        rc = copy_ids(request, context, request->prompts, &out->items[0], e);
        break;
    case PROMPT_TEXTS:
    case PROMPT_TOKEN_LISTS:
        rc = build_each(request, context, out, e);
        break;
    }
    if (rc != 0) {
        prompt_set_deinit(out);
    } else if (request->kind == COMPLETION_TEXT && (request->echo || request->logprobs)) {
        build_texts(request, context, out);
    }
    return rc;
}

void prompt_set_deinit(struct prompt_set *set)
{
    for (size_t i = 0; i < set->count; i++) {
        token_list_deinit(&set->items[i]);
        if (set->texts) buf_deinit(&set->texts[i].text);
    }
    free(set->items);
    free(set->texts);
    reply_plan_deinit(&set->plan);
    grammar_unref(set->grammar);
    set->grammar = NULL;
    set->items = NULL;
    set->texts = NULL;
    set->count = 0;
}
