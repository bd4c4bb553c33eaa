/* tokenizer_load.h - puts a tokenizer together. A loader of one file format fills a builder with
 * tokens and merges as its format spells them; tokenizer_build checks and indexes, and knows no
 * format. */
#ifndef LM_ENGINE_TOKENIZER_LOAD_H
#define LM_ENGINE_TOKENIZER_LOAD_H

#include "engine/tokenizer_internal.h"

#define TOKENIZER_VOCAB_MAX (1 << 22)

struct tokenizer_builder {
    enum tokenizer_model model;
    const char *const *patterns; // of the pre-tokenizer, NULL-terminated, borrowed until build
    bool ignore_merges, space_prefix, add_bos, add_eos;
    int32_t bos, eos, eot, eom; // -1: not declared
    struct tokenizer *t;        // being filled; owned
    size_t bytes;               // of token texts so far
    struct buf scratch;
    struct tokenizer_merge {
        struct str left, right; // borrowed until build
    } * merges;
    size_t merge_count, merge_cap;
};

/* Room for exactly token_count tokens; ids follow the order of adding. merges_max: a hint. */
void tokenizer_builder_init(struct tokenizer_builder *b, enum tokenizer_model model,
                            uint32_t token_count, size_t merges_max);
void tokenizer_builder_deinit(struct tokenizer_builder *b); // also after a build

/* text as the format spells it: byte-level letters, <0xNN>, U+2581. */
FALLIBLE int tokenizer_builder_token(struct tokenizer_builder *b, struct str text,
                                     enum token_kind kind, float score, struct error *err);
void tokenizer_builder_merge(struct tokenizer_builder *b, struct str left, struct str right);

/* E_FORMAT: a merge or a declared id that the vocabulary lacks. The builder is empty afterwards. */
FALLIBLE int tokenizer_build(struct tokenizer_builder *b, struct tokenizer **out,
                             struct error *err);

#endif
