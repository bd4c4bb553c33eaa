/* grammar_vocab.h - a tokenizer's tokens as grammars look at them: a trie of their bytes. Immutable
 * after create; any thread.
 *
 * Special tokens and those that stop a generation have their text between two bytes that are in no text
 * (RFC 3629, section 1), so that neither spells the other. */
#ifndef LM_ENGINE_GRAMMAR_VOCAB_H
#define LM_ENGINE_GRAMMAR_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shared/base/str.h"

#define GRAMMAR_SPECIAL_MARK 0xff

struct tokenizer;

/* One node of a trie in the order of a walk: its first child follows it, its next sibling is at
 * `next`. */
struct trie_node {
    int32_t token;  // that ends here, -1: none. Others with the same bytes: grammar_vocab.same
    int32_t next;   // index behind its subtree
    uint16_t depth; // from 1
    uint8_t byte;
};

struct token_trie {
    struct trie_node *node; // owned
    int count;
    int depth_max;
    int32_t first[256]; // nodes of depth 1 by their byte, -1: none
};

#define PLAIN_CHARS_MAX 64

/* Plain tokens are text as it stands in a JSON string: whole characters, no quote, backslash or control
 * character. Where a string takes any characters they need no walk. */
struct grammar_vocab {
    int vocab;
    int words;                 // of 32 bits in a mask
    struct token_trie all;     // every token that has bytes
    struct token_trie unplain; // those that aren't plain
    int32_t *same;             // [vocab] the next token with the same bytes, -1: the last
    uint32_t *plain[PLAIN_CHARS_MAX + 1]; // masks: plain tokens of at most that many characters
    int plain_chars_max; // of the longest plain token; longer ones count as not plain
    int32_t *stops;      // tokens that end a generation, owned
    int stop_count;
};

/* Some ten milliseconds for 150,000 tokens. */
struct grammar_vocab *grammar_vocab_create(const struct tokenizer *t);
void grammar_vocab_destroy(struct grammar_vocab *v); // NULL is fine
/* Whether a special token, or one that stops a generation, has that text. */
bool grammar_vocab_has_special(const struct grammar_vocab *v, struct str text);

#endif
