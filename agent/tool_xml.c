#include "agent/tool_xml.h"

#include "shared/base/check.h"

#define KEY_MAX 256

enum xml_state {
    XML_OPENING,
    XML_CALL, // what opens a call is next, or the block's end
    XML_NAME,
    XML_KEY_OR_END,
    XML_KEY,
    XML_VALUE_OPEN,
    XML_VALUE,
};

/* A call, or the end of the block. */
static enum tool_read read_call_open(struct tool_xml *x, const struct tool_xml_tags *tags,
                                     const struct tool_input *in)
{
    struct tool_scan ahead = x->scan;
    enum tool_read end = TOOL_READ_NONE;
    if (x->scan.has_call && tags->block_close) {
        end = tool_scan_tag(&ahead, in, tags->block_close);
        if (end == TOOL_READ_DONE) {
            x->scan = ahead;
            return TOOL_READ_NONE;
        }
    }
    enum tool_read next = tags->call_open    ? tool_scan_tag(&ahead, in, tags->call_open)
                          : x->scan.has_call ? TOOL_READ_NONE
                                             : TOOL_READ_DONE;
    if (next == TOOL_READ_DONE) {
        if (x->scan.has_call) tool_scan_begin_call(&x->scan);
        x->scan.at = ahead.at;
        x->values = (struct tool_values){0};
        x->state = XML_NAME;
        return next;
    }
    return end == TOOL_READ_MORE || next == TOOL_READ_MORE ? TOOL_READ_MORE : TOOL_READ_NONE;
}

/* A name ends with its tag, or where the first key or the call's end comes. */
static enum tool_read read_name(struct tool_xml *x, const struct tool_xml_tags *tags,
                                const struct tool_input *in, struct tool_output *out)
{
    struct str name;
    int which;
    enum tool_read r = tool_scan_name(
        &x->scan, in,
        (const char *const[]){tags->name_close, tags->key_open, tags->call_close, NULL}, &name,
        &which);
    if (r != TOOL_READ_DONE) return r;
    if (which == 0) x->scan.at += strlen(tags->name_close);
    x->tool = in->list ? tool_list_find(in->list, name) : NULL;
    x->state = XML_KEY_OR_END;
    return tool_put_call(&x->scan, in, out, name) ? TOOL_READ_DONE : TOOL_READ_NONE;
}

static enum tool_read read_key_open(struct tool_xml *x, const struct tool_xml_tags *tags,
                                    const struct tool_input *in, struct tool_output *out)
{
    struct tool_scan ahead = x->scan;
    enum tool_read key = tool_scan_tag(&ahead, in, tags->key_open);
    enum tool_read end =
        key == TOOL_READ_DONE ? TOOL_READ_NONE : tool_scan_tag(&ahead, in, tags->call_close);
    if (key == TOOL_READ_DONE || end == TOOL_READ_DONE) x->scan.at = ahead.at;
    if (key == TOOL_READ_DONE) {
        x->state = XML_KEY;
        return key;
    }
    if ((key == TOOL_READ_MORE || end == TOOL_READ_MORE) && !in->is_last) return TOOL_READ_MORE;
    /* A call that breaks off here without having been cut is over, too. */
    bool is_cut = in->is_last && end != TOOL_READ_DONE;
    if (!is_cut) tool_values_end(&x->values, out);
    x->state = XML_CALL;
    return end;
}

/* `NAME" string="true`: the name's end, and what the attribute says. */
static unsigned read_attribute(struct str *key, unsigned types)
{
    struct str rest = *key, name;
    if (!str_split(&rest, '"', &name)) return types;
    *key = name;
    rest = str_trim(rest);
    if (str_equal(rest, STR("string=\"true"))) return TOOL_STRING;
    if (str_equal(rest, STR("string=\"false"))) return TOOL_ANY & ~(unsigned)TOOL_STRING;
    return types;
}

static enum tool_read read_key(struct tool_xml *x, const struct tool_xml_tags *tags,
                               const struct tool_input *in, const struct tool_output *out)
{
    struct str key;
    int which;
    enum tool_read r = tool_scan_until(&x->scan, in, (const char *const[]){tags->key_close, NULL},
                                       KEY_MAX, &key, &which);
    if (r != TOOL_READ_DONE) return r;
    x->scan.at += strlen(tags->key_close);
    key = str_trim(key);
    unsigned attribute = 0;
    if (tags->has_attribute) attribute = read_attribute(&key, 0);
    tool_value_begin(&x->values, key, attribute ? attribute : tool_types_of(x->tool, key), out);
    x->state = tags->value_open ? XML_VALUE_OPEN : XML_VALUE;
    return r;
}

