/* pattern.h - regular expressions as pre-tokenizers use them, over our own tables of Unicode.
 *
 * Literals, \r\n\t\f\v and \x{..}, \s \d \w and their complements, \p{L} and other general
 * categories, classes [...], groups (...), (?:...), (?i:...), lookahead, | and greedy or possessive
 * ? * + {n,m} on single characters, ? on groups. Leftmost match, branches in order, as Perl and
 * Oniguruma match. Everything else is E_UNSUPPORTED, for another engine to try. Immutable after
 * create; any thread may match. */
#ifndef LM_ENGINE_PATTERN_H
#define LM_ENGINE_PATTERN_H

#include "shared/base/error.h"
#include "shared/base/str.h"

struct pattern; // opaque

/* E_UNSUPPORTED: beyond the subset, or not valid at all. */
FALLIBLE int pattern_create(struct str source, struct pattern **out, struct error *err);
void pattern_destroy(struct pattern *p); // NULL is fine

/* The first match at or behind `from` in valid UTF-8; `from` stands on a character. */
bool pattern_find(const struct pattern *p, struct str text, size_t from, size_t *begin,
                  size_t *end);

#endif
