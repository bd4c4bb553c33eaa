#include "agent/chat_response.h"

#include "agent/response_logprobs.h"
#include "shared/base/check.h"
#include "shared/base/json.h"
#include "shared/net/sse.h"

/* ---- what both routes share ---- */

/* OpenAI: who names the tool doesn't hear that the model chose to call one. */
static const char *finish_name(const struct response_head *head,
                               const struct response_choice *choice)
{
    switch (choice->finish) {
    case FINISH_NONE:
        return NULL;
    case FINISH_STOP:
        return choice->reply->calls > 0 && !head->is_named ? "tool_calls" : "stop";
    case FINISH_LENGTH:
        return "length";
    case FINISH_CANCELLED: // LMDeploy's, of POST /abort_request; else nobody is there to read it
        return "abort";
    }
    UNREACHABLE();
}

static void put_ids(struct json_writer *w, const char *name, const int32_t *ids, size_t count)
{
    json_key(w, name);
    json_array_begin(w);
    for (size_t i = 0; i < count; i++) {
        json_put_int(w, ids[i]);
    }
    json_array_end(w);
}

static void put_head(struct json_writer *w, const struct response_head *head, const char *object)
{
    json_field_text(w, "id", head->id);
    json_field_text(w, "object", object);
    json_field_int(w, "created", head->created);
    json_field_str(w, "model", head->model);
    json_field_text(w, "system_fingerprint", head->fingerprint);
    if (head->service_tier) json_field_text(w, "service_tier", "default");
}

static void put_usage(struct json_writer *w, const struct response_usage *usage)
{
    json_key(w, "usage");
    json_object_begin(w);
    json_field_int(w, "prompt_tokens", usage->prompt_tokens);
    json_field_int(w, "completion_tokens", usage->completion_tokens);
    json_field_int(w, "total_tokens", usage->prompt_tokens + usage->completion_tokens);
    json_key(w, "prompt_tokens_details");
    json_object_begin(w);
    json_field_int(w, "cached_tokens", usage->cached_tokens);
    json_object_end(w);
    json_key(w, "completion_tokens_details");
    json_object_begin(w);
    json_field_int(w, "reasoning_tokens", usage->reasoning_tokens);
    json_object_end(w);
    json_object_end(w);
}

/* The members that end a choice, in bodies and chunks alike. vLLM puts the prompt's ids into the
 * choice for completions, which may have many prompts, and beside the choices for chat. */
static void put_choice_tail(struct json_writer *w, const struct response_head *head,
                            const struct response_choice *choice)
{
    if (head->logprobs)
        response_logprobs_put(w, head, choice);
    else
        json_field_null(w, "logprobs");
    json_field_text(w, "finish_reason", finish_name(head, choice));
    if (!head->return_token_ids) return;
    put_ids(w, "token_ids", choice->tokens, choice->token_count);
    if (head->kind == COMPLETION_TEXT && choice->prompt) {
        put_ids(w, "prompt_token_ids", choice->prompt, choice->prompt_count);
    }
}

static void put_prompt_at_top(struct json_writer *w, const struct response_head *head,
                              const struct response_choice *choice)
{
    if (head->return_token_ids && head->kind == COMPLETION_CHAT && choice->prompt) {
        put_ids(w, "prompt_token_ids", choice->prompt, choice->prompt_count);
    }
}

static void put_part(struct json_writer *w, const char *name, const struct reply *reply,
                     enum reply_piece_kind kind)
{
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    reply_join(reply, kind, &text);
    json_field_str(w, name, buf_str(&text));
    buf_deinit(&text);
}

/* ---- bodies ---- */

static void put_call_head(struct json_writer *w, const struct response_head *head, int choice,
                          int call)
{
    char id[REPLY_CALL_ID_BYTES];
    reply_call_id(head->id, choice, call, id);
    json_field_text(w, "id", id);
    json_field_text(w, "type", "function");
}

