/* pretokenizer.h - cuts text into the pieces inside which merging happens.
 *
 * A pre-tokenizer is a list of stages. The first cuts the text, the second cuts each of its pieces as
 * if it stood alone, and so on; without a stage the text is one piece. Patterns are matched by
 * pattern.h, those beyond it by PCRE2. Build it with pretokenizer_add_*, then any thread may split.
 */
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

enum split_behavior { // what becomes of a match between the gaps
    SPLIT_ISOLATED,   // a piece of its own
    SPLIT_REMOVED,
    SPLIT_MERGED_WITH_PREVIOUS,
    SPLIT_MERGED_WITH_NEXT,
    SPLIT_CONTIGUOUS, // neighbouring matches are one piece
};

enum space_scheme { // where a text that begins without a space gets one
    SPACE_NEVER,
    SPACE_FIRST, // at the very beginning only
    SPACE_ALWAYS,
};

extern const char pretokenizer_gpt2_pattern[]; // what "ByteLevel" splits by

struct pretokenizer *pretokenizer_create(void);
void pretokenizer_destroy(struct pretokenizer *p); // NULL is fine

/* Matches and gaps; inverted, a gap is what a match was and the other way round. E_FORMAT: not a
 * pattern, with its offset. E_LIMIT: too many stages. */
FALLIBLE int pretokenizer_add_pattern(struct pretokenizer *p, struct str pattern,
                                      enum split_behavior behavior, bool invert, struct error *err);
/* The same with a pattern that stands for itself. */
FALLIBLE int pretokenizer_add_literal(struct pretokenizer *p, struct str literal,
                                      enum split_behavior behavior, bool invert, struct error *err);
/* Spaces become `mark` (U+2581 in SentencePiece), and one is put in front. */
FALLIBLE int pretokenizer_add_mark(struct pretokenizer *p, struct str mark,
                                   enum space_scheme scheme, struct error *err);
/* A space in front of every piece that begins without one. */
FALLIBLE int pretokenizer_add_space(struct pretokenizer *p, struct error *err);

/* Calls on_piece for every piece of valid UTF-8 text, in order; pieces aren't empty, and the
 * concatenation of those of ISOLATED stages is the text. at_start: nothing stands before the text.
 * Stops at the first result that isn't 0 and returns it. E_LIMIT: a pattern beyond pattern.h gave
 * up. */
FALLIBLE int pretokenizer_split(const struct pretokenizer *p, struct str text, bool at_start,
                                int (*on_piece)(void *arg, struct str piece), void *arg,
                                struct error *err);

#endif
