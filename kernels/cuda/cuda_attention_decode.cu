/* cuda_attention_decode.cu - few query rows and many positions: a warp takes one split of a tile's
 * context for one KV head, so all query heads of its group read K and V once.
 *
 * A warp is a block of threads by itself: a lone sequence's splits spread over all multiprocessors. It
 * streams chunks of 16 positions, four of K and four of V for a page, through a ring in shared memory; STAGES
 * - 1 of them are always on their way, which is what fills the memory's pipe.
 *
 * A tile with one split writes o. Others leave sums, maximum and total in the workspace, and merge_kernel
 * brings them together in order. */
#include "kernels/cuda/cuda_attention_rows.cuh"

template <int TYPE, int K, int V> struct decode_shape {
    static const int stages = K > 128 && TYPE != KV_INT8 ? 4 : 6;
    static const int slot_bytes = chunk<TYPE, K>::bytes > chunk<TYPE, V>::bytes
                                      ? chunk<TYPE, K>::bytes
                                      : chunk<TYPE, V>::bytes;
    static const int ring_bytes = stages * slot_bytes;
    static const int shared_bytes = ring_bytes + query_rows<K>::shared_bytes;
};

/* The chunks of some pages on their way through the ring. */
struct chunk_stream {
    const uint8_t *parts; // of this KV head in page 0
    uint8_t *ring;
    int32_t page;              // lane i: number of the page i behind the first
    int first, stored, count;  // first page, positions of the sequence, chunks
    int next, next_slot, slot; // chunk to be issued, where to; where the oldest lies
};

template <int TYPE, int K, int V>
__device__ __forceinline__ void stream_issue(chunk_stream &x, const attention_params &p, int lane)
{
    typedef decode_shape<TYPE, K, V> shape;

    if (x.next < x.count) {
        int page = x.next / (2 * PAGE_CHUNKS), c = x.next % PAGE_CHUNKS;
        const uint8_t *part = x.parts + (size_t)__shfl_sync(WARP_ALL, x.page, page) * p.page_bytes;
        uint8_t *to = x.ring + x.next_slot * shape::slot_bytes;
        int live = x.stored - (x.first + page) * KV_BLOCK_TOKENS - CHUNK * c;
        const uint8_t *scales = part + CHUNK * c * sizeof(float);
        if (x.next / PAGE_CHUNKS % 2 == 0)
            load_rows<TYPE, K, CHUNK>(to, part + CHUNK * c * chunk<TYPE, K>::row_bytes,
                                      scales + p.key_scales, live, lane, WARP_LANES);
        else
            load_rows<TYPE, V, CHUNK>(to, part + p.values + CHUNK * c * chunk<TYPE, V>::row_bytes,
                                      scales + p.value_scales, live, lane, WARP_LANES);
        x.next++;
        x.next_slot = x.next_slot + 1 == shape::stages ? 0 : x.next_slot + 1;
    }
    cp_async_commit();
}

/* The oldest chunk, and one more on its way. */
template <int TYPE, int K, int V>
__device__ __forceinline__ const uint8_t *stream_take(chunk_stream &x, const attention_params &p,
                                                      int lane)
{
    typedef decode_shape<TYPE, K, V> shape;

    cp_async_wait<shape::stages - 2>();
    __syncwarp(); // all lanes' pieces are here, and all are done with the slot that is filled next
    stream_issue<TYPE, K, V>(x, p, lane);
    const uint8_t *at = x.ring + x.slot * shape::slot_bytes;
    x.slot = x.slot + 1 == shape::stages ? 0 : x.slot + 1;
    return at;
}

