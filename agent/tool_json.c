#include "agent/tool_json.h"

enum object_state {
    OBJECT_BEGIN,
    OBJECT_KEY_OR_END,
    OBJECT_KEY,
    OBJECT_COLON,
    OBJECT_VALUE, // its first byte is next
    OBJECT_NAME,
    OBJECT_ARGUMENTS,
    OBJECT_EARLY_ARGUMENTS, // the name isn't known yet
    OBJECT_OTHER,
    OBJECT_NEXT,
};

/* A byte of a key or the name, which is cut where it has more than it can have. False: it ended. */
static bool read_text(struct json_text *t, char c, char *text, size_t size, size_t *len)
{
    size_t added = json_text_read(t, c, text + *len);
    *len = *len + added < size ? *len + added : size;
    return !t->is_over;
}

static bool key_is(const struct tool_object *o, struct str key)
{
    return str_equal((struct str){o->key, o->key_len}, key);
}

static enum object_state state_of_value(const struct tool_object *o, const struct tool_scan *s)
{
    if (key_is(o, STR("name")) && o->name_len == 0) return OBJECT_NAME;
    if ((!key_is(o, STR("arguments")) && !key_is(o, STR("parameters"))) || o->has_arguments)
        return OBJECT_OTHER;
    return s->is_out ? OBJECT_ARGUMENTS : OBJECT_EARLY_ARGUMENTS;
}

static void put_early_arguments(struct tool_object *o, const struct tool_scan *s,
                                const struct tool_input *in, const struct tool_output *out)
{
    struct str text = str_from(in->text, s->call_at + o->arguments_at);
    text.len = o->arguments_end - o->arguments_at;
    if (o->arguments.value.first == '"') text = str_from(text, 1);
    tool_put_value(&o->arguments, out, text);
}

/* Between the parts that matter. False: that can't be. */
static bool read_structure(struct tool_object *o, char c)
{
    switch (o->state) {
    case OBJECT_BEGIN:
        o->state = OBJECT_KEY_OR_END;
        return c == '{';
    case OBJECT_KEY_OR_END:
        o->state = OBJECT_KEY;
        o->text = (struct json_text){0};
        o->key_len = 0;
        return c == '"';
    case OBJECT_COLON:
        o->state = OBJECT_VALUE;
        return c == ':';
    default:
        o->state = OBJECT_KEY_OR_END;
        return c == ',';
    }
}

static bool begin_value(struct tool_object *o, const struct tool_scan *s, char c)
{
    o->state = state_of_value(o, s);
    o->text = (struct json_text){0};
    o->value = (struct json_stream){0};
    if (o->state == OBJECT_EARLY_ARGUMENTS) o->arguments_at = s->at - s->call_at;
    if (o->state == OBJECT_ARGUMENTS || o->state == OBJECT_EARLY_ARGUMENTS) o->has_arguments = true;
    return o->state != OBJECT_NAME || c == '"';
}

/* The rest of a value that isn't put out. False: it broke off. */
static bool skip_value(struct json_stream *value, struct tool_scan *s, const struct tool_input *in)
{
    s->at += json_stream_read(value, str_from(in->text, s->at));
    return !value->is_broken;
}

/* At least one byte, or the value's end. */
static bool read_value(struct tool_object *o, struct tool_scan *s, const struct tool_input *in,
                       const struct tool_output *out)
{
    struct json_stream *value = o->state == OBJECT_OTHER ? &o->value : &o->arguments.value;
    if (o->state == OBJECT_ARGUMENTS)
        tool_read_arguments(&o->arguments, s, in, out);
    else
        skip_value(value, s, in);
    if (o->state == OBJECT_EARLY_ARGUMENTS) o->arguments_end = s->at - s->call_at;
    if (value->is_over) o->state = OBJECT_NEXT;
    return !value->is_broken;
}

/* A byte of a key or of the name. */
static bool read_member_text(struct tool_object *o, struct tool_scan *s,
                             const struct tool_input *in, struct tool_output *out)
{
    char c = in->text.data[s->at++];
    if (o->state == OBJECT_KEY) {
        if (!read_text(&o->text, c, o->key, TOOL_KEY_BYTES, &o->key_len)) o->state = OBJECT_COLON;
        return true;
    }
    if (read_text(&o->text, c, o->name, TOOL_NAME_BYTES, &o->name_len))
        return o->name_len < TOOL_NAME_BYTES;
    o->state = OBJECT_NEXT;
    if (!tool_put_call(s, in, out, (struct str){o->name, o->name_len})) return false;
    if (o->has_arguments) put_early_arguments(o, s, in, out);
    return true;
}

