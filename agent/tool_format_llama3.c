/* Llama 3.1, 3.2, 3.3:
 *
 *     {"name": "NAME", "parameters": {...}}         all that is said; several with "; " between
 *     <|python_tag|>{"name": ...}                   the same
 *     <function=NAME>{...}</function>               Meta's "user-defined custom tools" */
#include "agent/tool_formats.h"
#include "agent/tool_json.h"

#define PYTHON_TAG   "<|python_tag|>"
#define FUNCTION_TAG "<function="

enum function_state { FUNCTION_NAME, FUNCTION_SPACE, FUNCTION_ARGUMENTS, FUNCTION_END };

struct function {
    struct tool_scan scan;
    enum function_state state;
    struct tool_arguments arguments;
};

struct llama3_call {
    bool is_function, is_block;
    union {
        struct function function;
        struct tool_block block;
    };
};

static bool is_of_template(struct str t)
{
    return tool_template_has(t, "<|start_header_id|>") && tool_template_has(t, "\"parameters\": ");
}

static enum tool_read read_name(struct tool_scan *s, const struct tool_input *in,
                                struct tool_output *out)
{
    struct str name;
    int which;
    enum tool_read r = tool_scan_name(s, in, (const char *const[]){">", NULL}, &name, &which);
    if (r != TOOL_READ_DONE) return r;
    s->at++;
    return tool_put_call(s, in, out, name) ? TOOL_READ_DONE : TOOL_READ_NONE;
}

static enum tool_read read_function_part(struct function *f, const struct tool_input *in,
                                         struct tool_output *out)
{
    enum tool_read r = TOOL_READ_DONE;
    switch (f->state) {
    case FUNCTION_NAME:
        r = read_name(&f->scan, in, out);
        break;
    case FUNCTION_SPACE:
        r = tool_scan_space(&f->scan, in);
        break;
    case FUNCTION_ARGUMENTS:
        r = tool_read_arguments(&f->arguments, &f->scan, in, out);
        if (r == TOOL_READ_DONE) tool_end_arguments(&f->arguments, out);
        break;
    case FUNCTION_END:
        r = tool_scan_tag(&f->scan, in, "</function>");
        return r == TOOL_READ_MORE ? r : TOOL_READ_NONE;
    }
    if (r == TOOL_READ_DONE) f->state++;
    return r;
}

static size_t read_function(struct function *f, const struct tool_input *in,
                            struct tool_output *out)
{
    if (f->state == FUNCTION_NAME && f->scan.at == 0) f->scan.at = strlen(FUNCTION_TAG);
    enum tool_read r;
    do
        r = read_function_part(f, in, out);
    while (r == TOOL_READ_DONE);
    if (r == TOOL_READ_NONE) return tool_scan_end(&f->scan, in, out);
    return tool_scan_finish(&f->scan, in, out);
}

static size_t read_calls(void *state, const struct tool_input *in, struct tool_output *out)
{
    static const struct tool_block_tags tags = {.separator = ';'};
    struct llama3_call *c = state;
    bool has_tag = reply_tag_at(in->text, PYTHON_TAG) == REPLY_TAG_WHOLE;
    if (!c->is_function && !c->is_block) {
        c->is_function = reply_tag_at(in->text, FUNCTION_TAG) == REPLY_TAG_WHOLE;
        c->is_block = !c->is_function;
    }
    if (c->is_function) return read_function(&c->function, in, out);
    return tool_block_read(&c->block, &tags, has_tag ? strlen(PYTHON_TAG) : 0, in, out);
}

static void write_call(struct json_writer *w, const struct tool *tool)
{
    tool_object_write(w, tool, "parameters");
}

const struct tool_format tool_format_llama3 = {
    .name = "llama3",
    .aliases = {"llama3_json", "llama", "llama3.1", "llama3.2"},
    .is_of_template = is_of_template,
    .opens = {PYTHON_TAG, FUNCTION_TAG},
    .opens_at_start = '{',
    .text_begin = "[ \\t\\r\\n]*([^ \\t\\r\\n{<]|<[^|f])",
    .state_size = sizeof(struct llama3_call),
    .read = read_calls,
    .write_call = write_call,
    .between = "; ",
    .tokens = {PYTHON_TAG},
};
