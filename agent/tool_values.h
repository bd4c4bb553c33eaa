/* tool_values.h - arguments that models write one by one as text, put out as one JSON object.
 *
 * The tool's schema says what a text is: a string goes out as it comes, anything else waits for its end.
 * What the schema doesn't type is JSON if it reads as such. A text that isn't of its type is a string. */
#ifndef LM_AGENT_TOOL_VALUES_H
#define LM_AGENT_TOOL_VALUES_H

#include "agent/tool_reader.h"

enum tool_type {
    TOOL_STRING = 1,
    TOOL_NUMBER = 2,
    TOOL_BOOL = 4,
    TOOL_NULL = 8,
    TOOL_OBJECT = 16,
    TOOL_ARRAY = 32,
    TOOL_ANY = 63,
};

/* What the schema of that parameter allows; TOOL_ANY where it says nothing. */
unsigned tool_types_of(const struct tool *tool, struct str parameter);

/* The same of a schema within the tool's; and what its "$ref" means, NULL where it has none. */
unsigned tool_schema_types(const struct json *schema, const struct json *root);
const struct json *tool_schema_target(const struct json *schema, const struct json *root);

#define TOOL_KEYS_MAX 256 // of a call; more are left out

struct tool_values {
    int count;                    // that were put out
    uint64_t keys[TOOL_KEYS_MAX]; // hashes
    /* of the value in hand */
    unsigned types;
    bool has_begun;   // its first character is known
    bool is_string;   // and goes out as it comes
    bool is_repeated; // there was one of that name: not put out
    size_t looked;    // how far its end was looked for
};

/* key: 1 to 256 bytes. */
void tool_value_begin(struct tool_values *v, struct str key, unsigned types,
                      const struct tool_output *out);
/* Up to the tag, and over it. strips: a newline after the beginning and one before the tag aren't the
 * value's. */
enum tool_read tool_value_read(struct tool_values *v, struct tool_scan *s,
                               const struct tool_input *in, const struct tool_output *out,
                               const char *tag, bool strips);
void tool_values_end(const struct tool_values *v, const struct tool_output *out);

#endif
