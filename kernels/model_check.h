/* model_check.h - what a model's parameters must be before a backend loads them, and the matrices of
 * a layer as a list. The rules hold for every backend; what one of them can't take besides is in its
 * model_limits. */
#ifndef LM_KERNELS_MODEL_CHECK_H
#define LM_KERNELS_MODEL_CHECK_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MODEL_EXPERTS_MAX      1024
#define MODEL_EXPERTS_USED_MAX 64

struct model_limits {
    const char *backend; // for error texts
    enum tp_split split; // how shares are cut
    int head_dim_max;    // of keys and of values
    int dim_max;         // of any other dimension, so that products fit
    bool scale_grids;    // backend_ops.scale_grids
};

/* E_UNSUPPORTED and E_INVALID name what is wrong. */
FALLIBLE int model_check(const struct model_params *p, const struct model_limits *limits,
                         struct error *err);
FALLIBLE int model_check_steps(const struct step_limits *l, const struct model_limits *limits,
                               struct error *err);

/* The matrices of a layer outside experts, in the order in which a step uses them. */
enum layer_matrix_kind {
    LAYER_Q,
    LAYER_Q_A,
    LAYER_Q_B,
    LAYER_KV_A,
    LAYER_KV_B,
    LAYER_K,
    LAYER_V,
    LAYER_O,
    LAYER_GATE,
    LAYER_UP,
    LAYER_DOWN,
    LAYER_MATRICES
};

struct layer_matrix_view {
    enum layer_matrix_kind kind;
    const char *name; // "q_a"
    const struct matrix *matrix;
    int64_t rows, cols; // what they must be
};

/* Those that the layer has; their count is returned. */
int model_layer_matrices(const struct model_params *p, enum tp_split split,
                         const struct layer_params *l,
                         struct layer_matrix_view view[LAYER_MATRICES]);

/* A rank's share; all of the model, when it isn't cut. */
struct rank_share model_share(const struct model_params *p);

static inline int model_value_dim(const struct model_params *p)
{
    return p->value_dim > 0 ? p->value_dim : p->head_dim;
}

static inline bool model_has_shared_expert(const struct expert_params *x)
{
    return x->shared_gate.data || x->shared_up.data || x->shared_down.data;
}

#ifdef __cplusplus
}
#endif

#endif
