/* grammar_cache.h - the grammars that were asked for last, compiled. Any thread; a grammar is compiled
 * while the thread that asks first waits, without keeping others from theirs, with a low priority and when
 * engine/grammar_pace.h says: it takes little from the answers that are being written.
 *
 * What a source failed with is kept like a grammar, and in the same room. */
#ifndef LM_ENGINE_GRAMMAR_CACHE_H
#define LM_ENGINE_GRAMMAR_CACHE_H

#include "engine/grammar.h"

#define GRAMMAR_CACHE_MAX     32
#define GRAMMAR_CACHE_SOURCES ((size_t)8 << 20) // bytes of their sources

struct grammar_cache; // opaque
struct grammar_pace;  // engine/grammar_pace.h
struct tokenizer;

/* Tokenizer and pace must outlive it. The tokenizer's trie is built when the first grammar is asked for.
 * pace NULL: as fast as it goes. */
struct grammar_cache *grammar_cache_create(const struct tokenizer *t, struct grammar_pace *pace);
/* After all grammars that it gave are unreferenced. NULL is fine. */
void grammar_cache_destroy(struct grammar_cache *c);

/* A grammar's source, and since when somebody waits for what comes of it (clock_ms()). */
struct grammar_wish {
    enum grammar_kind kind;
    struct str source;
    uint64_t since_ms;
};

/* A reference of the caller's; errors as grammar_compile(). */
FALLIBLE int grammar_cache_get(struct grammar_cache *c, const struct grammar_wish *wish,
                               struct grammar **out, struct error *err);
/* Only whether there is one; it isn't kept, but its failure is. */
FALLIBLE int grammar_cache_check(struct grammar_cache *c, const struct grammar_wish *wish,
                                 struct error *err);
/* Sources that were compiled or checked, ever: what wasn't known. */
uint64_t grammar_cache_compiled(struct grammar_cache *c);

#endif