static enum tool_read read_part(struct tool_xml *x, const struct tool_xml_tags *tags,
                                const struct tool_input *in, struct tool_output *out)
{
    enum tool_read r;
    switch ((enum xml_state)x->state) {
    case XML_OPENING:
        if (reply_tag_at(in->text, tags->block_open) == REPLY_TAG_WHOLE)
            x->scan.at = strlen(tags->block_open);
        x->state = XML_CALL;
        return TOOL_READ_DONE;
    case XML_CALL:
        return read_call_open(x, tags, in);
    case XML_NAME:
        return read_name(x, tags, in, out);
    case XML_KEY_OR_END:
        return read_key_open(x, tags, in, out);
    case XML_KEY:
        return read_key(x, tags, in, out);
    case XML_VALUE_OPEN:
        r = tool_scan_tag(&x->scan, in, tags->value_open);
        if (r == TOOL_READ_DONE) x->state = XML_VALUE;
        return r;
    case XML_VALUE:
        r = tool_value_read(&x->values, &x->scan, in, out, tags->value_close, tags->strips);
        if (r == TOOL_READ_DONE) x->state = XML_KEY_OR_END;
        return r;
    }
    UNREACHABLE();
}

/* What stands there can't be: the object that is out is closed. */
static void end_broken(const struct tool_xml *x, const struct tool_output *out)
{
    if (x->state != XML_KEY && x->state != XML_VALUE_OPEN) return;
    if (x->state == XML_VALUE_OPEN && !x->values.is_repeated) tool_put_arguments(out, STR("null"));
    tool_values_end(&x->values, out);
}

size_t tool_xml_read(struct tool_xml *x, const struct tool_xml_tags *tags,
                     const struct tool_input *in, struct tool_output *out)
{
    enum tool_read r;
    do
        r = read_part(x, tags, in, out);
    while (r == TOOL_READ_DONE);
    if (r == TOOL_READ_NONE && !in->is_last) end_broken(x, out);
    if (r == TOOL_READ_NONE) return tool_scan_end(&x->scan, in, out);
    return tool_scan_finish(&x->scan, in, out);
}

static void write_all_begin(struct json_writer *w)
{
    json_object_begin(w);
    json_key(w, "all");
    json_array_begin(w);
}

static void write_any_begin(struct json_writer *w)
{
    json_object_begin(w);
    json_key(w, "any");
    json_array_begin(w);
}

static void write_list_end(struct json_writer *w)
{
    json_array_end(w);
    json_object_end(w);
}

static void write_until(struct json_writer *w, const char *tag)
{
    json_object_begin(w);
    json_key(w, "until");
    json_array_begin(w);
    json_put_text(w, tag);
    json_array_end(w);
    json_object_end(w);
}

/* What the value of a schema may be as text, while it is written. */
struct value_parts {
    const struct tool_xml_tags *tags;
    const struct json *root;
    bool only_strings; // an attribute said so
    int budget;        // schemas that may still be looked at: references multiply
};

static void write_choice(struct json_writer *w, const struct value_parts *v,
                         const struct json *value)
{
    bool is_string = json_type(value) == JSON_STRING;
    if (!is_string && v->only_strings) return;
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    if (is_string)
        buf_append_str(&text, json_string(value, NULL));
    else
        json_print(value, &text, false);
    json_object_begin(w);
    json_field_str(w, "text", buf_str(&text));
    json_object_end(w);
    buf_deinit(&text);
}

/* The texts that "enum" or "const" allows. */
static bool write_choices(struct json_writer *w, const struct value_parts *v,
                          const struct json *schema)
{
    const struct json *one = json_get(schema, "const"), *list = json_get(schema, "enum");
    if (!one && (!list || json_type(list) != JSON_ARRAY || json_len(list) == 0)) return false;
    write_any_begin(w);
    if (one) write_choice(w, v, one);
    for (const struct json *c = one ? NULL : json_first(list); c; c = json_next(c))
        write_choice(w, v, c);
    write_list_end(w);
    return true;
}

/* A property's schema, with what references in it mean. */
static void write_schema(struct json_writer *w, const struct json *schema, const struct json *root)
{
    static const char *const definitions[] = {"$defs", "definitions"};
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    json_object_begin(w);
    json_key(w, "schema");
    json_object_begin(w);
    for (const struct json *m = json_first(schema); m; m = json_next(m)) {
        buf_clear(&text);
        json_print(m, &text, false);
        json_field_raw(w, json_name(m), buf_str(&text));
    }
    for (size_t i = 0; i < ARRAY_LEN(definitions); i++) {
        const struct json *d = json_get(root, definitions[i]);
        if (!d || json_get(schema, definitions[i])) continue;
        buf_clear(&text);
        json_print(d, &text, false);
        json_field_raw(w, definitions[i], buf_str(&text));
    }
    json_object_end(w);
    json_object_end(w);
    buf_deinit(&text);
}

