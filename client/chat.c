#include "client/chat.h"

#include "shared/base/check.h"
#include "shared/base/json.h"
#include "shared/net/sse.h"

#include <stdlib.h>
#include <string.h>

#define EVENT_MAX  ((size_t)16 << 20) // one event of a stream
#define ANSWER_MAX ((size_t)64 << 20)

struct asking {
    struct sse_parser parser;
    struct buf answer;
    chat_text_sink *on_text;
    void *arg;
    enum chat_end end;
    bool finished; // a finish_reason came, or [DONE]
    int failed;    // 0, or the code that ends the stream; text in *err
    struct error *err;
};

void chat_init(struct chat *chat, struct api_client *api, const struct client_config *config)
{
    *chat = (struct chat){.api = api, .config = config};
}

void chat_deinit(struct chat *chat)
{
    chat_reset(chat);
    free(chat->turns);
    free(chat->model);
    *chat = (struct chat){0};
}

void chat_reset(struct chat *chat)
{
    for (size_t i = 0; i < chat->count; i++) {
        free(chat->turns[i].question);
        free(chat->turns[i].answer);
    }
    chat->count = 0;
}

void chat_set_model(struct chat *chat, const char *model)
{
    char *copy = xstrdup(model);
    free(chat->model);
    chat->model = copy;
}

/* ---- the request ---- */

static void put_message(struct json_writer *w, const char *role, struct str content)
{
    json_object_begin(w);
    json_field_text(w, "role", role);
    json_field_str(w, "content", content);
    json_object_end(w);
}

void chat_print_request(const struct chat *chat, struct str question, struct buf *out)
{
    const struct client_config *config = chat->config;
    struct json_writer w;
    json_writer_init(&w, out);
    json_object_begin(&w);
    json_field_text(&w, "model", chat->model);
    json_key(&w, "messages");
    json_array_begin(&w);
    if (config->system) put_message(&w, "system", str_of(config->system));
    for (size_t i = 0; i < chat->count; i++) {
        put_message(&w, "user", str_of(chat->turns[i].question));
        put_message(&w, "assistant", str_of(chat->turns[i].answer));
    }
    put_message(&w, "user", question);
    json_array_end(&w);
    if (config->temperature >= 0) json_field_double(&w, "temperature", config->temperature);
    if (config->max_tokens > 0) json_field_int(&w, "max_tokens", config->max_tokens);
    json_field_bool(&w, "stream", config->stream);
    json_object_end(&w);
}

/* ---- the answer ---- */

static bool is_string(const struct json *v)
{
    return v && json_type(v) == JSON_STRING;
}

static void take_text(struct asking *a, const struct json *content)
{
    struct str text;
    text.data = json_string(content, &text.len);
    if (text.len == 0) return;
    if (buf_append(&a->answer, text.data, text.len) < 0) {
        a->failed =
            error_set(a->err, E_LIMIT, "the answer is larger than %zu MiB", ANSWER_MAX >> 20);
        return;
    }
    int rc = a->on_text(a->arg, text, a->err);
    if (rc < 0) a->failed = rc;
}

/* One chunk, or a whole answer: they differ in the name of the member that holds the text. */
static void take_answer(struct asking *a, struct str text, const char *holder)
{
    char message[400];
    struct error why;
    struct json *v = json_parse(text.data, text.len, &why);
    if (!v) {
        a->failed = error_set(a->err, E_PROTOCOL, "the answer is not JSON: %s", why.text);
    } else if (!json_get(v, "choices") && api_client_error_message(v, message, sizeof message)) {
        a->failed = error_set(a->err, E_UPSTREAM, "the server gave up: %s", message);
    } else {
        const struct json *choice = json_first(json_get_set(v, "choices"));
        const struct json *content = json_get_set(json_get_set(choice, holder), "content");
        const struct json *reason = json_get_set(choice, "finish_reason");
        if (is_string(content)) take_text(a, content);
        if (is_string(reason)) {
            a->finished = true;
            a->end =
                strcmp(json_string(reason, NULL), "length") == 0 ? CHAT_HIT_LENGTH : CHAT_STOPPED;
        }
    }
    json_destroy(v);
}

static void on_event(void *arg, struct str data)
{
    struct asking *a = arg;
    if (a->failed < 0) return;
    if (str_equal(data, STR("[DONE]"))) {
        a->finished = true;
    } else {
        take_answer(a, data, "delta");
    }
}

static int on_events(void *arg, const char *data, size_t len, struct error *err)
{
    struct asking *a = arg;
    int rc = sse_parser_feed(&a->parser, data, len);
    if (a->failed < 0) return a->failed;
    return rc < 0 ? error_set(err, rc, "an event of the answer is larger than %zu MiB",
                              EVENT_MAX >> 20)
                  : 0;
}

static void add_turn(struct chat *chat, struct str question, struct buf *answer)
{
    if (chat->count == chat->cap) {
        chat->cap = chat->cap ? chat->cap * 2 : 8;
        chat->turns = xrealloc_array(chat->turns, chat->cap, sizeof *chat->turns);
    }
    chat->turns[chat->count++] = (struct chat_turn){
        .question = xstrndup(question.data, question.len), .answer = buf_detach(answer, NULL)};
}

int chat_ask(struct chat *chat, struct str question, chat_text_sink *on_text, void *arg,
             enum chat_end *end, struct error *err)
{
    struct buf body;
    buf_init(&body, BUF_MAX_INTERNAL);
    chat_print_request(chat, question, &body);
    struct asking a = {.on_text = on_text, .arg = arg, .err = err};
    buf_init(&a.answer, ANSWER_MAX);
    sse_parser_init(&a.parser, EVENT_MAX, on_event, &a);

    struct api_call call = {
        .path = "/v1/chat/completions", .body = buf_str(&body), .on_events = on_events, .arg = &a};
    struct api_reply reply;
    int rc = api_client_call(chat->api, &call, &reply, err);
    // A server may answer in one piece although a stream was asked for.
    if (rc == 0 && reply.body.len > 0) take_answer(&a, buf_str(&reply.body), "message");
    if (rc == 0) rc = a.failed;
    if (rc == 0 && !a.finished) {
        rc = error_set(err, E_PROTOCOL, "the answer ended before it was complete");
    }
    if (rc == 0) {
        add_turn(chat, question, &a.answer);
        *end = a.end;
    }
    api_reply_deinit(&reply);
    sse_parser_deinit(&a.parser);
    buf_deinit(&a.answer);
    buf_deinit(&body);
    return rc;
}
