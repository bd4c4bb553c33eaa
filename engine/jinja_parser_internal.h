/* jinja_parser_internal.h - shared by the parser of statements and that of expressions.
 *
 * Errors are sticky, as in a rendering: parse_fail() keeps the first one and moves to the last
 * token, so that every loop ends; functions return a node all the same and nobody looks at it. */
#ifndef LM_ENGINE_JINJA_PARSER_INTERNAL_H
#define LM_ENGINE_JINJA_PARSER_INTERNAL_H

#include "engine/jinja_ast.h"
#include "engine/jinja_lexer.h"

#define PARSE_DEPTH_MAX 150

struct parser {
    const struct jinja_token *tokens; // ends with JINJA_TOKEN_END
    const struct jinja_token *at;
    struct arena *arena;
    struct error *err;
    int code; // first failure
    int depth;
    int loops;                // open for loops, for break and continue
    struct jinja_node *macro; // innermost, gets the takes_... flags
};

void parse_fail(struct parser *p, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
bool parse_enter(struct parser *p); // pairs with parse_leave
void parse_leave(struct parser *p);

struct jinja_node *parse_node(struct parser *p, enum jinja_node_kind kind);

bool parse_is(const struct parser *p, enum jinja_token_kind kind, const char *text);
bool parse_skip(struct parser *p, enum jinja_token_kind kind, const char *text);
void parse_expect(struct parser *p, enum jinja_token_kind kind, const char *text);
struct str parse_name(struct parser *p); // of the identifier that must stand here

/* A growing list of nodes; its array is doubled in the arena. */
void parse_append(struct parser *p, struct jinja_nodes *list, struct jinja_node *node);

/* ---- expressions (jinja_parser_expr.c) ---- */

struct jinja_node *parse_expression(struct parser *p);
/* "a" or the tuple "a, b"; with_if: whether "a if b else c" may stand in it. */
struct jinja_node *parse_tuple(struct parser *p, bool with_if);
/* Names, tuples of names, and name.attribute where with_namespace. */
struct jinja_node *parse_target(struct parser *p, bool with_namespace);
/* "name" or "name(...)", more behind "|"; subject may be NULL (a block's text). */
struct jinja_node *parse_filters(struct parser *p, struct jinja_node *subject);

#endif
