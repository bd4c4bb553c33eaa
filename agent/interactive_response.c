#include "agent/interactive_response.h"

#include "shared/base/json.h"

static const char *finish_name(enum finish_reason finish)
{
    switch (finish) {
    case FINISH_NONE:
        return NULL;
    case FINISH_STOP:
        return "stop";
    case FINISH_LENGTH:
    case FINISH_CANCELLED: // LMDeploy: whatever didn't end by itself
        return "length";
    }
    return NULL;
}

static void put_reply(struct json_writer *w, const struct interactive_reply *reply,
                      const char *finish)
{
    json_field_str(w, "text", reply->text);
    json_field_int(w, "tokens", reply->tokens);
    json_field_int(w, "input_tokens", reply->input_tokens);
    json_field_int(w, "history_tokens", reply->history_tokens);
    json_field_text(w, "finish_reason", finish);
}

void interactive_reply_print(struct buf *out, const struct interactive_reply *reply)
{
    struct json_writer w;
    json_writer_init(&w, out);
    json_object_begin(&w);
    put_reply(&w, reply, finish_name(reply->finish));
    json_object_end(&w);
}

void interactive_reply_print_error(struct buf *out, const struct interactive_reply *reply,
                                   const struct api_error *e)
{
    struct json_writer w;
    json_writer_init(&w, out);
    json_object_begin(&w);
    put_reply(&w, reply, "error");
    json_key(&w, "error");
    json_object_begin(&w);
    json_field_text(&w, "message", e->message);
    json_field_text(&w, "type", e->type ? e->type : "server_error");
    json_field_text(&w, "param", e->param[0] ? e->param : NULL);
    json_field_text(&w, "code", e->code);
    json_object_end(&w);
    json_object_end(&w);
}
