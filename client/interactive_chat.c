#include "client/interactive_chat.h"

#include "client/line_editor.h"
#include "client/screen.h"
#include "shared/base/check.h"
#include "shared/base/json.h"
#include "shared/base/utf8.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MESSAGE_MAX    ((size_t)16 << 20)
#define LINE_MAX_BYTES ((size_t)1 << 20) // of an answer's stream
#define ANSWER_TOKENS  512               // what LMDeploy's client asks for

struct conversation {
    struct api_client *api;             // borrowed
    const struct client_config *config; // borrowed
    struct line_editor *editor;         // NULL: standard input is no terminal
    char *line;                         // of getline, without an editor
    size_t line_size;
};

/* ---- a turn ---- */

struct turn {
    struct screen screen;
    struct buf pending; // the line of the stream that isn't complete
    bool hit_length, has_tokens, finished;
    struct error *err;
};

/* One object: {"text": "...", "tokens": 3, ..., "finish_reason": null}. */
static int take_object(struct turn *t, struct str line)
{
    char message[400];
    struct error why;
    if (str_trim(line).len == 0) return 0;
    struct json *v = json_parse(line.data, line.len, &why);
    if (!v) return error_set(t->err, E_PROTOCOL, "the answer is not JSON: %s", why.text);
    int rc = 0;
    const struct json *text = json_get_set(v, "text");
    const struct json *tokens = json_get_set(v, "tokens");
    const struct json *reason = json_get_set(v, "finish_reason");
    if (api_client_error_message(v, message, sizeof message)) {
        rc = error_set(t->err, E_UPSTREAM, "the server gave up: %s", message);
    } else if (text && json_type(text) == JSON_STRING) {
        struct str piece;
        piece.data = json_string(text, &piece.len);
        rc = screen_show(&t->screen, piece, t->err);
    }
    if (tokens && json_is_integer(tokens)) t->has_tokens = json_number(tokens) > 0;
    if (reason && json_type(reason) == JSON_STRING) {
        t->finished = true;
        t->hit_length = strcmp(json_string(reason, NULL), "length") == 0;
    }
    json_destroy(v);
    return rc;
}

static int on_bytes(void *arg, const char *data, size_t len, struct error *err)
{
    struct turn *t = arg;
    struct str left = {data, len};
    while (left.len > 0) {
        const char *end = memchr(left.data, '\n', left.len);
        size_t n = end ? (size_t)(end - left.data) : left.len;
        if (buf_append(&t->pending, left.data, n) < 0) {
            return error_set(err, E_LIMIT, "a line of the answer is larger than %zu MiB",
                             LINE_MAX_BYTES >> 20);
        }
        left.data += n + (end != NULL);
        left.len -= n + (end != NULL);
        if (!end) break;
        int rc = take_object(t, buf_str(&t->pending));
        buf_clear(&t->pending);
        if (rc < 0) return rc;
    }
    return 0;
}

static void print_request(const struct conversation *c, struct str prompt, bool is_end,
                          struct buf *out)
{
    const struct client_config *config = c->config;
    struct json_writer w;
    json_writer_init(&w, out);
    json_object_begin(&w);
    if (config->model) json_field_text(&w, "model", config->model);
    json_field_str(&w, "prompt", prompt);
    json_field_int(&w, "session_id", config->session_id);
    json_field_bool(&w, "interactive_mode", !is_end);
    if (!is_end && config->temperature >= 0)
        json_field_double(&w, "temperature", config->temperature);
    json_field_int(&w, "request_output_len",
                   is_end                   ? 0
                   : config->max_tokens > 0 ? config->max_tokens
                                            : ANSWER_TOKENS);
    json_field_bool(&w, "stream", !is_end && config->stream);
    json_object_end(&w);
}

static int post(struct conversation *c, struct str prompt, bool is_end, struct turn *t,
                struct error *err)
{
    struct buf body;
    buf_init(&body, BUF_MAX_INTERNAL);
    print_request(c, prompt, is_end, &body);
    struct api_call call = {
        .path = "/v1/chat/interactive", .body = buf_str(&body), .on_events = on_bytes, .arg = t};
    struct api_reply reply;
    int rc = api_client_call(c->api, &call, &reply, err);
    if (rc == 0 && reply.body.len > 0) rc = take_object(t, buf_str(&reply.body));
    if (rc == 0) rc = take_object(t, buf_str(&t->pending)); // a last line without its end
    if (rc == 0 && !t->finished)
        rc = error_set(err, E_PROTOCOL, "the answer ended before it was complete");
    api_reply_deinit(&reply);
    buf_deinit(&body);
    return rc;
}

