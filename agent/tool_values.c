#include "agent/tool_values.h"

#include "shared/base/hash.h"

#include <stdio.h>

/* Schemas that are looked at for one parameter's types: references multiply. */
#define SCHEMAS_MAX 200
#define DEPTH_MAX   16

struct typing {
    const struct json *root;
    int budget; // schemas that may still be looked at
    int depth;
};

static unsigned type_of_name(struct str name)
{
    static const struct {
        struct str name;
        unsigned type;
    } types[] = {
        {STR("string"), TOOL_STRING}, {STR("number"), TOOL_NUMBER}, {STR("integer"), TOOL_NUMBER},
        {STR("boolean"), TOOL_BOOL},  {STR("null"), TOOL_NULL},     {STR("object"), TOOL_OBJECT},
        {STR("array"), TOOL_ARRAY},
    };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (str_equal(types[i].name, name)) return types[i].type;
    return TOOL_ANY;
}

static unsigned type_of_value(const struct json *v)
{
    static const unsigned types[] = {
        [JSON_NULL] = TOOL_NULL,     [JSON_BOOL] = TOOL_BOOL,   [JSON_NUMBER] = TOOL_NUMBER,
        [JSON_STRING] = TOOL_STRING, [JSON_ARRAY] = TOOL_ARRAY, [JSON_OBJECT] = TOOL_OBJECT};
    return types[json_type(v)];
}

static bool is_type(const struct json *v, enum json_type type)
{
    return v && json_type(v) == type;
}

static struct str text_of(const struct json *v)
{
    struct str s;
    s.data = json_string(v, &s.len);
    return s;
}

/* "type": a name or several. */
static unsigned named_types(const struct json *type)
{
    if (is_type(type, JSON_STRING)) return type_of_name(text_of(type));
    if (!is_type(type, JSON_ARRAY)) return TOOL_ANY;
    unsigned types = 0;
    for (const struct json *t = json_first(type); t; t = json_next(t))
        types |= is_type(t, JSON_STRING) ? type_of_name(text_of(t)) : TOOL_ANY;
    return types;
}

static unsigned enum_types(const struct json *values)
{
    if (!is_type(values, JSON_ARRAY)) return TOOL_ANY;
    unsigned types = 0;
    for (const struct json *v = json_first(values); v; v = json_next(v))
        types |= type_of_value(v);
    return types;
}

/* "#/a/b"; names with escapes aren't found. */
static const struct json *resolve(const struct json *root, const struct json *ref)
{
    if (!is_type(ref, JSON_STRING)) return NULL;
    struct str path = text_of(ref), part;
    if (!str_split(&path, '/', &part) || !str_equal(part, STR("#"))) return NULL;
    const struct json *at = root;
    while (at && str_split(&path, '/', &part)) {
        char name[256];
        if (part.len >= sizeof name) return NULL;
        memcpy(name, part.data, part.len);
        name[part.len] = 0;
        at = json_get(at, name);
    }
    return at;
}

static unsigned schema_types(const struct json *schema, struct typing *t);

/* Of all members of a list: any of them or every one. */
static unsigned list_types(const struct json *list, bool is_all, struct typing *t)
{
    if (!is_type(list, JSON_ARRAY) || json_len(list) == 0) return TOOL_ANY;
    unsigned types = is_all ? TOOL_ANY : 0;
    for (const struct json *s = json_first(list); s && t->budget > 0; s = json_next(s)) {
        unsigned some = schema_types(s, t);
        types = is_all ? types & some : types | some;
    }
    return t->budget > 0 ? types : TOOL_ANY;
}

static unsigned object_types(const struct json *schema, struct typing *t)
{
    unsigned types = named_types(json_get(schema, "type")) & enum_types(json_get(schema, "enum"));
    if (json_get(schema, "const")) types &= type_of_value(json_get(schema, "const"));
    if (json_get(schema, "$ref"))
        types &= schema_types(resolve(t->root, json_get(schema, "$ref")), t);
    types &= list_types(json_get(schema, "anyOf"), false, t);
    types &= list_types(json_get(schema, "oneOf"), false, t);
    types &= list_types(json_get(schema, "allOf"), true, t);
    if (json_is_true(json_get(schema, "nullable"))) types |= TOOL_NULL;
    return types != 0 ? types : TOOL_ANY;
}

