/* cuda_kv.h - KV pages on the device: their layout, and what moves them.
 *
 * A page holds 64 positions of all layers, so that copying, saving and restoring it is one move:
 *
 *     page       [layers][kv_heads] of a part
 *     part       K [64][key_stride] | V [64][value_stride] | with KV_INT8: K's scales [64], V's scales [64]
 *
 * A row is one position's K or V of one head. Strides are the sizes that kernels are built for
 * (CUDA_HEAD_SHAPES), what lies between is zero, so 16 rows are one contiguous read whose length is known to the
 * compiler. V is not transposed: tensor cores take it through a transposing load. Scales are float32.
 *
 * K and V are rounded once, as kernels/cpu/README.md says (K1, K2), to the bits that the CPU stores. */
#ifndef LM_KERNELS_CUDA_KV_H
#define LM_KERNELS_CUDA_KV_H

#include "kernels/backend.h"
#include "kernels/cuda/cuda_device.cuh"

/* Sizes of a K and a V head that kernels are built for. A model gets the first that holds its own. */
#define CUDA_HEAD_SHAPES(X) \
    X(32, 32)               \
    X(64, 64)               \
    X(96, 96)               \
    X(128, 128)             \
    X(192, 128)             \
    X(256, 256)

#define CUDA_HEAD_DIM_MAX 256 // of K and of V

struct cuda_kv_layout {
    enum kv_type type;
    int layers, kv_heads, head_dim, value_dim;
    int shape;                               // row of CUDA_HEAD_SHAPES
    int key_stride, value_stride;            // elements
    size_t values, key_scales, value_scales; // bytes from the start of a part; scales: KV_INT8 only
    size_t part_bytes, page_bytes;           // multiples of 128
};

/* E_UNSUPPORTED: a head that is larger than CUDA_HEAD_DIM_MAX, or of odd size. */
FALLIBLE int cuda_kv_layout_init(struct cuda_kv_layout *l, enum kv_type type, int layers,
                                 int kv_heads, int head_dim, int value_dim, struct error *err);

/* Where rows of K, or of V, of a step's tokens go in one layer's pages; kernels write them (cuda_kv_rows.cuh). */
struct cuda_kv_rows {
    enum kv_type type;
    uint8_t *first;                           // slot 0 of page 0 of head 0
    size_t scales;                            // bytes from there to its scale; KV_INT8 only
    size_t row_bytes, part_bytes, page_bytes; // from a slot, head or page to the next
    int dim, stride;                          // elements: those that count, and with zeros behind
    const int32_t *slot; // [tokens], page * 64 + position % 64; -1: padding, isn't written
};

/* Both are on the device; slots of a step are in its plan (cuda_attention.h). */
struct cuda_kv_rows cuda_kv_keys(const struct cuda_kv_layout *l, uint8_t *pages, int layer,
                                 const int32_t *slot);
struct cuda_kv_rows cuda_kv_values(const struct cuda_kv_layout *l, uint8_t *pages, int layer,
                                   const int32_t *slot);

/* Whole pages, whatever part of them is in use. `host` has page_bytes and belongs to the stream until that has been
 * waited for. Where it isn't pinned, CUDA copies by way of its own memory, and a save waits for the stream. */
void cuda_kv_copy(const struct cuda_kv_layout *l, uint8_t *pages, int from_page, int to_page,
                  cudaStream_t stream);
void cuda_kv_save(const struct cuda_kv_layout *l, const uint8_t *pages, int page, void *host,
                  cudaStream_t stream);
void cuda_kv_restore(const struct cuda_kv_layout *l, uint8_t *pages, int page, const void *host,
                     cudaStream_t stream);

#endif
