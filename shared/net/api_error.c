#include "shared/net/api_error.h"

#include "shared/base/check.h"
#include "shared/base/json.h"

#include <stdarg.h>
#include <stdio.h>

int api_error_set(struct api_error *e, int status, const char *code, const char *param,
                  const char *fmt, ...)
{
    *e = (struct api_error){.status = status, .code = code};
    if (param) snprintf(e->param, sizeof e->param, "%s", param);
    va_list args;
    va_start(args, fmt);
    vsnprintf(e->message, sizeof e->message, fmt, args);
    va_end(args);
    return -1;
}

static const char *type_of(const struct api_error *e)
{
    if (e->type) return e->type;
    if (e->status == 429) return "rate_limit_error";
    return e->status >= 500 ? "server_error" : "invalid_request_error";
}

static void print_error_object(struct json_writer *w, const struct api_error *e)
{
    json_key(w, "error");
    json_object_begin(w);
    json_field_text(w, "message", e->message);
    json_field_text(w, "type", type_of(e));
    json_field_text(w, "param", e->param[0] ? e->param : NULL);
    json_field_text(w, "code", e->code);
    json_object_end(w);
}

void api_error_print(struct buf *out, const struct api_error *e)
{
    struct json_writer w;
    json_writer_init(&w, out);
    json_object_begin(&w);
    print_error_object(&w, e);
    json_field_text(&w, "object", "error");
    json_field_text(&w, "message", e->message);
    json_field_text(&w, "type", type_of(e));
    json_field_text(&w, "param", e->param[0] ? e->param : NULL);
    json_field_int(&w, "code", e->status);
    if (e->status == 401) {
        json_key(&w, "detail");
        json_object_begin(&w);
        print_error_object(&w, e);
        json_object_end(&w);
    }
    json_object_end(&w);
}

static const char *anthropic_type(int status)
{
    static const struct {
        int status;
        const char *type;
    } types[] = {
        {401, "authentication_error"}, {403, "permission_error"}, {404, "not_found_error"},
        {413, "request_too_large"},    {429, "rate_limit_error"}, {503, "overloaded_error"},
    };
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        if (types[i].status == status) return types[i].type;
    }
    return status < 500 ? "invalid_request_error" : "api_error";
}

void api_error_print_anthropic(struct buf *out, const struct api_error *e)
{
    struct json_writer w;
    json_writer_init(&w, out);
    json_object_begin(&w);
    json_field_text(&w, "type", "error");
    json_key(&w, "error");
    json_object_begin(&w);
    json_field_text(&w, "type", anthropic_type(e->status));
    json_field_text(&w, "message", e->message);
    json_object_end(&w);
    json_object_end(&w);
}

void api_error_respond(struct http_exchange *x, const struct api_error *e)
{
    if (e->retry_after_s > 0) {
        char value[16];
        snprintf(value, sizeof value, "%d", e->retry_after_s);
        http_exchange_add_header(x, STR("retry-after"), str_of(value));
    }
    struct buf body;
    buf_init(&body, BUF_MAX_INTERNAL);
    if (str_starts_with(http_exchange_request(x)->path, STR("/v1/messages")))
        api_error_print_anthropic(&body, e);
    else
        api_error_print(&body, e);
    http_respond(x, e->status, "application/json", buf_str(&body));
    buf_deinit(&body);
}

void api_error_print_event(struct buf *out, const struct api_error *e)
{
    buf_append_str(out, "data: ");
    struct json_writer w;
    json_writer_init(&w, out);
    json_object_begin(&w);
    print_error_object(&w, e);
    json_object_end(&w);
    buf_append_str(out, "\n\n");
}
