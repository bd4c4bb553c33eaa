#include "agent/chat_response.h"

#include "agent/response_logprobs.h"
#include "shared/base/check.h"
#include "shared/base/json.h"
#include "shared/net/sse.h"

static const char *finish_name(enum finish_reason finish)
{
    switch (finish) {
    case FINISH_NONE:
        return NULL;
    case FINISH_STOP:
        return "stop";
    case FINISH_LENGTH:
        return "length";
    case FINISH_CANCELLED: // nobody is there to read it
        break;
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
    json_field_int(w, "reasoning_tokens", 0);
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
    json_field_text(w, "finish_reason", finish_name(choice->finish));
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

void chat_response_print(struct buf *out, const struct response_head *head,
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
        if (is_chat) {
            json_key(&w, "message");
            json_object_begin(&w);
            json_field_text(&w, "role", "assistant");
            json_field_str(&w, "content", choices[i].text);
            json_field_null(&w, "refusal");
            json_object_end(&w);
        } else {
            json_field_str(&w, "text", choices[i].text);
        }
        put_choice_tail(&w, head, &choices[i]);
        json_object_end(&w);
    }
    json_array_end(&w);
    put_usage(&w, usage);
    put_prompt_at_top(&w, head, &choices[0]);
    json_object_end(&w);
}

/* ---- chunks ---- */

enum delta { DELTA_ROLE, DELTA_TEXT };

static void put_chunk_choice(struct json_writer *w, const struct response_head *head,
                             const struct response_choice *choice, enum delta delta)
{
    json_object_begin(w);
    json_field_int(w, "index", choice->index);
    if (head->kind == COMPLETION_CHAT) {
        json_key(w, "delta");
        json_object_begin(w);
        /* The role stands in the first delta only: the official Python client joins strings that
         * repeat. */
        if (delta == DELTA_ROLE) json_field_text(w, "role", "assistant");
        json_field_str(w, "content", choice->text);
        if (delta == DELTA_ROLE) json_field_null(w, "refusal");
        json_object_end(w);
    } else {
        json_field_str(w, "text", choice->text);
    }
    put_choice_tail(w, head, choice);
    json_object_end(w);
}

static void print_event(struct buf *out, const struct response_head *head,
                        const struct response_choice *choice, enum delta delta,
                        const struct response_usage *usage)
{
    bool is_chat = head->kind == COMPLETION_CHAT;
    struct buf text;
    struct json_writer w;
    buf_init(&text, BUF_MAX_INTERNAL);
    json_writer_init(&w, &text);
    json_object_begin(&w);
    put_head(&w, head, is_chat ? "chat.completion.chunk" : "text_completion");
    json_key(&w, "choices");
    json_array_begin(&w);
    if (choice) put_chunk_choice(&w, head, choice, delta);
    json_array_end(&w);
    if (usage) {
        put_usage(&w, usage);
    } else if (head->include_usage) {
        json_field_null(&w, "usage");
    }
    if (choice) put_prompt_at_top(&w, head, choice);
    json_object_end(&w);
    sse_write_data(out, buf_str(&text));
    buf_deinit(&text);
}

void chat_response_event_role(struct buf *out, const struct response_head *head,
                              const struct response_choice *choice)
{
    CHECK(head->kind == COMPLETION_CHAT);
    print_event(out, head, choice, DELTA_ROLE, NULL);
}

void chat_response_event_text(struct buf *out, const struct response_head *head,
                              const struct response_choice *choice)
{
    print_event(out, head, choice, DELTA_TEXT, NULL);
}

/* LMDeploy's clients want the last delta to hold "content": "", everybody else allows it. */
void chat_response_event_finish(struct buf *out, const struct response_head *head,
                                const struct response_choice *choice)
{
    CHECK(choice->finish != FINISH_NONE && choice->text.len == 0);
    print_event(out, head, choice, DELTA_TEXT, NULL);
}

void chat_response_event_usage(struct buf *out, const struct response_head *head,
                               const struct response_usage *usage)
{
    print_event(out, head, NULL, DELTA_TEXT, usage);
}

void chat_response_event_done(struct buf *out)
{
    sse_write_data(out, STR("[DONE]"));
}
