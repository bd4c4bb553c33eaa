/* api_client.c - from callbacks to a function that returns.
 *
 * Rules:
 *  1. Callbacks of a call record what happened in `struct waiting` and stop the loop; deciding, and
 *     ending the call early, is left to api_client_call(), outside of any callback.
 *  2. SIGINT is ours only while a call runs. Between calls it belongs to the line editor.
 *  3. Each call has a connection of its own: while a person thinks, the loop doesn't run, and a
 *     pooled connection would be found dead by the next question. */
#include "client/api_client.h"

#include "shared/base/check.h"
#include "shared/base/json.h"
#include "shared/base/utf8.h"
#include "shared/net/http_client.h"
#include "shared/net/loop.h"

#include <uv.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONNECT_TIMEOUT_MS 5000
#define ERROR_BODY_MAX     ((size_t)64 << 10) // of an error answer; what's beyond is dropped
#define MESSAGE_SIZE       400                // of a server's message, as shown

struct api_client {
    uv_loop_t loop;
    struct http_client *http;
    struct http_url url;
    struct tls *tls;     // owned
    char *shown_url;     // owned
    char *authorization; // owned; NULL: none
    uv_signal_t interrupt;
};

struct waiting {
    struct api_client *client;
    const struct api_call *call;
    struct api_reply *reply;
    struct error *err;
    bool is_events; // the body goes to on_events
    bool ended;     // by the connection: nothing is left to cancel
    int result;
};

/* ---- opening ---- */

static const char *url_without_v1(struct http_url *url)
{
    size_t len = strlen(url->path);
    if (len >= 3 && strcmp(url->path + len - 3, "/v1") == 0) url->path[len - 3] = '\0';
    return url->path;
}

int api_client_open(const char *url, const char *api_key, const char *ca_file,
                    struct api_client **out, struct error *err)
{
    struct http_url parsed;
    char *full = strstr(url, "://") ? xstrdup(url) : xasprintf("http://%s", url);
    int rc = http_url_parse(full, &parsed, err);
    free(full);
    if (rc < 0) return rc;
    if (api_key && strpbrk(api_key, "\r\n")) {
        return error_set(err, E_INVALID, "an API key is one line");
    }

    struct tls *tls;
    rc = tls_create(&(struct tls_settings){.ca_file = (char *)ca_file}, &tls, err);
    if (rc < 0) return rc;

    struct api_client *c = xcalloc(1, sizeof *c);
    c->url = parsed;
    c->tls = tls;
    CHECK(uv_loop_init(&c->loop) == 0);
    CHECK(uv_signal_init(&c->loop, &c->interrupt) == 0);
    struct http_client_options options = {.idle_per_origin_max = 1, .tls = tls};
    c->http = http_client_create(&c->loop, &options);
    char origin[300];
    http_url_print_origin(origin, sizeof origin, parsed.scheme, parsed.host, parsed.port);
    c->shown_url = xasprintf("%s%s", origin, url_without_v1(&c->url));
    if (api_key) c->authorization = xasprintf("Bearer %s", api_key);
    *out = c;
    return 0;
}

static void on_http_closed(void *arg)
{
    *(bool *)arg = true;
}

void api_client_close(struct api_client *c)
{
    if (!c) return;
    bool is_closed = false;
    http_client_destroy(c->http, on_http_closed, &is_closed);
    while (!is_closed)
        uv_run(&c->loop, UV_RUN_ONCE);
    loop_close_all(&c->loop);
    tls_destroy(c->tls);
    free(c->shown_url);
    free(c->authorization);
    free(c);
}

const char *api_client_url(const struct api_client *c)
{
    return c->shown_url;
}

/* ---- what a server says when it refuses ---- */

/* Text from outside, fit for one line: control characters become spaces, a cut is at a character.
 */
static void copy_line(const char *text, size_t len, char *out, size_t size)
{
    if (len >= size) len = size - 1;
    len = utf8_valid_prefix(text, len);
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        out[i] = c < 0x20 || c == 0x7f ? ' ' : text[i];
    }
    out[len] = '\0';
}

bool api_client_error_message(const struct json *answer, char *out, size_t size)
{
    const struct json *error = json_get_set(answer, "error");
    const struct json *message = json_get_set(error, "message");
    if (!message) message = error;
    if (!message) message = json_get_set(answer, "message");
    if (!message) message = json_get_set(answer, "detail");
    if (!message || json_type(message) != JSON_STRING) return false;
    size_t len;
    const char *text = json_string(message, &len);
    copy_line(text, len, out, size);
    return out[0] != '\0';
}