static int take_turn(struct conversation *c, struct str prompt, bool is_end, struct error *err)
{
    struct turn t = {.err = err};
    screen_init(&t.screen);
    buf_init(&t.pending, LINE_MAX_BYTES);
    int rc = post(c, prompt, is_end, &t, err);
    screen_end_line(&t.screen);
    buf_deinit(&t.pending);
    if (rc < 0 || is_end) return rc;
    if (t.hit_length && !t.has_tokens) {
        screen_remark("WARNING: exceed session max length. Please end the session.");
    } else if (t.hit_length && c->editor) {
        screen_remark("[the token limit ended this answer]");
    }
    return 0;
}

static int end_session(struct conversation *c, struct error *err)
{
    return take_turn(c, STR(""), true, err);
}

/* ---- input ---- */

/* LINE_READ and *line, without its end, borrowed until the next call. */
static enum line_result read_line(struct conversation *c, const char *prompt, struct str *line)
{
    if (c->editor) {
        free(c->line);
        c->line = NULL;
        enum line_result result = line_editor_read(c->editor, prompt, &c->line);
        if (result == LINE_READ && c->line[0]) line_editor_remember(c->editor, c->line);
        *line = str_of(c->line);
        return result;
    }
    ssize_t n = getline(&c->line, &c->line_size, stdin);
    if (n < 0) return LINE_ENDED;
    if (n > 0 && c->line[n - 1] == '\n') n--;
    *line = (struct str){c->line, (size_t)n};
    return LINE_READ;
}

/* Lines up to an empty one, or up to the end of the input, joined by line breaks. LINE_READ: a
 * message, perhaps an empty one; *fits is false if it was too long and is lost. */
static enum line_result read_message(struct conversation *c, struct buf *message, bool *fits)
{
    struct str line;
    size_t lines = 0;
    buf_clear(message);
    *fits = true;
    for (;;) {
        const char *prompt = lines > 0 ? "" : "double enter to end input >>> ";
        enum line_result result = read_line(c, prompt, &line);
        if (result == LINE_ENDED && !c->editor && lines > 0) return LINE_READ;
        if (result != LINE_READ) return lines > 0 ? LINE_DROPPED : result;
        if (line.len == 0) return LINE_READ;
        if (lines++ > 0 && buf_append_char(message, '\n') < 0) *fits = false;
        if (buf_append(message, line.data, line.len) < 0) *fits = false;
    }
}

static bool is_text(struct str s)
{
    return utf8_is_valid(s.data, s.len) && !memchr(s.data, '\0', s.len);
}

/* *leaves: the input says so. */
static int take_message(struct conversation *c, struct str message, bool *leaves, struct error *err)
{
    if (str_trim(message).len == 0) return 0;
    *leaves = str_equal(message, STR("exit"));
    if (*leaves) return 0;
    if (str_equal(message, STR("end"))) return end_session(c, err);
    if (!is_text(message)) return error_set(err, E_INVALID, "the message is not UTF-8 text");
    return take_turn(c, message, false, err);
}

static int converse(struct conversation *c, struct error *err)
{
    struct buf message;
    bool leaves = false, fits;
    int rc = 0;
    buf_init(&message, MESSAGE_MAX);
    while (rc == 0 && !leaves) {
        if (c->editor) putchar('\n');
        enum line_result result = read_message(c, &message, &fits);
        if (result == LINE_DROPPED) continue;
        if (result != LINE_READ) break;
        rc = fits ? take_message(c, buf_str(&message), &leaves, err)
                  : error_set(err, E_LIMIT, "a message is larger than %zu MiB", MESSAGE_MAX >> 20);
        if (rc < 0 && c->editor) {
            screen_remark(rc == E_CANCELLED ? "[stopped; what was said so far is kept]"
                                            : err->text);
            rc = 0;
        }
    }
    buf_deinit(&message);
    return rc;
}

int interactive_chat_run(struct api_client *api, const struct client_config *config,
                         const char *history_file, struct error *err)
{
    struct conversation c = {.api = api, .config = config};
    int rc = 0;
    if (isatty(STDIN_FILENO)) rc = line_editor_create(history_file, &c.editor, err);
    if (rc < 0) return rc;
    rc = converse(&c, err);
    if (rc == 0) rc = end_session(&c, err);
    line_editor_destroy(c.editor);
    free(c.line);
    return rc;
}
