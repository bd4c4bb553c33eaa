/* tokenizer_vocab.h - the pieces of a vocabulary: id -> bytes and kind, bytes -> id.
 *
 * Filled once by the loader, read-only afterwards, so any thread may read. "Bytes" are what a token
 * stands for in decoded text: loaders have already undone byte-level letters, <0xNN> and U+2581. */
#ifndef LM_ENGINE_TOKENIZER_VOCAB_H
#define LM_ENGINE_TOKENIZER_VOCAB_H

#include "shared/base/str.h"

enum token_kind { // numbers as in GGUF's tokenizer.ggml.token_type
    TOKEN_NORMAL = 1,
    TOKEN_UNKNOWN = 2,
    TOKEN_CONTROL = 3,
    TOKEN_USER = 4, // added to the text by its author: matched before merging, printed as it is
    TOKEN_UNUSED = 5,
    TOKEN_BYTE = 6,
};

struct vocab {
    uint32_t count, cap;
    uint32_t *offsets; // count + 1 positions in pool
    char *pool;
    uint8_t *kinds;
    uint8_t *hidden;    // 1: not to be found, since the model doesn't have it; NULL: none is
    uint32_t piece_max; // longest piece that vocab_find can give, bytes
    uint64_t seed;      // of the hash: a crafted file can't aim at one chain
    struct vocab_slot *slots;
    uint32_t mask; // slots - 1
};

/* `count` pieces, appended in order of id with vocab_add; then vocab_index once. */
void vocab_init(struct vocab *v, uint32_t count);
void vocab_deinit(struct vocab *v);
void vocab_add(struct vocab *v, struct str bytes, enum token_kind kind);
/* The piece added last has an id and prints, but only its own text in a text stands for it. */
void vocab_hide_last(struct vocab *v);
/* Build bytes -> id. Where two tokens have the same bytes, normal ones win over those that users
 * added and those over control and byte tokens, then low ids over high ones: merging and scoring
 * mean the model's own pieces. */
void vocab_index(struct vocab *v);

int32_t vocab_find(const struct vocab *v, struct str bytes); // -1: none

static inline struct str vocab_bytes(const struct vocab *v, uint32_t id)
{
    return (struct str){v->pool + v->offsets[id], v->offsets[id + 1] - v->offsets[id]};
}

static inline bool vocab_is_special(const struct vocab *v, uint32_t id)
{
    return v->kinds[id] == TOKEN_CONTROL || v->kinds[id] == TOKEN_UNKNOWN;
}

#endif
