/* cuda_heads.cu - norm and rotation of heads: queries stay where they are, keys and values go to their pages.
 *
 * A warp takes a head. The row lies in shared memory while it is finished, so that it is read and written
 * once, and float32 keys and values never come back. */
#include "kernels/cuda/cuda_pointwise.h"

#include "kernels/cuda/cuda_kv_rows.cuh"
#include "kernels/cuda/cuda_values.cuh"
#include "shared/base/check.h"

#define HEADS_WARPS   4
#define HEADS_THREADS (HEADS_WARPS * WARP_LANES)
#define HEAD_PIECES   (CUDA_HEAD_DIM_MAX / WARP_LANES) // elements of a head, of a lane

/* Of one head: a lane has elements lane, lane + 32, ... */
struct head_pieces {
    float v[HEAD_PIECES];
};

__device__ __forceinline__ void load_head(struct head_pieces &to, const float *from, int dim)
{
    LM_UNROLL
    for (int n = 0; n < HEAD_PIECES; n++)
        to.v[n] = lane_id() + 32 * n < dim ? from[lane_id() + 32 * n] : 0.0f;
}

__device__ __forceinline__ void store_head(float *to, const struct head_pieces &from, int dim)
{
    LM_UNROLL
    for (int n = 0; n < HEAD_PIECES; n++)
        if (lane_id() + 32 * n < dim) to[lane_id() + 32 * n] = from.v[n];
}

/* `squares`: of a norm over all heads. */
__device__ __forceinline__ void norm_head(const struct cuda_heads_job &job, struct head_pieces &x,
                                          const struct head_pieces &norm, float squares)
{
    int span = job.norm_spans_heads ? job.span : job.head_dim;

    if (!job.norm_spans_heads) {
        squares = 0;
        LM_UNROLL
        for (int n = 0; n < HEAD_PIECES; n++)
            squares = fmaf(x.v[n], x.v[n], squares);
        squares = warp_sum(squares);
    }
    float scale = inverse_rms(squares, span, job.eps);
    LM_UNROLL
    for (int n = 0; n < HEAD_PIECES; n++)
        x.v[n] = x.v[n] * scale * norm.v[n];
}

__device__ __forceinline__ void rotate_pair(float *a, float *b, float cosine, float sine)
{
    float x = *a, y = *b;
    *a = x * cosine - y * sine;
    *b = y * cosine + x * sine;
}

struct head_angles {
    float cosine[HEAD_PIECES / 2], sine[HEAD_PIECES / 2]; // of pairs lane, lane + 32, ...
};

__device__ __forceinline__ void load_angles(struct head_angles &to, const float *from, int half)
{
    LM_UNROLL
    for (int n = 0; n < HEAD_PIECES / 2; n++) {
        int i = lane_id() + 32 * n;
        to.cosine[n] = i < half ? from[i] : 0.0f;
        to.sine[n] = i < half ? from[half + i] : 0.0f;
    }
}

__device__ __forceinline__ void rotate_head(const struct cuda_heads_job &job, float *row,
                                            const struct head_angles &angle)
{
    int step = job.style == ROPE_INTERLEAVED ? 2 : 1;
    int behind = job.style == ROPE_INTERLEAVED ? 1 : job.half;

    row += job.rotate_from;
    LM_UNROLL
    for (int n = 0; n < HEAD_PIECES / 2; n++) {
        int i = lane_id() + 32 * n;
        if (i >= job.half) break;
        rotate_pair(&row[step * i], &row[step * i + behind], angle.cosine[n], angle.sine[n]);
    }
}

enum heads_kind { HEADS_Q, HEADS_K, HEADS_V, HEADS_KINDS };

struct heads_jobs {
    struct cuda_heads_job job[HEADS_KINDS];
    struct cuda_kv_rows keys, values;
};

/* blockIdx: token, heads of q, k and v by HEADS_WARPS. */
__global__ void __launch_bounds__(HEADS_THREADS)
    heads_kernel(const __grid_constant__ struct heads_jobs jobs)
{
    LM_SHARED(float2, rows, HEADS_WARPS * CUDA_HEAD_DIM_MAX / 2);
    float *row = (float *)(rows + warp_id() * CUDA_HEAD_DIM_MAX / 2);
    int head = (int)blockIdx.y * HEADS_WARPS + warp_id(), kind = HEADS_Q, slot = 0;
    size_t token = blockIdx.x;
    struct head_pieces norm, in;
    struct head_angles angle;

    pdl_trigger();
    for (; kind < HEADS_V && head >= jobs.job[kind].heads; kind++)
        head -= jobs.job[kind].heads;
    const struct cuda_heads_job &job = jobs.job[kind];
    const struct cuda_kv_rows &to = kind == HEADS_K ? jobs.keys : jobs.values;
    bool is_there = head < job.heads;
    if (is_there && job.norm)
        load_head(norm, job.norm + (job.norm_spans_heads ? head * job.head_dim : 0), job.head_dim);
    if (kind != HEADS_Q) slot = __ldcg(&to.slot[token]); // README P2
    pdl_wait();
    if (!is_there || slot < 0) return;

    float *x = job.x + token * job.stride + head * job.head_dim;
    load_head(in, x, job.head_dim);
    if (job.rotation) load_angles(angle, job.rotation + token * 2 * job.half, job.half);
    if (job.norm) norm_head(job, in, norm, job.squares ? job.squares[token] : 0.0f);
    store_head(row, in, job.head_dim);
    __syncwarp(); // a pair's halves were written by other lanes
    if (job.rotation) rotate_head(job, row, angle);
    __syncwarp();
    if (kind != HEADS_Q) {
        write_row(to, slot, head, row);
        return;
    }
    load_head(in, row, job.head_dim);
    store_head(x, in, job.head_dim);
}

static void check_job(const struct cuda_heads_job *job)
{
    CHECK(job->head_dim <= CUDA_HEAD_DIM_MAX);
    CHECK(job->rotate_from + 2 * job->half <= job->head_dim);
    CHECK(!job->norm || !job->norm_spans_heads || job->squares);
}

void cuda_heads(const struct cuda_heads_job *q, const struct cuda_heads_job *k,
                const struct cuda_kv_rows *keys, const struct cuda_heads_job *v,
                const struct cuda_kv_rows *values, cudaStream_t stream)
{
    struct heads_jobs jobs = {{*q, *k, *v}, *keys, *values};

    for (int kind = 0; kind < HEADS_KINDS; kind++)
        check_job(&jobs.job[kind]);
    CHECK(k->head_dim == keys->dim && v->head_dim == values->dim);
    if (!q->norm && !q->rotation) jobs.job[HEADS_Q].heads = 0;
    int heads = jobs.job[HEADS_Q].heads + k->heads + v->heads;
    if (k->tokens == 0) return;
    LM_LAUNCH_PDL(heads_kernel, dim3(k->tokens, (heads + HEADS_WARPS - 1) / HEADS_WARPS),
                  HEADS_THREADS, 0, stream, jobs);
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
