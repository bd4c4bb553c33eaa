/* cuda_attention_prefill.cu - many query rows: a block of threads takes up to 16 rows a warp, all of which
 * read the same pages.
 *
 * K and V have one buffer each: while scores are made of K, V is on its way, and while probabilities go
 * through V, the next page's K. Rows are (token, query head of the group) pairs in order, so that a warp's see
 * about as much as each other; pages that no row of a warp sees it leaves out.
 *
 * Sums of splits that are done wait in shared memory, each thread's where only it looks. */
#include "kernels/cuda/cuda_attention_rows.cuh"

/* Two or three blocks share a multiprocessor. */
template <int TYPE, int K, int V> struct prefill_shape {
    static const int warps = K > 192 ? 3 : 4, threads = 32 * warps;
    static const int key_bytes = PAGE_CHUNKS * chunk<TYPE, K>::bytes;
    static const int value_bytes = PAGE_CHUNKS * chunk<TYPE, V>::bytes;
    static const int sums_bytes = threads * V / 2 * 4;
    static const int shared_bytes =
        key_bytes + value_bytes + sums_bytes + warps * query_rows<K>::shared_bytes;
};

/* Where a thread keeps the sums of a row's finished splits. */
struct kept_sums {
    float2 *at; // [V / 8][2 halves] of this thread, `stride` apart
    int stride;
    bool any[2]; // false: zero, nothing is written there
};

__device__ __forceinline__ float2 *kept_pair(const kept_sums &x, int j, int half)
{
    return x.at + (2 * j + half) * x.stride;
}

/* A row's split is done and others follow. */
template <int V>
__device__ __forceinline__ void keep_split(kept_sums &kept, split_state<V> &x, int half,
                                           float2 factor)
{
#pragma unroll
    for (int j = 0; j < V / 8; j++) {
        float2 *at = kept_pair(kept, j, half), sum = kept.any[half] ? *at : make_float2(0, 0);
        *at = make_float2(merged(sum.x, x.o[j][2 * half], factor),
                          merged(sum.y, x.o[j][2 * half + 1], factor));
    }
    kept.any[half] = true;
    split_clear(x, half);
}

/* A row's last split is done. */
template <int TYPE, int V>
__device__ __forceinline__ void write_row(const attention_params &p, const kept_sums &kept,
                                          split_state<V> &x, int half, float2 factor, float total,
                                          const tile_row &row, int lane)
{
    float inverse = 1.0f / total;
#pragma unroll
    for (int j = 0; j < V / 8; j++) {
        float2 sum = kept.any[half] ? *kept_pair(kept, j, half) : make_float2(0, 0);
        x.o[j][2 * half] = merged(sum.x, x.o[j][2 * half], factor) * inverse;
        x.o[j][2 * half + 1] = merged(sum.y, x.o[j][2 * half + 1], factor) * inverse;
    }
#pragma unroll
    for (int j = 0; j < V / 8; j++)
        store_pair(p, row, output_dim<TYPE>(j / 2, j % 2, lane),
                   output_pair<TYPE, V>(x, j / 2, j % 2, half));
}

/* Positions of a warp's rows: [oldest, newest]; none: oldest > newest. */
struct warp_range {
    int oldest, newest;
};

__device__ __forceinline__ warp_range warp_range_of(const attention_sequence &s,
                                                    const attention_tile &t, int warp)
{
    int first = 16 * warp, last = min(first + 16, t.tokens * t.heads) - 1;
    warp_range r = {0, -1};
    if (first > last) return r;
    r.oldest = s.past + t.token + first / t.heads;
    r.newest = s.past + t.token + last / t.heads;
    return r;
}

