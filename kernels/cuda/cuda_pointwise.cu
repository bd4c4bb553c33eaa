#include "kernels/cuda/cuda_pointwise.h"

#include "kernels/cuda/cuda_values.cuh"

#define ROW_THREADS   256 // of a block that owns a row
#define HEADS_THREADS 128
#define FLAT_THREADS  256 // of a block that owns some elements

static int blocks_for_elements(size_t count)
{
    return (int)((count + FLAT_THREADS - 1) / FLAT_THREADS);
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

__global__ void embed_kernel(float *x, struct cuda_weight w, const int *id, int first, float scale)
{
    pdl_begin();
    float *to = x + (size_t)blockIdx.x * w.cols;
    int row = id[blockIdx.x] - first;
    bool is_here = row >= 0 && row < w.rows;

    for (int i = threadIdx.x; i < w.cols; i += blockDim.x)
        to[i] = is_here ? weight_at(w, row, i) * scale : 0.0f;
}

void cuda_embed(float *x, const struct cuda_weight *embedding, const int *id, int first,
                float scale, int tokens, cudaStream_t stream)
{
    if (tokens == 0) return;
    LM_LAUNCH_PDL(embed_kernel, tokens, ROW_THREADS, 0, stream, x, *embedding, id, first, scale);
}

/* ---- residual stream ---- */

__device__ __forceinline__ float inverse_rms(float squares, int n, float eps)
{
    return 1.0f / sqrtf(squares / (float)n + eps);
}

/* A thread reads back only what it wrote itself. */
template <typename T>
__global__ void __launch_bounds__(ROW_THREADS)
    residual_kernel(struct cuda_residual_job job, T *h, int h_stride)
{
    pdl_begin();
    LM_SHARED(float, scratch, WARP_LANES);
    size_t at = (size_t)blockIdx.x * job.hidden;
    float *x = job.x + at;
    const float *y = job.y + at;
    float squares = 0, post = 1;

    if (job.y && job.post_norm) {
        for (int i = threadIdx.x; i < job.hidden; i += blockDim.x)
            squares = fmaf(y[i], y[i], squares);
        post = inverse_rms(block_sum(squares, scratch), job.hidden, job.eps);
        squares = 0;
    }
    for (int i = threadIdx.x; i < job.hidden; i += blockDim.x) {
        float v = x[i];
        if (job.y) {
            float add = job.post_norm ? y[i] * post * job.post_norm[i] : y[i];
            v = fmaf(add, job.scale, v);
            x[i] = v;
        }
        squares = fmaf(v, v, squares);
    }
    float scale = job.norm ? inverse_rms(block_sum(squares, scratch), job.hidden, job.eps) : 1.0f;
    for (int i = threadIdx.x; i < job.hidden; i += blockDim.x) {
        float v = job.norm ? x[i] * scale * job.norm[i] : x[i];
        h[(size_t)blockIdx.x * h_stride + i] = to_real<T>(v);
        if (job.h_float) job.h_float[(size_t)blockIdx.x * h_stride + i] = v;
    }
}

void cuda_residual(const struct cuda_residual_job *job, cudaStream_t stream)
{
    if (job->rows == 0) return;
    with_real(job->h.real, [&]<typename T>(T) {
        LM_LAUNCH_PDL(residual_kernel<T>, job->rows, ROW_THREADS, 0, stream, *job, (T *)job->h.data,
                      job->h.stride);
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

template <typename T>
__global__ void activate_kernel(T *out, int out_stride, enum ffn_activation kind, const float *gate,
                                const float *up, int in_stride, int n)
{
    pdl_begin();
    size_t row = blockIdx.x;
    int i = blockIdx.y * blockDim.x + threadIdx.x;

    if (i >= n) return;
    float v = activated(kind, gate[row * in_stride + i], up[row * in_stride + i]);
    out[row * out_stride + i] = to_real<T>(v);
}

void cuda_activate(const struct cuda_rows *out, enum ffn_activation kind, const float *gate,
                   const float *up, int in_stride, int rows, cudaStream_t stream)
{
    if (rows == 0) return;
    dim3 grid(rows,
              blocks_for_elements((size_t)out->cols)); // y has 65,535 at most, rows may be more
    with_real(out->real, [&]<typename T>(T) {
        LM_LAUNCH_PDL(activate_kernel<T>, grid, FLAT_THREADS, 0, stream, (T *)out->data,
                      out->stride, kind, gate, up, in_stride, out->cols);
    });
}

/* ---- heads ---- */

__device__ __forceinline__ void rotate_pair(float *a, float *b, float cosine, float sine)
{
    float x = *a, y = *b;
    *a = x * cosine - y * sine;
    *b = y * cosine + x * sine;
}

/* One warp, one head. */
__device__ __forceinline__ void finish_head(const struct cuda_heads_job &job, float *x,
                                            const float *row, float all_scale, int head)
{
    int lane = lane_id();
    const float *norm = job.norm;

    if (norm && !job.norm_spans_heads) {
        float squares = 0;
        for (int i = lane; i < job.head_dim; i += 32)
            squares = fmaf(x[i], x[i], squares);
        all_scale = inverse_rms(warp_sum(squares), job.head_dim, job.eps);
    } else if (norm) {
        norm += head * job.head_dim;
    }
    if (norm) {
        for (int i = lane; i < job.head_dim; i += 32)
            x[i] = x[i] * all_scale * norm[i];
        __syncwarp(); // a pair's halves were written by other lanes
    }
    float *from = x + job.rotate_from;
    bool neighbours = job.style == ROPE_INTERLEAVED;
    for (int i = lane; row && i < job.half; i += 32) {
        int a = neighbours ? 2 * i : i, b = neighbours ? 2 * i + 1 : job.half + i;
        rotate_pair(from + a, from + b, row[i], row[job.half + i]);
    }
}

/* Of all heads of a token, by the block. */
__device__ __forceinline__ float squares_of(const struct cuda_heads_job &job, const float *x,
                                            float *scratch)
{
    float squares = 0;

    for (int i = threadIdx.x; i < job.heads * job.head_dim; i += blockDim.x)
        squares = fmaf(x[i], x[i], squares);
    return block_sum(squares, scratch);
}

__global__ void __launch_bounds__(HEADS_THREADS) heads_kernel(struct cuda_heads_job job)
{
    pdl_begin();
    LM_SHARED(float, scratch, WARP_LANES);
    float *x = job.x + (size_t)blockIdx.x * job.stride;
    const float *row = job.rotation ? job.rotation + (size_t)blockIdx.x * 2 * job.half : NULL;
    float all_scale = 1;

    if (job.norm && job.norm_spans_heads) {
        float squares = job.squares ? job.squares[blockIdx.x] : squares_of(job, x, scratch);
        all_scale = inverse_rms(squares, job.span, job.eps);
    }
    for (int head = warp_id(); head < job.heads; head += HEADS_THREADS / WARP_LANES)
        finish_head(job, x + head * job.head_dim, row, all_scale, head);
}

void cuda_heads(const struct cuda_heads_job *job, cudaStream_t stream)
{
    if (job->tokens == 0) return;
    LM_LAUNCH_PDL(heads_kernel, job->tokens, HEADS_THREADS, 0, stream, *job);
}

__global__ void __launch_bounds__(HEADS_THREADS)
    heads_squares_kernel(float *out, struct cuda_heads_job job)
{
    pdl_begin();
    LM_SHARED(float, scratch, WARP_LANES);
    float squares = squares_of(job, job.x + (size_t)blockIdx.x * job.stride, scratch);

    if (threadIdx.x == 0) out[blockIdx.x] = squares;
}

void cuda_heads_squares(float *out, const struct cuda_heads_job *job, cudaStream_t stream)
{
    if (job->tokens == 0) return;
    LM_LAUNCH_PDL(heads_squares_kernel, job->tokens, HEADS_THREADS, 0, stream, out, *job);
}

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

template <typename T> __global__ void gather_kernel(T *out, const T *in, const int *row, int stride)
{
    pdl_begin();
    const T *from = in + (size_t)row[blockIdx.x] * stride;

    for (int i = threadIdx.x; i < stride; i += blockDim.x)
        out[(size_t)blockIdx.x * stride + i] = from[i];
}

void cuda_gather(const struct cuda_rows *out, const struct cuda_rows *in, const int *row, int rows,
                 cudaStream_t stream)
{
    if (rows == 0) return;
    if (out->real == CUDA_REAL_F32)
        LM_LAUNCH_PDL(gather_kernel<float>, rows, ROW_THREADS, 0, stream, (float *)out->data,
                      (const float *)in->data, row, in->stride);
    else
        LM_LAUNCH_PDL(gather_kernel<uint16_t>, rows, ROW_THREADS, 0, stream, (uint16_t *)out->data,
                      (const uint16_t *)in->data, row, in->stride);
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
