/* grammar_vocab.h - a tokenizer's tokens as grammars look at them: a trie of their bytes. Immutable
 * after create; any thread. */
#ifndef LM_ENGINE_GRAMMAR_VOCAB_H
#define LM_ENGINE_GRAMMAR_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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
};

#define PLAIN_CHARS_MAX 64

/* Plain tokens are text as it stands in a JSON string: whole characters, no quote, backslash or control
 * character. Where a string takes any characters they need no walk. */
struct grammar_vocab {
    int vocab;
    int words;                 // of 32 bits in a mask
    struct token_trie all;     // every token that has bytes
    struct token_trie special; // those that aren't plain
    int32_t *same;             // [vocab] the next token with the same bytes, -1: the last
    uint32_t *plain[PLAIN_CHARS_MAX + 1]; // masks: plain tokens of at most that many characters
    int plain_chars_max; // of the longest plain token; longer ones count as not plain
    int32_t *stops;      // tokens that end a generation, owned
    int stop_count;
};

/* Some ten milliseconds for 150,000 tokens. */
struct grammar_vocab *grammar_vocab_create(const struct tokenizer *t);
void grammar_vocab_destroy(struct grammar_vocab *v); // NULL is fine

#endif
