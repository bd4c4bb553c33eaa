/* engine_internal.h - opening an engine from parts, without a model file: for tests over fake
 * backends. engine_open() is this plus loading. */
#ifndef LM_ENGINE_ENGINE_INTERNAL_H
#define LM_ENGINE_ENGINE_INTERNAL_H

#include "engine/engine.h"
#include "engine/engine_thread.h"
#include "engine/rope_set.h"

struct engine_parts {
    const struct backend_ops *ops;
    const struct model_params *params; // read during the call only
    int context_len;                   // of the model
    struct rope_lengths rope;          // of the sets that params have
    int sampled_vocab;                 // ids that may be sampled; <= params->vocab
    struct token_text text;
    const int32_t *stop_ids; // the model's own, copied
    int stop_id_count;
};

/* Options that a model path needs are not looked at. Tokenizer, template and names stay empty. With an error
 * *out is NULL, or not: then a rank was lost (executor.h), and what `parts` points to must be kept for ever. */
FALLIBLE int engine_open_parts(const struct engine_options *options,
                               const struct engine_parts *parts, struct engine **out,
                               struct error *err);

#endif