/* Splits that end with this page. */
template <int V>
__device__ __forceinline__ void close_splits(split_state<V> &x, kept_sums &kept, row_total r[2],
                                             const score_scale &c, const visible_range &see,
                                             int page)
{
    bool done[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int position = see.last[half];
        done[half] =
            page < position / KV_BLOCK_TOKENS && (page + 1) % attention_split_pages(position) == 0;
    }
    if (!__any_sync(WARP_ALL, done[0] || done[1])) return;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float total = warp_sum<4>(x.total[half]);
        if (!done[half]) continue;
        keep_split(kept, x, half, row_total_add(r[half], split_max(x.max[half], c), total));
    }
}

/* What a warp's rows see and begin with; their queries go to registers or to `shared`. */
template <int TYPE, int K, int V>
__device__ __forceinline__ void begin_rows(const attention_params &p, const attention_sequence &s,
                                           const attention_tile &t, int kv_head, visible_range &see,
                                           row_total total[2], split_state<V> &x,
                                           query_rows<K> &queries, uint8_t *shared)
{
    const float *q[2];
    int lane = lane_id();

#pragma unroll
    for (int half = 0; half < 2; half++) {
        tile_row row = tile_row_of(p, s, t, kv_head, 16 * warp_id() + lane / 4 + 8 * half);
        see.first[half] = first_visible(row.position, p.window);
        see.last[half] = row.position;
        q[half] =
            row.position < 0 ? NULL : p.q + row.token * (size_t)p.q_stride + row.head * p.head_dim;
        total[half] = row_total_begin(p.sinks, row.head);
        split_clear(x, half);
    }
    load_queries<TYPE, K>(queries, q, p.head_dim, lane, shared);
    __syncwarp();
}

/* The last split of each row, and its output. Rows are found once more, for registers are scarce in
 * between. */
template <int TYPE, int V>
__device__ __forceinline__ void finish_rows(const attention_params &p, const attention_sequence &s,
                                            const attention_tile &t, int kv_head,
                                            const score_scale &c, const kept_sums &kept,
                                            row_total total[2], split_state<V> &x)
{
    int lane = lane_id();

#pragma unroll
    for (int half = 0; half < 2; half++) {
        float of_split = warp_sum<4>(x.total[half]);
        tile_row row = tile_row_of(p, s, t, kv_head, 16 * warp_id() + lane / 4 + 8 * half);
        if (row.position < 0) continue;
        float2 factor = row_total_add(total[half], split_max(x.max[half], c), of_split);
        write_row<TYPE, V>(p, kept, x, half, factor, total[half].total, row, lane);
    }
}

