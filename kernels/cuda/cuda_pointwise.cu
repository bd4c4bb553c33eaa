#include "kernels/cuda/cuda_pointwise.h"

#include "kernels/cuda/cuda_values.cuh"

#define ROW_THREADS  256 // of a block that owns a row
#define FLAT_THREADS 256 // of a block that owns some elements

static int blocks_for_elements(size_t count)
{
    return (int)((count + FLAT_THREADS - 1) / FLAT_THREADS);
}

/* ---- pieces of a row: V elements at once, 4 where rows are a multiple of that, else 1 ---- */

template <int V> __device__ __forceinline__ void load_piece(float *v, const float *at)
{
    if (V == 4) {
        float4 four = *(const float4 *)at;
        v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
    } else {
        v[0] = at[0];
    }
}

template <int V, typename T> __device__ __forceinline__ void load_piece(float *v, const T *at)
{
    if (V == 4) {
        uint2 four = *(const uint2 *)at;
        float2 low = unpack2<T>(four.x), high = unpack2<T>(four.y);
        v[0] = low.x, v[1] = low.y, v[2] = high.x, v[3] = high.y;
    } else {
        v[0] = to_float(at[0]);
    }
}

template <int V> __device__ __forceinline__ void store_piece(float *at, const float *v)
{
    if (V == 4)
        *(float4 *)at = make_float4(v[0], v[1], v[2], v[3]);
    else
        at[0] = v[0];
}

template <int V, typename T> __device__ __forceinline__ void store_piece(T *at, const float *v)
{
    if (V == 4)
        *(uint2 *)at = make_uint2(pack2_real<T>(v[0], v[1]), pack2_real<T>(v[2], v[3]));
    else
        at[0] = to_real<T>(v[0]);
}

/* A thread's next pieces of a block's row, which are all on their way before the first is used: a loop that stores
 * what it loads would else wait for memory in each round. */
#define ROW_AHEAD 4

template <int V> struct row_pieces {
    float v[ROW_AHEAD][V];
};

template <int V> __device__ __forceinline__ int piece_at(int from, int j)
{
    return from + j * ROW_THREADS * V;
}

template <int V>
__device__ __forceinline__ void load_pieces(row_pieces<V> &p, const float *row, int from, int n)
{
    LM_UNROLL
    for (int j = 0; j < ROW_AHEAD; j++)
        if (piece_at<V>(from, j) < n) load_piece<V>(p.v[j], row + piece_at<V>(from, j));
}

/* ---- begin of a step ---- */

/* In float64: once per step, and large positions need it. */
__global__ void rotation_kernel(struct cuda_rotation_job job)
{
    pdl_begin();
    float *row = job.out + (size_t)blockIdx.x * 2 * job.half;
    float at = (float)job.position[blockIdx.x];
    int set = job.set[blockIdx.x];
    float factor = job.factor[set * job.tables];

    for (int i = threadIdx.x; i < job.half; i += blockDim.x) {
        double angle = (double)(at * job.inv_freq[(size_t)set * job.set_stride + i]);
        row[i] = (float)cos(angle) * factor;
        row[job.half + i] = (float)sin(angle) * factor;
    }
}

void cuda_rotation(const struct cuda_rotation_job *job, cudaStream_t stream)
{
    if (job->tokens == 0 || job->half == 0) return;
    LM_LAUNCH_PDL(rotation_kernel, job->tokens, 64, 0, stream, *job);
}

__device__ __forceinline__ float weight_at(const struct cuda_weight &w, size_t row, int col)
{
    size_t element = row * w.stride + col;

    if (w.form == CUDA_F32) return ((const float *)w.data)[element];
    if (w.form == CUDA_BF16) return to_float(((const bf16 *)w.data)[element]);
    if (w.form == CUDA_F16) return to_float(((const f16 *)w.data)[element]);
    if (w.form == CUDA_Q8) {
        float d = half_bits_to_float(((const uint16_t *)w.scales)[element / CUDA_BLOCK]);
        return d * (float)((const int8_t *)w.data)[element];
    }
    if (w.form == CUDA_F8) {
        float v[4];
        dequantize_f8x4(((const uint8_t *)w.data)[element], f8_scale(w, element), v);
        return v[0];
    }
    float2 scale = unpack2<__half>(((const uint32_t *)w.scales)[element / CUDA_BLOCK]);
    int at = (int)(element % 8);
    uint32_t word = ((const uint32_t *)w.data)[element / 8];
    return fmaf(scale.x, (float)(word >> (4 * (at >> 1) + 16 * (at & 1)) & 15), scale.y);
}

