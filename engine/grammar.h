/* grammar.h - texts that an answer may be, as a compiled grammar, and the tokens that may come next.
 *
 *     grammar_compile      once per grammar: JSON Schema, any JSON object, or a regular expression
 *     grammar_matcher      one per answer: what it has so far
 *     grammar_mask         which tokens keep it a beginning of something that the grammar accepts
 *
 * A grammar is shared by all answers that follow it, on any threads: what one of them finds out (a
 * state, a mask) the others have. It is counted by reference and owns nothing of its source.
 *
 * Every token that a mask allows can be followed by others to an end, as far as the vocabulary can
 * spell all bytes. Memory per grammar: its automaton, at most some 20 MB (engine/grammar_automaton.h),
 * and GRAMMAR_MASK_BYTES of masks. */
#ifndef LM_ENGINE_GRAMMAR_H
#define LM_ENGINE_GRAMMAR_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/error.h"
#include "shared/base/str.h"

#define GRAMMAR_SOURCE_MAX ((size_t)1 << 20) // bytes
#define GRAMMAR_MASK_BYTES ((size_t)8 << 20)

struct grammar;
struct grammar_vocab; // engine/grammar_vocab.h
struct json;

enum grammar_kind {
    GRAMMAR_JSON_OBJECT, // any; no source
    GRAMMAR_JSON_SCHEMA, // source: the schema's text
    GRAMMAR_REGEX,       // source: the whole answer matches it
    GRAMMAR_PARTS,       // source: a part, below
};

/* A text in parts, as JSON:
 *
 *     {"text": "..."}                   as it stands
 *     {"token": "<|python_tag|>"}       the special (or stop) token of that text; if there is none, the text
 *     {"schema": {...}}                 JSON that the schema accepts
 *     {"regex": "..."}                  a text that matches as a whole
 *     {"until": ["</think>", ...]}      any text that has none of these in it, of 64 strings and 4095 bytes
 *     {"all": [part, ...]}              one after the other
 *     {"any": [part, ...]}              one of them
 *     {"repeat": part, "min": 0, "max": 8, "between": part}    "max" absent: any number
 *
 * Any of them may have a "name", by which errors call it. Special tokens come only where {"token"} says
 * so: no other part is ever spelled with them. Free text and the tag that ends it, when that is text, may
 * meet within one token. */

/* `vocab` must outlive it. E_INVALID, E_UNSUPPORTED, E_LIMIT: *err is for the client. Takes at most
 * some hundred milliseconds. */
FALLIBLE int grammar_compile(enum grammar_kind kind, struct str source,
                             const struct grammar_vocab *vocab, struct grammar **out,
                             struct error *err);
/* Only whether there is one: the same errors. */
FALLIBLE int grammar_check(enum grammar_kind kind, struct str source,
                           const struct grammar_vocab *vocab, struct error *err);
struct grammar *grammar_ref(struct grammar *g);
void grammar_unref(struct grammar *g); // NULL is fine
/* Of the 32-bit words that a mask has. Token t is bit t % 32 of word t / 32. */
int grammar_mask_words(const struct grammar *g);

/* What an answer has so far. */
struct grammar_matcher {
    struct grammar *grammar; // a reference; NULL: none, everything is allowed
    int state;
    unsigned generation;
    char *text; // owned
    size_t len, cap;
};

void grammar_matcher_init(struct grammar_matcher *m,
                          struct grammar *g);            // takes a reference of its own
void grammar_matcher_deinit(struct grammar_matcher *m);  // zeroed is fine
void grammar_matcher_restart(struct grammar_matcher *m); // nothing so far

/* The answer goes on with those bytes. False: it can't, and the matcher is where it was. */
bool grammar_accept(struct grammar_matcher *m, struct str bytes);
/* The same with the special token of that text. */
bool grammar_accept_special(struct grammar_matcher *m, struct str text);
/* Whether the answer may end here. */
bool grammar_may_end(struct grammar_matcher *m);
/* Tokens that may follow into mask[grammar_mask_words()]; stop tokens where the answer may end. Without
 * any other there is at least one stop token, or the vocabulary can't spell what must come: then
 * E_UNSUPPORTED. */
FALLIBLE int grammar_mask(struct grammar_matcher *m, uint32_t *mask);

#endif
