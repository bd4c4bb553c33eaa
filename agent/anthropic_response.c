/* anthropic_response.c - see anthropic_response.h.
 *
 *     message_start
 *       content_block_start ─► content_block_delta ... ─► content_block_stop      text, thinking, tool_use
 *     message_delta: why it stopped, how long it is ─► message_stop */
#include "agent/anthropic_response.h"

#include "shared/base/check.h"
#include "shared/base/json.h"
#include "shared/net/sse.h"

#include <stdio.h>

struct state {
    int index; // of the open block, else of the next
    bool is_open;
    enum reply_piece_kind kind; // of the open block: content, reasoning or call
};

/* ---- events ---- */

static void event_begin(struct json_writer *w, struct buf *text, const char *type)
{
    buf_init(text, BUF_MAX_INTERNAL);
    json_writer_init(w, text);
    json_object_begin(w);
    json_field_text(w, "type", type);
}

static void event_end(struct buf *out, struct json_writer *w, struct buf *text, const char *type)
{
    json_object_end(w);
    buf_printf(out, "event: %s\n", type);
    sse_write_data(out, buf_str(text));
    buf_deinit(text);
}

/* ---- shapes ---- */

/* What the cache had isn't among the input tokens here. */
static void put_usage(struct json_writer *w, const struct response_usage *u, int64_t output_tokens)
{
    json_object_begin(w);
    json_field_int(w, "input_tokens", u->prompt_tokens - u->cached_tokens);
    json_field_int(w, "cache_creation_input_tokens", 0);
    json_field_int(w, "cache_read_input_tokens", u->cached_tokens);
    json_field_int(w, "output_tokens", output_tokens);
    json_object_end(w);
}

/* Which of the client's stop sequences it was isn't known here, so that they count as an end. What
 * POST /abort_request ended is cut short, for which there is one word. */
static const char *stop_reason(const struct response_choice *choice)
{
    if (choice->finish != FINISH_STOP) return "max_tokens";
    return choice->reply->calls > 0 ? "tool_use" : "end_turn";
}

static void put_message_head(struct json_writer *w, const struct response_head *head)
{
    json_field_text(w, "id", head->id);
    json_field_text(w, "type", "message");
    json_field_text(w, "role", "assistant");
    json_field_str(w, "model", head->model);
}

/* A block of that kind, begun: without text, without input. */
static void put_block_head(struct json_writer *w, const struct response_head *head,
                           const struct reply_piece *piece)
{
    char id[REPLY_CALL_ID_BYTES];
    switch (piece->kind) {
    case REPLY_CONTENT:
        json_field_text(w, "type", "text");
        return;
    case REPLY_REASONING:
        json_field_text(w, "type", "thinking");
        json_field_text(w, "signature", "");
        return;
    case REPLY_CALL:
    case REPLY_ARGUMENTS:
        reply_call_id(head->id, 0, piece->call, id);
        json_field_text(w, "type", "tool_use");
        json_field_text(w, "id", id);
        json_field_str(w, "name", piece->text);
        return;
    }
    UNREACHABLE();
}

/* Clients get an object, whatever the model wrote. */
static void put_input(struct json_writer *w, struct str arguments)
{
    struct json *parsed = json_parse(arguments.data, arguments.len, NULL);
    json_key(w, "input");
    if (parsed && json_type(parsed) == JSON_OBJECT) {
        json_put_raw(w, str_trim(arguments));
    } else {
        json_object_begin(w);
        if (arguments.len > 0) json_field_str(w, "invalid_json", arguments);
        json_object_end(w);
    }
    json_destroy(parsed);
}

/* The one that begins with that part. */
static void put_block(struct json_writer *w, const struct response_head *head,
                      const struct reply *reply, size_t part)
{
    struct reply_piece piece = reply_piece_at(reply, part);
    struct buf arguments;
    json_object_begin(w);
    put_block_head(w, head, &piece);
    if (piece.kind == REPLY_CONTENT) {
        json_field_str(w, "text", piece.text);
    } else if (piece.kind == REPLY_REASONING) {
        json_field_str(w, "thinking", piece.text);
    } else {
        buf_init(&arguments, BUF_MAX_INTERNAL);
        reply_join_arguments(reply, part, &arguments);
        put_input(w, buf_str(&arguments));
        buf_deinit(&arguments);
    }
    json_object_end(w);
}

/* ---- the printer ---- */

