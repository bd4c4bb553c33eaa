/* InternLM 2, 2.5, 3 and Intern-S1:
 *
 *     <|action_start|><|plugin|>
 *     {"name": "NAME", "parameters": {...}}<|action_end|> */
#include "agent/tool_formats.h"
#include "agent/tool_json.h"

#define OPENING "<|action_start|><|plugin|>"
#define CLOSING "<|action_end|>"

static bool is_of_template(struct str t)
{
    return tool_template_has(t, "<|action_start|>") && tool_template_has(t, "<|plugin|>");
}

static size_t read_calls(void *state, const struct tool_input *in, struct tool_output *out)
{
    static const struct tool_block_tags tags = {.separator = ',', .ends = {CLOSING}};
    return tool_block_read(state, &tags, strlen(OPENING), in, out);
}

static void write_call(struct json_writer *w, const struct tool *tool)
{
    tool_write_text(w, tool_format_internlm.tokens, OPENING "\n");
    tool_object_write(w, tool, "parameters");
    tool_write_text(w, tool_format_internlm.tokens, CLOSING);
}

const struct tool_format tool_format_internlm = {
    .name = "internlm",
    .aliases = {"intern-s1", "intern_s1", "internlm2", "internlm3"},
    .is_of_template = is_of_template,
    .opens = {OPENING},
    .state_size = sizeof(struct tool_block),
    .read = read_calls,
    .write_call = write_call,
    .between = "\n",
    .tokens = {"<|action_start|>", "<|plugin|>", CLOSING},
};
