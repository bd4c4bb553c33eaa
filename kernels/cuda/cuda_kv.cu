/* cuda_kv.cu - pages: layout, writing a step's K and V, moving pages. */
#include "kernels/cuda/cuda_kv.h"

#include "shared/base/check.h"

#define WRITE_WARPS 4

static const int head_shapes[][2] = {
#define X(key, value) {key, value},
    CUDA_HEAD_SHAPES(X)
#undef X
};

#define HEAD_SHAPES (int)(sizeof head_shapes / sizeof head_shapes[0])

int cuda_kv_layout_init(struct cuda_kv_layout *l, enum kv_type type, int layers, int kv_heads,
                        int head_dim, int value_dim, struct error *err)
{
    static const size_t element_bytes[KV_TYPES] = {4, 2, 2, 1};
    int shape = 0;

    CHECK(layers > 0 && kv_heads > 0 && head_dim > 0 && value_dim > 0);
    while (shape < HEAD_SHAPES &&
           (head_shapes[shape][0] < head_dim || head_shapes[shape][1] < value_dim))
        shape++;
    if (shape == HEAD_SHAPES)
        return error_set(err, E_UNSUPPORTED,
                         "heads of %d and %d elements: attention on CUDA has at most %d", head_dim,
                         value_dim, CUDA_HEAD_DIM_MAX);
    if (head_dim % 2 != 0 || value_dim % 2 != 0)
        return error_set(err, E_UNSUPPORTED,
                         "heads of %d and %d elements: attention on CUDA needs even sizes",
                         head_dim, value_dim);
    *l = {};
    l->type = type;
    l->layers = layers;
    l->kv_heads = kv_heads;
    l->head_dim = head_dim;
    l->value_dim = value_dim;
    l->shape = shape;
    l->key_stride = head_shapes[shape][0];
    l->value_stride = head_shapes[shape][1];
    l->values = KV_BLOCK_TOKENS * (size_t)l->key_stride * element_bytes[type];
    l->key_scales = l->values + KV_BLOCK_TOKENS * (size_t)l->value_stride * element_bytes[type];
    l->value_scales = l->key_scales + (type == KV_INT8 ? KV_BLOCK_TOKENS * sizeof(float) : 0);
    l->part_bytes = l->value_scales + (type == KV_INT8 ? KV_BLOCK_TOKENS * sizeof(float) : 0);
    l->page_bytes = (size_t)layers * (size_t)kv_heads * l->part_bytes;
    return 0;
}

/* ---- writing ---- */

struct kv_write_params {
    struct cuda_kv_layout layout;
    uint8_t *parts; // the layer's first in page 0
    const float *k, *v;
    int k_stride, v_stride;
    const int32_t *slot;
};

/* Elements d and d + 1 of a row; what lies behind its `dim` elements is 0. */
__device__ __forceinline__ float2 row_pair(const float *row, int d, int dim)
{
    return d < dim ? *(const float2 *)(row + d) : make_float2(0, 0);
}

/* README A2, A3: `scale`, and the factor that makes integers. */
__device__ __forceinline__ float quantize_scale(float top, bool finite, float *inverse)
{
    *inverse = 0;
    if (!finite) return NAN;
    if (top < 0x1p-100f) return 0;
    *inverse = 127.0f / top;
    return top / 127.0f;
}

