/* grammar_regex.h - a regular expression as an automaton: the regular part of ECMA-262 (section 22.2,
 * with the u flag), which JSON Schema means by a pattern. Where Python's or PCRE's idea of a class is
 * wider or narrower (\d, \w, \s and their complements), what matches here matches there too.
 *
 * E_UNSUPPORTED: what isn't regular or can't be said about a whole text in one pass (back references,
 * lookaround, \b, an anchor amid a pattern). E_INVALID: no regular expression. Both say where. */
#ifndef LM_ENGINE_GRAMMAR_REGEX_H
#define LM_ENGINE_GRAMMAR_REGEX_H

#include "engine/grammar_text.h"

enum regex_scope {
    REGEX_WHOLE,  // the text is one match
    REGEX_SEARCH, // the text has a match somewhere, as JSON Schema's patterns
};

/* All texts that match, in front of a new state, *end. `source` is valid UTF-8. */
FALLIBLE int regex_emit(struct grammar_nfa *n, int from, struct str source, enum regex_scope scope,
                        enum grammar_spelling spelling, int *end, struct error *err);

#endif
