/* reasoning_format.h - how families of models mark what they think before they answer. Pure; any thread. */
#ifndef LM_AGENT_REASONING_FORMAT_H
#define LM_AGENT_REASONING_FORMAT_H

#include <stdbool.h>

#include "shared/base/str.h"

struct tool_format;

enum reasoning_start {
    REASONING_BY_PROMPT, // the prompt ends with the opening tag, or the model writes it, or doesn't think
    REASONING_IF_ASKED, // the same, and the answer begins inside where thinking was turned on
    REASONING_ALWAYS,   // the answer begins inside unless thinking was turned off
};

struct reasoning_format {
    const char *name;         // of --reasoning-parser
    const char *aliases[8];   // NULL-terminated
    const char *open, *close; // NULL: `whole` tells them apart
    enum reasoning_start start;
    /* Reads all of an answer, reasoning, content and calls: reply_parser uses it whatever the tools'
     * format is. NULL: there are tags. */
    const struct tool_format *whole;
    bool (*is_of_template)(struct str chat_template);
};

const struct reasoning_format *reasoning_format_find(const char *name); // NULL: no such
const struct reasoning_format *reasoning_format_of_template(struct str chat_template); // NULL: none
const char *reasoning_format_names(void);
/* Whether an answer to that prompt begins inside of reasoning. thinking: 1 and 0 as the request says by
 * enable_thinking, -1: it doesn't. A prompt that ends with a tag has the last word. */
bool reasoning_format_starts_in(const struct reasoning_format *f, struct str prompt, int thinking);

#endif