static void write_schema_value(struct json_writer *w, struct value_parts *v,
                               const struct json *schema);

/* Any of the branches of "anyOf" or "oneOf". */
static bool write_branches(struct json_writer *w, struct value_parts *v, const struct json *schema)
{
    const struct json *list = json_get(schema, "anyOf");
    if (!list) list = json_get(schema, "oneOf");
    if (!list || json_type(list) != JSON_ARRAY || json_len(list) == 0) return false;
    write_any_begin(w);
    for (const struct json *s = json_first(list); s; s = json_next(s)) {
        if (v->only_strings && !(tool_schema_types(s, v->root) & TOOL_STRING)) continue;
        write_schema_value(w, v, s);
    }
    write_list_end(w);
    return true;
}

static void write_schema_value(struct json_writer *w, struct value_parts *v,
                               const struct json *schema)
{
    bool may_look = v->budget-- > 0;
    const struct json *target = may_look ? tool_schema_target(schema, v->root) : NULL;
    if (target) {
        write_schema_value(w, v, target);
        return;
    }
    if (may_look && (write_choices(w, v, schema) || write_branches(w, v, schema))) return;
    if (json_type(schema) != JSON_OBJECT || (tool_schema_types(schema, v->root) & TOOL_STRING))
        write_until(w, v->tags->value_close);
    else
        write_schema(w, schema, v->root);
}

/* property NULL: any value. */
static void write_value(struct json_writer *w, const struct tool_xml_tags *tags,
                        const struct tool *tool, const struct json *property)
{
    struct value_parts v = {
        .tags = tags, .root = tool->parameters, .only_strings = tags->has_attribute, .budget = 100};
    if (!property) {
        write_until(w, tags->value_close);
        return;
    }
    if (!(tool_schema_types(property, v.root) & TOOL_STRING)) v.only_strings = false;
    write_schema_value(w, &v, property);
}

/* Of a key and its value. NULL: any key. */
static void write_pair(struct json_writer *w, const struct tool_xml_tags *tags,
                       const char *const *tokens, const struct tool *tool,
                       const struct json *property)
{
    struct str key = property ? str_of(json_name(property)) : (struct str){0};
    bool is_string = !property || (tool_types_of(tool, key) & TOOL_STRING);
    tool_write_text(w, tokens, tags->key_open);
    json_object_begin(w);
    if (property)
        json_field_str(w, "text", key);
    else
        json_field_text(w, "regex", "[A-Za-z0-9_-]{1,64}");
    json_object_end(w);
    if (tags->has_attribute)
        tool_write_text(w, tokens, is_string ? "\" string=\"true" : "\" string=\"false");
    tool_write_text(w, tokens, tags->key_close);
    if (tags->value_open) tool_write_text(w, tokens, tags->value_open);
    if (tags->strips) tool_write_text(w, tokens, "\n");
    write_value(w, tags, tool, property);
    if (tags->strips) tool_write_text(w, tokens, "\n");
    tool_write_text(w, tokens, tags->value_close);
}

static bool is_required(const struct tool *tool, const char *name)
{
    const struct json *required = json_get(tool->parameters, "required");
    for (const struct json *r = json_first(required); r; r = json_next(r))
        if (json_type(r) == JSON_STRING && strcmp(json_string(r, NULL), name) == 0) return true;
    return false;
}

/* Pairs that may be there: of that key once, or of any keys. */
static void write_optional(struct json_writer *w, const struct tool_xml_tags *tags,
                           const char *const *tokens, const struct tool *tool,
                           const struct json *property, const char *newline)
{
    json_object_begin(w);
    json_key(w, "repeat");
    write_all_begin(w);
    write_pair(w, tags, tokens, tool, property);
    tool_write_text(w, tokens, newline);
    write_list_end(w);
    json_field_int(w, "min", 0);
    if (property) json_field_int(w, "max", 1);
    json_object_end(w);
}

void tool_xml_write_values(struct json_writer *w, const struct tool_xml_tags *tags,
                           const char *const *tokens, const struct tool *tool, const char *newline)
{
    const struct json *properties =
        tool->is_strict && tool->parameters ? json_get(tool->parameters, "properties") : NULL;
    tool_write_text(w, tokens, newline);
    if (!properties) {
        write_optional(w, tags, tokens, tool, NULL, newline);
        return;
    }
    for (const struct json *p = json_first(properties); p && !w->out->overflow; p = json_next(p)) {
        if (!is_required(tool, json_name(p))) {
            write_optional(w, tags, tokens, tool, p, newline);
            continue;
        }
        write_pair(w, tags, tokens, tool, p);
        tool_write_text(w, tokens, newline);
    }
}
