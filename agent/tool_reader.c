#include "agent/tool_reader.h"

void tool_scan_begin_call(struct tool_scan *s)
{
    s->call_at = s->at;
    s->is_out = false;
}

size_t tool_scan_take(struct tool_scan *s)
{
    size_t taken = s->is_out ? s->at : s->call_at;
    s->at -= taken;
    s->call_at = 0;
    return taken;
}

size_t tool_scan_fail(struct tool_scan *s, struct tool_output *out)
{
    s->is_out = false;
    size_t taken = tool_scan_take(s);
    out->is_over = true;
    out->is_none = !s->has_call;
    return taken;
}

size_t tool_scan_end(struct tool_scan *s, const struct tool_input *in, struct tool_output *out)
{
    if (!s->is_out) return tool_scan_fail(s, out);
    if (in->is_last) s->at = in->text.len;
    out->is_over = true;
    return tool_scan_take(s);
}

size_t tool_scan_finish(struct tool_scan *s, const struct tool_input *in, struct tool_output *out)
{
    if (!in->is_last) return tool_scan_take(s);
    if (!s->is_out) return tool_scan_fail(s, out);
    s->at = in->text.len;
    return tool_scan_take(s);
}

static size_t space_at(struct str text, size_t at)
{
    size_t end = at;
    while (end < text.len && json_is_space(text.data[end]))
        end++;
    return end;
}

enum tool_read tool_scan_tag(struct tool_scan *s, const struct tool_input *in, const char *tag)
{
    size_t at = space_at(in->text, s->at);
    if (at - s->at > TOOL_SPACE_MAX) return TOOL_READ_NONE;
    switch (reply_tag_at(str_from(in->text, at), tag)) {
    case REPLY_TAG_WHOLE:
        s->at = at + strlen(tag);
        return TOOL_READ_DONE;
    case REPLY_TAG_BEGUN:
        return in->is_last ? TOOL_READ_NONE : TOOL_READ_MORE;
    case REPLY_TAG_NONE:
        break;
    }
    return TOOL_READ_NONE;
}

enum tool_read tool_scan_space(struct tool_scan *s, const struct tool_input *in)
{
    size_t at = space_at(in->text, s->at);
    if (at - s->at > TOOL_SPACE_MAX) return TOOL_READ_NONE;
    if (at == in->text.len) return TOOL_READ_MORE;
    s->at = at;
    return TOOL_READ_DONE;
}

enum tool_read tool_scan_until(struct tool_scan *s, const struct tool_input *in,
                               const char *const *tags, size_t max, struct str *text, int *which)
{
    struct str rest = str_from(in->text, s->at);
    enum reply_tag found;
    size_t len = reply_tag_find(rest, tags, &found, which);
    if (len > max) return TOOL_READ_NONE;
    if (found != REPLY_TAG_WHOLE) return in->is_last ? TOOL_READ_NONE : TOOL_READ_MORE;
    *text = (struct str){rest.data, len};
    s->at += len;
    return TOOL_READ_DONE;
}

enum tool_read tool_scan_name(struct tool_scan *s, const struct tool_input *in,
                              const char *const *tags, struct str *name, int *which)
{
    enum tool_read r =
        tool_scan_until(s, in, tags, TOOL_NAME_BYTES + 2 * TOOL_SPACE_MAX, name, which);
    if (r == TOOL_READ_DONE) *name = str_trim(*name);
    return r;
}

static bool is_name(struct str name)
{
    for (size_t i = 0; i < name.len; i++) {
        char c = name.data[i];
        bool is_word = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!is_word && c != '_' && c != '-' && c != '.') return false;
    }
    return name.len > 0 && name.len < TOOL_NAME_BYTES;
}

void tool_put(const struct tool_output *out, enum reply_piece_kind kind, struct str text)
{
    if (text.len == 0) return;
    struct reply_piece piece = {.kind = kind, .call = out->calls - 1, .text = text};
    out->sink->take(out->sink->arg, &piece);
}

