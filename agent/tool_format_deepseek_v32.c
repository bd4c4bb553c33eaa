/* DeepSeek V3.2 (and V4, which says tool_calls for function_calls):
 *
 *     <｜DSML｜function_calls>
 *     <｜DSML｜invoke name="NAME">
 *     <｜DSML｜parameter name="KEY" string="true">TEXT</｜DSML｜parameter>
 *     <｜DSML｜parameter name="KEY" string="false">JSON</｜DSML｜parameter>
 *     </｜DSML｜invoke>
 *     </｜DSML｜function_calls> */
#include "agent/tool_formats.h"
#include "agent/tool_xml.h"

#define DSML        "｜DSML｜"
#define BLOCK_OPEN  "<" DSML "function_calls>"
#define BLOCK_CLOSE "</" DSML "function_calls>"
#define V4_OPEN     "<" DSML "tool_calls>"
#define V4_CLOSE    "</" DSML "tool_calls>"

#define TAGS(open, close)                                                                     \
    {                                                                                         \
        .block_open = (open), .block_close = (close), .call_open = "<" DSML "invoke name=\"", \
        .name_close = "\">", .call_close = "</" DSML "invoke>",                               \
        .key_open = "<" DSML "parameter name=\"", .key_close = "\">",                         \
        .value_close = "</" DSML "parameter>", .has_attribute = true,                         \
    }

static const struct tool_xml_tags v32 = TAGS(BLOCK_OPEN, BLOCK_CLOSE);
static const struct tool_xml_tags v4 = TAGS(V4_OPEN, V4_CLOSE);

static bool is_v32(struct str t)
{
    return tool_template_has(t, DSML) && tool_template_has(t, "function_calls");
}

static bool is_v4(struct str t)
{
    return tool_template_has(t, DSML) && tool_template_has(t, "tool_calls>");
}

static size_t read_v32(void *state, const struct tool_input *in, struct tool_output *out)
{
    return tool_xml_read(state, &v32, in, out);
}

static size_t read_v4(void *state, const struct tool_input *in, struct tool_output *out)
{
    return tool_xml_read(state, &v4, in, out);
}

static void write_call(struct json_writer *w, const struct tool *tool)
{
    const char *const *tokens = tool_format_deepseek_v32.tokens;
    tool_write_text(w, tokens, v32.call_open);
    tool_write_name(w, tool);
    tool_write_text(w, tokens, v32.name_close);
    tool_xml_write_values(w, &v32, tokens, tool, "\n");
    tool_write_text(w, tokens, v32.call_close);
}

const struct tool_format tool_format_deepseek_v32 = {
    .name = "deepseek-v3.2",
    .aliases = {"deepseek-v32", "deepseek_v32", "v3.2", "deepseekv32"},
    .is_of_template = is_v32,
    .opens = {BLOCK_OPEN},
    .needs_parameters = true,
    .state_size = sizeof(struct tool_xml),
    .read = read_v32,
    .write_call = write_call,
    .before = BLOCK_OPEN "\n",
    .between = "\n",
    .after = "\n" BLOCK_CLOSE,
    .tokens = {DSML},
};

const struct tool_format tool_format_deepseek_v4 = {
    .name = "deepseek-v4",
    .aliases = {"deepseek_v4", "deepseekv4"},
    .is_of_template = is_v4,
    .opens = {V4_OPEN},
    .needs_parameters = true,
    .state_size = sizeof(struct tool_xml),
    .read = read_v4,
    .write_call = write_call,
    .before = V4_OPEN "\n",
    .between = "\n",
    .after = "\n" V4_CLOSE,
    .tokens = {DSML},
};
