/* cpu_gather.h - what the ranks of a model bring together within a step. Each computes some columns of
 * the rows that follow from whole weight rows; nothing is ever summed over ranks. All ranks come
 * to the same gathers in the same order; with one rank they do nothing. For the files of kernels/cpu only.
 *
 * When the group has failed, the rank's step becomes an empty one: later stages compute nothing, and so
 * write nothing that another rank may be reading, and sync() says why.
 *
 * Between two writes to memory that was gathered lies a meeting, as cpu_comm.h wants: x, o, y, g, y
 * follow each other in every layer. */
#ifndef LM_KERNELS_CPU_GATHER_H
#define LM_KERNELS_CPU_GATHER_H

#include "kernels/backend.h"

/* At the end of step_begin: nothing is computed if the group has failed before. */
void cpu_gather_begin(struct backend *b);
/* Rows of range->whole * width floats, of which this rank has written range * width: afterwards it has
 * all of them. */
void cpu_gather_columns(struct backend *b, float *rows, int count, const struct rank_range *range,
                        int width);
/* q_spanned and k_spanned: `all` from everybody's `own`. */
void cpu_gather_spanned(struct backend *b);
/* x, of which this rank has written the rows whose tokens are in its part of the vocabulary. */
void cpu_gather_embedded(struct backend *b);
/* Logits, to rank 0 alone. */
void cpu_gather_logits(struct backend *b);

#endif
