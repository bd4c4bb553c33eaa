/* weights_gguf.h - the GGUF loader behind weights_open(). */
#ifndef LM_ENGINE_WEIGHTS_GGUF_H
#define LM_ENGINE_WEIGHTS_GGUF_H

#include "engine/weights.h"

/* Takes g, also on failure; options->format is not looked at. Every tensor that the model needs is there, of a type that we read and
 * of the shape that the configuration says, or it is an error. */
FALLIBLE int weights_gguf_take(struct gguf *g, const struct weights_options *options,
                               struct weights **out, struct error *err);

#endif
