/* cuda_attention.cu - one layer's launches over a plan. */
#include "kernels/cuda/cuda_attention.h"

#include "kernels/cuda/cuda_attention_parts.h"
#include "kernels/cuda/cuda_memory.h"
#include "shared/base/check.h"

/* A captured grid serves every context. Each of its blocks takes splits in turn. */
#define GRAPH_SPLITS     8   // blocks for each KV head of a sequence
#define GRAPH_BLOCKS_MIN 512 // so that one long sequence has four warps a multiprocessor on the way
#define GRAPH_BLOCKS_MAX 4096

static struct attention_params params_of(const struct cuda_attention *a,
                                         const struct cuda_attention_layer *x)
{
    const struct cuda_kv_layout *l = &a->kv;
    struct attention_params p = {};

    p.parts = x->pages + (size_t)(x->layer * l->kv_heads) * l->part_bytes;
    p.page_bytes = l->page_bytes;
    p.part_bytes = l->part_bytes;
    p.values = l->values;
    p.key_scales = l->key_scales;
    p.value_scales = l->value_scales;
    p.type = l->type;
    p.key_stride = l->key_stride;
    p.value_stride = l->value_stride;
    p.kv_heads = l->kv_heads;
    p.group = a->heads / l->kv_heads;
    p.head_dim = l->head_dim;
    p.value_dim = l->value_dim;
    p.window = x->window;
    p.scale = a->scale;
    p.softcap = a->softcap;
    p.sinks = x->sinks;
    p.image = (const int32_t *)x->image;
    p.q = x->q;
    p.q_stride = x->q_stride;
    p.o = x->o;
    p.o_stride = x->o_stride;
    p.o_real = a->o_real;
    return p;
}

int cuda_attention_fits(const struct cuda_attention *a, struct error *err)
{
    int device = 0, have = 0;

    if (attention_is_scalar(a)) return 0;
    int rc = cuda_try(cudaGetDevice(&device), "CUDA device", err);
    if (rc == 0)
        rc =
            cuda_try(cudaDeviceGetAttribute(&have, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
                     "CUDA device", err);
    int need = attention_prefill_shared_bytes(a->kv.shape, a->kv.type);
    if (rc < 0 || need <= have) return rc;
    return error_set(err, E_UNSUPPORTED,
                     "heads of %d and %d want %d KiB of shared memory a block, and this device "
                     "has %d: take float32",
                     a->kv.head_dim, a->kv.value_dim, need >> 10, have >> 10);
}

/* Totals come first, so that both arrays are aligned whatever value_dim is. */
static void set_workspace(struct attention_params *p, void *workspace, size_t bytes)
{
    size_t rows = bytes / (((size_t)p->value_dim + 2) * sizeof(float));
    p->partial_totals = (float *)workspace;
    p->partial_sums = p->partial_totals + 2 * rows;
}

static int min_int(int a, int b)
{
    return a < b ? a : b;
}

const int32_t *cuda_attention_slots(const void *image)
{
    return (const int32_t *)image + sizeof(struct attention_image) / sizeof(int32_t);
}

void cuda_attention_run(const struct cuda_attention *a, const struct cuda_attention_plan *plan,
                        const struct cuda_attention_layer *x, cudaStream_t stream)
{
    struct attention_params p = params_of(a, x);
    int decode = plan->decode_tiles * a->kv.kv_heads, merged = plan->merged_rows;

    CHECK(x->q_stride % 2 == 0 && (a->o_real == CUDA_REAL_F32 || x->o_stride % 2 == 0) &&
          x->layer < a->kv.layers);
    set_workspace(&p, x->workspace, x->workspace_bytes);
    if (attention_is_scalar(a)) {
        if (plan->prefill_tiles > 0)
            attention_exact_launch(&p, plan->prefill_tiles * a->kv.kv_heads, stream);
        return;
    }
    if (x->graph_sequences > 0) {
        CHECK(plan->prefill_tiles == 0);
        decode = min_int(x->graph_sequences * a->kv.kv_heads * GRAPH_SPLITS, GRAPH_BLOCKS_MAX);
        if (decode < GRAPH_BLOCKS_MIN) decode = GRAPH_BLOCKS_MIN;
        merged = x->graph_sequences;
    }
    if (plan->prefill_tiles > 0)
        attention_prefill_launch(&p, a->kv.shape, plan->prefill_tiles * a->kv.kv_heads, stream);
    if (decode > 0) attention_decode_launch(&p, a->kv.shape, decode, stream);
    if (merged > 0) attention_merge_launch(&p, merged, stream);
}
