/* tool_format.h - how families of models write calls of tools: one file each, tool_format_NAME.c, and a
 * row in tool_format.c. What readers share is in tool_reader.h. */
#ifndef LM_AGENT_TOOL_FORMAT_H
#define LM_AGENT_TOOL_FORMAT_H

#include <stdbool.h>
#include <stddef.h>

#include "agent/reply_parser.h"
#include "shared/base/json.h"

#define TOOL_FORMAT_OPENS_MAX 4
/* Of what has to be held until it is known whether it is a call, or of which type a value is. Beyond
 * it, the text is content, the value is a string. */
#define TOOL_HELD_MAX         ((size_t)1 << 20)

/* What a format's reader gets: all text from the opening on that it hasn't consumed yet. */
struct tool_input {
    struct str text;
    bool is_last;                 // nothing follows
    const struct tool_list *list; // NULL: any name is a tool
};

struct tool_output {
    const struct reply_sink *sink;
    int calls;    // begun so far in the answer; the reader counts
    bool is_over; // the block has ended; what follows is content, or another opening
    bool is_none; // it was no call: the opening is content. Only while nothing was consumed
};

struct tool_format {
    const char *name;       // of --tool-call-parser
    const char *aliases[8]; // NULL-terminated
    /* Whether that chat template writes calls so. The first row that says so has it. */
    bool (*is_of_template)(struct str chat_template);
    /* What begins a block of calls in the text. */
    const char *opens[TOOL_FORMAT_OPENS_MAX + 1]; // NULL-terminated
    char opens_at_start; // or this is the answer's first character, though no tag came; 0: no such
    const char *text_begin; // then: a regular expression for how a text begins that is no call
    bool needs_parameters;  // the reader looks at the tools' schemas
    size_t state_size;      // of a reader, zeroed where a block begins; it owns nothing
    /* Consume a prefix of the input, which begins with the opening in the first call, say what it is, and
     * return its length. Nothing is consumed until a call's name is out, or it is clear that none will
     * be. With is_last: all of it, or is_none, or is_over. */
    size_t (*read)(void *state, const struct tool_input *in, struct tool_output *out);
    /* Write the parts (engine/grammar.h, GRAMMAR_PARTS), one after the other, that a call of this tool
     * is, whole with its tags. Arguments follow the tool's schema where it is strict, else they are any
     * object. */
    void (*write_call)(struct json_writer *w, const struct tool *tool);
    /* Where an answer isn't text with blocks of calls in it: the whole grammar, of a choice that needs
     * one. NULL: it is. */
    void (*write_grammar)(struct json_writer *w, const struct tool_list *list);
    /* And what an answer is whose content is that part, without calls. NULL: the part. */
    void (*write_content)(struct json_writer *w, struct str part);
    /* What stands before the first call and after the last one, and between two; NULL: nothing. */
    const char *before, *between, *after;
    /* Those of the tags that vocabularies have as a token of its own; NULL-terminated. */
    const char *tokens[8];
};

const struct tool_format *tool_format_find(const char *name);                // NULL: no such
const struct tool_format *tool_format_of_template(struct str chat_template); // NULL: none is known
/* "hermes, qwen2d5, ..." for --help and errors. */
const char *tool_format_names(void);

/* Write the grammar's source for what these tools allow: with AUTO, any text, and calls of the strict
 * tools as they must be; with REQUIRED, calls only. False: AUTO, and nothing needs enforcing. */
bool tool_format_write_grammar(const struct tool_format *f, const struct tool_list *list,
                               struct json_writer *w);
/* Likewise for answers without calls, whose content is that part; its data NULL: any. f NULL: none is
 * looked for. False: any answer will do. */
bool tool_format_write_content(const struct tool_format *f, struct str part, struct json_writer *w);

#endif
