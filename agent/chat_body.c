#include "agent/chat_body.h"

void chat_body_copy(struct json_writer *w, const struct json *body, const char *from,
                    const char *to)
{
    const struct json *v = json_get_set(body, from);
    if (!v) return;
    json_key(w, to);
    json_put_value(w, v);
}

void chat_body_put_message(struct json_writer *w, const char *role, struct str content)
{
    json_object_begin(w);
    json_field_text(w, "role", role);
    json_field_str(w, "content", content);
    json_object_end(w);
}

void chat_body_put_call(struct json_writer *w, struct str id, struct str name, struct str arguments)
{
    json_object_begin(w);
    json_field_str(w, "id", id);
    json_field_text(w, "type", "function");
    json_key(w, "function");
    json_object_begin(w);
    json_field_str(w, "name", name);
    json_field_str(w, "arguments", arguments);
    json_object_end(w);
    json_object_end(w);
}

void chat_body_put_named_choice(struct json_writer *w, struct str name)
{
    json_key(w, "tool_choice");
    json_object_begin(w);
    json_field_text(w, "type", "function");
    json_key(w, "function");
    json_object_begin(w);
    json_field_str(w, "name", name);
    json_object_end(w);
    json_object_end(w);
}
