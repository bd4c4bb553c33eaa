/* Hermes, Qwen 2.5, Qwen 3 and many others:
 *
 *     <tool_call>
 *     {"name": "NAME", "arguments": {...}}
 *     </tool_call>                                  for each call */
#include "agent/tool_formats.h"
#include "agent/tool_json.h"

static bool is_of_template(struct str t)
{
    return tool_template_has(t, "<tool_call>") && tool_template_has(t, "\"name\"") &&
           tool_template_has(t, "</tool_call>");
}

static size_t read_calls(void *state, const struct tool_input *in, struct tool_output *out)
{
    static const struct tool_block_tags tags = {.ends = {"</tool_call>"}};
    return tool_block_read(state, &tags, strlen("<tool_call>"), in, out);
}

static void write_call(struct json_writer *w, const struct tool *tool)
{
    tool_write_text(w, tool_format_hermes.tokens, "<tool_call>\n");
    tool_object_write(w, tool, "arguments");
    tool_write_text(w, tool_format_hermes.tokens, "\n</tool_call>");
}

const struct tool_format tool_format_hermes = {
    .name = "hermes",
    .aliases = {"qwen2d5", "qwen", "qwen3", "qwen25", "qwen2.5"},
    .is_of_template = is_of_template,
    .opens = {"<tool_call>"},
    .state_size = sizeof(struct tool_block),
    .read = read_calls,
    .write_call = write_call,
    .between = "\n",
    .tokens = {"<tool_call>", "</tool_call>"},
};
