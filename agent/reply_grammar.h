/* reply_grammar.h - what a chat's answer must look like, as one grammar: calls of tools where they are
 * demanded or strict, a response_format, both behind whatever the model thinks first. */
#ifndef LM_AGENT_REPLY_GRAMMAR_H
#define LM_AGENT_REPLY_GRAMMAR_H

#include "agent/chat_request.h"
#include "agent/reply_formats.h"
#include "agent/reply_plan.h"
#include "engine/grammar_cache.h"

/* A reference of the caller's, NULL where any text will do. Slow where the grammar is new: for worker
 * threads. since_ms: when the wait for it began. -1 and *e: what is asked for can't be enforced. */
FALLIBLE int reply_grammar_compile(const struct chat_request *r,
                                   const struct reply_formats *formats,
                                   const struct reply_plan *plan, struct grammar_cache *cache,
                                   uint64_t since_ms, struct grammar **out, struct api_error *e);

#endif
