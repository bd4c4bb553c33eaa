/* tokenizer_added.h - tokens that are found in the raw text before anything else looks at it:
 * control tokens such as <|im_end|> and what users added. Leftmost, then longest, as the reference
 * matches. Built once, read-only afterwards. */
#ifndef LM_ENGINE_TOKENIZER_ADDED_H
#define LM_ENGINE_TOKENIZER_ADDED_H

#include "shared/base/str.h"

enum added_flags {
    ADDED_SPECIAL = 1, // only matched where the caller allows special tokens
    ADDED_LSTRIP = 2,  // takes the white space in front of it too,
    ADDED_RSTRIP = 4,  // and behind it
    ADDED_WORD = 8,    // only where no letter or digit stands beside it
};

struct added_token {
    struct str text; // owned by the set
    int32_t id;
    unsigned flags; // enum added_flags
};

struct added_tokens {
    struct added_token *list; // sorted by text after added_tokens_index
    size_t count, cap;
    uint32_t first[257]; // list[first[c] .. first[c + 1]) begin with byte c
};

void added_tokens_init(struct added_tokens *a);
void added_tokens_deinit(struct added_tokens *a);
/* Copies the text; an empty one is left out. */
void added_tokens_add(struct added_tokens *a, struct str text, int32_t id, unsigned flags);
void added_tokens_index(struct added_tokens *a);

/* The first match in text[from..len): its position, length (stripped space included) and id. False:
 * none. */
bool added_tokens_next(const struct added_tokens *a, struct str text, size_t from, bool specials,
                       size_t *at, size_t *len, int32_t *id);
int32_t added_tokens_find(const struct added_tokens *a, struct str text); // whole text; -1: none
/* Whether the text begins with a special one, whatever else it begins with. */
bool added_tokens_special_at(const struct added_tokens *a, struct str text);
/* Length of the longest token that the text begins with, 0: none. */
size_t added_tokens_longest(const struct added_tokens *a, struct str text);

#endif
