/* jinja_ast.h - the parsed template. Nodes live in the template's arena and are read-only after
 * parsing, so any number of renderings may walk them at once. */
#ifndef LM_ENGINE_JINJA_AST_H
#define LM_ENGINE_JINJA_AST_H

#include "engine/jinja_value.h"

enum jinja_node_kind {
    /* expressions: which fields of struct jinja_node they use */
    JINJA_CONST,      // value
    JINJA_NAME,       // name
    JINJA_ITEMS,      // list; op: the kind of list
    JINJA_MAPPING,    // list: key, value, key, value, ...
    JINJA_ATTR,       // a . name
    JINJA_ITEM,       // a [ b ]
    JINJA_SLICE,      // a [ b : c : d ], each of b, c, d may be NULL
    JINJA_CALL,       // a ( list, keywords )
    JINJA_FILTER,     // a | name ( list, keywords ); a is NULL where a block's text goes in
    JINJA_TEST,       // a is name ( list, keywords )
    JINJA_NOT,        // not a
    JINJA_NEGATE,     // - a
    JINJA_PLUS,       // + a
    JINJA_BINARY,     // a op b
    JINJA_CONCAT,     // list joined by ~
    JINJA_COMPARE,    // a, then list of COMPARISONs: a < b <= c
    JINJA_COMPARISON, // op a
    JINJA_AND,        // a and b
    JINJA_OR,         // a or b
    JINJA_IF_ELSE,    // a if b else c; c may be NULL
    JINJA_STAR,       // *a in arguments
    JINJA_STAR_STAR,  // **a in arguments
    /* statements */
    JINJA_TEXT,          // value
    JINJA_PRINT,         // a
    JINJA_IF,            // list of BRANCHes
    JINJA_BRANCH,        // a: condition, NULL for else; body
    JINJA_FOR,           // for a in b if c: body, else other
    JINJA_SET,           // a = b
    JINJA_SET_BLOCK,     // a = body, filtered by b if not NULL
    JINJA_NAMESPACE_REF, // target only: name . b->name
    JINJA_MACRO_DEF,     // name, list of NAMEs whose a is the default or NULL; body
    JINJA_CALL_BLOCK,    // as MACRO_DEF, called by a (a CALL) as caller()
    JINJA_FILTER_BLOCK,  // a: FILTER; body
    JINJA_WITH,          // list: target, value, target, value, ...; body
    JINJA_BLOCK,         // body in the same scope (generation)
    JINJA_BREAK,
    JINJA_CONTINUE,
};

enum jinja_op {
    JINJA_OP_ADD,
    JINJA_OP_SUB,
    JINJA_OP_MUL,
    JINJA_OP_DIV,
    JINJA_OP_FLOORDIV,
    JINJA_OP_MOD,
    JINJA_OP_POW,
    JINJA_OP_EQ,
    JINJA_OP_NE,
    JINJA_OP_LT,
    JINJA_OP_LE,
    JINJA_OP_GT,
    JINJA_OP_GE,
    JINJA_OP_IN,
    JINJA_OP_NOT_IN,
};

struct jinja_nodes {
    struct jinja_node **items;
    uint32_t count;
};

struct jinja_keyword {
    struct str name;
    struct jinja_node *node;
};

struct jinja_node {
    uint8_t kind;                                   // enum jinja_node_kind
    uint8_t op;                                     // enum jinja_op, or enum jinja_list_kind
    bool takes_varargs, takes_kwargs, takes_caller; // MACRO_DEF: the body uses that name
    uint32_t line, column;                          // 1-based, column in bytes
    struct str name;
    struct jinja_value value;
    const struct jinja_builtin *builtin; // FILTER, TEST; NULL: unknown, an error when reached
    struct jinja_node *a, *b, *c, *d;
    struct jinja_nodes list, body, other;
    struct jinja_keyword *keywords;
    uint32_t keyword_count;
};

#endif
