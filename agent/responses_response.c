/* responses_response.c - answers in the shape of OpenAI's Responses API: a list of items, each a message,
 * reasoning or the call of a function (API description 2.3.0, Response and ResponseStreamEvent).
 *
 *     response.created, .in_progress
 *       output_item.added ─► content_part.added ─► deltas ─► ...done ─► content_part.done ─► output_item.done
 *       output_item.added ─► function_call_arguments.delta ─► .done ─► output_item.done
 *     response.completed | response.incomplete      with all items once more
 *
 * A body is made by the same steps with nobody listening. */
#include "agent/responses_response.h"

#include "shared/base/check.h"
#include "shared/base/json.h"
#include "shared/net/sse.h"

#include <stdio.h>

/* What an answer has come to. */
struct state {
    int64_t sequence; // of the next event
    int index;        // of the open item, else of the next
    bool is_open;
    enum reply_piece_kind kind; // of the open item: content, reasoning or call
    int call;
    struct buf name, text; // of the open item
    struct buf items;      // those that are complete, with commas between
};

static void state_deinit(void *arg)
{
    struct state *s = arg;
    buf_deinit(&s->name);
    buf_deinit(&s->text);
    buf_deinit(&s->items);
}

static struct state *state_of(const struct response_head *head)
{
    struct state *s = head->state;
    if (s->items.max == 0) {
        buf_init(&s->name, BUF_MAX_INTERNAL);
        buf_init(&s->text, BUF_MAX_INTERNAL);
        buf_init(&s->items, BUF_MAX_INTERNAL);
    }
    return s;
}

/* ---- events: out NULL, nobody listens ---- */

static bool event_begin(struct buf *out, struct json_writer *w, struct buf *text, struct state *s,
                        const char *type)
{
    if (!out) return false;
    buf_init(text, BUF_MAX_INTERNAL);
    json_writer_init(w, text);
    json_object_begin(w);
    json_field_text(w, "type", type);
    json_field_int(w, "sequence_number", s->sequence++);
    buf_printf(out, "event: %s\n", type);
    return true;
}

static void event_end(struct buf *out, struct json_writer *w, struct buf *text)
{
    json_object_end(w);
    sse_write_data(out, buf_str(text));
    buf_deinit(text);
}

/* ---- items ---- */

static const char *item_prefix(enum reply_piece_kind kind)
{
    return kind == REPLY_CONTENT ? "msg" : kind == REPLY_REASONING ? "rs" : "fc";
}

/* The id of the open item: that of the response, which nobody else has, and its index. */
static void item_id(const struct response_head *head, const struct state *s, char *out, size_t size)
{
    const char *unique = strchr(head->id, '_');
    snprintf(out, size, "%s_%s_%d", item_prefix(s->kind), unique ? unique + 1 : head->id, s->index);
}

static void put_part(struct json_writer *w, const struct state *s, struct str text)
{
    json_object_begin(w);
    json_field_text(w, "type", s->kind == REPLY_CONTENT ? "output_text" : "reasoning_text");
    json_field_str(w, "text", text);
    if (s->kind == REPLY_CONTENT) {
        json_field_raw(w, "annotations", STR("[]"));
        json_field_raw(w, "logprobs", STR("[]"));
    }
    json_object_end(w);
}

static void put_item(struct json_writer *w, const struct response_head *head, const struct state *s,
                     const char *status, bool is_new)
{
    char id[96], call_id[REPLY_CALL_ID_BYTES];
    item_id(head, s, id, sizeof id);
    json_object_begin(w);
    json_field_text(w, "id", id);
    switch (s->kind) {
    case REPLY_CONTENT:
        json_field_text(w, "type", "message");
        json_field_text(w, "status", status);
        json_field_text(w, "role", "assistant");
        break;
    case REPLY_REASONING:
        json_field_text(w, "type", "reasoning");
        json_field_text(w, "status", status);
        json_field_raw(w, "summary", STR("[]"));
        break;
    case REPLY_CALL:
    case REPLY_ARGUMENTS:
        reply_call_id(head->id, 0, s->call, call_id);
        json_field_text(w, "type", "function_call");
        json_field_text(w, "status", status);
        json_field_text(w, "call_id", call_id);
        json_field_str(w, "name", buf_str(&s->name));
        json_field_str(w, "arguments", is_new ? STR("") : buf_str(&s->text));
        json_object_end(w);
        return;
    }
    json_key(w, "content");
    json_array_begin(w);
    if (!is_new) put_part(w, s, buf_str(&s->text));
    json_array_end(w);
    json_object_end(w);
}

