/* grammar_text.h - sets of characters, and how they are spelled in bytes: UTF-8, as it is or inside a
 * JSON string. */
#ifndef LM_ENGINE_GRAMMAR_TEXT_H
#define LM_ENGINE_GRAMMAR_TEXT_H

#include "engine/grammar_nfa.h"

#define CHAR_RANGES_MAX 4096

/* Ranges of code points, ascending and apart once char_set_normalise was called. */
struct char_set {
    struct char_range {
        uint32_t low, high;
    } * range; // owned
    int count, cap;
};

void char_set_deinit(struct char_set *s);
void char_set_add(struct char_set *s, uint32_t low, uint32_t high);
void char_set_normalise(struct char_set *s);
void char_set_negate(struct char_set *s); // of all that UTF-8 can say: no surrogates
/* General categories by their Unicode name, "L" or "Lu"; false: there is no such name. */
bool char_set_add_category(struct char_set *s, struct str name);

enum grammar_spelling {
    SPELLING_UTF8,
    SPELLING_JSON, // inside a string: ", \ and control characters are escaped, in one way each
};

/* One character of the set, between two states. The set must be normalised. */
void nfa_add_chars(struct grammar_nfa *n, int from, const struct char_set *s,
                   enum grammar_spelling spelling, int to);
/* A text in valid UTF-8, spelled. */
int nfa_emit_spelled(struct grammar_nfa *n, int from, struct str text,
                     enum grammar_spelling spelling);
/* One character of a JSON string in each of its spellings: as it is, \n, \u000a, a surrogate pair. */
void nfa_add_json_character(struct grammar_nfa *n, int from, int to);

#endif
