/* DeepSeek V3, R1 and V3.1, without spaces and lines that aren't there:
 *
 *     <｜tool▁calls▁begin｜>
 *       <｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n```json\n{...}\n```<｜tool▁call▁end｜>     V3, R1
 *       <｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{...}<｜tool▁call▁end｜>                           V3.1
 *     <｜tool▁calls▁end｜>
 *
 * Both are read whatever the format's name is; grammars differ. */
#include "agent/tool_formats.h"
#include "agent/tool_reader.h"

#define CALLS_BEGIN "<｜tool▁calls▁begin｜>"
#define CALLS_END   "<｜tool▁calls▁end｜>"
#define CALL_BEGIN  "<｜tool▁call▁begin｜>"
#define CALL_END    "<｜tool▁call▁end｜>"
#define SEPARATOR   "<｜tool▁sep｜>"

enum deepseek_state {
    CALLS_OPENING,
    CALL_OPENING,
    CALL_KIND, // or the name
    CALL_NAME,
    CALL_FENCE,
    CALL_SPACE,
    CALL_ARGUMENTS,
    CALL_FENCE_END,
    CALL_CLOSING,
    CALL_BEHIND,
};

struct deepseek_calls {
    struct tool_scan scan;
    enum deepseek_state state;
    char kind[TOOL_NAME_BYTES];
    size_t kind_len;
    struct tool_arguments arguments;
};

static bool is_v3(struct str t)
{
    return tool_template_has(t, CALL_BEGIN) && tool_template_has(t, "```json");
}

static bool is_v31(struct str t)
{
    return tool_template_has(t, CALL_BEGIN) && !tool_template_has(t, "```json");
}

static enum tool_read put_call(struct deepseek_calls *c, const struct tool_input *in,
                               struct tool_output *out, struct str name, enum deepseek_state next)
{
    if (!tool_put_call(&c->scan, in, out, name)) return TOOL_READ_NONE;
    c->state = next;
    return TOOL_READ_DONE;
}

static enum tool_read read_kind(struct deepseek_calls *c, const struct tool_input *in)
{
    struct str kind;
    int which;
    enum tool_read r =
        tool_scan_name(&c->scan, in, (const char *const[]){SEPARATOR, NULL}, &kind, &which);
    if (r != TOOL_READ_DONE) return r;
    if (kind.len >= sizeof c->kind) return TOOL_READ_NONE;
    if (kind.len > 0) memcpy(c->kind, kind.data, kind.len);
    c->kind_len = kind.len;
    c->scan.at += strlen(SEPARATOR);
    return TOOL_READ_DONE;
}

/* Behind the separator: arguments, and the name was before it, or the name. */
static enum tool_read read_name(struct deepseek_calls *c, const struct tool_input *in,
                                struct tool_output *out)
{
    struct tool_scan ahead = c->scan;
    enum tool_read r = tool_scan_space(&ahead, in);
    if (r != TOOL_READ_DONE) return r;
    if (in->text.data[ahead.at] == '{')
        return put_call(c, in, out, (struct str){c->kind, c->kind_len}, CALL_SPACE);
    struct str name;
    int which;
    r = tool_scan_name(&ahead, in, (const char *const[]){"\n", "```", NULL}, &name, &which);
    if (r != TOOL_READ_DONE) return r;
    c->scan.at = ahead.at;
    return put_call(c, in, out, name, CALL_FENCE);
}

/* Where it isn't, nothing. */
static enum tool_read skip_tag(struct deepseek_calls *c, const struct tool_input *in,
                               const char *tag)
{
    enum tool_read r = tool_scan_tag(&c->scan, in, tag);
    return r == TOOL_READ_NONE ? TOOL_READ_DONE : r;
}

/* Another call; NONE: the block's end, or what isn't of it. */
static enum tool_read read_behind(struct deepseek_calls *c, const struct tool_input *in)
{
    struct tool_scan ahead = c->scan;
    enum tool_read end = tool_scan_tag(&ahead, in, CALLS_END);
    if (end == TOOL_READ_DONE) {
        c->scan = ahead;
        return TOOL_READ_NONE;
    }
    enum tool_read next = tool_scan_tag(&ahead, in, CALL_BEGIN);
    if (next == TOOL_READ_DONE) {
        tool_scan_begin_call(&c->scan);
        c->arguments = (struct tool_arguments){0};
        c->state = CALL_OPENING;
        return next;
    }
    bool may_come = end == TOOL_READ_MORE || next == TOOL_READ_MORE;
    return may_come ? TOOL_READ_MORE : TOOL_READ_NONE;
}

