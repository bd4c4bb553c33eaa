/* backend_module.h - what a backend in a shared library of its own and its loader (backend.c) agree on. */
#ifndef LM_KERNELS_BACKEND_MODULE_H
#define LM_KERNELS_BACKEND_MODULE_H

#include "kernels/backend.h"

/* Counts up with a change of meaning that the layout below doesn't show. */
#define BACKEND_MODULE_ENTRY "lm_backend_module_v1"

/* Program and module are built from one tree; these tell them apart where they weren't. */
struct backend_module_layout {
    size_t ops, options, model, layer, experts, latent, step, sequence;
};

static inline struct backend_module_layout backend_module_own_layout(void)
{
    struct backend_module_layout layout;
    layout.ops = sizeof(struct backend_ops);
    layout.options = sizeof(struct backend_options);
    layout.model = sizeof(struct model_params);
    layout.layer = sizeof(struct layer_params);
    layout.experts = sizeof(struct expert_params);
    layout.latent = sizeof(struct latent_params);
    layout.step = sizeof(struct step);
    layout.sequence = sizeof(struct step_sequence);
    return layout;
}

/* Sets *ops. Fails where the backend can't work on this machine; err says why in the form
 * "no driver (libcuda.so.1 not found)". Called once, from any thread. */
typedef int backend_module_entry(struct backend_module_layout loaders,
                                 const struct backend_ops **ops, struct error *err);

#endif
