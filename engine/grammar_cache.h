/* grammar_cache.h - the grammars that were asked for last, compiled. Any thread; a grammar is compiled
 * while the thread that asks first waits, without keeping others from theirs, and with a low priority:
 * it takes little from the answers that are being written. */
#ifndef LM_ENGINE_GRAMMAR_CACHE_H
#define LM_ENGINE_GRAMMAR_CACHE_H

#include "engine/grammar.h"

#define GRAMMAR_CACHE_MAX 32

struct grammar_cache; // opaque
struct tokenizer;

/* The tokenizer must outlive it. Its trie is built when the first grammar is asked for. */
struct grammar_cache *grammar_cache_create(const struct tokenizer *t);
/* After all grammars that it gave are unreferenced. NULL is fine. */
void grammar_cache_destroy(struct grammar_cache *c);

/* A reference of the caller's; errors as grammar_compile(). */
FALLIBLE int grammar_cache_get(struct grammar_cache *c, enum grammar_kind kind, struct str source,
                               struct grammar **out, struct error *err);
/* Only whether there is one; it isn't kept. */
FALLIBLE int grammar_cache_check(struct grammar_cache *c, enum grammar_kind kind, struct str source,
                                 struct error *err);

#endif
