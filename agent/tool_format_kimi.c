/* Kimi K2:
 *
 *     <|tool_calls_section_begin|>
 *       <|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{...}<|tool_call_end|>
 *     <|tool_calls_section_end|>
 *
 * without spaces and lines that aren't there. The number counts calls of the whole conversation. */
#include "agent/tool_formats.h"
#include "agent/tool_section.h"

#define CALLS_BEGIN "<|tool_calls_section_begin|>"
#define CALLS_END   "<|tool_calls_section_end|>"
#define CALL_BEGIN  "<|tool_call_begin|>"
#define CALL_END    "<|tool_call_end|>"
#define SEPARATOR   "<|tool_call_argument_begin|>"

static const struct tool_section_tags tags = {
    .begin = CALLS_BEGIN,
    .end = CALLS_END,
    .call_begin = CALL_BEGIN,
    .call_end = CALL_END,
    .separator = SEPARATOR,
    .has_ids = true,
};

static bool is_of_template(struct str t)
{
    return tool_template_has(t, CALLS_BEGIN) && tool_template_has(t, SEPARATOR);
}

static size_t read_calls(void *state, const struct tool_input *in, struct tool_output *out)
{
    return tool_section_read(state, &tags, in, out);
}

static void write_call(struct json_writer *w, const struct tool *tool)
{
    const char *const *tokens = tool_format_kimi.tokens;
    tool_write_text(w, tokens, CALL_BEGIN "functions.");
    tool_write_name(w, tool);
    json_object_begin(w);
    json_field_text(w, "regex", ":[0-9]{1,4}");
    json_object_end(w);
    tool_write_text(w, tokens, SEPARATOR);
    tool_write_arguments(w, tool);
    tool_write_text(w, tokens, CALL_END);
}

const struct tool_format tool_format_kimi = {
    .name = "kimi-k2",
    .aliases = {"kimi_k2"},
    .is_of_template = is_of_template,
    .opens = {CALLS_BEGIN, CALL_BEGIN},
    .state_size = sizeof(struct tool_section),
    .read = read_calls,
    .write_call = write_call,
    .before = CALLS_BEGIN,
    .after = CALLS_END,
    .tokens = {CALLS_BEGIN, CALLS_END, CALL_BEGIN, CALL_END, SEPARATOR},
};