template <int TYPE, int K, int V>
__global__ void __launch_bounds__((prefill_shape<TYPE, K, V>::threads))
    prefill_kernel(const attention_params p)
{
    typedef prefill_shape<TYPE, K, V> shape;
    LM_SHARED_DYNAMIC(uint8_t, keys);
    uint8_t *values = keys + shape::key_bytes, *sums = values + shape::value_bytes;
    const attention_image *image = (const attention_image *)p.image;
    const attention_tile t =
        ((const attention_tile *)(p.image + image->prefill))[blockIdx.x / p.kv_heads];
    const attention_sequence s = sequence_of(p, image, t);
    int kv_head = blockIdx.x % p.kv_heads, lane = lane_id(), thread = threadIdx.x;
    int stored = s.past + s.count, tile_oldest = s.past + t.token;
    int from = first_visible(tile_oldest, p.window) / KV_BLOCK_TOKENS;
    int to = (tile_oldest + t.tokens - 1) / KV_BLOCK_TOKENS + 1;
    const uint8_t *parts = p.parts + kv_head * p.part_bytes, *part;

    part = parts + (size_t)p.image[s.table + from] * p.page_bytes;
    load_rows<TYPE, K, KV_BLOCK_TOKENS>(keys, part, part + p.key_scales,
                                        stored - from * KV_BLOCK_TOKENS, thread, shape::threads);
    cp_async_commit();
    warp_range range = warp_range_of(s, t, warp_id());
    visible_range see;
    row_total total[2];
    split_state<V> x;
    kept_sums kept = {(float2 *)sums + thread, shape::threads, {false, false}};
    query_rows<K> queries;
    begin_rows<TYPE, K, V>(p, s, t, kv_head, see, total, x, queries,
                           sums + shape::sums_bytes + warp_id() * query_rows<K>::shared_bytes);
    score_scale c = score_scale_of(p);
    for (int page = from; page < to; page++) {
        int base = page * KV_BLOCK_TOKENS, live = stored - base;
        bool seen =
            base <= range.newest && base + KV_BLOCK_TOKENS > first_visible(range.oldest, p.window);
        bool whole = base + KV_BLOCK_TOKENS - 1 <= range.oldest &&
                     base >= first_visible(range.newest, p.window);
        float score[2 * PAGE_CHUNKS][4];

        load_rows<TYPE, V, KV_BLOCK_TOKENS>(values, part + p.values, part + p.value_scales, live,
                                            thread, shape::threads);
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads(); // K is here
        if (seen) {
#pragma unroll
            for (int i = 0; i < PAGE_CHUNKS; i++)
                scores_of<TYPE, K>(queries, keys + i * chunk<TYPE, K>::bytes, lane, score[2 * i],
                                   score[2 * i + 1]);
        }
        __syncthreads(); // K has been read
        if (page + 1 < to) {
            part = parts + (size_t)p.image[s.table + page + 1] * p.page_bytes;
            load_rows<TYPE, K, KV_BLOCK_TOKENS>(keys, part, part + p.key_scales,
                                                live - KV_BLOCK_TOKENS, thread, shape::threads);
        }
        cp_async_commit();
        if (seen) softmax_page(x, score, c, see, base, whole, lane);
        cp_async_wait<1>();
        __syncthreads(); // V is here
        if (seen) {
#pragma unroll
            for (int i = 0; i < PAGE_CHUNKS; i++)
                add_values<TYPE, V>(x, values + i * chunk<TYPE, V>::bytes, lane, score[2 * i],
                                    score[2 * i + 1]);
            close_splits(x, kept, total, c, see, page);
        }
        __syncthreads(); // V has been read
    }
    finish_rows<TYPE, V>(p, s, t, kv_head, c, kept, total, x);
}

/* ---- launches ---- */

int attention_prefill_rows(int shape)
{
    static const int rows[] = {
#define X(key, value) 16 * prefill_shape<KV_BF16, key, value>::warps,
        CUDA_HEAD_SHAPES(X)
#undef X
    };
    return rows[shape];
}

int attention_prefill_shared_bytes(int shape, enum kv_type type)
{
    static const int bytes[][KV_TYPES] = {
#define X(key, value)                                    \
    {0, prefill_shape<KV_F16, key, value>::shared_bytes, \
     prefill_shape<KV_BF16, key, value>::shared_bytes,   \
     prefill_shape<KV_INT8, key, value>::shared_bytes},
        CUDA_HEAD_SHAPES(X)
#undef X
    };
    return bytes[shape][type];
}

template <int TYPE, int K, int V>
static void launch(const attention_params *p, int blocks, cudaStream_t stream)
{
    typedef prefill_shape<TYPE, K, V> shape;
    LM_LAUNCH((prefill_kernel<TYPE, K, V>), blocks, shape::threads, shape::shared_bytes, stream,
              *p);
}

void attention_prefill_launch(const struct attention_params *p, int shape, int blocks,
                              cudaStream_t stream)
{
    typedef void launch_fn(const attention_params *p, int blocks, cudaStream_t stream);
    static launch_fn *const by_shape[][KV_TYPES] = {
#define X(key, value) \
    {NULL, launch<KV_F16, key, value>, launch<KV_BF16, key, value>, launch<KV_INT8, key, value>},
        CUDA_HEAD_SHAPES(X)
#undef X
    };
    by_shape[shape][p->type](p, blocks, stream);
}
