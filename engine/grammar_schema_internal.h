/* grammar_schema_internal.h - shared by the parts of the schema compiler:
 *
 *     grammar_schema.c          conjunctions, references, alternatives, which types a value may have
 *     grammar_schema_types.c    strings, numbers, arrays
 *     grammar_schema_object.c   objects
 *     grammar_schema_values.c   enum, const, and whether two schemas can accept the same value */
#ifndef LM_ENGINE_GRAMMAR_SCHEMA_INTERNAL_H
#define LM_ENGINE_GRAMMAR_SCHEMA_INTERNAL_H

#include "engine/grammar_nfa.h"
#include "shared/base/arena.h"
#include "shared/base/hash_map.h"
#include "shared/base/json.h"

#define CONJUNCTS_MAX 64

enum schema_type {
    TYPE_NULL = 1,
    TYPE_BOOL = 2,
    TYPE_INTEGER = 4,  // a number without a fraction
    TYPE_FRACTION = 8, // any other number
    TYPE_STRING = 16,
    TYPE_ARRAY = 32,
    TYPE_OBJECT = 64,
    TYPE_ANY = 127,
};

/* One of the schemas that a value must satisfy all of. */
struct conjunct {
    const struct json *node; // an object; borrowed from the document
    int16_t via;             // the item that brought it by $ref, allOf, anyOf or oneOf; -1: none
    bool any_of_done, one_of_done; // a branch of it is among the items
};

struct conjunction {
    struct conjunct item[CONJUNCTS_MAX];
    int count;
    bool is_false; // nothing satisfies it
};

struct schema_task; // a rule whose body is to be emitted

struct schema_compiler {
    struct grammar_nfa *n;
    const struct json *root;
    struct arena arena;
    struct hash_map rules;            // a conjunction's bytes -> struct schema_task
    struct schema_task *first, *last; // not emitted yet
    int character_rule, space_rule;
    int steps;    // alternatives looked at, bounded
    int64_t work; // what schema_spend() was told
    struct error *err;
};

/* ---- conjunctions (grammar_schema.c) ---- */

/* One more schema (object, true or false), with all that it refers to. */
FALLIBLE int conjunction_add(struct schema_compiler *c, struct conjunction *k,
                             const struct json *schema, int via);
/* Whether item `i` was brought, directly or not, by `ancestor`. */
bool conjunction_descends(const struct conjunction *k, int i, int ancestor);
/* The first anyOf or oneOf that no branch was chosen of; NULL: none. The item is marked as done. */
const struct json *conjunction_take_choice(struct conjunction *k, int *item, bool *is_exclusive);
FALLIBLE int schema_types(struct schema_compiler *c, const struct conjunction *k, unsigned *types);
/* The rule for values that satisfy k. */
int schema_rule(struct schema_compiler *c, const struct conjunction *k);
/* Values that satisfy k, between two states. */
FALLIBLE int schema_emit_value(struct schema_compiler *c, const struct conjunction *k, int from,
                               int to, int depth);

/* Work that a schema's author controls, in looks at a value: E_LIMIT when it was too much. */
FALLIBLE int schema_spend(struct schema_compiler *c, size_t looks);
FALLIBLE int schema_refuse(struct schema_compiler *c, const char *keyword); // E_UNSUPPORTED
FALLIBLE int schema_invalid(struct schema_compiler *c, const char *keyword, const char *what);
/* A keyword's count over all items: the largest (or smallest) one; -1: none has it. */
FALLIBLE int schema_count(struct schema_compiler *c, const struct conjunction *k,
                          const char *keyword, bool largest, int64_t *value);

/* ---- types ---- */

FALLIBLE int schema_emit_number(struct schema_compiler *c, const struct conjunction *k,
                                bool is_integer, int from, int to);
FALLIBLE int schema_emit_string(struct schema_compiler *c, const struct conjunction *k, int from,
                                int to);
FALLIBLE int schema_emit_array(struct schema_compiler *c, const struct conjunction *k, int from,
                               int to);
FALLIBLE int schema_emit_object(struct schema_compiler *c, const struct conjunction *k, int from,
                                int to);
/* A member's schemas: what each item says of the name. */
FALLIBLE int schema_member(struct schema_compiler *c, const struct conjunction *k, const char *name,
                           struct conjunction *out);

/* ---- values ---- */

/* The values of the shortest enum or const; NULL: there is none. One value stands for itself with
 * is_list false. */
const struct json *schema_values(const struct conjunction *k, bool *is_list);
FALLIBLE int schema_emit_values(struct schema_compiler *c, const struct conjunction *k, int from,
                                int to);
/* Those of the values that satisfy k, each once; *count -1: there are more than `most`, or k has a choice
 * left. */
FALLIBLE int schema_list_values(struct schema_compiler *c, const struct conjunction *k,
                                const struct json **list, int most, int *count);
/* One value as its printers spell it, between two states. */
void schema_emit_one(struct schema_compiler *c, const struct json *v, int from, int to);
/* 1: no value satisfies both; 0: maybe one does; negative: an error. */
FALLIBLE int schema_disjoint(struct schema_compiler *c, const struct conjunction *a,
                             const struct conjunction *b, int depth);

#endif