static bool read_some(struct tool_object *o, struct tool_scan *s, const struct tool_input *in,
                      struct tool_output *out)
{
    char c = in->text.data[s->at];
    switch ((enum object_state)o->state) {
    case OBJECT_KEY:
    case OBJECT_NAME:
        return read_member_text(o, s, in, out);
    case OBJECT_ARGUMENTS:
    case OBJECT_EARLY_ARGUMENTS:
    case OBJECT_OTHER:
        return read_value(o, s, in, out);
    case OBJECT_VALUE:
        if (!json_is_space(c)) {
            if (!begin_value(o, s, c)) return false;
            if (o->state != OBJECT_NAME) return true; // the byte is the value's
        }
        break;
    default:
        if (!json_is_space(c) && !read_structure(o, c)) return false;
    }
    s->at++;
    return true;
}

enum tool_read tool_object_read(struct tool_object *o, struct tool_scan *s,
                                const struct tool_input *in, struct tool_output *out)
{
    while (s->at < in->text.len) {
        bool may_end = o->state == OBJECT_KEY_OR_END || o->state == OBJECT_NEXT;
        if (may_end && in->text.data[s->at] == '}') {
            s->at++;
            if (s->is_out) tool_end_arguments(&o->arguments, out);
            return s->is_out ? TOOL_READ_DONE : TOOL_READ_NONE;
        }
        if (!read_some(o, s, in, out)) return s->is_out ? TOOL_READ_DONE : TOOL_READ_NONE;
        if (!s->is_out && s->at - s->call_at > TOOL_HELD_MAX) return TOOL_READ_NONE;
    }
    return TOOL_READ_MORE;
}

enum block_state {
    BLOCK_OPENING,
    BLOCK_BEGIN,
    BLOCK_OBJECT,
    BLOCK_BEHIND, // an object: another one, or the end
    BLOCK_ENDS,
};

/* Behind an object: DONE: another one begins. */
static enum tool_read read_separator(struct tool_block *b, const struct tool_block_tags *tags,
                                     const struct tool_input *in)
{
    struct tool_scan ahead = b->scan;
    enum tool_read r = tool_scan_space(&ahead, in);
    if (r != TOOL_READ_DONE) return in->is_last ? TOOL_READ_NONE : r;
    char c = in->text.data[ahead.at];
    if (c != '{' && (c != tags->separator || c == 0)) return TOOL_READ_NONE;
    tool_scan_begin_call(&b->scan);
    b->scan.at = ahead.at + (c != '{');
    b->object = (struct tool_object){0};
    return TOOL_READ_DONE;
}

static enum tool_read read_block(struct tool_block *b, const struct tool_block_tags *tags,
                                 const struct tool_input *in, struct tool_output *out)
{
    enum tool_read r;
    switch ((enum block_state)b->state) {
    case BLOCK_OPENING:
        b->state = tags->begin ? BLOCK_BEGIN : BLOCK_OBJECT;
        return TOOL_READ_DONE;
    case BLOCK_BEGIN:
        r = tool_scan_tag(&b->scan, in, tags->begin);
        if (r != TOOL_READ_MORE) b->state = BLOCK_OBJECT;
        return r == TOOL_READ_NONE ? TOOL_READ_DONE : r;
    case BLOCK_OBJECT:
        r = tool_object_read(&b->object, &b->scan, in, out);
        if (r == TOOL_READ_DONE) b->state = BLOCK_BEHIND;
        return r;
    case BLOCK_BEHIND:
        r = read_separator(b, tags, in);
        if (r != TOOL_READ_MORE) b->state = r == TOOL_READ_DONE ? BLOCK_OBJECT : BLOCK_ENDS;
        return r == TOOL_READ_NONE ? TOOL_READ_DONE : r;
    case BLOCK_ENDS:
        break;
    }
    r = tags->ends[b->ends] ? tool_scan_tag(&b->scan, in, tags->ends[b->ends]) : TOOL_READ_NONE;
    if (r == TOOL_READ_DONE) b->ends++;
    return r;
}

size_t tool_block_read(struct tool_block *b, const struct tool_block_tags *tags, size_t opening,
                       const struct tool_input *in, struct tool_output *out)
{
    if (b->state == BLOCK_OPENING) b->scan.at = opening;
    enum tool_read r;
    do
        r = read_block(b, tags, in, out);
    while (r == TOOL_READ_DONE);
    return r == TOOL_READ_NONE ? tool_scan_end(&b->scan, in, out)
                               : tool_scan_finish(&b->scan, in, out);
}

void tool_object_write(struct json_writer *w, const struct tool *tool, const char *key)
{
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    buf_printf(&text, "{\"name\": \"" STR_FMT "\", \"%s\": ", STR_ARG(tool->name), key);
    tool_write_text(w, (const char *const[]){NULL}, text.data);
    tool_write_arguments(w, tool);
    tool_write_text(w, (const char *const[]){NULL}, "}");
    buf_deinit(&text);
}
