/* tp_sources.h - on_source_done for several ranks: a matrix is done when all have packed their parts of
 * it. What the loader made in memory is gone afterwards, so no rank may come later. */
#ifndef LM_ENGINE_TP_SOURCES_H
#define LM_ENGINE_TP_SOURCES_H

#include "kernels/backend.h"

struct tp_sources; // opaque

/* Of the whole model, which is borrowed. */
struct tp_sources *tp_sources_create(const struct model_params *whole, int world);
void tp_sources_destroy(struct tp_sources *s); // NULL is fine

/* For the params of each rank, any thread; arg is the tp_sources. Once per rank and matrix. The last
 * rank calls the whole model's on_source_done, one at a time. */
void tp_sources_done(void *arg, const struct matrix *part);

#endif
