/* tokenizer_internal.h - what a loaded tokenizer consists of; for tokenizer*.c only. */
#ifndef LM_ENGINE_TOKENIZER_INTERNAL_H
#define LM_ENGINE_TOKENIZER_INTERNAL_H

#include "engine/pretokenizer.h"
#include "engine/tokenizer.h"
#include "engine/tokenizer_added.h"
#include "engine/tokenizer_bpe.h"
#include "engine/tokenizer_normalizer.h"
#include "engine/tokenizer_spm.h"
#include "engine/tokenizer_unigram.h"
#include "engine/tokenizer_vocab.h"

enum tokenizer_model {
    TOKENIZER_BYTE_BPE, // GGUF "gpt2"; tokenizer.json BPE behind ByteLevel
    TOKENIZER_SPM,      // GGUF "llama": SentencePiece BPE by scores, byte fallback
    TOKENIZER_CHAR_BPE, // tokenizer.json BPE over characters, byte fallback
    TOKENIZER_UNIGRAM,  // SentencePiece unigram
};

enum token_strip { // space that encoding put in front of a text and decoding takes off again
    STRIP_NONE,
    STRIP_SPACE,  // one space at the front of the decoded text
    STRIP_MARK,   // one in front of the first token, unless that is a byte
    STRIP_MARKS,  // the same of every token up to the first that leaves something
    STRIP_SPACES, // all of the first token
};

#define TOKENIZER_STOPS_MAX 32
#define TOKENIZER_FIXED_MAX 8

struct token_ids { // that stand before or behind a text
    int32_t ids[TOKENIZER_FIXED_MAX];
    int count;
};

struct tokenizer {
    enum tokenizer_model model;
    struct vocab vocab; // pieces as the model looks for them
    struct vocab shown; // what tokens print as; count 0: as in vocab
    struct added_tokens added;
    struct added_tokens added_normalized; // looked for behind the normaliser
    struct normalizer *normalizer;        // NULL: none
    struct pretokenizer *pre;             // BYTE_BPE, CHAR_BPE
    struct bpe bpe;                       // the same
    struct spm spm;                       // SPM, UNIGRAM
    struct unigram unigram;               // UNIGRAM
    bool space_prefix;                    // SPM without normaliser: a space before the text
    enum token_strip strip;
    bool lone_bytes;  // of byte tokens that are no character, each prints as U+FFFD by itself; else
                      // a run with such bytes is all U+FFFD
    int32_t bos, eos; // -1: none
    struct token_ids prefix, suffix; // of a text with TOKENIZER_ADD_BOS
    int32_t stops[TOKENIZER_STOPS_MAX];
    int stop_count;
};

#endif
