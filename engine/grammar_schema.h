/* grammar_schema.h - JSON Schema (draft 2020-12, and what earlier drafts spelled otherwise) as an
 * automaton whose every text is JSON that the schema accepts.
 *
 * Sound, not complete: each text that matches is valid, but not each valid text matches. Members come
 * in the order in which the schema names them, white space is what tidy printers use, and an object
 * with `properties` has no others unless the schema says so (additionalProperties, patternProperties).
 * What can't be enforced is refused by name (E_UNSUPPORTED) rather than ignored: if, contains,
 * dependent*, oneOf whose branches may overlap, references to other documents, uniqueItems but for
 * elements of a short enum, `not` but for types, single values of an enum, and what the other keywords
 * exclude anyway. A schema that is none, nothing can satisfy, or refers to itself without end is
 * E_INVALID; one that is too large E_LIMIT. Unknown keywords and formats are annotations, as the standard
 * says. */
#ifndef LM_ENGINE_GRAMMAR_SCHEMA_H
#define LM_ENGINE_GRAMMAR_SCHEMA_H

#include "engine/grammar_nfa.h"
#include "shared/base/json.h"

/* What several schemas have cost so far, which are bounded together; zeroed before the first. */
struct schema_budget {
    int steps;
    int64_t work;
};

/* Between two states; *n has its rule 0 already. `schema` may go afterwards. Not nfa_finish()ed. budget
 * NULL: the schema has one of its own. */
FALLIBLE int schema_emit(struct grammar_nfa *n, const struct json *schema, int from, int to,
                         struct schema_budget *budget, struct error *err);

#endif