static void put_calls(struct json_writer *w, const struct response_head *head,
                      const struct response_choice *choice)
{
    struct buf arguments;
    buf_init(&arguments, BUF_MAX_INTERNAL);
    json_key(w, "tool_calls");
    json_array_begin(w);
    for (size_t i = 0; i < choice->reply->count; i++) {
        struct reply_piece piece = reply_piece_at(choice->reply, i);
        if (piece.kind != REPLY_CALL) continue;
        buf_clear(&arguments);
        reply_join_arguments(choice->reply, i, &arguments);
        json_object_begin(w);
        put_call_head(w, head, choice->index, piece.call);
        json_key(w, "function");
        json_object_begin(w);
        json_field_str(w, "name", piece.text);
        json_field_str(w, "arguments", buf_str(&arguments));
        json_object_end(w);
        json_object_end(w);
    }
    json_array_end(w);
    buf_deinit(&arguments);
}

static void put_message(struct json_writer *w, const struct response_head *head,
                        const struct response_choice *choice)
{
    const struct reply *reply = choice->reply;
    bool is_other = reply->calls > 0 || reply->has_reasoning; // content is not what it said
    json_key(w, "message");
    json_object_begin(w);
    json_field_text(w, "role", "assistant");
    if (is_other && !reply->has_content)
        json_field_null(w, "content");
    else
        put_part(w, "content", reply, REPLY_CONTENT);
    json_field_null(w, "refusal");
    if (reply->has_reasoning) put_part(w, "reasoning_content", reply, REPLY_REASONING);
    if (reply->calls > 0) put_calls(w, head, choice);
    json_object_end(w);
}

static void print_whole(struct buf *out, const struct response_head *head,
                        const struct response_choice *choices, size_t count,
                        const struct response_usage *usage)
{
    bool is_chat = head->kind == COMPLETION_CHAT;
    struct json_writer w;
    json_writer_init(&w, out);
    json_object_begin(&w);
    put_head(&w, head, is_chat ? "chat.completion" : "text_completion");
    json_key(&w, "choices");
    json_array_begin(&w);
    for (size_t i = 0; i < count; i++) {
        json_object_begin(&w);
        json_field_int(&w, "index", choices[i].index);
        if (is_chat)
            put_message(&w, head, &choices[i]);
        else
            put_part(&w, "text", choices[i].reply, REPLY_CONTENT);
        put_choice_tail(&w, head, &choices[i]);
        json_object_end(&w);
    }
    json_array_end(&w);
    put_usage(&w, usage);
    put_prompt_at_top(&w, head, &choices[0]);
    json_object_end(&w);
}

/* ---- chunks ---- */

/* One in the making: what stands before its choice, then the choice, then the rest. */
struct chunk {
    struct buf text;
    struct json_writer w;
};

static void chunk_begin(struct chunk *c, const struct response_head *head,
                        const struct response_choice *choice)
{
    buf_init(&c->text, BUF_MAX_INTERNAL);
    json_writer_init(&c->w, &c->text);
    json_object_begin(&c->w);
    put_head(&c->w, head,
             head->kind == COMPLETION_CHAT ? "chat.completion.chunk" : "text_completion");
    json_key(&c->w, "choices");
    json_array_begin(&c->w);
    if (!choice) return;
    json_object_begin(&c->w);
    json_field_int(&c->w, "index", choice->index);
}

static void chunk_end(struct chunk *c, struct buf *out, const struct response_head *head,
                      const struct response_choice *choice, const struct response_usage *usage)
{
    if (choice) {
        put_choice_tail(&c->w, head, choice);
        json_object_end(&c->w);
    }
    json_array_end(&c->w);
    if (usage) {
        put_usage(&c->w, usage);
    } else if (head->include_usage) {
        json_field_null(&c->w, "usage");
    }
    if (choice) put_prompt_at_top(&c->w, head, choice);
    json_object_end(&c->w);
    sse_write_data(out, buf_str(&c->text));
    buf_deinit(&c->text);
}

static void print_usage(struct buf *out, const struct response_head *head,
                        const struct response_usage *usage)
{
    struct chunk c;
    chunk_begin(&c, head, NULL);
    chunk_end(&c, out, head, NULL, usage);
}

