/* grammar_until.h - any text that has none of some strings in it, as an automaton. */
#ifndef LM_ENGINE_GRAMMAR_UNTIL_H
#define LM_ENGINE_GRAMMAR_UNTIL_H

#include "engine/grammar_nfa.h"

#define UNTIL_STRINGS_MAX 64
#define UNTIL_BYTES_MAX   4096 // of all strings of one text

/* In front of a new state, *end. The strings are valid UTF-8 and not empty. One state for each of their
 * bytes, and a dozen. E_LIMIT: they are too many. */
FALLIBLE int until_emit(struct grammar_nfa *n, int from, const struct str *strings, int count,
                        int *end, struct error *err);

#endif
