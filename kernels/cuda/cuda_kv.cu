/* cuda_kv.cu - pages: layout, where a step's K and V go, moving pages. */
#include "kernels/cuda/cuda_kv.h"

#include "shared/base/check.h"

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

struct cuda_kv_rows cuda_kv_keys(const struct cuda_kv_layout *l, uint8_t *pages, int layer,
                                 const int32_t *slot)
{
    struct cuda_kv_rows rows = {};

    CHECK(layer >= 0 && layer < l->layers);
    rows.type = l->type;
    rows.first = pages + (size_t)(layer * l->kv_heads) * l->part_bytes;
    rows.scales = l->key_scales;
    rows.row_bytes = l->values / KV_BLOCK_TOKENS;
    rows.part_bytes = l->part_bytes;
    rows.page_bytes = l->page_bytes;
    rows.dim = l->head_dim;
    rows.stride = l->key_stride;
    rows.slot = slot;
    return rows;
}

struct cuda_kv_rows cuda_kv_values(const struct cuda_kv_layout *l, uint8_t *pages, int layer,
                                   const int32_t *slot)
{
    struct cuda_kv_rows rows = cuda_kv_keys(l, pages, layer, slot);

    rows.first += l->values;
    rows.scales = l->value_scales - l->values;
    rows.row_bytes = (l->key_scales - l->values) / KV_BLOCK_TOKENS;
    rows.dim = l->value_dim;
    rows.stride = l->value_stride;
    return rows;
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
