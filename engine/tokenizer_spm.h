/* tokenizer_spm.h - SentencePiece's BPE: a text starts as one symbol per character, and the
 * adjacent pair whose concatenation is the piece of highest score (leftmost among equals) merges
 * until none is. What no piece covers becomes byte tokens. Kudo and Richardson, "SentencePiece",
 * 2018. Built once, read-only afterwards. */
#ifndef LM_ENGINE_TOKENIZER_SPM_H
#define LM_ENGINE_TOKENIZER_SPM_H

#include "engine/tokenizer.h"
#include "engine/tokenizer_vocab.h"

struct spm {
    float *scores;         // per id
    int32_t byte_ids[256]; // -1: the vocabulary lacks that byte
    int32_t unknown;       // for what has no bytes either; -1: such text is lost
    bool has_bytes;
};

void spm_init(struct spm *s, uint32_t count);
void spm_deinit(struct spm *s);
void spm_index(struct spm *s, const struct vocab *v); // once the vocabulary is complete

/* Text that no piece covers: its byte tokens, else the unknown one. */
void spm_push_unknown(const struct spm *s, struct str text, struct token_list *out);

/* Append the ids of text[0..len), in which U+2581 has become a space. O(n log n). */
void spm_encode(const struct spm *s, const struct vocab *v, struct str text,
                struct token_list *out);

#endif
