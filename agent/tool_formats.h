/* tool_formats.h - the formats there are, and what their files say them with. */
#ifndef LM_AGENT_TOOL_FORMATS_H
#define LM_AGENT_TOOL_FORMATS_H

#include "agent/tool_format.h"

extern const struct tool_format tool_format_hermes;
extern const struct tool_format tool_format_llama3;

/* Whether the template's text has that in it. Quotes in a template's literals may be escaped: a quote
 * stands for either. */
bool tool_template_has(struct str chat_template, const char *text);

#endif
