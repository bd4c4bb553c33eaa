/* json_stream.h - follows JSON that comes in pieces: where a value ends, what a string says.
 *
 * It bounds a value, it doesn't check it: whatever can't stand in JSON outside of strings ends it, the
 * rest is for who parses the whole. Zeroed at the value's first byte. Pure; any thread. */
#ifndef LM_AGENT_JSON_STREAM_H
#define LM_AGENT_JSON_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shared/base/str.h"

struct json_stream {
    char first; // byte of the value: '{', '[', '"', or that of a number or a word; 0: none yet
    int depth;
    bool in_string, is_escaped;
    bool is_over;
    bool is_broken; // it ended at what no JSON has there
};

/* How many bytes from the front are of the value. Fewer than all: it is over. */
size_t json_stream_read(struct json_stream *s, struct str text);

/* The inside of a string, from behind its opening quote on. */
struct json_text {
    uint32_t code, high; // of \u: what is there of it; a first half that waits for its second
    int digits;          // of \u that are to come
    bool is_escaped;
    bool is_over; // the closing quote was read
};

#define JSON_TEXT_BYTES 12
/* What the next byte adds to the text; its length. Lone surrogates are U+FFFD; an escape that there
 * isn't stays as it is. */
size_t json_text_read(struct json_text *t, char byte, char out[JSON_TEXT_BYTES]);

static inline bool json_is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

#endif
