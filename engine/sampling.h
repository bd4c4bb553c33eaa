/* sampling.h - who draws the tokens of a batch, and makes log-probabilities: the backend, if it can (backend.h:
 * sample); else, and for rows that it leaves, the host, in parallel on the backend's pool.
 *
 * For rank 0's thread. What a draw depends on is complete when its batch begins, so that begin() prepares
 * it, masks of grammars too, while a device still runs the forward pass. */
#ifndef LM_ENGINE_SAMPLING_H
#define LM_ENGINE_SAMPLING_H

#include "engine/batch.h"
#include "kernels/backend.h"

struct sampling; // opaque

/* vocab: logits of a row that may be drawn, the first ones of row_len. */
struct sampling *sampling_create(const struct backend_ops *ops, int rows_max, int vocab,
                                 int row_len);
void sampling_destroy(struct sampling *s); // NULL is fine

/* Whether begin() is to be called for a batch, between its forward pass and sync(). */
bool sampling_is_on_device(const struct sampling *s, const struct batch *b);
void sampling_begin(struct sampling *s, struct backend *backend, struct batch *b);
/* After sync(): results into b->row_info. A row that has none has token 0 and a status. */
void sampling_end(struct sampling *s, struct backend *backend, struct batch *b);

#endif
