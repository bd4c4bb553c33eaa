/* jinja_parser.h - tokens to nodes. */
#ifndef LM_ENGINE_JINJA_PARSER_H
#define LM_ENGINE_JINJA_PARSER_H

#include "engine/jinja_ast.h"
#include "shared/base/arena.h"

/* Nodes live in `arena`. E_FORMAT or E_UNSUPPORTED "chat template line:column: ...". */
FALLIBLE int jinja_parse_source(struct str source, struct arena *arena, struct jinja_nodes *out,
                                struct error *err);

#endif
