/* Qwen3-Coder, Qwen 3.5 and others:
 *
 *     <tool_call>
 *     <function=NAME>
 *     <parameter=KEY>
 *     VALUE
 *     </parameter>
 *     </function>
 *     </tool_call>
 *
 * Models leave out <tool_call> at times. Seed-OSS writes <seed:tool_call>, and values without the
 * newlines. */
#include "agent/tool_formats.h"
#include "agent/tool_xml.h"

static const struct tool_xml_tags tags = {
    .block_open = "<tool_call>",
    .block_close = "</tool_call>",
    .call_open = "<function=",
    .name_close = ">",
    .call_close = "</function>",
    .key_open = "<parameter=",
    .key_close = ">",
    .value_close = "</parameter>",
    .strips = true,
};

static const struct tool_xml_tags seed_tags = {
    .block_open = "<seed:tool_call>",
    .block_close = "</seed:tool_call>",
    .call_open = "<function=",
    .name_close = ">",
    .call_close = "</function>",
    .key_open = "<parameter=",
    .key_close = ">",
    .value_close = "</parameter>",
};

static bool is_of_template(struct str t)
{
    return tool_template_has(t, "<tool_call>") && tool_template_has(t, "<function=") &&
           tool_template_has(t, "<parameter=");
}

static size_t read_calls(void *state, const struct tool_input *in, struct tool_output *out)
{
    return tool_xml_read(state, &tags, in, out);
}

static void write_call(struct json_writer *w, const struct tool *tool)
{
    const char *const *tokens = tool_format_qwen3coder.tokens;
    tool_write_text(w, tokens, "<tool_call>\n<function=");
    tool_write_name(w, tool);
    tool_write_text(w, tokens, ">");
    tool_xml_write_values(w, &tags, tokens, tool, "\n");
    tool_write_text(w, tokens, "</function>\n</tool_call>");
}

const struct tool_format tool_format_qwen3coder = {
    .name = "qwen3coder",
    .aliases = {"qwen3_coder", "qwen3-coder", "qwen3_xml", "interns2-preview"},
    .is_of_template = is_of_template,
    .opens = {"<tool_call>", "<function="},
    .needs_parameters = true,
    .state_size = sizeof(struct tool_xml),
    .read = read_calls,
    .write_call = write_call,
    .between = "\n",
    .tokens = {"<tool_call>", "</tool_call>"},
};

static bool is_seed(struct str t)
{
    return tool_template_has(t, "<seed:tool_call>");
}

static size_t read_seed(void *state, const struct tool_input *in, struct tool_output *out)
{
    return tool_xml_read(state, &seed_tags, in, out);
}

static void write_seed(struct json_writer *w, const struct tool *tool)
{
    const char *const *tokens = tool_format_seed.tokens;
    tool_write_text(w, tokens, "<seed:tool_call>\n<function=");
    tool_write_name(w, tool);
    tool_write_text(w, tokens, ">");
    tool_xml_write_values(w, &seed_tags, tokens, tool, "\n");
    tool_write_text(w, tokens, "</function>\n</seed:tool_call>");
}

const struct tool_format tool_format_seed = {
    .name = "seed-oss",
    .aliases = {"seed_oss"},
    .is_of_template = is_seed,
    .opens = {"<seed:tool_call>", "<function="},
    .needs_parameters = true,
    .state_size = sizeof(struct tool_xml),
    .read = read_seed,
    .write_call = write_seed,
    .between = "\n",
    .tokens = {"<seed:tool_call>", "</seed:tool_call>"},
};