/* A row's split: to o if it is the only one, else to the workspace. */
template <int TYPE, int V>
__device__ __forceinline__ void
write_split(const attention_params &p, const attention_tile &t, const split_state<V> &x, int half,
            float max, float total, const tile_row &row, int tile_token, int lane)
{
    if (t.splits == 1) {
        row_total r = row_total_begin(p.sinks, row.head);
        float2 factor = row_total_add(r, max, total);
        float inverse = 1.0f / r.total;
#pragma unroll
        for (int j = 0; j < V / 8; j++) {
            float2 o = output_pair<TYPE, V>(x, j / 2, j % 2, half);
            o = make_float2(merged(0, o.x, factor) * inverse, merged(0, o.y, factor) * inverse);
            store_pair(p, row, output_dim<TYPE>(j / 2, j % 2, lane), o);
        }
        return;
    }
    size_t at = (size_t)t.partial +
                (size_t)(tile_token * t.splits + t.split) * (p.kv_heads * p.group) + row.head;
    float *sums = p.partial_sums + at * p.value_dim;
#pragma unroll
    for (int j = 0; j < V / 8; j++) {
        int dim = output_dim<TYPE>(j / 2, j % 2, lane);
        if (dim < p.value_dim)
            *(float2 *)(sums + dim) = output_pair<TYPE, V>(x, j / 2, j % 2, half);
    }
    if (lane % 4 == 0) *(float2 *)(p.partial_totals + 2 * at) = make_float2(max, total);
}

template <int TYPE, int K, int V>
__device__ __forceinline__ void decode_tile(const attention_params &p, const attention_sequence &s,
                                            const attention_tile &t, int kv_head, uint8_t *shared)
{
    typedef decode_shape<TYPE, K, V> shape;
    int lane = lane_id(), oldest = s.past + t.token, newest = oldest + t.tokens - 1;
    int pages = attention_split_pages(newest),
        from = first_visible(oldest, p.window) / KV_BLOCK_TOKENS;
    int to = min((t.split + 1) * pages, newest / KV_BLOCK_TOKENS + 1);
    from = max(from, t.split * pages);
    if (from >= to) return; // the window begins behind this split

    chunk_stream stream = {};
    stream.parts = p.parts + kv_head * p.part_bytes;
    stream.ring = shared;
    stream.page = from + lane < to ? p.image[s.table + from + lane] : 0;
    stream.first = from;
    stream.stored = s.past + s.count;
    stream.count = (to - from) * 2 * PAGE_CHUNKS;
    __syncwarp(); // all are done with the ring
    for (int i = 0; i < shape::stages - 1; i++)
        stream_issue<TYPE, K, V>(stream, p, lane);

    tile_row row[2];
    visible_range see;
    const float *q[2];
    split_state<V> x;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        row[half] = tile_row_of(p, s, t, kv_head, lane / 4 + 8 * half);
        see.first[half] = first_visible(row[half].position, p.window);
        see.last[half] = row[half].position;
        q[half] = row[half].position < 0
                      ? NULL
                      : p.q + row[half].token * (size_t)p.q_stride + row[half].head * p.head_dim;
        split_clear(x, half);
    }
    query_rows<K> queries;
    load_queries<TYPE, K>(queries, q, p.head_dim, lane, shared + shape::ring_bytes);
    score_scale c = score_scale_of(p);
    for (int page = from; page < to; page++) {
        int base = page * KV_BLOCK_TOKENS;
        bool whole =
            base + KV_BLOCK_TOKENS - 1 <= oldest && base >= first_visible(newest, p.window);
        float score[2 * PAGE_CHUNKS][4];
#pragma unroll
        for (int i = 0; i < PAGE_CHUNKS; i++)
            scores_of<TYPE, K>(queries, stream_take<TYPE, K, V>(stream, p, lane), lane,
                               score[2 * i], score[2 * i + 1]);
        softmax_page(x, score, c, see, base, whole, lane);
#pragma unroll
        for (int i = 0; i < PAGE_CHUNKS; i++)
            add_values<TYPE, V>(x, stream_take<TYPE, K, V>(stream, p, lane), lane, score[2 * i],
                                score[2 * i + 1]);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float total = warp_sum<4>(x.total[half]), max = split_max(x.max[half], c);
        if (row[half].position >= 0)
            write_split<TYPE, V>(p, t, x, half, max, total, row[half],
                                 (lane / 4 + 8 * half) / t.heads, lane);
    }
}

/* Tiles times KV heads are dealt out in turn, so that a captured grid serves any number of them. The image was
 * copied before the step's first kernel began (README P2), so three loads, each waiting for the one before it,
 * don't wait for this kernel's predecessor too. */
