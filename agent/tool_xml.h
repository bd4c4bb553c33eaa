/* tool_xml.h - calls written with tags around names and values, as Qwen3-Coder, GLM and DeepSeek V3.2
 * write them: their readers, and their parts of grammars. */
#ifndef LM_AGENT_TOOL_XML_H
#define LM_AGENT_TOOL_XML_H

#include "agent/tool_values.h"

struct tool_xml_tags {
    const char *block_open,
        *block_close;      // around calls; may be left out where call_open isn't NULL
    const char *call_open; // NULL: block_open is it, and there is one call
    const char *name_close, *call_close;
    const char *key_open, *key_close;
    const char *value_open; // NULL: key_close is it
    const char *value_close;
    bool strips;        // a newline at both ends of a value
    bool has_attribute; // keys are followed by `" string="true"` or false
};

struct tool_xml {
    struct tool_scan scan;
    int state;
    const struct tool *tool; // of the call in hand; NULL: it isn't known
    struct tool_values values;
};

/* A format's `read`. */
size_t tool_xml_read(struct tool_xml *x, const struct tool_xml_tags *tags,
                     const struct tool_input *in, struct tool_output *out);

/* What of a call there is between its name and call_close: newline stands before each tag. */
void tool_xml_write_values(struct json_writer *w, const struct tool_xml_tags *tags,
                           const char *const *tokens, const struct tool *tool, const char *newline);

#endif
