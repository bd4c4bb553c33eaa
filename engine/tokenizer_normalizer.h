/* tokenizer_normalizer.h - what is done to text before it is cut into pieces. A list of steps, built
 * once, then read-only: any thread may apply it. */
#ifndef LM_ENGINE_TOKENIZER_NORMALIZER_H
#define LM_ENGINE_TOKENIZER_NORMALIZER_H

#include "engine/tokenizer_added.h"
#include "shared/base/buf.h"
#include "shared/base/error.h"

struct normalizer; // opaque

struct normalizer *normalizer_create(void);
void normalizer_destroy(struct normalizer *n); // NULL is fine

/* E_LIMIT: too many steps. Texts are copied. */
FALLIBLE int normalizer_add_nfc(struct normalizer *n, struct error *err);
FALLIBLE int normalizer_add_prepend(struct normalizer *n, struct str text, struct error *err);
FALLIBLE int normalizer_add_replace(struct normalizer *n, struct str from, struct str to,
                                    struct error *err);
/* E_UNSUPPORTED: a pattern beyond pattern.h. */
FALLIBLE int normalizer_add_replace_pattern(struct normalizer *n, struct str pattern, struct str to,
                                            struct error *err);

/* SentencePiece's normaliser (Kudo and Richardson 2018, section 3.3). charsmap: what its files call
 * precompiled_charsmap, may be empty. E_FORMAT: it isn't one. */
struct sentencepiece_rules {
    struct str charsmap;
    bool space_prefix;  // a space in front
    bool single_spaces; // of several only one stays, none at either end
};
FALLIBLE int normalizer_add_sentencepiece(struct normalizer *n,
                                          const struct sentencepiece_rules *rules,
                                          struct error *err);

/* Append the normalised text; kept: texts that SentencePiece's rules leave alone, or NULL. */
void normalizer_apply(const struct normalizer *n, struct str text, const struct added_tokens *kept,
                      struct buf *out);

#endif
