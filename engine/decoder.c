#include "engine/decoder.h"

static void layer_forward(const struct backend_ops *ops, struct backend *b, int layer)
{
    ops->qkv(b, layer);
    ops->attend(b, layer);
    ops->out(b, layer);
    ops->all_reduce(b);
    ops->residual(b, RESIDUAL_ATTENTION, layer);
    ops->gate_up(b, layer);
    ops->down(b, layer);
    ops->all_reduce(b);
    ops->residual(b, RESIDUAL_FFN, layer);
}

void decoder_forward(const struct backend_ops *ops, struct backend *backend, int layers,
                     const struct step *step)
{
    ops->step_begin(backend, step);
    ops->embed(backend);
    ops->residual(backend, RESIDUAL_BEGIN, 0);
    for (int layer = 0; layer < layers; layer++)
        layer_forward(ops, backend, layer);
    if (step->rows > 0) ops->logits(backend);
    ops->step_end(backend);
}
