/* tool_section.h - calls in a section of their own, each with a name, a separator and arguments, between
 * special tokens: as DeepSeek's and Moonshot's models write them. */
#ifndef LM_AGENT_TOOL_SECTION_H
#define LM_AGENT_TOOL_SECTION_H

#include "agent/tool_reader.h"

struct tool_section_tags {
    const char *begin, *end;           // of the section; may be left out
    const char *call_begin, *call_end; // of each call
    const char *separator;             // between its name, or its kind, and its arguments
    bool has_ids;                      // for its name: "functions.NAME:0"
};

struct tool_section {
    struct tool_scan scan;
    int state;
    char kind[TOOL_NAME_BYTES + 32];
    size_t kind_len;
    struct tool_arguments arguments;
};

/* A format's `read`. Behind a separator that follows a kind: "NAME\n```json\n{...}\n```". */
size_t tool_section_read(struct tool_section *c, const struct tool_section_tags *tags,
                         const struct tool_input *in, struct tool_output *out);

#endif
