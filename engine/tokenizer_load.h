/* tokenizer_load.h - puts a tokenizer together. A loader of one file format fills a builder with
 * tokens and merges as its format spells them; tokenizer_build checks and indexes, and knows no
 * format. */
#ifndef LM_ENGINE_TOKENIZER_LOAD_H
#define LM_ENGINE_TOKENIZER_LOAD_H

#include "engine/tokenizer_internal.h"
#include "shared/base/json.h"

#define TOKENIZER_VOCAB_MAX (1 << 22)

struct tokenizer_replacement {
    struct str from, to; // borrowed until build
};

/* What files beside the tokenizer's own say about it; texts and arrays are borrowed until build. All
 * of it is optional: {0} with the two settings at SETTING_UNSAID. */
enum tokenizer_setting { SETTING_UNSAID, SETTING_NO, SETTING_YES };

struct tokenizer_settings {
    struct str bos, eos; // texts of those tokens; empty: not said
    enum tokenizer_setting add_bos, add_eos;
    const int32_t *stops; // end a generation, besides eos
    int stop_count;
    const struct json *added; // tokenizer_config.json's added_tokens_decoder: id -> token
    bool rules_template;      // add_bos and add_eos win over tokenizer.json's post-processor
};

struct tokenizer_builder {
    enum tokenizer_model model;
    const char *const *patterns;   // of the pre-tokenizer, NULL-terminated, borrowed until build
    struct pretokenizer *pre;      // instead of patterns; owned
    struct normalizer *normalizer; // owned; NULL: none
    bool ignore_merges, space_prefix, add_bos, add_eos;
    bool byte_fallback, fuse_unknown; // CHAR_BPE
    bool byte_tokens;                 // CHAR_BPE: a token spelled <0xNN> prints as that byte
    bool hide_token;      // the next one is looked for in the text, but isn't the model's
    bool explicit_added;  // the loader calls tokenizer_builder_added, a token's kind doesn't
    bool user_normalized; // tokens that users added are looked for behind the normaliser
    enum token_strip strip;
    bool lone_bytes;
    struct str
        shown_text; // CHAR_BPE: what the next token prints as before that; data NULL: its text
    const struct tokenizer_replacement *shown; // what decoding replaces in a token's text
    int shown_count;
    bool has_template; // prefix and suffix stand for add_bos and add_eos
    struct token_ids prefix, suffix;
    int32_t bos, eos, eot, eom, unknown;       // -1: not declared
    const struct tokenizer_settings *settings; // NULL: none
    struct tokenizer *t;                       // being filled; owned
    size_t bytes;                              // of token texts so far
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
/* A token that is looked for in the text, beyond what tokenizer_builder_token adds by its kind.
 * normalized: behind the normaliser, which its text goes through too. */
void tokenizer_builder_added(struct tokenizer_builder *b, struct str text, int32_t id,
                             unsigned flags, bool normalized);
void tokenizer_builder_merge(struct tokenizer_builder *b, struct str left, struct str right);

/* E_FORMAT: a merge or a declared id that the vocabulary lacks. The builder is empty afterwards. */
FALLIBLE int tokenizer_build(struct tokenizer_builder *b, struct tokenizer **out,
                             struct error *err);

#endif
