/* tokenizer_bpe.h - BPE by ranked merges: a piece starts as one token per byte, or per character, and
 * the adjacent pair of lowest rank (leftmost among equals) merges until no pair has a rank.
 * Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016; byte level
 * as in GPT-2. Built once, read-only afterwards but for `whole`, see there. */
#ifndef LM_ENGINE_TOKENIZER_BPE_H
#define LM_ENGINE_TOKENIZER_BPE_H

#include "engine/tokenizer.h"
#include "engine/tokenizer_vocab.h"

struct bpe {
    bool characters;   // a piece starts as characters; unknown ones as byte tokens, else `unknown`
    bool fuse_unknown; // neighbouring unknown characters are one token
    int32_t unknown;   // -1: text loses them, as in the reference
    int32_t byte_ids[256];  // -1: the vocabulary lacks that byte
    int32_t ascii_ids[128]; // with `characters`
    /* With `characters`: bytes that stand right before a U+2581 inside of some merged token. */
    bool before_mark[256];
    bool cuts_marks;        // a piece may be cut before a U+2581 that follows another byte
    struct bpe_slot *slots; // (left, right) -> rank, merged
    uint32_t mask;
    uint64_t seed;
    bool ignore_merges; // a piece that is a normal token stands as it is
    /* Per id: whether merging the token's own bytes gives that token. Found out when first asked
     * (relaxed atomics: every thread would write the same), it makes common words one look-up. */
    uint8_t *whole;
};

/* From an indexed vocabulary. characters: pieces start as such, and byte tokens are spelled <0xNN>. */
void bpe_init(struct bpe *b, const struct vocab *v, size_t merges_max, bool characters);
void bpe_deinit(struct bpe *b);
/* The first rank that a pair gets stays. */
void bpe_add_merge(struct bpe *b, int32_t left, int32_t right, int32_t merged, uint32_t rank);

/* Memory for long pieces, kept between calls of one encoding. Start with {0}. */
struct bpe_scratch {
    void *memory;
    size_t cap;
};
void bpe_scratch_deinit(struct bpe_scratch *s);

/* Append the ids of one piece. O(n log n). */
void bpe_encode(const struct bpe *b, const struct vocab *v, struct str piece,
                struct bpe_scratch *scratch, struct token_list *out);

#endif