static int refused(const struct waiting *w)
{
    char message[MESSAGE_SIZE] = "";
    const struct buf *body = &w->reply->body;
    struct json *answer = body->len > 0 ? json_parse(body->data, body->len, NULL) : NULL;
    bool has_message = answer && api_client_error_message(answer, message, sizeof message);
    json_destroy(answer);
    if (!has_message) {
        snprintf(message, sizeof message, "%s", http_status_text(w->reply->status));
    }
    return error_set(w->err, E_UPSTREAM, "%s answered %d: %s", w->client->shown_url,
                     w->reply->status, message);
}

/* ---- callbacks ---- */

static void stop_waiting(struct waiting *w, int result)
{
    w->result = result;
    uv_stop(&w->client->loop);
}

static void on_head(void *arg, int status, const struct http_headers *headers)
{
    struct waiting *w = arg;
    struct str type = http_headers_get(headers, "content-type");
    bool succeeded = status >= 200 && status < 300;
    w->reply->status = status;
    if (!succeeded) w->reply->body.max = ERROR_BODY_MAX;
    struct str events = STR("text/event-stream");
    if (type.len > events.len) type.len = events.len; // parameters may follow
    w->is_events = succeeded && w->call->on_events && str_equal_nocase(type, events);
}

static void on_body(void *arg, const char *data, size_t len)
{
    struct waiting *w = arg;
    if (w->result < 0) return; // already ending
    if (w->is_events) {
        int rc = w->call->on_events(w->call->arg, data, len, w->err);
        if (rc < 0) stop_waiting(w, rc);
        return;
    }
    bool fits = buf_append(&w->reply->body, data, len) == 0;
    if (!fits && w->reply->body.max == API_REPLY_MAX) {
        stop_waiting(w, error_set(w->err, E_LIMIT, "the answer of %s is larger than %zu MiB",
                                  w->client->shown_url, API_REPLY_MAX >> 20));
    }
}

static void on_end(void *arg)
{
    struct waiting *w = arg;
    w->ended = true;
    stop_waiting(w, w->result);
}

static void on_fail(void *arg, const struct http_failure *failure)
{
    struct waiting *w = arg;
    w->ended = true;
    if (w->result < 0) return; // already ending, for a reason that came first
    int rc = failure->head_received
                 ? error_set(w->err, failure->code, "the answer of %s was cut off: %s",
                             w->client->shown_url, failure->text)
                 : error_set(w->err, failure->code, "%s", failure->text);
    stop_waiting(w, rc);
}

static void on_interrupt(uv_signal_t *handle, int signo)
{
    (void)signo;
    struct waiting *w = handle->data;
    if (w->result == 0) stop_waiting(w, error_set(w->err, E_CANCELLED, "interrupted"));
}

/* ---- the call ---- */

static struct http_call *start_call(struct waiting *w)
{
    struct api_client *c = w->client;
    bool is_post = w->call->body.data != NULL;
    char target[sizeof c->url.path + 256];
    snprintf(target, sizeof target, "%s%s", c->url.path, w->call->path);

    struct http_header headers[3];
    int count = 0;
    headers[count++] = (struct http_header){STR("Accept"), STR("application/json")};
    if (is_post)
        headers[count++] = (struct http_header){STR("Content-Type"), STR("application/json")};
    if (c->authorization) {
        headers[count++] = (struct http_header){STR("Authorization"), str_of(c->authorization)};
    }
    struct http_call_options options = {
        .scheme = c->url.scheme,
        .host = c->url.host,
        .port = c->url.port,
        .method = is_post ? "POST" : "GET",
        .target = str_of(target),
        .headers = headers,
        .header_count = count,
        .body = w->call->body,
        .connect_timeout_ms = CONNECT_TIMEOUT_MS,
        .fresh = true,
        .on_head = on_head,
        .on_body = on_body,
        .on_end = on_end,
        .on_fail = on_fail,
        .arg = w,
    };
    return http_call_start(c->http, &options);
}

int api_client_call(struct api_client *c, const struct api_call *call, struct api_reply *reply,
                    struct error *err)
{
    struct error ignored;
    struct waiting w = {.client = c, .call = call, .reply = reply, .err = err ? err : &ignored};
    *reply = (struct api_reply){0};
    buf_init(&reply->body, API_REPLY_MAX);

    uv_update_time(&c->loop); // deadlines count from its time, which stands still between calls
    c->interrupt.data = &w;
    CHECK(uv_signal_start(&c->interrupt, on_interrupt, SIGINT) == 0);
    struct http_call *running = start_call(&w);
    while (!w.ended && w.result == 0)
        uv_run(&c->loop, UV_RUN_DEFAULT);
    if (!w.ended) http_call_cancel(running);

    uv_signal_stop(&c->interrupt);
    if (w.result == 0 && (reply->status < 200 || reply->status > 299)) w.result = refused(&w);
    return w.result;
}

void api_reply_deinit(struct api_reply *reply)
{
    buf_deinit(&reply->body);
}
