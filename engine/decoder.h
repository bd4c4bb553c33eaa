/* decoder.h - the one forward pass of every family: backend stages in order. What differs between
 * families is in model_params, which the backend has. */
#ifndef LM_ENGINE_DECODER_H
#define LM_ENGINE_DECODER_H

#include "kernels/backend.h"

/* Enqueue one step; *step must stay valid until sync. Rank thread only. */
void decoder_forward(const struct backend_ops *ops, struct backend *backend, int layers,
                     const struct step *step);

#endif
