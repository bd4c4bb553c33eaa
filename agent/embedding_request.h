/* embedding_request.h - POST /v1/embeddings: from the body to the token ids of its inputs, and from
 * vectors to the answer. OpenAI's shapes: `input` is a string, an array of strings, of token ids or of
 * arrays of those; `encoding_format` float or base64 (little-endian float32); `dimensions` keeps the
 * first ones and makes the vector one again, of length 1. Pure: runs on text_worker threads. */
#ifndef LM_AGENT_EMBEDDING_REQUEST_H
#define LM_AGENT_EMBEDDING_REQUEST_H

#include "agent/chat_request.h"
#include "agent/prompt_build.h"
#include "shared/net/api_error.h"

#define EMBEDDING_INPUTS_MAX 2048 // OpenAI's

struct embedding_request {
    struct token_list *inputs; // owned; [count], none empty, all fit the context
    size_t count;
    int dimensions; // at most the model's
    bool is_base64;
};

/* 0 and *out, or -1 and *e; embedding_request_deinit in every case. hidden: floats of a vector. */
FALLIBLE int embedding_request_parse(struct str body, const struct request_limits *limits,
                                     const struct prompt_context *context, int hidden,
                                     struct embedding_request *out, struct api_error *e);
void embedding_request_deinit(struct embedding_request *r); // zeroed is fine

/* Appends the JSON of a vector, [at least r->dimensions]: a list, or a string of base64. */
void embedding_print(const struct embedding_request *r, const float *vector, struct buf *out);
/* The body of the answer, of what embedding_print made of each. */
void embedding_print_answer(const struct buf *vectors, size_t count, struct str model,
                            int64_t prompt_tokens, struct buf *out);

#endif
