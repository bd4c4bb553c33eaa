/* GLM 4.5, 4.6 (with the newlines) and 4.7 (without):
 *
 *     <tool_call>NAME
 *     <arg_key>KEY</arg_key>
 *     <arg_value>VALUE</arg_value>
 *     </tool_call> */
#include "agent/tool_formats.h"
#include "agent/tool_xml.h"

static const struct tool_xml_tags tags = {
    .block_open = "<tool_call>",
    .name_close = "\n",
    .call_close = "</tool_call>",
    .key_open = "<arg_key>",
    .key_close = "</arg_key>",
    .value_open = "<arg_value>",
    .value_close = "</arg_value>",
};

static bool is_of_template(struct str t)
{
    return tool_template_has(t, "<tool_call>") && tool_template_has(t, "<arg_key>");
}

static size_t read_calls(void *state, const struct tool_input *in, struct tool_output *out)
{
    return tool_xml_read(state, &tags, in, out);
}

static void write_call(struct json_writer *w, const struct tool *tool)
{
    const char *const *tokens = tool_format_glm.tokens;
    tool_write_text(w, tokens, "<tool_call>");
    tool_write_name(w, tool);
    tool_xml_write_values(w, &tags, tokens, tool, "\n");
    tool_write_text(w, tokens, "</tool_call>");
}

const struct tool_format tool_format_glm = {
    .name = "glm",
    .aliases = {"glm47", "glm45", "glm4_moe", "glm46"},
    .is_of_template = is_of_template,
    .opens = {"<tool_call>"},
    .needs_parameters = true,
    .state_size = sizeof(struct tool_xml),
    .read = read_calls,
    .write_call = write_call,
    .between = "\n",
    .tokens = {"<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>",
               "</arg_value>"},
};
