/* pooling.h - from the hidden states of a prompt to one vector, and what a model's files say of how.
 *
 * Behind the final norm; the sum of ENGINE_POOL_MEAN is kept in double, in the order of positions, so
 * that it doesn't depend on how the prompt was cut into steps. The result has length 1 (L2), as
 * Reimers and Gurevych 2019, "Sentence-BERT", and the sentence-transformers library have it. */
#ifndef LM_ENGINE_POOLING_H
#define LM_ENGINE_POOLING_H

#include "engine/engine.h"
#include "engine/request.h"
#include "engine/weights.h"

/* Engine thread. The hidden state of the next position, of all but the last one. */
void pooling_add(struct request *r, const float *hidden, int len);
/* With the last position's: the embedding, the caller's to free; NULL: it is no finite vector. */
float *pooling_finish(struct request *r, const float *last, int len);

/* From a GGUF's NAME.pooling_type, or a folder's sentence-transformers files (modules.json,
 * 1_Pooling/config.json). NONE: they say nothing, or something that is not built (CLS, rank).
 * E_FORMAT: a file is damaged. */
FALLIBLE int pooling_read(const struct weights *w, enum engine_pool *out, struct error *err);

#endif
