/* weights_experts.h - the tensors of a layer's mixture of experts. */
#ifndef LM_ENGINE_WEIGHTS_EXPERTS_H
#define LM_ENGINE_WEIGHTS_EXPERTS_H

#include "engine/mapper.h"

/* In the arena; incomplete when m->rc says that something failed. */
const struct expert_params *weights_experts_map(struct mapper *m);

#endif