static void tell_item(struct buf *out, const struct response_head *head, struct state *s,
                      const char *type, const char *status, bool is_new)
{
    struct buf text;
    struct json_writer w;
    if (!event_begin(out, &w, &text, s, type)) return;
    json_field_int(&w, "output_index", s->index);
    json_key(&w, "item");
    put_item(&w, head, s, status, is_new);
    event_end(out, &w, &text);
}

static void put_place(struct json_writer *w, const struct response_head *head,
                      const struct state *s)
{
    char id[96];
    item_id(head, s, id, sizeof id);
    json_field_text(w, "item_id", id);
    json_field_int(w, "output_index", s->index);
    if (s->kind != REPLY_CALL) json_field_int(w, "content_index", 0);
}

static void tell_part(struct buf *out, const struct response_head *head, struct state *s,
                      const char *type, struct str content)
{
    struct buf text;
    struct json_writer w;
    if (s->kind == REPLY_CALL || !event_begin(out, &w, &text, s, type)) return;
    put_place(&w, head, s);
    json_key(&w, "part");
    put_part(&w, s, content);
    event_end(out, &w, &text);
}

/* More of an item's text, or all of it. */
static void tell_text(struct buf *out, const struct response_head *head, struct state *s,
                      bool is_done, struct str content)
{
    static const char *const types[][2] = {
        [REPLY_CONTENT] = {"response.output_text.delta", "response.output_text.done"},
        [REPLY_REASONING] = {"response.reasoning_text.delta", "response.reasoning_text.done"},
        [REPLY_CALL] = {"response.function_call_arguments.delta",
                        "response.function_call_arguments.done"},
    };
    static const char *const names[] = {
        [REPLY_CONTENT] = "text", [REPLY_REASONING] = "text", [REPLY_CALL] = "arguments"};
    struct buf text;
    struct json_writer w;
    if (!event_begin(out, &w, &text, s, types[s->kind][is_done])) return;
    put_place(&w, head, s);
    if (is_done && s->kind == REPLY_CALL) json_field_str(&w, "name", buf_str(&s->name));
    json_field_str(&w, is_done ? names[s->kind] : "delta", content);
    if (s->kind == REPLY_CONTENT) json_field_raw(&w, "logprobs", STR("[]"));
    event_end(out, &w, &text);
}

static void close_item(struct buf *out, const struct response_head *head, struct state *s,
                       const char *status)
{
    if (!s->is_open) return;
    tell_text(out, head, s, true, buf_str(&s->text));
    tell_part(out, head, s, "response.content_part.done", buf_str(&s->text));
    tell_item(out, head, s, "response.output_item.done", status, false);
    struct json_writer w;
    if (s->items.len > 0) buf_append_char(&s->items, ',');
    json_writer_init(&w, &s->items);
    put_item(&w, head, s, status, false);
    s->is_open = false;
    s->index++;
    buf_clear(&s->name);
    buf_clear(&s->text);
}

static void open_item(struct buf *out, const struct response_head *head, struct state *s,
                      const struct reply_piece *piece)
{
    s->is_open = true;
    s->kind = piece->kind;
    s->call = piece->call;
    if (s->kind == REPLY_CALL) buf_append(&s->name, piece->text.data, piece->text.len);
    tell_item(out, head, s, "response.output_item.added", "in_progress", true);
    tell_part(out, head, s, "response.content_part.added", STR(""));
}

static void take_piece(struct buf *out, const struct response_head *head, struct state *s,
                       const struct reply_piece *piece)
{
    bool goes_on = s->is_open && (piece->kind == s->kind || piece->kind == REPLY_ARGUMENTS) &&
                   piece->kind != REPLY_CALL;
    if (!goes_on && piece->text.len == 0) return;
    if (!goes_on) {
        close_item(out, head, s, "completed");
        open_item(out, head, s, piece);
        if (piece->kind == REPLY_CALL) return;
    }
    buf_append(&s->text, piece->text.data, piece->text.len);
    if (piece->text.len > 0) tell_text(out, head, s, false, piece->text);
}

/* ---- the response as a whole ---- */

static void put_usage(struct json_writer *w, const struct response_usage *u)
{
    json_object_begin(w);
    json_field_int(w, "input_tokens", u->prompt_tokens);
    json_key(w, "input_tokens_details");
    json_object_begin(w);
    json_field_int(w, "cached_tokens", u->cached_tokens);
    json_object_end(w);
    json_field_int(w, "output_tokens", u->completion_tokens);
    json_key(w, "output_tokens_details");
    json_object_begin(w);
    json_field_int(w, "reasoning_tokens", u->reasoning_tokens);
    json_object_end(w);
    json_field_int(w, "total_tokens", u->prompt_tokens + u->completion_tokens);
    json_object_end(w);
}

