/* Mistral:
 *
 *     [TOOL_CALLS] [{"name": "NAME", "arguments": {...}, "id": "..."}, ...]    up to tokenizer 7
 *     [TOOL_CALLS]NAME[CALL_ID]...[ARGS]{...}                                  since then, for each call
 *
 * [CALL_ID] and [ARGS] aren't always there. Grammars write the older form where a template does. */
#include "agent/tool_formats.h"
#include "agent/tool_json.h"

#define OPENING     "[TOOL_CALLS]"
#define CALL_ID_MAX 64

enum named_state { NAMED_NAME, NAMED_ID, NAMED_ARGS, NAMED_SPACE, NAMED_ARGUMENTS, NAMED_OVER };

struct named {
    struct tool_scan scan;
    enum named_state state;
    struct tool_arguments arguments;
};

struct mistral_calls {
    bool is_known, is_block;
    union {
        struct named named;
        struct tool_block block;
    };
};

static bool is_old(struct str t)
{
    return tool_template_has(t, OPENING) && !tool_template_has(t, "[ARGS]");
}

static bool is_new(struct str t)
{
    return tool_template_has(t, OPENING) && tool_template_has(t, "[ARGS]");
}

static enum tool_read read_name(struct named *n, const struct tool_input *in,
                                struct tool_output *out)
{
    struct str name;
    int which;
    if (n->scan.at == 0) n->scan.at = strlen(OPENING);
    enum tool_read r =
        tool_scan_name(&n->scan, in, (const char *const[]){"[", "{", NULL}, &name, &which);
    if (r != TOOL_READ_DONE) return r;
    return tool_put_call(&n->scan, in, out, name) ? TOOL_READ_DONE : TOOL_READ_NONE;
}

/* An identifier of the model's own, which nobody needs. */
static enum tool_read skip_id(struct named *n, const struct tool_input *in)
{
    struct str id;
    int which;
    struct tool_scan ahead = n->scan;
    enum tool_read r = tool_scan_tag(&ahead, in, "[CALL_ID]");
    if (r == TOOL_READ_DONE)
        r = tool_scan_until(&ahead, in, (const char *const[]){"[", "{", NULL}, CALL_ID_MAX, &id,
                            &which);
    if (r == TOOL_READ_DONE) n->scan = ahead;
    return r == TOOL_READ_MORE ? r : TOOL_READ_DONE;
}

/* An object, or there are none. */
static enum tool_read begin_arguments(struct named *n, const struct tool_input *in,
                                      struct tool_output *out)
{
    struct tool_scan ahead = n->scan;
    enum tool_read r = tool_scan_space(&ahead, in);
    if (r == TOOL_READ_MORE) return r;
    bool is_object = r == TOOL_READ_DONE && in->text.data[ahead.at] == '{';
    if (is_object)
        n->scan = ahead;
    else
        tool_end_arguments(&n->arguments, out);
    n->state = is_object ? NAMED_ARGUMENTS : NAMED_OVER;
    return TOOL_READ_DONE;
}

static enum tool_read read_part(struct named *n, const struct tool_input *in,
                                struct tool_output *out)
{
    enum tool_read r = TOOL_READ_DONE;
    switch (n->state) {
    case NAMED_NAME:
        r = read_name(n, in, out);
        break;
    case NAMED_ID:
        r = skip_id(n, in);
        break;
    case NAMED_ARGS:
        r = tool_scan_tag(&n->scan, in, "[ARGS]");
        if (r == TOOL_READ_NONE) r = TOOL_READ_DONE;
        break;
    case NAMED_SPACE:
        return begin_arguments(n, in, out);
    case NAMED_ARGUMENTS:
        r = tool_read_arguments(&n->arguments, &n->scan, in, out);
        if (r == TOOL_READ_DONE) tool_end_arguments(&n->arguments, out);
        break;
    case NAMED_OVER:
        return TOOL_READ_NONE;
    }
    if (r == TOOL_READ_DONE) n->state++;
    return r;
}

static size_t read_named(struct named *n, const struct tool_input *in, struct tool_output *out)
{
    enum tool_read r;
    do
        r = read_part(n, in, out);
    while (r == TOOL_READ_DONE);
    if (r == TOOL_READ_NONE) return tool_scan_end(&n->scan, in, out);
    return tool_scan_finish(&n->scan, in, out);
}

static size_t read_calls(void *state, const struct tool_input *in, struct tool_output *out)
{
    static const struct tool_block_tags tags = {.begin = "[", .separator = ',', .ends = {"]"}};
    struct mistral_calls *c = state;
    if (!c->is_known) {
        struct tool_scan ahead = {.at = strlen(OPENING)};
        enum tool_read r = tool_scan_space(&ahead, in);
        if (r == TOOL_READ_MORE) return tool_scan_finish(&ahead, in, out);
        if (r == TOOL_READ_NONE) return tool_scan_fail(&ahead, out);
        char first = in->text.data[ahead.at];
        c->is_known = true;
        c->is_block = first == '[' || first == '{';
    }
    if (c->is_block) return tool_block_read(&c->block, &tags, strlen(OPENING), in, out);
    return read_named(&c->named, in, out);
}

static void write_object(struct json_writer *w, const struct tool *tool)
{
    tool_object_write(w, tool, "arguments");
}

static void write_named(struct json_writer *w, const struct tool *tool)
{
    tool_write_text(w, tool_format_mistral.tokens, OPENING);
    tool_write_name(w, tool);
    tool_write_text(w, tool_format_mistral.tokens, "[ARGS]");
    tool_write_arguments(w, tool);
}

const struct tool_format tool_format_mistral = {
    .name = "mistral",
    .is_of_template = is_new,
    .opens = {OPENING},
    .state_size = sizeof(struct mistral_calls),
    .read = read_calls,
    .write_call = write_named,
    .tokens = {OPENING, "[CALL_ID]", "[ARGS]"},
};

const struct tool_format tool_format_mistral_list = {
    .name = "mistral-list",
    .aliases = {"mistral-v3", "mistral-v7"},
    .is_of_template = is_old,
    .opens = {OPENING},
    .state_size = sizeof(struct mistral_calls),
    .read = read_calls,
    .write_call = write_object,
    .before = OPENING " [",
    .between = ", ",
    .after = "]",
    .tokens = {OPENING},
};
