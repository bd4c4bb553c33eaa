/* tool_format.h - how families of models write calls of tools: one file each, tool_format_NAME.c, and a
 * row in tool_format.c. */
#ifndef LM_AGENT_TOOL_FORMAT_H
#define LM_AGENT_TOOL_FORMAT_H

#include <stdbool.h>
#include <stddef.h>

#include "agent/reply_parser.h"
#include "shared/base/json.h"

#define TOOL_FORMAT_OPENS_MAX 4

/* What a format's reader gets: all text from the opening on that it hasn't consumed yet. */
struct tool_input {
    struct str text;
    bool is_last; // nothing follows
    const struct tool_list *list;
};

struct tool_output {
    const struct reply_sink *sink;
    int calls;    // begun so far in the answer; the reader counts
    bool is_over; // the block has ended; what follows is content, or another opening
    bool is_none; // it was no call after all: the whole block is content. Only before a name is out
};

struct tool_format {
    const char *name;       // of --tool-call-parser
    const char *aliases[8]; // NULL-terminated
    /* Whether that chat template writes calls so. */
    bool (*is_of_template)(struct str chat_template);
    /* What begins a block of calls in the text. */
    const char *opens[TOOL_FORMAT_OPENS_MAX + 1]; // NULL-terminated
    bool opens_at_start; // or the answer's first character is '{' or '[', though no tag came
    bool keeps_special;  // tags are special tokens, which the text must show
    size_t state_size;   // of a reader, zeroed where a block begins
    /* Consume a prefix of the input, which begins with the opening in the first call, say what it is, and
     * return its length. With is_last, all of it. */
    size_t (*read)(void *state, const struct tool_input *in, struct tool_output *out);
    /* Write the part (engine/grammar.h, GRAMMAR_PARTS) that one call of this tool is, whole with its tags;
     * is_first: of its answer. */
    void (*write_call)(struct json_writer *w, const struct tool *tool, bool is_first);
    /* What stands before the first call and after the last one, and between two; NULL: nothing. */
    const char *before, *between, *after;
};

const struct tool_format *tool_format_find(const char *name); // NULL: no such
const struct tool_format *tool_format_of_template(struct str chat_template); // NULL: none is known
/* "hermes, qwen3-coder, ..." for --help and errors. */
const char *tool_format_names(void);

/* Write the grammar's source for what these tools allow: with AUTO, any text, and calls of the strict
 * tools as they must be; with REQUIRED, calls only. False: AUTO, and nothing needs enforcing. */
bool tool_format_write_grammar(const struct tool_format *f, const struct tool_list *list,
                               struct json_writer *w);

#endif
