/* jinja_lexer.h - template source to tokens, with the whitespace rules of Hugging Face's
 * environment: trim_blocks (a newline right behind a block tag or comment goes), lstrip_blocks
 * (blanks between the start of a line and such a tag go), "-" strips all whitespace, "+" keeps it,
 * and one newline at the end of the source goes. */
#ifndef LM_ENGINE_JINJA_LEXER_H
#define LM_ENGINE_JINJA_LEXER_H

#include "shared/base/arena.h"
#include "shared/base/str.h"

enum jinja_token_kind {
    JINJA_TOKEN_END,
    JINJA_TOKEN_TEXT,        // text between tags, whitespace already stripped
    JINJA_TOKEN_PRINT_BEGIN, // {{
    JINJA_TOKEN_PRINT_END,
    JINJA_TOKEN_BLOCK_BEGIN, // {%
    JINJA_TOKEN_BLOCK_END,
    JINJA_TOKEN_NAME,
    JINJA_TOKEN_STRING, // text: unescaped
    JINJA_TOKEN_INT,
    JINJA_TOKEN_FLOAT,
    JINJA_TOKEN_OP, // text: the operator
};

struct jinja_token {
    enum jinja_token_kind kind;
    uint32_t line, column;
    struct str text;
    union {
        int64_t integer;
        double number;
    };
};

struct jinja_tokens {
    struct jinja_token *list; // owned; ends with JINJA_TOKEN_END
    size_t count, cap;
};

/* Token texts live in `arena`. Free the list with free(). E_FORMAT "line:column: ...". */
FALLIBLE int jinja_lex(struct str source, struct arena *arena, struct jinja_tokens *out,
                       struct error *err);

#endif
