/* weights_map.h - a container's tensors to struct model_params, by the table of names that the
 * configuration chose.
 *
 * Matrices stay where they are in the mapping (packed ones become row views); vectors become
 * float32. Only what has no such view is made in memory: regrouped rows, transposed experts, formats
 * that kernels don't read. Nothing is left over: a tensor that no part of the model uses means that
 * the file asks for something that we don't do, and is refused by name. */
#ifndef LM_ENGINE_WEIGHTS_MAP_H
#define LM_ENGINE_WEIGHTS_MAP_H

#include "engine/mapper.h"

/* Fill w->params and w->parameters from w->config. E_FORMAT, E_UNSUPPORTED with the tensor's name. */
FALLIBLE int weights_map(struct weights *w, const struct tensor_source *source,
                         const struct linear_format *format, const struct weights_options *options,
                         struct error *err);

#endif
