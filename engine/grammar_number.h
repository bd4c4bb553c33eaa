/* grammar_number.h - JSON numbers between bounds, by their digits: exact, without floating point.
 *
 * Whole parts have at most NUMBER_DIGITS digits (more where a bound has more), fractions as many;
 * exponents of two digits appear only where nothing bounds the number. So no text that matches
 * overflows a double or is refused by a parser that counts digits. */
#ifndef LM_ENGINE_GRAMMAR_NUMBER_H
#define LM_ENGINE_GRAMMAR_NUMBER_H

#include "engine/grammar_nfa.h"

#define NUMBER_DIGITS       16
#define NUMBER_MULTIPLE_MAX 4096

struct number_bound {
    struct str value; // a JSON number; data NULL: no bound
    bool is_exclusive;
};

struct number_range {
    struct number_bound min, max;
    bool is_integer; // no fraction, no exponent
    int multiple_of; // with is_integer; 0 and 1: any. At most NUMBER_MULTIPLE_MAX
};

/* E_LIMIT: a bound with more than some hundred digits, or too many states. */
FALLIBLE int number_emit(struct grammar_nfa *n, int from, const struct number_range *range,
                         int *end, struct error *err);

#endif
