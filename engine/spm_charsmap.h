/* spm_charsmap.h - SentencePiece's precompiled_charsmap: a little-endian 32 bit size, a double-array
 * trie of that many bytes (Darts: one 32 bit unit per node), and the texts that its values point
 * into, each ended by NUL. */
#ifndef LM_ENGINE_SPM_CHARSMAP_H
#define LM_ENGINE_SPM_CHARSMAP_H

#include "shared/base/error.h"
#include "shared/base/str.h"

FALLIBLE int spm_charsmap_check(struct str map, struct error *err); // before any find

/* The longest key that the text begins with: what it becomes (into the map) and its length. */
bool spm_charsmap_find(struct str map, struct str text, struct str *part, size_t *taken);

#endif
