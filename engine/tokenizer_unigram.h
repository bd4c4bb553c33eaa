/* tokenizer_unigram.h - SentencePiece's unigram model: of all ways to write a text as pieces, the
 * one with the highest sum of scores. Kudo, "Subword Regularization", 2018. Scores are summed in
 * float and in the order of the reference, so that ties fall alike. Built once, read-only then. */
#ifndef LM_ENGINE_TOKENIZER_UNIGRAM_H
#define LM_ENGINE_TOKENIZER_UNIGRAM_H

#include "engine/tokenizer.h"
#include "engine/tokenizer_spm.h"
#include "engine/tokenizer_vocab.h"

struct unigram {
    struct unigram_edge *edges; // (node, byte) -> node: a trie of all pieces, as a hash table
    uint32_t edge_mask;         // edges - 1
    int32_t *node_ids;          // per node: the piece that ends there, -1: none
    float *node_scores;
    uint32_t node_count;
    float unknown_score; // of one character that no piece covers
};

void unigram_init(struct unigram *u, const struct vocab *v, const float *scores);
void unigram_deinit(struct unigram *u);

/* Append the ids of text[0..len), in which U+2581 has become a space. O(n x longest piece). */
void unigram_encode(const struct unigram *u, const struct spm *s, struct str text,
                    struct token_list *out);

#endif
