/* reply_plan.h - how answers to one request are taken apart: one plan, whatever the number of answers. Any
 * thread, one at a time; immutable once made. */
#ifndef LM_AGENT_REPLY_PLAN_H
#define LM_AGENT_REPLY_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/reply_parser.h"

struct reply_formats;

struct reply_plan {
    struct reply_options options; // its list is `list`
    struct tool_list *list;       // owned: the request goes before its answers. NULL: none can call
    bool is_parsed;               // else all is content, and options are nothing
    const int32_t *shown;         // special tokens that the parser has to see; outlive the reply
    int shown_count;
    int calls_max;  // what comes beyond is dropped; 0: nothing is
    bool must_call; // the grammar allows calls only: content is a beginning of one
    bool is_named;  // of a tool that the client named
};

/* For a request with those tools, which are copied, and that prompt. thinking: as in struct
 * template_fields. Schemas take a while: for worker threads. */
void reply_plan_make(const struct reply_formats *f, const struct tool_list *tools,
                     struct str prompt, int thinking, struct reply_plan *out);
void reply_plan_deinit(struct reply_plan *p); // zeroed is fine

#endif