/* Before pdl_wait: ids were copied, and tokens drawn, before the step's first kernel began. */
__device__ __forceinline__ int id_of(const struct cuda_ids &ids, int token)
{
    int link = __ldcg(&ids.link[token]);

    return link < 0 ? __ldcg(&ids.id[token]) : max(__ldcg(&ids.drawn[link]), 0);
}

__global__ void share_ids_kernel(float *out, struct cuda_ids ids, int tokens)
{
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);

    pdl_trigger();
    float id = i < tokens ? (float)id_of(ids, i) : 0.0f;
    pdl_wait();
    if (i < tokens) out[i] = id;
}

void cuda_share_ids(float *out, const struct cuda_ids *ids, int tokens, cudaStream_t stream)
{
    if (tokens == 0) return;
    LM_LAUNCH_PDL(share_ids_kernel, blocks_for_elements((size_t)tokens), FLAT_THREADS, 0, stream,
                  out, *ids, tokens);
}

__global__ void embed_kernel(float *x, struct cuda_weight w, struct cuda_ids ids, int first,
                             float scale)
{
    pdl_trigger();
    if (ids.shared) pdl_wait();
    int id = ids.shared ? (int)__ldcg(&ids.shared[blockIdx.x]) : id_of(ids, (int)blockIdx.x);
    int row = id - first, i = (int)(blockIdx.y * blockDim.x + threadIdx.x);
    bool is_here = row >= 0 && row < w.rows && i < w.cols;
    float v = is_here ? weight_at(w, row, i) * scale : 0.0f; // README P2
    pdl_wait();
    if (i < w.cols) x[(size_t)blockIdx.x * w.cols + i] = v;
}

void cuda_embed(float *x, const struct cuda_weight *embedding, const struct cuda_ids *ids,
                int first, float scale, int tokens, cudaStream_t stream)
{
    if (tokens == 0) return;
    dim3 grid(tokens, blocks_for_elements((size_t)embedding->cols));
    LM_LAUNCH_PDL(embed_kernel, grid, FLAT_THREADS, 0, stream, x, *embedding, *ids, first, scale);
}

/* ---- residual stream ---- */

/* Sum of squares of a thread's pieces of a row. */
template <int V> __device__ __forceinline__ float squares_of_row(const float *row, int n)
{
    float squares = 0;

    for (int from = threadIdx.x * V; from < n; from += ROW_AHEAD * ROW_THREADS * V) {
        row_pieces<V> p;
        load_pieces(p, row, from, n);
        LM_UNROLL
        for (int j = 0; j < ROW_AHEAD * V; j++)
            if (piece_at<V>(from, j / V) < n)
                squares = fmaf(p.v[j / V][j % V], p.v[j / V][j % V], squares);
    }
    return squares;
}

/* A thread reads back only what it wrote itself, and not even that if the row is short. The norm is a weight, so
 * its first pieces don't wait. */
template <typename T, int V>
__global__ void __launch_bounds__(ROW_THREADS)
    residual_kernel(struct cuda_residual_job job, T *h, int h_stride)
{
    LM_SHARED(float, scratch, WARP_LANES);
    const int turn = ROW_AHEAD * ROW_THREADS * V, begin = threadIdx.x * V, n = job.hidden;
    size_t row = blockIdx.x;
    float *x = job.x + row * n, squares = 0, post = 1;
    const float *y = job.y + row * n;
    row_pieces<V> in, add, norm;

    pdl_trigger();
    if (job.norm) load_pieces(norm, job.norm, begin, n);
    pdl_wait();
    if (job.y && job.post_norm)
        post = inverse_rms(block_sum(squares_of_row<V>(y, n), scratch), n, job.eps);
    for (int from = begin; from < n; from += turn) {
        row_pieces<V> scale;
        load_pieces(in, x, from, n);
        if (job.y) load_pieces(add, y, from, n);
        if (job.y && job.post_norm) load_pieces(scale, job.post_norm, from, n);
        LM_UNROLL
        for (int j = 0; j < ROW_AHEAD; j++) {
            if (piece_at<V>(from, j) >= n) break;
            LM_UNROLL
            for (int i = 0; i < V; i++) {
                float v = in.v[j][i];
                if (job.y) {
                    float a = add.v[j][i];
                    if (job.post_norm) a = a * post * scale.v[j][i];
                    v = fmaf(a, job.scale, v);
                }
                squares = fmaf(v, v, squares);
                in.v[j][i] = v;
            }
            if (job.y) store_piece<V>(x + piece_at<V>(from, j), in.v[j]);
        }
    }
    float scale = job.norm ? inverse_rms(block_sum(squares, scratch), n, job.eps) : 1.0f;
    for (int from = begin; from < n; from += turn) {
        if (n > turn) load_pieces(in, x, from, n);
        if (job.norm && from > begin) load_pieces(norm, job.norm, from, n);
        LM_UNROLL
        for (int j = 0; j < ROW_AHEAD; j++) {
            if (piece_at<V>(from, j) >= n) break;
            LM_UNROLL
            for (int i = 0; job.norm && i < V; i++)
                in.v[j][i] = in.v[j][i] * scale * norm.v[j][i];
            size_t at = row * h_stride + piece_at<V>(from, j);
            store_piece<V>(h + at, in.v[j]);
            if (job.h_float) store_piece<V>(job.h_float + at, in.v[j]);
        }
    }
}