/* One row by a warp, two elements a lane and turn. */
__device__ void write_row(enum kv_type type, uint8_t *to, float *scale, const float *row, int dim,
                          int stride)
{
    int begin = 2 * lane_id(), step = 2 * WARP_LANES;
    float inverse = 0;

    if (type == KV_INT8) {
        float top = 0;
        int finite = 1;
        for (int d = begin; d < stride; d += step) {
            float2 x = row_pair(row, d, dim);
            top = fmaxf(top, fmaxf(fabsf(x.x), fabsf(x.y)));
            finite &= isfinite(x.x) && isfinite(x.y);
        }
        top = warp_max(top);
        float s = quantize_scale(top, __all_sync(WARP_ALL, finite), &inverse);
        if (lane_id() == 0) *scale = s;
    }
    for (int d = begin; d < stride; d += step) {
        float2 x = row_pair(row, d, dim);
        if (type == KV_F32)
            *(float2 *)(to + 4 * d) = x;
        else if (type == KV_F16)
            *(uint32_t *)(to + 2 * d) = pack2<__half>(x.x, x.y);
        else if (type == KV_BF16)
            *(uint32_t *)(to + 2 * d) = pack2<__nv_bfloat16>(x.x, x.y);
        else if (inverse == 0)
            *(uint16_t *)(to + d) = 0;
        else
            *(uint16_t *)(to + d) = (uint16_t)((uint8_t)(int8_t)rintf(x.x * inverse) |
                                               (uint8_t)(int8_t)rintf(x.y * inverse) << 8);
    }
}

/* blockIdx: token, heads by WRITE_WARPS; a warp writes K and V of a head. */
__global__ void __launch_bounds__(32 * WRITE_WARPS) kv_write_kernel(const struct kv_write_params p)
{
    const struct cuda_kv_layout *l = &p.layout;
    int token = blockIdx.x, head = blockIdx.y * WRITE_WARPS + warp_id();

    pdl_trigger();
    int slot = __ldcg(&p.slot[token]); // README P2
    pdl_wait();
    if (slot < 0 || head >= l->kv_heads) return;

    size_t position = slot % KV_BLOCK_TOKENS;
    uint8_t *part =
        p.parts + (size_t)(slot / KV_BLOCK_TOKENS) * l->page_bytes + head * l->part_bytes;
    size_t key_bytes = l->values / KV_BLOCK_TOKENS;
    size_t value_bytes = (l->key_scales - l->values) / KV_BLOCK_TOKENS;
    write_row(l->type, part + position * key_bytes, (float *)(part + l->key_scales) + position,
              p.k + (size_t)token * p.k_stride + head * l->head_dim, l->head_dim, l->key_stride);
    write_row(l->type, part + l->values + position * value_bytes,
              (float *)(part + l->value_scales) + position,
              p.v + (size_t)token * p.v_stride + head * l->value_dim, l->value_dim,
              l->value_stride);
}

void cuda_kv_write(const struct cuda_kv_layout *l, uint8_t *pages, int layer, const float *k,
                   int k_stride, const float *v, int v_stride, const int32_t *slot, int tokens,
                   cudaStream_t stream)
{
    struct kv_write_params p = {
        *l, pages + (size_t)(layer * l->kv_heads) * l->part_bytes, k, v, k_stride, v_stride, slot};

    CHECK(k_stride % 2 == 0 && v_stride % 2 == 0 && layer < l->layers);
    if (tokens == 0) return;
    dim3 grid((unsigned)tokens, (unsigned)((l->kv_heads + WRITE_WARPS - 1) / WRITE_WARPS));
    LM_LAUNCH_PDL(kv_write_kernel, grid, 32 * WRITE_WARPS, 0, stream, p);
}

/* ---- moving ---- */

void cuda_kv_copy(const struct cuda_kv_layout *l, uint8_t *pages, int from_page, int to_page,
                  cudaStream_t stream)
{
    cudaMemcpyAsync(pages + (size_t)to_page * l->page_bytes,
                    pages + (size_t)from_page * l->page_bytes, l->page_bytes,
                    cudaMemcpyDeviceToDevice, stream);
}

void cuda_kv_save(const struct cuda_kv_layout *l, const uint8_t *pages, int page, void *host,
                  cudaStream_t stream)
{
    cudaMemcpyAsync(host, pages + (size_t)page * l->page_bytes, l->page_bytes,
                    cudaMemcpyDeviceToHost, stream);
}

void cuda_kv_restore(const struct cuda_kv_layout *l, uint8_t *pages, int page, const void *host,
                     cudaStream_t stream)
{
    cudaMemcpyAsync(pages + (size_t)page * l->page_bytes, host, l->page_bytes,
                    cudaMemcpyHostToDevice, stream);
}
