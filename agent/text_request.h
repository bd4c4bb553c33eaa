/* text_request.h - requests about text that need no generation: tokenise it, put ids back together,
 * render a conversation. Pure but for the immutable tokenizer and template; runs on text_worker
 * threads. Shapes are those of LMDeploy (encode), vLLM (tokenize, detokenize) and llama.cpp
 * (apply-template), so that their clients work; docs/api.md lists them. */
#ifndef LM_AGENT_TEXT_REQUEST_H
#define LM_AGENT_TEXT_REQUEST_H

#include "agent/chat_request.h"
#include "agent/prompt_build.h"

enum text_request_kind {
    TEXT_ENCODE,         // POST /v1/encode
    TEXT_TOKENIZE,       // POST /tokenize
    TEXT_DETOKENIZE,     // POST /detokenize
    TEXT_APPLY_TEMPLATE, // POST /apply-template
    TEXT_COUNT_TOKENS,   // POST /v1/messages/count_tokens, Anthropic's
};

/* The answer as JSON in *out, or -1 and *e. now: seconds since 1970, for templates. */
FALLIBLE int text_request_answer(enum text_request_kind kind, struct str body,
                                 const struct request_limits *limits,
                                 const struct prompt_context *context, int64_t now, struct buf *out,
                                 struct api_error *e);

#endif