template <typename T, int V>
static void launch_residual(const struct cuda_residual_job *job, cudaStream_t stream)
{
    LM_LAUNCH_PDL((residual_kernel<T, V>), job->rows, ROW_THREADS, 0, stream, *job,
                  (T *)job->h.data, job->h.stride);
}

void cuda_residual(const struct cuda_residual_job *job, cudaStream_t stream)
{
    bool fours = job->hidden % 4 == 0;

    if (job->rows == 0) return;
    with_real(job->h.real, [&]<typename T>(T) {
        fours ? launch_residual<T, 4>(job, stream) : launch_residual<T, 1>(job, stream);
    });
}

template <typename T>
__global__ void __launch_bounds__(ROW_THREADS)
    norm_rows_kernel(T *out, int out_stride, const float *in, int in_stride, const float *norm,
                     int n, float eps)
{
    pdl_begin();
    LM_SHARED(float, scratch, WARP_LANES);
    const float *x = in + (size_t)blockIdx.x * in_stride;
    float squares = 0;

    for (int i = threadIdx.x; i < n; i += blockDim.x)
        squares = fmaf(x[i], x[i], squares);
    float scale = inverse_rms(block_sum(squares, scratch), n, eps);
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        out[(size_t)blockIdx.x * out_stride + i] = to_real<T>(x[i] * scale * norm[i]);
}

void cuda_norm_rows(const struct cuda_rows *out, const float *in, int in_stride, const float *norm,
                    int rows, float eps, cudaStream_t stream)
{
    if (rows == 0) return;
    with_real(out->real, [&]<typename T>(T) {
        LM_LAUNCH_PDL(norm_rows_kernel<T>, rows, ROW_THREADS, 0, stream, (T *)out->data,
                      out->stride, in, in_stride, norm, out->cols, eps);
    });
}

/* ---- feed-forward ---- */

template <typename T, typename S, int V>
__global__ void activate_kernel(T *out, int out_stride, enum ffn_activation kind, const S *gate,
                                const S *up, int in_stride, int n)
{
    pdl_begin();
    size_t row = blockIdx.x;
    int at = V * (int)(blockIdx.y * blockDim.x + threadIdx.x);
    float g[V], u[V];

    if (at >= n) return;
    load_piece<V>(g, gate + row * in_stride + at);
    load_piece<V>(u, up + row * in_stride + at);
    LM_UNROLL
    for (int i = 0; i < V; i++)
        g[i] = activated(kind, g[i], u[i]);
    store_piece<V>(out + row * out_stride + at, g);
}

template <typename T, typename S, int V>
static void launch_activate(const struct cuda_rows *out, enum ffn_activation kind, const void *gate,
                            const void *up, int in_stride, int rows, cudaStream_t stream)
{
    /* y has 65,535 at most, rows may be more */
    dim3 grid(rows, blocks_for_elements(((size_t)out->cols + V - 1) / V));
    LM_LAUNCH_PDL((activate_kernel<T, S, V>), grid, FLAT_THREADS, 0, stream, (T *)out->data,
                  out->stride, kind, (const S *)gate, (const S *)up, in_stride, out->cols);
}

void cuda_activate(const struct cuda_rows *out, enum ffn_activation kind, const void *gate,
                   const void *up, enum cuda_real in_real, int in_stride, int rows,
                   cudaStream_t stream)
{
    bool fours = out->cols % 4 == 0 && in_stride % 4 == 0;

    CHECK(in_real == CUDA_REAL_F32 || in_real == out->real);
    if (rows == 0) return;
    with_real(out->real, [&]<typename T>(T) {
        bool is_wide = in_real == CUDA_REAL_F32;
        if (fours)
            (is_wide ? launch_activate<T, float, 4>
                     : launch_activate<T, T, 4>)(out, kind, gate, up, in_stride, rows, stream);
        else
            (is_wide ? launch_activate<T, float, 1>
                     : launch_activate<T, T, 1>)(out, kind, gate, up, in_stride, rows, stream);
    });
}