bool tool_put_call(struct tool_scan *s, const struct tool_input *in, struct tool_output *out,
                   struct str name)
{
    if (in->list ? !tool_list_find(in->list, name) : !is_name(name)) return false;
    out->calls++;
    s->is_out = s->has_call = true;
    tool_put(out, REPLY_CALL, name);
    return true;
}

void tool_put_arguments(const struct tool_output *out, struct str text)
{
    tool_put(out, REPLY_ARGUMENTS, text);
}

/* Goes out in chunks that end between characters: before a byte that continues none. */
static void put_string(struct tool_arguments *a, const struct tool_output *out, struct str text)
{
    char chunk[512];
    size_t len = 0;
    for (size_t i = 0; i < text.len && !a->text.is_over; i++) {
        bool is_inside = ((unsigned char)text.data[i] & 0xC0) == 0x80;
        if (len > sizeof chunk - (is_inside ? JSON_TEXT_BYTES : 4 * JSON_TEXT_BYTES)) {
            tool_put_arguments(out, (struct str){chunk, len});
            len = 0;
        }
        len += json_text_read(&a->text, text.data[i], chunk + len);
    }
    if (len > 0) a->is_put = true;
    tool_put_arguments(out, (struct str){chunk, len});
}

void tool_put_value(struct tool_arguments *a, const struct tool_output *out, struct str text)
{
    if (a->value.first == 'n') return;
    if (a->value.first != '"') {
        if (text.len > 0) a->is_put = true;
        tool_put_arguments(out, text);
        return;
    }
    put_string(a, out, text);
}

enum tool_read tool_read_arguments(struct tool_arguments *a, struct tool_scan *s,
                                   const struct tool_input *in, const struct tool_output *out)
{
    struct str rest = str_from(in->text, s->at);
    bool is_first = a->value.first == 0;
    size_t len = json_stream_read(&a->value, rest);
    s->at += len;
    struct str text = {rest.data, len};
    if (is_first && a->value.first == '"' && len > 0) text = str_from(text, 1);
    tool_put_value(a, out, text);
    return a->value.is_over ? TOOL_READ_DONE : TOOL_READ_MORE;
}

void tool_end_arguments(struct tool_arguments *a, const struct tool_output *out)
{
    if (!a->is_put) tool_put_arguments(out, STR("{}"));
    a->is_put = true;
}

static size_t token_in(struct str text, const char *const *tokens, int *which)
{
    enum reply_tag found;
    size_t at = 0;
    for (; at < text.len; at++) {
        found = reply_tag_at_any(str_from(text, at), tokens, which);
        if (found == REPLY_TAG_WHOLE) break;
    }
    return at;
}

void tool_write_text(struct json_writer *w, const char *const *tokens, const char *text)
{
    for (struct str rest = str_of(text); rest.len > 0;) {
        int which = 0;
        size_t at = token_in(rest, tokens, &which);
        json_object_begin(w);
        if (at > 0)
            json_field_str(w, "text", (struct str){rest.data, at});
        else
            json_field_text(w, "token", tokens[which]);
        json_object_end(w);
        rest = str_from(rest, at > 0 ? at : strlen(tokens[which]));
    }
}

void tool_write_name(struct json_writer *w, const struct tool *tool)
{
    json_object_begin(w);
    json_field_str(w, "text", tool->name);
    json_object_end(w);
}

void tool_write_arguments(struct json_writer *w, const struct tool *tool)
{
    json_object_begin(w);
    json_key(w, "schema");
    if (tool->is_strict && tool->parameters) {
        struct buf schema;
        buf_init(&schema, BUF_MAX_INTERNAL);
        json_print(tool->parameters, &schema, false);
        json_put_raw(w, buf_str(&schema));
        buf_deinit(&schema);
    } else
        json_put_raw(w, STR("{\"type\":\"object\"}"));
    json_object_end(w);
}
