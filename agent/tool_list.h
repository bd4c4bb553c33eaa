/* tool_list.h - the tools that a request offers, and which of them the model may or must call.
 * Borrows from the request's document. Pure; any thread. */
#ifndef LM_AGENT_TOOL_LIST_H
#define LM_AGENT_TOOL_LIST_H

#include <stdbool.h>
#include <stddef.h>

#include "shared/base/json.h"
#include "shared/base/str.h"

#define TOOLS_MAX      128 // OpenAI's
/* Calls of one answer that has to be calls, so that a weak model comes to an end before its context does. As
 * many as there can be tools. */
#define TOOL_CALLS_MAX 128

struct tool {
    struct str name;               // 1 to 64 of a-z, A-Z, 0-9, _ and -
    const struct json *parameters; // a JSON Schema; NULL: none was given, arguments are any object
    bool is_strict;
};

enum tool_choice {
    TOOL_CHOICE_NONE,     // no call comes out
    TOOL_CHOICE_AUTO,     // text, calls, or both
    TOOL_CHOICE_REQUIRED, // one of the tools at least; a named choice is a list of one
};

struct tool_list {
    const struct tool *items; // those that may be called
    size_t count;
    enum tool_choice choice;
    bool is_named; // the client named the one tool
    int calls_max; // 1 without parallel_tool_calls; 0: any number, where they are demanded TOOL_CALLS_MAX
};

/* NULL: there is none of that name. */
const struct tool *tool_list_find(const struct tool_list *l, struct str name);

/* A copy that owns its names and, with_parameters, its schemas. */
struct tool_list *tool_list_create_copy(const struct tool_list *l, bool with_parameters);
void tool_list_destroy_copy(struct tool_list *copy); // NULL is fine

#endif