/* ---- latents ---- */

__global__ void latent_expand_kernel(struct cuda_latent_job job)
{
    pdl_begin();
    int still = job.head_dim - job.rope_dims, wide = still + job.value_dim;
    size_t token = blockIdx.x, head = token * job.heads + blockIdx.y;
    const float *from = job.wide + head * wide;
    const float *turning = job.narrow + token * job.narrow_stride + job.kv_rank;

    for (int i = threadIdx.x; i < job.head_dim; i += blockDim.x)
        job.k[head * job.head_dim + i] = i < still ? from[i] : turning[i - still];
    for (int i = threadIdx.x; i < job.value_dim; i += blockDim.x)
        job.v[head * job.value_dim + i] = from[still + i];
}

void cuda_latent_expand(const struct cuda_latent_job *job, cudaStream_t stream)
{
    if (job->tokens == 0) return;
    LM_LAUNCH_PDL(latent_expand_kernel, dim3(job->tokens, job->heads), 64, 0, stream, *job);
}

/* ---- rows ---- */

/* Pieces of 16 bytes: rows are padded to whole ones. */
__global__ void gather_kernel(uint4 *out, const uint4 *in, const int *row, int pieces)
{
    pdl_begin();
    int i = (int)(blockIdx.y * blockDim.x + threadIdx.x);

    if (i < pieces) out[(size_t)blockIdx.x * pieces + i] = in[(size_t)row[blockIdx.x] * pieces + i];
}

void cuda_gather(const struct cuda_rows *out, const struct cuda_rows *in, const int *row, int rows,
                 cudaStream_t stream)
{
    int pieces = in->stride / (in->real == CUDA_REAL_F32 ? 4 : 8);

    if (rows == 0) return;
    LM_LAUNCH_PDL(gather_kernel, dim3(rows, blocks_for_elements((size_t)pieces)), FLAT_THREADS, 0,
                  stream, (uint4 *)out->data, (const uint4 *)in->data, row, pieces);
}

template <typename T>
__global__ void convert_kernel(T *out, int out_stride, const float *in, int cols)
{
    pdl_begin();
    for (int i = threadIdx.x; i < cols; i += blockDim.x)
        out[(size_t)blockIdx.x * out_stride + i] = to_real<T>(in[(size_t)blockIdx.x * cols + i]);
}

void cuda_convert(const struct cuda_rows *out, const float *in, int rows, cudaStream_t stream)
{
    if (rows == 0) return;
    with_real(out->real, [&]<typename T>(T) {
        LM_LAUNCH_PDL(convert_kernel<T>, rows, ROW_THREADS, 0, stream, (T *)out->data, out->stride,
                      in, out->cols);
    });
}

__global__ void sum_ranks_kernel(float *x, const float *parts, size_t count, int ranks)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;

    if (i >= count) return;
    float sum = parts[i];
    for (int r = 1; r < ranks; r++)
        sum += parts[(size_t)r * count + i];
    x[i] = sum;
}

void cuda_sum_ranks(float *x, const float *parts, size_t count, int ranks, cudaStream_t stream)
{
    if (count == 0) return;
    LM_LAUNCH(sum_ranks_kernel, blocks_for_elements(count), FLAT_THREADS, 0, stream, x, parts,
              count, ranks);
}

__global__ void finish_logits_kernel(float *x, size_t count, float scale, float cap)
{
    pdl_begin();
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;

    if (i >= count) return;
    float v = x[i] * scale;
    x[i] = cap != 0.0f ? softcap(v, cap) : v;
}

void cuda_finish_logits(float *x, size_t count, float scale, float cap, cudaStream_t stream)
{
    if (count == 0 || (scale == 1.0f && cap == 0.0f)) return;
    LM_LAUNCH_PDL(finish_logits_kernel, blocks_for_elements(count), FLAT_THREADS, 0, stream, x,
                  count, scale, cap);
}

__global__ void add_bias_kernel(float *out, int out_stride, const float *bias, int cols)
{
    pdl_begin();
    int i = blockIdx.y * blockDim.x + threadIdx.x;

    if (i < cols) out[(size_t)blockIdx.x * out_stride + i] += bias[i];
}

void cuda_add_bias(float *out, int out_stride, const float *bias, int cols, int rows,
                   cudaStream_t stream)
{
    if (rows == 0 || !bias) return;
    LM_LAUNCH_PDL(add_bias_kernel, dim3(rows, blocks_for_elements((size_t)cols)), FLAT_THREADS, 0,
                  stream, out, out_stride, bias, cols);
}
