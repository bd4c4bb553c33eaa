/* grammar_parts.h - a text in parts (engine/grammar.h, GRAMMAR_PARTS) as an automaton. */
#ifndef LM_ENGINE_GRAMMAR_PARTS_H
#define LM_ENGINE_GRAMMAR_PARTS_H

#include "engine/grammar_nfa.h"
#include "engine/grammar_vocab.h"
#include "shared/base/json.h"

#define PARTS_REPEAT_MAX 1000 // "min" and "max" of a repeat

/* Between two states; *n has its rule 0 already. `part` may go afterwards; vocab NULL: it has no special
 * tokens. Not nfa_finish()ed. Errors begin with the part's "name", or that
 * of the nearest one around it; where there is none, with the way to the part: "all[1]: any[0]: ". */
FALLIBLE int parts_emit(struct grammar_nfa *n, const struct json *part,
                        const struct grammar_vocab *vocab, int from, int to, struct error *err);

#endif
