/* pretokenizer.h - cuts text into the pieces inside which merging happens.
 *
 * A pre-tokenizer is a list of patterns (PCRE2, Unicode properties, JIT). The first cuts the text,
 * the second cuts each of its pieces as if it stood alone, and so on: matches and the gaps between
 * them both are pieces. Immutable after create; any thread may split. */
#ifndef LM_ENGINE_PRETOKENIZER_H
#define LM_ENGINE_PRETOKENIZER_H

#include "shared/base/error.h"
#include "shared/base/str.h"

struct pretokenizer; // opaque

/* What a GGUF's tokenizer.ggml.pre means. */
struct pretokenizer_preset {
    const char *name;
    const char *const *patterns; // NULL-terminated
    bool ignore_merges;          // a piece that is in the vocabulary isn't merged
    bool add_bos;                // where the file doesn't say
};
const struct pretokenizer_preset *pretokenizer_preset_find(struct str name); // NULL: unknown

/* patterns: NULL-terminated, may be empty. E_FORMAT: a pattern doesn't compile, with its offset. */
FALLIBLE int pretokenizer_create(const char *const *patterns, struct pretokenizer **out,
                                 struct error *err);
void pretokenizer_destroy(struct pretokenizer *p); // NULL is fine

/* Calls on_piece for every piece of valid UTF-8 text, in order; pieces aren't empty and their
 * concatenation is the text. Stops at the first result that isn't 0 and returns it. */
FALLIBLE int pretokenizer_split(const struct pretokenizer *p, struct str text,
                                int (*on_piece)(void *arg, struct str piece), void *arg,
                                struct error *err);

#endif
