/* jinja_methods.h - methods of str, apart from the others. */
#ifndef LM_ENGINE_JINJA_METHODS_H
#define LM_ENGINE_JINJA_METHODS_H

#include "engine/jinja_value.h"

extern const struct jinja_builtin jinja_str_methods[];
extern const size_t jinja_str_method_count;

#endif
