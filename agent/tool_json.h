/* tool_json.h - calls written as JSON objects: {"name": "...", "arguments": {...}}, the members in any
 * order, "parameters" for "arguments"; and blocks of such objects, which most formats are. */
#ifndef LM_AGENT_TOOL_JSON_H
#define LM_AGENT_TOOL_JSON_H

#include "agent/tool_reader.h"

#define TOOL_KEY_BYTES 12 // more than the longest key that means something

/* One object. Zeroed where it begins. */
struct tool_object {
    int state;
    struct json_text text; // of a key or the name
    char name[TOOL_NAME_BYTES + JSON_TEXT_BYTES], key[TOOL_KEY_BYTES + JSON_TEXT_BYTES];
    size_t name_len, key_len;
    struct json_stream value; // of a member that means nothing
    bool has_arguments;
    size_t arguments_at, arguments_end; // from the call's beginning on; of those before the name
    struct tool_arguments arguments;
};

/* From white space before the object on. DONE: behind it, or where it broke off after its name. */
enum tool_read tool_object_read(struct tool_object *o, struct tool_scan *s,
                                const struct tool_input *in, struct tool_output *out);

/* A block: a tag, objects, a tag. */
struct tool_block_tags {
    const char *begin;   // behind the opening, where it is there: "["
    char separator;      // between objects; 0: there is one object
    const char *ends[3]; // one after the other, as far as they are there; NULL-terminated
};

struct tool_block {
    struct tool_scan scan;
    int state;
    int ends; // that were there
    struct tool_object object;
};

/* A format's `read`. opening: bytes of it, 0 where the object stands alone. */
size_t tool_block_read(struct tool_block *b, const struct tool_block_tags *tags, size_t opening,
                       const struct tool_input *in, struct tool_output *out);

/* The object's part of a grammar: {"name": "NAME", KEY: arguments}. */
void tool_object_write(struct json_writer *w, const struct tool *tool, const char *key);

#endif
