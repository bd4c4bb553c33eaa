/* reasoning_format.h - how families of models mark what they think before they answer. */
#ifndef LM_AGENT_REASONING_FORMAT_H
#define LM_AGENT_REASONING_FORMAT_H

#include <stdbool.h>

#include "shared/base/str.h"

enum reasoning_start {
    REASONING_BY_TAG,    // the model writes the opening tag, or it doesn't think
    REASONING_BY_PROMPT, // or the prompt ends with it: see reasoning_format_starts_in
    REASONING_ALWAYS,    // the answer begins inside unless thinking was turned off
};

struct reasoning_format {
    const char *name;       // of --reasoning-parser
    const char *aliases[8]; // NULL-terminated
    const char *open, *close;
    enum reasoning_start start;
    bool (*is_of_template)(struct str chat_template);
};

const struct reasoning_format *reasoning_format_find(const char *name); // NULL: no such
const struct reasoning_format *reasoning_format_of_template(struct str chat_template); // NULL: none
const char *reasoning_format_names(void);
/* Whether an answer to that prompt begins inside of reasoning. thinking: 1 and 0 as the request says by
 * enable_thinking, -1: it doesn't. */
bool reasoning_format_starts_in(const struct reasoning_format *f, struct str prompt, int thinking);

#endif
