/* cuda_heads.cu - norm and rotation of heads of queries and keys, in place. */
#include "kernels/cuda/cuda_pointwise.h"

#include "kernels/cuda/cuda_kv.h"
#include "kernels/cuda/cuda_values.cuh"
#include "shared/base/check.h"

#define HEADS_THREADS 128
#define HEAD_PIECES   (CUDA_HEAD_DIM_MAX / WARP_LANES) // elements of a head, of a lane

__device__ __forceinline__ void rotate_pair(float *a, float *b, float cosine, float sine)
{
    float x = *a, y = *b;
    *a = x * cosine - y * sine;
    *b = y * cosine + x * sine;
}

/* One warp, one head. What a lane has of it is loaded before anything is stored. */
__device__ __forceinline__ void finish_head(const struct cuda_heads_job &job, float *x,
                                            const float *row, float squares, int head)
{
    int lane = lane_id();
    float v[HEAD_PIECES], a[HEAD_PIECES / 2], b[HEAD_PIECES / 2], cosine[HEAD_PIECES / 2],
        sine[HEAD_PIECES / 2];

    if (job.norm) {
        const float *norm = job.norm + (job.norm_spans_heads ? head * job.head_dim : 0);
        LM_UNROLL
        for (int n = 0; n < HEAD_PIECES; n++)
            v[n] = lane + 32 * n < job.head_dim ? x[lane + 32 * n] : 0.0f;
        if (!job.norm_spans_heads) {
            squares = 0;
            LM_UNROLL
            for (int n = 0; n < HEAD_PIECES; n++)
                squares = fmaf(v[n], v[n], squares);
            squares = warp_sum(squares);
        }
        float scale = inverse_rms(squares, job.norm_spans_heads ? job.span : job.head_dim, job.eps);
        LM_UNROLL
        for (int n = 0; n < HEAD_PIECES; n++)
            if (lane + 32 * n < job.head_dim) x[lane + 32 * n] = v[n] * scale * norm[lane + 32 * n];
        __syncwarp(); // a pair's halves were written by other lanes
    }
    x += job.rotate_from;
    int from_pair = job.style == ROPE_INTERLEAVED ? 2 : 1,
        behind = job.style == ROPE_INTERLEAVED ? 1 : job.half;
    LM_UNROLL
    for (int n = 0; n < HEAD_PIECES / 2; n++) {
        int i = lane + 32 * n;
        if (!row || i >= job.half) break;
        a[n] = x[from_pair * i], b[n] = x[from_pair * i + behind];
        cosine[n] = row[i], sine[n] = row[job.half + i];
    }
    LM_UNROLL
    for (int n = 0; n < HEAD_PIECES / 2; n++) {
        int i = lane + 32 * n;
        if (!row || i >= job.half) break;
        rotate_pair(&a[n], &b[n], cosine[n], sine[n]);
        x[from_pair * i] = a[n], x[from_pair * i + behind] = b[n];
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

struct heads_jobs {
    struct cuda_heads_job job[2];
};

/* blockIdx: token, heads of both jobs by HEADS_THREADS / 32; a warp takes one. */
__global__ void __launch_bounds__(HEADS_THREADS)
    heads_kernel(const __grid_constant__ struct heads_jobs jobs)
{
    pdl_begin();
    int head = (int)blockIdx.y * (HEADS_THREADS / WARP_LANES) + warp_id();
    bool second = head >= jobs.job[0].heads;
    const struct cuda_heads_job &job = jobs.job[second];
    size_t token = blockIdx.x;

    if (second) head -= jobs.job[0].heads;
    if (head >= job.heads) return;
    finish_head(job, job.x + token * job.stride + head * job.head_dim,
                job.rotation ? job.rotation + token * 2 * job.half : NULL,
                job.squares ? job.squares[token] : 0.0f, head);
}

static bool has_work(const struct cuda_heads_job *job)
{
    CHECK(job->head_dim <= CUDA_HEAD_DIM_MAX && 2 * job->half <= job->head_dim);
    CHECK(!job->norm || !job->norm_spans_heads || job->squares);
    return job->norm || job->rotation;
}

void cuda_heads(const struct cuda_heads_job *q, const struct cuda_heads_job *k, cudaStream_t stream)
{
    struct heads_jobs jobs = {{*q, *k}};
    const int each = HEADS_THREADS / WARP_LANES;

    if (!has_work(q)) jobs.job[0].heads = 0;
    if (!has_work(k)) jobs.job[1].heads = 0;
    int heads = jobs.job[0].heads + jobs.job[1].heads;
    if (q->tokens == 0 || heads == 0) return;
    LM_LAUNCH_PDL(heads_kernel, dim3(q->tokens, (heads + each - 1) / each), HEADS_THREADS, 0,
                  stream, jobs);
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
