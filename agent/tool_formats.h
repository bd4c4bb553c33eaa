/* tool_formats.h - the formats there are, and what their files say them with. */
#ifndef LM_AGENT_TOOL_FORMATS_H
#define LM_AGENT_TOOL_FORMATS_H

#include "agent/tool_format.h"

extern const struct tool_format tool_format_hermes;
extern const struct tool_format tool_format_llama3;
extern const struct tool_format tool_format_internlm;
extern const struct tool_format tool_format_mistral;
extern const struct tool_format tool_format_mistral_list;
extern const struct tool_format tool_format_deepseek_v3;
extern const struct tool_format tool_format_deepseek_v31;
extern const struct tool_format tool_format_deepseek_v32;
extern const struct tool_format tool_format_deepseek_v4;
extern const struct tool_format tool_format_qwen3coder;
extern const struct tool_format tool_format_seed;
extern const struct tool_format tool_format_glm;
extern const struct tool_format tool_format_kimi;
extern const struct tool_format tool_format_gpt_oss;

/* Whether the template's source has that in it, as it stands. */
bool tool_template_has(struct str chat_template, const char *text);

#endif
