/* no_grammars.h - for tests that have a tokenizer of their own: the real grammars would bring the real
 * one along. */
#ifndef LM_TESTS_UNIT_AGENT_NO_GRAMMARS_H
#define LM_TESTS_UNIT_AGENT_NO_GRAMMARS_H

#include "engine/grammar_cache.h"
#include "shared/base/check.h"

int grammar_cache_get(struct grammar_cache *c, const struct grammar_wish *wish,
                      struct grammar **out, struct error *err)
{
    (void)c, (void)wish, (void)out;
    return error_set(err, E_UNSUPPORTED, "there are no grammars here");
}

int grammar_cache_check(struct grammar_cache *c, const struct grammar_wish *wish, struct error *err)
{
    (void)c, (void)wish;
    return error_set(err, E_UNSUPPORTED, "there are no grammars here");
}

void grammar_unref(struct grammar *g)
{
    CHECK(!g);
}

#endif
