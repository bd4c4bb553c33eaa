/* jinja_filters.h - filters on sequences, kept apart from those on scalars and text. */
#ifndef LM_ENGINE_JINJA_FILTERS_H
#define LM_ENGINE_JINJA_FILTERS_H

#include "engine/jinja_value.h"

extern const struct jinja_builtin jinja_sequence_filters[];
extern const size_t jinja_sequence_filter_count;

/* The value at a path such as "function.name" or "0.id", as filters' attribute arguments spell it.
 */
struct jinja_value jinja_path(struct jinja_run *run, struct jinja_value v, struct jinja_value path);

/* Integer argument; `absent` where it wasn't given or is none. */
int64_t jinja_int_arg(struct jinja_run *run, struct jinja_value v, int64_t absent);

#endif