static unsigned schema_types(const struct json *schema, struct typing *t)
{
    if (!is_type(schema, JSON_OBJECT) || t->depth >= DEPTH_MAX || t->budget <= 0) return TOOL_ANY;
    t->budget--;
    t->depth++;
    unsigned types = object_types(schema, t);
    t->depth--;
    return types;
}

unsigned tool_schema_types(const struct json *schema, const struct json *root)
{
    struct typing t = {.root = root, .budget = SCHEMAS_MAX};
    return schema_types(schema, &t);
}

const struct json *tool_schema_target(const struct json *schema, const struct json *root)
{
    return resolve(root, json_get(schema, "$ref"));
}

unsigned tool_types_of(const struct tool *tool, struct str parameter)
{
    if (!tool || !tool->parameters) return TOOL_ANY;
    const struct json *properties = json_get(tool->parameters, "properties");
    for (const struct json *p = json_first(properties); p; p = json_next(p))
        if (str_equal(str_of(json_name(p)), parameter))
            return tool_schema_types(p, tool->parameters);
    return TOOL_ANY;
}

/* The inside of a string. */
static void put_escaped(const struct tool_output *out, struct str text)
{
    static const char names[] = "\"\\\b\f\n\r\t", escapes[] = "\"\\bfnrt";
    size_t plain = 0;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.data[i], escape[8];
        if ((unsigned char)c >= 0x20 && c != '"' && c != '\\') continue;
        const char *name = c ? strchr(names, c) : NULL;
        if (name)
            snprintf(escape, sizeof escape, "\\%c", escapes[name - names]);
        else
            snprintf(escape, sizeof escape, "\\u%04x", (unsigned)c);
        tool_put_arguments(out, (struct str){text.data + plain, i - plain});
        tool_put_arguments(out, str_of(escape));
        plain = i + 1;
    }
    tool_put_arguments(out, str_from(text, plain));
}

static bool is_known(struct tool_values *v, struct str key)
{
    uint64_t hash = hash_bytes(key.data, key.len);
    for (int i = 0; i < v->count; i++)
        if (v->keys[i] == hash) return true;
    if (v->count == TOOL_KEYS_MAX) return true;
    v->keys[v->count++] = hash;
    return false;
}

void tool_value_begin(struct tool_values *v, struct str key, unsigned types,
                      const struct tool_output *out)
{
    v->types = types;
    v->has_begun = v->is_string = false;
    v->looked = 0;
    v->is_repeated = is_known(v, key);
    if (v->is_repeated) return;
    tool_put_arguments(out, v->count == 1 ? STR("{\"") : STR(", \""));
    put_escaped(out, key);
    tool_put_arguments(out, STR("\": "));
}

/* Whether JSON of those types, and no string, may begin so. */
static bool may_be_json(char c, unsigned types)
{
    switch (c) {
    case '{':
        return types & TOOL_OBJECT;
    case '[':
        return types & TOOL_ARRAY;
    case 't':
    case 'f':
    case 'T':
    case 'F':
        return types & TOOL_BOOL;
    case 'n':
    case 'N':
        return types & TOOL_NULL;
    default:
        return (types & TOOL_NUMBER) && (c == '-' || (c >= '0' && c <= '9'));
    }
}

static void put_quoted(const struct tool_output *out, struct str text)
{
    tool_put_arguments(out, STR("\""));
    put_escaped(out, text);
    tool_put_arguments(out, STR("\""));
}