static enum tool_read read_part(struct deepseek_calls *c, const struct tool_input *in,
                                struct tool_output *out)
{
    enum tool_read r = TOOL_READ_DONE;
    switch (c->state) {
    case CALLS_OPENING:
        if (reply_tag_at(in->text, CALLS_BEGIN) == REPLY_TAG_WHOLE)
            c->scan.at = strlen(CALLS_BEGIN);
        break;
    case CALL_OPENING:
        r = tool_scan_tag(&c->scan, in, CALL_BEGIN);
        break;
    case CALL_KIND:
        r = read_kind(c, in);
        break;
    case CALL_NAME:
        return read_name(c, in, out);
    case CALL_FENCE:
        r = skip_tag(c, in, "```json");
        break;
    case CALL_SPACE:
        r = tool_scan_space(&c->scan, in);
        break;
    case CALL_ARGUMENTS:
        r = tool_read_arguments(&c->arguments, &c->scan, in, out);
        if (r == TOOL_READ_DONE) tool_end_arguments(&c->arguments, out);
        break;
    case CALL_FENCE_END:
        r = skip_tag(c, in, "```");
        break;
    case CALL_CLOSING:
        r = skip_tag(c, in, CALL_END);
        break;
    case CALL_BEHIND:
        return read_behind(c, in);
    }
    if (r == TOOL_READ_DONE) c->state++;
    return r;
}

static size_t read_calls(void *state, const struct tool_input *in, struct tool_output *out)
{
    struct deepseek_calls *c = state;
    enum tool_read r;
    do
        r = read_part(c, in, out);
    while (r == TOOL_READ_DONE);
    if (r == TOOL_READ_NONE) return tool_scan_end(&c->scan, in, out);
    return tool_scan_finish(&c->scan, in, out);
}

static void write_v3(struct json_writer *w, const struct tool *tool)
{
    const char *const *tokens = tool_format_deepseek_v3.tokens;
    tool_write_text(w, tokens, CALL_BEGIN "function" SEPARATOR);
    tool_write_name(w, tool);
    tool_write_text(w, tokens, "\n```json\n");
    tool_write_arguments(w, tool);
    tool_write_text(w, tokens, "\n```" CALL_END);
}

static void write_v31(struct json_writer *w, const struct tool *tool)
{
    const char *const *tokens = tool_format_deepseek_v31.tokens;
    tool_write_text(w, tokens, CALL_BEGIN);
    tool_write_name(w, tool);
    tool_write_text(w, tokens, SEPARATOR);
    tool_write_arguments(w, tool);
    tool_write_text(w, tokens, CALL_END);
}

const struct tool_format tool_format_deepseek_v3 = {
    .name = "deepseek-v3",
    .aliases = {"deepseek_v3", "deepseekv3", "deepseek-r1"},
    .is_of_template = is_v3,
    .opens = {CALLS_BEGIN, CALL_BEGIN},
    .keeps_special = true,
    .state_size = sizeof(struct deepseek_calls),
    .read = read_calls,
    .write_call = write_v3,
    .before = CALLS_BEGIN,
    .between = "\n",
    .after = CALLS_END,
    .tokens = {CALLS_BEGIN, CALLS_END, CALL_BEGIN, CALL_END, SEPARATOR},
};

const struct tool_format tool_format_deepseek_v31 = {
    .name = "deepseek-v3.1",
    .aliases = {"deepseek_v31", "deepseekv31", "deepseek-v31"},
    .is_of_template = is_v31,
    .opens = {CALLS_BEGIN, CALL_BEGIN},
    .keeps_special = true,
    .state_size = sizeof(struct deepseek_calls),
    .read = read_calls,
    .write_call = write_v31,
    .before = CALLS_BEGIN,
    .after = CALLS_END,
    .tokens = {CALLS_BEGIN, CALLS_END, CALL_BEGIN, CALL_END, SEPARATOR},
};