template <int TYPE, int K, int V>
__global__ void __launch_bounds__(32, 8) decode_kernel(const attention_params p)
{
    LM_SHARED_DYNAMIC(uint8_t, shared);
    attention_tile t = {};
    attention_sequence s = {};

    pdl_trigger();
    const attention_image image = load_early((const attention_image *)p.image);
    const attention_tile *tiles = (const attention_tile *)(p.image + image.decode);
    int items = image.decode_tiles * p.kv_heads, i = blockIdx.x;
    if (i < items) {
        t = load_early(&tiles[i / p.kv_heads]);
        s = load_early((const attention_sequence *)(p.image + image.sequences) + t.sequence);
    }
    pdl_wait();
    while (i < items) {
        decode_tile<TYPE, K, V>(p, s, t, i % p.kv_heads, shared);
        i += gridDim.x;
        if (i >= items) break;
        t = tiles[i / p.kv_heads];
        s = sequence_of(p, &image, t);
    }
}

/* ---- merging ---- */

#define MERGE_WARPS 4
#define MERGE_PAIRS (CUDA_HEAD_DIM_MAX / 2 / WARP_LANES) // of elements, of a lane

/* A warp takes a query head of a token; splits in order. */
__global__ void __launch_bounds__(32 * MERGE_WARPS) merge_kernel(const attention_params p)
{
    pdl_trigger();
    const attention_image image = load_early((const attention_image *)p.image);
    const attention_merge *merges = (const attention_merge *)(p.image + image.merges);
    int heads = p.kv_heads * p.group, lane = lane_id(), step = gridDim.x * MERGE_WARPS;
    int count = image.merged_rows * heads, begin = blockIdx.x * MERGE_WARPS + warp_id();
    attention_merge m = {};
    if (begin < count) m = load_early(&merges[begin / heads]);
    pdl_wait();
    for (int i = begin; i < count; i += step) {
        if (i > begin) m = merges[i / heads];
        tile_row row = {m.position, i % heads, (size_t)m.token};
        int first = first_visible(m.position, p.window) / KV_BLOCK_TOKENS /
                    attention_split_pages(m.position);
        row_total r = row_total_begin(p.sinks, row.head);
        float2 sum[MERGE_PAIRS];
        for (int k = 0; k < MERGE_PAIRS; k++)
            sum[k] = make_float2(0, 0);
#pragma unroll 4
        for (int split = first; split < attention_split_count(m.position); split++) {
            size_t at = (size_t)m.partial + (size_t)split * heads + row.head;
            float2 t = *(const float2 *)(p.partial_totals + 2 * at);
            float2 factor = row_total_add(r, t.x, t.y);
            const float *o = p.partial_sums + at * p.value_dim;
#pragma unroll
            for (int k = 0; k < MERGE_PAIRS; k++) {
                int dim = 2 * lane + 2 * WARP_LANES * k;
                if (dim >= p.value_dim) continue;
                float2 v = *(const float2 *)(o + dim);
                sum[k] = make_float2(merged(sum[k].x, v.x, factor), merged(sum[k].y, v.y, factor));
            }
        }
        float inverse = 1.0f / r.total;
#pragma unroll
        for (int k = 0; k < MERGE_PAIRS; k++)
            store_pair(p, row, 2 * lane + 2 * WARP_LANES * k,
                       make_float2(sum[k].x * inverse, sum[k].y * inverse));
    }
}

/* ---- launches ---- */

template <int TYPE, int K, int V>
static void launch(const attention_params *p, int blocks, cudaStream_t stream)
{
    LM_LAUNCH_PDL((decode_kernel<TYPE, K, V>), blocks, WARP_LANES,
                  (decode_shape<TYPE, K, V>::shared_bytes), stream, *p);
}

void attention_decode_launch(const struct attention_params *p, int shape, int blocks,
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

void attention_merge_launch(const struct attention_params *p, int rows, cudaStream_t stream)
{
    int blocks = (rows * p->kv_heads * p->group + MERGE_WARPS - 1) / MERGE_WARPS;
    LM_LAUNCH_PDL(merge_kernel, blocks, 32 * MERGE_WARPS, 0, stream, *p);
}
