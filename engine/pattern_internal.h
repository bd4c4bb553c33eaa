/* pattern_internal.h - a parsed pattern; for pattern*.c only. */
#ifndef LM_ENGINE_PATTERN_INTERNAL_H
#define LM_ENGINE_PATTERN_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

#define PATTERN_RANGES_MAX  24
#define PATTERN_STARTS_MAX  32
#define PATTERN_CHOICES_MAX 24 // below the top: each may double the ways to match

struct pattern_set {     // of code points
    uint64_t ascii[2];   // the answer for U+0000..U+007F
    uint64_t letters[2]; // single ones of them, bit by bit
    uint32_t categories; // bit per enum unicode_category
    bool spaces, not_spaces, words, not_words;
    bool negated;    // all of the above and the ranges the other way round
    bool plain;      // beyond ASCII all but U+0085 are told by `beyond`
    uint32_t beyond; // categories, those of white space included
    int range_count;
    uint32_t ranges[PATTERN_RANGES_MAX][2]; // inclusive
};

enum pattern_node_kind {
    NODE_END,    // a match
    NODE_SET,    // min to max characters of a set
    NODE_EITHER, // branch, else next
    NODE_AHEAD,  // branch matches here
    NODE_NOT_AHEAD,
    NODE_JUMP, // to next
};

struct pattern_node {
    enum pattern_node_kind kind;
    int next, branch; // indices of nodes
    int set;
    uint32_t min, max;
    bool possessive;
};

struct pattern {
    struct pattern_node *nodes;
    int node_count;
    struct pattern_set *sets;
    int set_count;
    int starts[PATTERN_STARTS_MAX]; // first nodes of the top alternatives
    int start_count;
    uint32_t may_begin[129]; // bit per start, by first byte; [128]: beyond ASCII
    const uint8_t *categories;
};

bool pattern_set_has(const struct pattern_set *s, uint32_t c);

#endif
