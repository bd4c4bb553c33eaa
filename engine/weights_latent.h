/* weights_latent.h - kv_b of files that hold it as k_b and v_b. */
#ifndef LM_ENGINE_WEIGHTS_LATENT_H
#define LM_ENGINE_WEIGHTS_LATENT_H

#include "engine/mapper.h"

/* [heads * (key + value)][kv_rank] of the layer that is being mapped. Of the type of both parts where
 * that is one of floats; of quantised ones float32 (m->exact) or rounded to float16. No data: a failure
 * in m. */
struct matrix weights_latent_join(struct mapper *m);

#endif