static void print_done(struct buf *out, const struct response_head *head)
{
    (void)head;
    sse_write_data(out, STR("[DONE]"));
}

/* ---- chats ---- */

/* The role stands in the first delta only: the official Python client joins strings that repeat. */
static void chat_begin(struct buf *out, const struct response_head *head,
                       const struct response_choice *choice, const struct response_usage *usage)
{
    struct chunk c;
    (void)usage;
    chunk_begin(&c, head, choice);
    json_key(&c.w, "delta");
    json_object_begin(&c.w);
    json_field_text(&c.w, "role", "assistant");
    json_field_text(&c.w, "content", head->must_call ? NULL : "");
    json_field_null(&c.w, "refusal");
    json_object_end(&c.w);
    chunk_end(&c, out, head, choice, NULL);
}

/* That client joins the strings of a call, too: id, type and name come once, the index always. */
static void put_call_delta(struct json_writer *w, const struct response_head *head, int choice,
                           const struct reply_piece *piece)
{
    bool begins = piece->kind == REPLY_CALL;
    json_key(w, "tool_calls");
    json_array_begin(w);
    json_object_begin(w);
    json_field_int(w, "index", piece->call);
    if (begins) put_call_head(w, head, choice, piece->call);
    json_key(w, "function");
    json_object_begin(w);
    if (begins) json_field_str(w, "name", piece->text);
    json_field_str(w, "arguments", begins ? STR("") : piece->text);
    json_object_end(w);
    json_object_end(w);
    json_array_end(w);
}

static void chat_piece(struct buf *out, const struct response_head *head,
                       const struct response_choice *choice, const struct reply_piece *piece)
{
    struct chunk c;
    chunk_begin(&c, head, choice);
    json_key(&c.w, "delta");
    json_object_begin(&c.w);
    switch (piece->kind) {
    case REPLY_CONTENT:
        json_field_str(&c.w, "content", piece->text);
        break;
    case REPLY_REASONING:
        json_field_str(&c.w, "reasoning_content", piece->text);
        break;
    case REPLY_CALL:
    case REPLY_ARGUMENTS:
        put_call_delta(&c.w, head, choice->index, piece);
        break;
    }
    json_object_end(&c.w);
    chunk_end(&c, out, head, choice, NULL);
}

/* LMDeploy's clients want the last delta to hold "content": "", everybody else allows it; but content
 * that is null beside calls stays so. */
static void chat_finish(struct buf *out, const struct response_head *head,
                        const struct response_choice *choice, const struct response_usage *usage)
{
    struct chunk c;
    (void)usage;
    CHECK(choice->finish != FINISH_NONE);
    chunk_begin(&c, head, choice);
    json_key(&c.w, "delta");
    json_object_begin(&c.w);
    if (choice->reply->calls == 0) json_field_text(&c.w, "content", "");
    json_object_end(&c.w);
    chunk_end(&c, out, head, choice, NULL);
}

const struct response_printer chat_response_printer = {
    .whole = print_whole,
    .begin = chat_begin,
    .piece = chat_piece,
    .finish = chat_finish,
    .usage = print_usage,
    .done = print_done,
    .is_resumable = true,
};

/* ---- text completions ---- */

static void text_piece(struct buf *out, const struct response_head *head,
                       const struct response_choice *choice, const struct reply_piece *piece)
{
    struct chunk c;
    chunk_begin(&c, head, choice);
    json_field_str(&c.w, "text", piece->text);
    chunk_end(&c, out, head, choice, NULL);
}

static void text_finish(struct buf *out, const struct response_head *head,
                        const struct response_choice *choice, const struct response_usage *usage)
{
    (void)usage;
    CHECK(choice->finish != FINISH_NONE);
    text_piece(out, head, choice, &(struct reply_piece){.kind = REPLY_CONTENT, .text = STR("")});
}

const struct response_printer text_response_printer = {
    .whole = print_whole,
    .piece = text_piece,
    .finish = text_finish,
    .usage = print_usage,
    .done = print_done,
    .is_resumable = true,
};
