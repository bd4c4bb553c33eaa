/* tokenizer_internal.h - what a loaded tokenizer consists of; for tokenizer*.c only. */
#ifndef LM_ENGINE_TOKENIZER_INTERNAL_H
#define LM_ENGINE_TOKENIZER_INTERNAL_H

#include "engine/pretokenizer.h"
#include "engine/tokenizer.h"
#include "engine/tokenizer_added.h"
#include "engine/tokenizer_bpe.h"
#include "engine/tokenizer_spm.h"
#include "engine/tokenizer_vocab.h"

enum tokenizer_model {
    TOKENIZER_BYTE_BPE, // GGUF "gpt2"
    TOKENIZER_SPM,      // GGUF "llama": SentencePiece BPE by scores, byte fallback
};

#define TOKENIZER_STOPS_MAX 32

struct tokenizer {
    enum tokenizer_model model;
    struct vocab vocab;
    struct added_tokens added;
    struct pretokenizer *pre; // byte BPE
    struct bpe bpe;           // byte BPE
    struct spm spm;           // SPM
    bool space_prefix;        // SPM: a space before the text, taken off again by decoding
    int32_t bos, eos;         // -1: none
    bool add_bos, add_eos;
    int32_t stops[TOKENIZER_STOPS_MAX];
    int stop_count;
};

#endif
