/* tool_reader.h - what readers of calls share: what they have looked at, names, arguments.
 *
 * A reader goes over the text once, however it is cut: `scan` says how far it came. What it looked at
 * stays in the input until it is certain what it is, which is bounded by TOOL_HELD_MAX. */
#ifndef LM_AGENT_TOOL_READER_H
#define LM_AGENT_TOOL_READER_H

#include "agent/json_stream.h"
#include "agent/reply_tag.h"
#include "agent/tool_format.h"

#define TOOL_NAME_BYTES 65 // 64 and one more, to see that it is too long
#define TOOL_SPACE_MAX  64 // bytes of white space between parts of a call

struct tool_scan {
    size_t at;      // in the input: what was looked at
    size_t call_at; // where the last call begins, its tags and separators with it
    bool is_out;    // its name is
    bool has_call;  // or that of one before
};

enum tool_read {
    TOOL_READ_MORE, // all was looked at, more is needed
    TOOL_READ_DONE,
    TOOL_READ_NONE, // it isn't what it should be
};

/* Another call may begin here. */
void tool_scan_begin_call(struct tool_scan *s);
/* What the reader's function returns, how ever it ends. */
size_t tool_scan_take(struct tool_scan *s);
/* The call in hand is none: with none before it in this block, neither is the block; else the block is
 * over before it. Returns as above. */
size_t tool_scan_fail(struct tool_scan *s, struct tool_output *out);
/* What follows is no call's: as tool_scan_fail where the one in hand isn't out yet, else the block is
 * over; at the text's end with what of a tag is there. Returns as above. */
size_t tool_scan_end(struct tool_scan *s, const struct tool_input *in, struct tool_output *out);
/* Nothing is left to say: the text was all of it. Returns as above. */
size_t tool_scan_finish(struct tool_scan *s, const struct tool_input *in, struct tool_output *out);

/* White space and then the tag: behind it. NONE: `at` is where it was. */
enum tool_read tool_scan_tag(struct tool_scan *s, const struct tool_input *in, const char *tag);
/* White space: before what follows it. MORE: nothing does yet. */
enum tool_read tool_scan_space(struct tool_scan *s, const struct tool_input *in);

/* Text of at most `max` bytes, up to the first of the tags; `at` is before that tag. */
enum tool_read tool_scan_until(struct tool_scan *s, const struct tool_input *in,
                               const char *const *tags, size_t max, struct str *text, int *which);
/* The same for a name, without white space around it. */
enum tool_read tool_scan_name(struct tool_scan *s, const struct tool_input *in,
                              const char *const *tags, struct str *name, int *which);

/* A call begins, if there is such a tool. */
bool tool_put_call(struct tool_scan *s, const struct tool_input *in, struct tool_output *out,
                   struct str name);
void tool_put_arguments(const struct tool_output *out, struct str text);
void tool_put(const struct tool_output *out, enum reply_piece_kind kind, struct str text);

/* Arguments as one JSON value. A string's text is meant where they are one, an empty object where they
 * are null. */
struct tool_arguments {
    struct json_stream value;
    struct json_text text; // of a string
    bool is_put;           // some of it
};

/* From the value's first byte on. DONE: it has ended, or broke off, before `at`. */
enum tool_read tool_read_arguments(struct tool_arguments *a, struct tool_scan *s,
                                   const struct tool_input *in, const struct tool_output *out);
/* Where they were looked at before: of `value` only what has been read is used. */
void tool_put_value(struct tool_arguments *a, const struct tool_output *out, struct str text);
/* An empty object where nothing was put. */
void tool_end_arguments(struct tool_arguments *a, const struct tool_output *out);

/* For grammars: a text, with the tags in it as tokens. */
void tool_write_text(struct json_writer *w, const char *const *tokens, const char *text);
void tool_write_name(struct json_writer *w, const struct tool *tool);
/* The tool's schema if it is strict, else that of any object. */
void tool_write_arguments(struct json_writer *w, const struct tool *tool);

#endif