/* usage NULL: it isn't complete. */
static void put_response(struct json_writer *w, const struct response_head *head,
                         const struct state *s, enum finish_reason finish,
                         const struct response_usage *usage)
{
    bool is_cut = usage && finish != FINISH_STOP;
    json_object_begin(w);
    json_field_text(w, "id", head->id);
    json_field_text(w, "object", "response");
    json_field_int(w, "created_at", head->created);
    json_field_text(w, "status", !usage ? "in_progress" : is_cut ? "incomplete" : "completed");
    json_field_bool(w, "background", false);
    json_field_null(w, "error");
    json_field_raw(w, "incomplete_details",
                   !is_cut                   ? STR("null")
                   : finish == FINISH_LENGTH ? STR("{\"reason\":\"max_output_tokens\"}")
                                             : STR("{\"reason\":\"aborted\"}"));
    json_field_str(w, "model", head->model);
    json_key(w, "output");
    json_array_begin(w);
    if (s->items.len > 0) json_put_raw(w, buf_str(&s->items));
    json_array_end(w);
    json_field_null(w, "previous_response_id");
    json_field_text(w, "service_tier", "default");
    json_field_bool(w, "store", false);
    json_key(w, "usage");
    if (usage)
        put_usage(w, usage);
    else
        json_put_null(w);
    if (head->repeats) { // members, each with its comma behind it
        buf_append_char(w->out, ',');
        buf_append(w->out, head->repeats, strlen(head->repeats) - 1);
    }
    json_object_end(w);
}

static void tell_response(struct buf *out, const struct response_head *head, struct state *s,
                          const char *type, enum finish_reason finish,
                          const struct response_usage *usage)
{
    struct buf text;
    struct json_writer w;
    event_begin(out, &w, &text, s, type);
    json_key(&w, "response");
    put_response(&w, head, s, finish, usage);
    event_end(out, &w, &text);
}

static const char *status_of(enum finish_reason finish)
{
    return finish == FINISH_STOP ? "completed" : "incomplete";
}

/* ---- the printer ---- */

static void print_whole(struct buf *out, const struct response_head *head,
                        const struct response_choice *choices, size_t count,
                        const struct response_usage *usage)
{
    struct state *s = state_of(head);
    struct json_writer w;
    CHECK(count == 1);
    for (size_t i = 0; i < choices->reply->count; i++) {
        struct reply_piece piece = reply_piece_at(choices->reply, i);
        take_piece(NULL, head, s, &piece);
    }
    close_item(NULL, head, s, status_of(choices->finish));
    json_writer_init(&w, out);
    put_response(&w, head, s, choices->finish, usage);
}

static void print_begin(struct buf *out, const struct response_head *head,
                        const struct response_choice *choice, const struct response_usage *usage)
{
    (void)choice;
    (void)usage;
    struct state *s = state_of(head);
    tell_response(out, head, s, "response.created", FINISH_NONE, NULL);
    tell_response(out, head, s, "response.in_progress", FINISH_NONE, NULL);
}

static void print_piece(struct buf *out, const struct response_head *head,
                        const struct response_choice *choice, const struct reply_piece *piece)
{
    (void)choice;
    take_piece(out, head, state_of(head), piece);
}

static void print_finish(struct buf *out, const struct response_head *head,
                         const struct response_choice *choice, const struct response_usage *usage)
{
    struct state *s = state_of(head);
    bool is_cut = choice->finish != FINISH_STOP; // too long, or aborted
    close_item(out, head, s, status_of(choice->finish));
    tell_response(out, head, s, is_cut ? "response.incomplete" : "response.completed",
                  choice->finish, usage);
}

static void print_error(struct buf *out, const struct response_head *head,
                        const struct api_error *e)
{
    struct buf text;
    struct json_writer w;
    event_begin(out, &w, &text, state_of(head), "error");
    json_field_text(&w, "code", e->code ? e->code : "server_error");
    json_field_text(&w, "message", e->message);
    json_field_text(&w, "param", e->param[0] ? e->param : NULL);
    event_end(out, &w, &text);
}

const struct response_printer responses_printer = {
    .whole = print_whole,
    .begin = print_begin,
    .piece = print_piece,
    .finish = print_finish,
    .error = print_error,
    .state_size = sizeof(struct state),
    .state_deinit = state_deinit,
};
