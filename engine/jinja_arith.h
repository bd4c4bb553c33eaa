/* jinja_arith.h - operators on two values, with Python's rules of types. */
#ifndef LM_ENGINE_JINJA_ARITH_H
#define LM_ENGINE_JINJA_ARITH_H

#include "engine/jinja_ast.h"

struct jinja_value jinja_binary_op(struct jinja_run *run, enum jinja_op op, struct jinja_value a,
                                   struct jinja_value b);
bool jinja_compare_op(struct jinja_run *run, enum jinja_op op, struct jinja_value a,
                      struct jinja_value b);
struct jinja_value jinja_sign(struct jinja_run *run, struct jinja_value a, bool negate);

/* "%s of %d" % values (jinja_format.c). */
struct jinja_value jinja_format_percent(struct jinja_run *run, struct str format,
                                        const struct jinja_args *args);
/* "{} of {name}".format(values) */
struct jinja_value jinja_format_braces(struct jinja_run *run, struct str format,
                                       const struct jinja_args *args);

#endif