static void print_whole(struct buf *out, const struct response_head *head,
                        const struct response_choice *choices, size_t count,
                        const struct response_usage *usage)
{
    struct json_writer w;
    CHECK(count == 1);
    json_writer_init(&w, out);
    json_object_begin(&w);
    put_message_head(&w, head);
    json_key(&w, "content");
    json_array_begin(&w);
    for (size_t i = 0; i < choices->reply->count; i++) {
        struct reply_piece piece = reply_piece_at(choices->reply, i);
        if (piece.kind != REPLY_ARGUMENTS && piece.text.len > 0)
            put_block(&w, head, choices->reply, i);
    }
    json_array_end(&w);
    json_field_text(&w, "stop_reason", stop_reason(choices));
    json_field_null(&w, "stop_sequence");
    json_key(&w, "usage");
    put_usage(&w, usage, usage->completion_tokens);
    json_object_end(&w);
}

static void print_begin(struct buf *out, const struct response_head *head,
                        const struct response_choice *choice, const struct response_usage *usage)
{
    (void)choice;
    struct buf text;
    struct json_writer w;
    event_begin(&w, &text, "message_start");
    json_key(&w, "message");
    json_object_begin(&w);
    put_message_head(&w, head);
    json_field_raw(&w, "content", STR("[]"));
    json_field_null(&w, "stop_reason");
    json_field_null(&w, "stop_sequence");
    json_key(&w, "usage");
    put_usage(&w, usage, 0);
    json_object_end(&w);
    event_end(out, &w, &text, "message_start");
}

static void close_block(struct buf *out, struct state *s)
{
    struct buf text;
    struct json_writer w;
    if (!s->is_open) return;
    event_begin(&w, &text, "content_block_stop");
    json_field_int(&w, "index", s->index);
    event_end(out, &w, &text, "content_block_stop");
    s->is_open = false;
    s->index++;
}

static void open_block(struct buf *out, const struct response_head *head, struct state *s,
                       const struct reply_piece *piece)
{
    struct buf text;
    struct json_writer w;
    s->is_open = true;
    s->kind = piece->kind;
    event_begin(&w, &text, "content_block_start");
    json_field_int(&w, "index", s->index);
    json_key(&w, "content_block");
    json_object_begin(&w);
    put_block_head(&w, head, piece);
    if (piece->kind == REPLY_CONTENT) json_field_text(&w, "text", "");
    if (piece->kind == REPLY_REASONING) json_field_text(&w, "thinking", "");
    if (piece->kind == REPLY_CALL) json_field_raw(&w, "input", STR("{}"));
    json_object_end(&w);
    event_end(out, &w, &text, "content_block_start");
}

static void print_piece(struct buf *out, const struct response_head *head,
                        const struct response_choice *choice, const struct reply_piece *piece)
{
    static const char *const deltas[][2] = {
        [REPLY_CONTENT] = {"text_delta", "text"},
        [REPLY_REASONING] = {"thinking_delta", "thinking"},
        [REPLY_ARGUMENTS] = {"input_json_delta", "partial_json"},
    };
    (void)choice;
    struct state *s = head->state;
    if (piece->text.len == 0) return;
    bool goes_on = s->is_open && (piece->kind == s->kind || piece->kind == REPLY_ARGUMENTS) &&
                   piece->kind != REPLY_CALL;
    if (!goes_on) {
        close_block(out, s);
        open_block(out, head, s, piece);
        if (piece->kind == REPLY_CALL) return;
    }
    struct buf text;
    struct json_writer w;
    event_begin(&w, &text, "content_block_delta");
    json_field_int(&w, "index", s->index);
    json_key(&w, "delta");
    json_object_begin(&w);
    json_field_text(&w, "type", deltas[piece->kind][0]);
    json_field_str(&w, deltas[piece->kind][1], piece->text);
    json_object_end(&w);
    event_end(out, &w, &text, "content_block_delta");
}

static void print_finish(struct buf *out, const struct response_head *head,
                         const struct response_choice *choice, const struct response_usage *usage)
{
    struct buf text;
    struct json_writer w;
    close_block(out, head->state);
    event_begin(&w, &text, "message_delta");
    json_key(&w, "delta");
    json_object_begin(&w);
    json_field_text(&w, "stop_reason", stop_reason(choice));
    json_field_null(&w, "stop_sequence");
    json_object_end(&w);
    json_key(&w, "usage");
    put_usage(&w, usage, usage->completion_tokens);
    event_end(out, &w, &text, "message_delta");
    event_begin(&w, &text, "message_stop");
    event_end(out, &w, &text, "message_stop");
}

static void print_error(struct buf *out, const struct response_head *head,
                        const struct api_error *e)
{
    (void)head;
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    api_error_print_anthropic(&text, e);
    buf_append_str(out, "event: error\n");
    sse_write_data(out, buf_str(&text));
    buf_deinit(&text);
}

const struct response_printer anthropic_printer = {
    .whole = print_whole,
    .begin = print_begin,
    .piece = print_piece,
    .finish = print_finish,
    .error = print_error,
    .state_size = sizeof(struct state),
};
