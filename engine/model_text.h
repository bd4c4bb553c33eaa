/* model_text.h - the text side of an opened model, wherever its weights came from: GGUF metadata or
 * the files of a folder. */
#ifndef LM_ENGINE_MODEL_TEXT_H
#define LM_ENGINE_MODEL_TEXT_H

#include "engine/tokenizer.h"
#include "engine/weights.h"
#include "shared/base/buf.h"

/* *out: tokenizer_destroy. E_FORMAT, E_UNSUPPORTED, E_NOT_FOUND, -errno. */
FALLIBLE int model_text_tokenizer(const struct weights *w, struct tokenizer **out,
                                  struct error *err);

/* Append the source of the model's own chat template. *found false and 0: it has none. */
FALLIBLE int model_text_template(const struct weights *w, struct buf *out, bool *found,
                                 struct error *err);

#endif
