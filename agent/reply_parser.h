/* reply_parser.h - takes apart what a model says: reasoning, content, and calls of tools.
 *
 * Text goes in as it is generated, pieces come out as soon as nothing that follows can change what they
 * are: a beginning of a tag is held back until it is one or can't become one, arguments go out in
 * fragments. The pieces of a text, joined by kind and call, are the same however it was cut, at any byte.
 * Text is UTF-8, cut anywhere; pieces are cut between characters.
 *
 * What looks like a call but isn't (a tag followed by no valid name) is content, as it stands. After a
 * call's name is out, what follows is its arguments, valid or not: the grammar sees to that where a
 * request asks for it. White space between calls, and before a call that nothing else precedes, is
 * nobody's; calls beyond the list's calls_max are left out. One parser per answer; any thread, one at a
 * time. */
#ifndef LM_AGENT_REPLY_PARSER_H
#define LM_AGENT_REPLY_PARSER_H

#include <stdbool.h>
#include <stddef.h>

#include "agent/tool_list.h"
#include "shared/base/str.h"

struct tool_format;      // agent/tool_format.h
struct reasoning_format; // agent/reasoning_format.h

enum reply_piece_kind {
    REPLY_CONTENT,
    REPLY_REASONING,
    REPLY_CALL,      // a call begins; text: the tool's name
    REPLY_ARGUMENTS, // more of the JSON text of the last call's arguments
};

struct reply_piece {
    enum reply_piece_kind kind;
    int call; // of the answer, from 0; of REPLY_CALL and REPLY_ARGUMENTS
    struct str text;
};

struct reply_sink {
    void (*take)(void *arg, const struct reply_piece *piece);
    void *arg;
};

struct reply_options {
    const struct reasoning_format *reasoning; // NULL: reasoning is content
    bool starts_in_reasoning;                 // the prompt ends inside of it
    const struct tool_format *tools;          // NULL: calls are content
    const struct tool_list *list;             // outlives the parser; NULL: any name is a tool
};

struct reply_parser;

struct reply_parser *reply_parser_create(const struct reply_options *o);
void reply_parser_destroy(struct reply_parser *p); // NULL is fine
void reply_parser_feed(struct reply_parser *p, struct str text, const struct reply_sink *sink);
/* Nothing follows: what was held back comes out, a call that was cut stays as it is. */
void reply_parser_finish(struct reply_parser *p, const struct reply_sink *sink);
/* Bytes that went in and of which no piece has come out yet. */
size_t reply_parser_held(const struct reply_parser *p);
bool reply_parser_in_reasoning(const struct reply_parser *p);
int reply_parser_calls(const struct reply_parser *p); // so far

#endif