/* A value that was waited for. */
static void put_held(const struct tool_values *v, const struct tool_output *out, struct str text)
{
    struct str t = str_trim(text);
    if ((v->types & TOOL_BOOL) && str_equal_nocase(t, STR("true")))
        tool_put_arguments(out, STR("true"));
    else if ((v->types & TOOL_BOOL) && str_equal_nocase(t, STR("false")))
        tool_put_arguments(out, STR("false"));
    else if ((v->types & TOOL_NULL) &&
             (str_equal_nocase(t, STR("null")) || str_equal_nocase(t, STR("none"))))
        tool_put_arguments(out, STR("null"));
    else {
        struct json *json = json_parse(t.data, t.len, NULL);
        bool fits = json && ((v->types & type_of_value(json)) || !(v->types & TOOL_STRING));
        if (json && json_type(json) == JSON_STRING && (v->types & TOOL_STRING)) fits = false;
        if (fits)
            tool_put_arguments(out, t);
        else
            put_quoted(out, text);
        json_destroy(json);
    }
}

/* The first character tells strings that go out as they come from what has to be waited for. False: it
 * isn't there yet. */
static bool begin_text(struct tool_values *v, struct str text, bool is_ended, bool strips,
                       size_t *skipped)
{
    size_t first = 0;
    while (first < text.len && json_is_space(text.data[first]) && first < TOOL_SPACE_MAX)
        first++;
    bool is_seen = first < text.len || is_ended;
    if (v->types == TOOL_STRING) is_seen = text.len > 0 || is_ended;
    if (!is_seen) return false;
    v->has_begun = true;
    v->is_string = v->types == TOOL_STRING ||
                   ((v->types & TOOL_STRING) &&
                    (first == text.len || !may_be_json(text.data[first], v->types)));
    *skipped = strips && text.len > 0 && text.data[0] == '\n';
    return true;
}

static void begin_string(struct tool_values *v, const struct tool_output *out)
{
    v->is_string = true;
    if (!v->is_repeated) tool_put_arguments(out, STR("\""));
}

static void end_text(const struct tool_values *v, const struct tool_output *out, struct str text,
                     bool strips)
{
    if (strips && text.len > 0 && text.data[text.len - 1] == '\n') text.len--;
    if (v->is_repeated) return;
    if (!v->is_string) {
        put_held(v, out, text);
        return;
    }
    put_escaped(out, text);
    tool_put_arguments(out, STR("\""));
}

/* Text that goes on: what of it goes out. */
static size_t put_more(struct tool_values *v, const struct tool_input *in,
                       const struct tool_output *out, struct str text, struct str rest, bool strips)
{
    if (in->is_last)
        text = rest; // a tag that is cut is none
    else if (!v->is_string)
        return 0;
    else if (strips && text.len > 0 && text.data[text.len - 1] == '\n')
        text.len--; // it may be the tag's
    if (v->is_repeated) return text.len;
    if (v->is_string)
        put_escaped(out, text);
    else
        tool_put_arguments(out, text);
    return text.len;
}

enum tool_read tool_value_read(struct tool_values *v, struct tool_scan *s,
                               const struct tool_input *in, const struct tool_output *out,
                               const char *tag, bool strips)
{
    struct str rest = str_from(in->text, s->at);
    const char *const tags[] = {tag, NULL};
    enum reply_tag found;
    int which;
    size_t end = v->looked + reply_tag_find(str_from(rest, v->looked), tags, &found, &which);
    v->looked = end;
    if (!v->has_begun) {
        bool is_ended = found != REPLY_TAG_NONE || in->is_last;
        size_t skipped;
        if (!begin_text(v, (struct str){rest.data, end}, is_ended, strips, &skipped))
            return TOOL_READ_MORE;
        s->at += skipped;
        rest = str_from(rest, skipped);
        end -= skipped;
        if (v->is_string) begin_string(v, out);
    }
    if (!v->is_string && end > TOOL_HELD_MAX) begin_string(v, out);
    struct str text = {rest.data, end};
    if (found == REPLY_TAG_WHOLE) {
        end_text(v, out, text, strips);
        s->at += end + strlen(tag);
        return TOOL_READ_DONE;
    }
    size_t put = put_more(v, in, out, text, rest, strips);
    s->at += put;
    v->looked = put < end ? end - put : 0;
    return TOOL_READ_MORE;
}

void tool_values_end(const struct tool_values *v, const struct tool_output *out)
{
    tool_put_arguments(out, v->count == 0 ? STR("{}") : STR("}"));
}
