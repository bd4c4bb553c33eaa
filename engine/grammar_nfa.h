/* grammar_nfa.h - what a grammar is made of: nondeterministic automata over bytes, one per rule,
 * that call each other.
 *
 *     state --byte range--> state      --(nothing)--> state      --rule, then--> state
 *
 * A rule matches what leads from its start to its accept state; a call matches what its rule does.
 * Rules may call themselves, so languages with nesting (JSON) can be said. Built by one thread, in
 * one direction: an emitter takes the state where its part begins and returns the one where it ends.
 *
 * Size is bounded by NFA_STATES_MAX: beyond it `overflow` is set and everything goes to state 0, so
 * that builders need to look only once, at the end. */
#ifndef LM_ENGINE_GRAMMAR_NFA_H
#define LM_ENGINE_GRAMMAR_NFA_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/error.h"
#include "shared/base/str.h"

#define NFA_STATES_MAX (1 << 18)
#define NFA_EDGES_MAX  (1 << 20)
#define NFA_RULES_MAX  (1 << 16)

enum nfa_edge_kind { NFA_BYTES, NFA_EPSILON, NFA_CALL };

struct nfa_edge {
    int32_t target; // state
    int32_t next;   // edge of the same state, -1: the last
    int32_t rule;   // of a call
    uint8_t kind, low, high;
};

/* What the token masks know of a state beside its edges (engine/grammar_mask.h). */
enum nfa_state_role {
    NFA_PLAIN =
        1, // inside a JSON string that takes `plain_left` more characters, whatever they are
    NFA_CHARACTER = 2, // where the rule for one character of such a string begins
};

struct nfa_state {
    int32_t first; // edge, -1: none
    int32_t plain_left;
    uint8_t roles;
    bool is_accept; // of its rule
};

struct nfa_rule {
    int32_t start, accept;
};

struct grammar_nfa {
    struct nfa_state *state; // owned, like the others
    struct nfa_edge *edge;
    struct nfa_rule *rule;
    int states, states_cap, edges, edges_cap, rules, rules_cap;
    bool overflow;
};

void nfa_init(struct grammar_nfa *n);
void nfa_deinit(struct grammar_nfa *n);

int nfa_add_state(struct grammar_nfa *n);
int nfa_add_rule(struct grammar_nfa *n); // with a start and an accept state
void nfa_add_bytes(struct grammar_nfa *n, int from, int low, int high, int to);
void nfa_add_epsilon(struct grammar_nfa *n, int from, int to);
void nfa_add_call(struct grammar_nfa *n, int from, int rule, int to);
int nfa_emit_text(struct grammar_nfa *n, int from, struct str text);
int nfa_emit_call(struct grammar_nfa *n, int from, int rule);

/* Drop the edges that lead nowhere, so that a text which can be begun can also be ended. E_INVALID:
 * nothing matches rule 0, or a rule calls itself before it has matched a byte. E_LIMIT: overflow. */
FALLIBLE int nfa_finish(struct grammar_nfa *n, struct error *err);

/* What rule 0 of both a and b matches becomes rule 0 of *out (init'ed, empty). Neither may have calls.
 * E_LIMIT: too many states. */
FALLIBLE int nfa_intersect(const struct grammar_nfa *a, const struct grammar_nfa *b,
                           struct grammar_nfa *out, struct error *err);
/* Copy what rule 0 of `part`, which has no calls, matches in front of a new state, which is returned. */
int nfa_emit_copy(struct grammar_nfa *n, int from, const struct grammar_nfa *part);
/* Whether rule 0, which has no calls, matches the whole text. */
bool nfa_matches(const struct grammar_nfa *n, struct str text);

#endif
