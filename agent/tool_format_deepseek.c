/* DeepSeek V3, R1 and V3.1, without spaces and lines that aren't there:
 *
 *     <｜tool▁calls▁begin｜>
 *       <｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n```json\n{...}\n```<｜tool▁call▁end｜>     V3, R1
 *       <｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{...}<｜tool▁call▁end｜>                           V3.1
 *     <｜tool▁calls▁end｜>
 *
 * Both are read whatever the format's name is; grammars differ. */
#include "agent/tool_formats.h"
#include "agent/tool_section.h"

#define CALLS_BEGIN "<｜tool▁calls▁begin｜>"
#define CALLS_END   "<｜tool▁calls▁end｜>"
#define CALL_BEGIN  "<｜tool▁call▁begin｜>"
#define CALL_END    "<｜tool▁call▁end｜>"
#define SEPARATOR   "<｜tool▁sep｜>"

static const struct tool_section_tags tags = {
    .begin = CALLS_BEGIN,
    .end = CALLS_END,
    .call_begin = CALL_BEGIN,
    .call_end = CALL_END,
    .separator = SEPARATOR,
};

static bool is_v3(struct str t)
{
    return tool_template_has(t, CALL_BEGIN) && tool_template_has(t, "```json");
}

static bool is_v31(struct str t)
{
    return tool_template_has(t, CALL_BEGIN) && !tool_template_has(t, "```json");
}

static size_t read_calls(void *state, const struct tool_input *in, struct tool_output *out)
{
    return tool_section_read(state, &tags, in, out);
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
    .state_size = sizeof(struct tool_section),
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
    .state_size = sizeof(struct tool_section),
    .read = read_calls,
    .write_call = write_v31,
    .before = CALLS_BEGIN,
    .after = CALLS_END,
    .tokens = {CALLS_BEGIN, CALLS_END, CALL_BEGIN, CALL_END, SEPARATOR},
};
