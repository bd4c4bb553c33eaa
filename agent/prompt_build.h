/* prompt_build.h - from a checked request to the token ids of its prompts: Jinja and tokenising,
 * the slow part of accepting a request. Runs on text_worker threads; reads only immutable objects.
 */
#ifndef LM_AGENT_PROMPT_BUILD_H
#define LM_AGENT_PROMPT_BUILD_H

#include <stddef.h>
#include <stdint.h>

#include "agent/chat_request.h"
#include "agent/reply_formats.h"
#include "agent/reply_plan.h"
#include "engine/chat_template.h"
#include "engine/tokenizer.h"
#include "shared/net/api_error.h"

struct prompt_context {
    const struct tokenizer *tokenizer;
    const struct chat_template *chat_template;
    int context_len;                     // tokens of prompt and answer together
    size_t token_bytes_max;              // bytes that the longest token stands for
    struct grammar_cache *grammars;      // for answers that have to look like something
    const struct reply_formats *formats; // how the model calls tools and thinks; NULL: not known
    bool escape_special;                 // messages can't write control tokens (prompt_guard.h)
};

/* escape_special is false, there are no grammars and no formats; token_bytes_max comes from the tokenizer. Walks the vocabulary: once, at start. */
void prompt_context_init(struct prompt_context *c, const struct tokenizer *tokenizer,
                         const struct chat_template *chat_template, int context_len);

/* Append what the template makes of `in`, whose messages, tools and kwargs come from a client. With
 * escape_special it may have marks: encode it with prompt_context_encode. */
FALLIBLE int prompt_context_render(const struct prompt_context *c,
                                   const struct chat_template_input *in, struct buf *out,
                                   struct error *err);
/* A rendered text, special tokens read. */
FALLIBLE int prompt_context_encode(const struct prompt_context *c, struct str text, unsigned flags,
                                   struct token_list *out, struct error *err);

/* A prompt as its author sees it, for completions that repeat it (echo) or count characters from its
 * beginning (logprobs). */
struct prompt_text {
    struct buf text;  // as sent; the tokens' text where ids were sent
    size_t invisible; // tokens at the front that are not in the text: an added bos
};

struct prompt_set {
    struct token_list *items;  // owned
    struct prompt_text *texts; // owned; NULL where nobody needs them
    size_t count;
    struct grammar *grammar; // a reference; NULL: answers are any text, or it isn't compiled yet
    struct reply_plan plan;  // how answers are taken apart
};

/* All but the grammar. `now`: seconds since 1970 for templates that print the date. -1 and *e: the
 * template refused, or a prompt leaves no room in the context. */
FALLIBLE int prompt_build(const struct chat_request *request, const struct prompt_context *context,
                          int64_t now, struct prompt_set *out, struct api_error *e);
/* Whether answers have to look like something: then a grammar belongs to the set. */
bool prompt_needs_grammar(const struct chat_request *request);
/* Seconds where the grammar is new: for other threads than those that build prompts. -1 and *e, and the
 * set is gone: what is asked for can't be enforced. since_ms: when the request came (clock_ms()). */
FALLIBLE int prompt_compile(const struct chat_request *request,
                            const struct prompt_context *context, uint64_t since_ms,
                            struct prompt_set *set, struct api_error *e);
void prompt_set_deinit(struct prompt_set *set);

#endif
