#include "kernels/cuda/cuda_gemm.h"

#include <limits.h>
#include <stdlib.h>

#include "kernels/cuda/cuda_pointwise.h"
#include "shared/base/check.h"

#define GEMV_ROWS_MAX     4 // beyond that a warp's sums wait for each other longer than for weights
#define LIBRARY_WORKSPACE ((size_t)32 << 20)
/* Where the tiles of cuda_mma become one block a multiprocessor, of which a narrow matrix has too few: 64 for 4096
 * rows. Weights in blocks too: making 16 bits of them costs less than those tiles, which wait for each stage. */
#define LIBRARY_ROWS_MIN  (CUDA_MMA_GATED_ROWS_MAX + 1)
#define DEQUANTISED_BYTES_MAX \
    ((size_t)32 << 20)           // of them at a time: what an L2 may keep until it is read
#define DEQUANTISED_ROWS_OF  128 // weight rows at a time are a multiple, a tile of the library
/* Two of cuda_wide's tiles, so that there are blocks enough; experts are many. Fewer rows than half a tile's are
 * mostly waiting for weights, whoever multiplies. */
#define WIDE_ROWS_MIN        256
#define WIDE_EXPERT_ROWS_MIN 64

int cuda_gemm_open(struct cuda_gemm *g, bool deterministic, struct error *err)
{
    const char *setting = getenv("LM_CUDA_WIDE_ROWS");
    long rows = setting ? strtol(setting, NULL, 10) : 0;

    *g = (struct cuda_gemm){};
    g->deterministic = deterministic;
    g->wide_rows = rows > 0 && rows < INT_MAX ? (int)rows : WIDE_ROWS_MIN;
    g->wide_expert_rows = rows > 0 && rows < INT_MAX ? (int)rows : WIDE_EXPERT_ROWS_MIN;
    g->library_rows_min = LIBRARY_ROWS_MIN;
    if (deterministic) return 0;
    if (cublasLtCreate(&g->lt) == CUBLAS_STATUS_SUCCESS) return 0;
    return error_set(err, E_DEVICE, "cuBLASLt doesn't start");
}

void cuda_gemm_close(struct cuda_gemm *g)
{
    if (g->lt) cublasLtDestroy(g->lt);
    free(g->choice);
    *g = (struct cuda_gemm){};
}

void cuda_gemm_expect(struct cuda_gemm *g, const struct cuda_weight *w, int rows_max)
{
    size_t bytes = (size_t)w->rows * (size_t)w->stride * sizeof(uint16_t);

    if (g->deterministic || !cuda_form_is_in_blocks(w->form) || rows_max < g->library_rows_min)
        return;
    if (bytes > DEQUANTISED_BYTES_MAX) bytes = DEQUANTISED_BYTES_MAX;
    if (bytes > g->dequantised_bytes) g->dequantised_bytes = bytes;
}

size_t cuda_gemm_workspace_bytes(const struct cuda_gemm *g)
{
    return g->deterministic ? 0 : LIBRARY_WORKSPACE + g->dequantised_bytes;
}

/* ---- cuBLASLt ----
 *
 * Its matrices are column-major, so our row-major out = in * W^T is out^T = W * in^T with W read as
 * [cols][rows] and transposed: M = weight rows, N = input rows, K = cols. */

struct cuda_gemm_choice {
    enum cuda_real real, out_real; // of weights and inputs, of outputs
    int m, n, k, in_stride, out_stride, weight_stride;
    uint32_t out_alignment; // bytes; a rank's logits begin anywhere in a row
    cublasLtMatmulAlgo_t algorithm;
};

struct library_call {
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t weights, in, out;
};

static void library_call_close(struct library_call *c)
{
    if (c->operation) cublasLtMatmulDescDestroy(c->operation);
    if (c->weights) cublasLtMatrixLayoutDestroy(c->weights);
    if (c->in) cublasLtMatrixLayoutDestroy(c->in);
    if (c->out) cublasLtMatrixLayoutDestroy(c->out);
}

static cudaDataType_t library_type(enum cuda_real real)
{
    return real == CUDA_REAL_F32 ? CUDA_R_32F : real == CUDA_REAL_F16 ? CUDA_R_16F : CUDA_R_16BF;
}

static cublasStatus_t library_call_open(struct library_call *c, const struct cuda_gemm_choice *s)
{
    cublasOperation_t transposed = CUBLAS_OP_T;
    cudaDataType_t type = library_type(s->real), out_type = library_type(s->out_real);

    *c = (struct library_call){};
    cublasStatus_t rc = cublasLtMatmulDescCreate(&c->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (rc == CUBLAS_STATUS_SUCCESS)
        rc = cublasLtMatmulDescSetAttribute(c->operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                            sizeof transposed);
    if (rc == CUBLAS_STATUS_SUCCESS)
        rc = cublasLtMatrixLayoutCreate(&c->weights, type, s->k, s->m, s->weight_stride);
    if (rc == CUBLAS_STATUS_SUCCESS)
        rc = cublasLtMatrixLayoutCreate(&c->in, type, s->k, s->n, s->in_stride);
    if (rc == CUBLAS_STATUS_SUCCESS)
        rc = cublasLtMatrixLayoutCreate(&c->out, out_type, s->m, s->n, s->out_stride);
    return rc;
}

/* The heuristic's first answer: it knows the shape and the device only, so it is the same at every start. */
static cublasStatus_t ask_heuristic(struct cuda_gemm *g, const struct library_call *c,
                                    struct cuda_gemm_choice *choice)
{
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t result;
    size_t workspace = LIBRARY_WORKSPACE;
    int found = 0;

    cublasStatus_t rc = cublasLtMatmulPreferenceCreate(&preference);
    if (rc == CUBLAS_STATUS_SUCCESS)
        rc = cublasLtMatmulPreferenceSetAttribute(
            preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace);
    for (auto side :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
        if (rc == CUBLAS_STATUS_SUCCESS)
            rc = cublasLtMatmulPreferenceSetAttribute(preference, side, &choice->out_alignment,
                                                      sizeof choice->out_alignment);
    if (rc == CUBLAS_STATUS_SUCCESS)
        rc = cublasLtMatmulAlgoGetHeuristic(g->lt, c->operation, c->weights, c->in, c->out, c->out,
                                            preference, 1, &result, &found);
    if (preference) cublasLtMatmulPreferenceDestroy(preference);
    if (rc == CUBLAS_STATUS_SUCCESS && found == 0) rc = CUBLAS_STATUS_NOT_SUPPORTED;
    if (rc == CUBLAS_STATUS_SUCCESS) choice->algorithm = result.algo;
    return rc;
}

static bool same_shape(const struct cuda_gemm_choice *a, const struct cuda_gemm_choice *b)
{
    return a->real == b->real && a->out_real == b->out_real && a->m == b->m && a->n == b->n &&
           a->k == b->k && a->in_stride == b->in_stride && a->out_stride == b->out_stride &&
           a->weight_stride == b->weight_stride && a->out_alignment == b->out_alignment;
}

/* A model has a handful of shapes per number of rows, and prefill steps of any length: the list is
 * bounded by starting over. */
#define CHOICES_MAX 1024

static cublasStatus_t choose(struct cuda_gemm *g, const struct library_call *c,
                             struct cuda_gemm_choice *shape)
{
    for (int i = g->choices - 1; i >= 0; i--) { // a step's shapes were the last to come
        if (!same_shape(&g->choice[i], shape)) continue;
        *shape = g->choice[i];
        return CUBLAS_STATUS_SUCCESS;
    }
    cublasStatus_t rc = ask_heuristic(g, c, shape);
    if (rc != CUBLAS_STATUS_SUCCESS) return rc;
    if (!g->choice) g->choice = (struct cuda_gemm_choice *)xcalloc(CHOICES_MAX, sizeof *g->choice);
    if (g->choices == CHOICES_MAX) g->choices = 0;
    g->choice[g->choices++] = *shape;
    return rc;
}

/* 256, what the heuristic takes for granted, or less. */
static uint32_t alignment_of(const void *at)
{
    uint32_t low = (uint32_t)(uintptr_t)at & 255u;
    return low ? low & -low : 256;
}

static void own_part(const struct cuda_product *p, const struct cuda_part *part,
                     cudaStream_t stream)
{
    struct cuda_product one = *p;

    one.parts = 1;
    one.part[0] = *part;
    cuda_mma(&one, stream);
}

/* Element i of outputs. */
static float *out_at(float *out, int i, enum cuda_real real)
{
    return (float *)((uint8_t *)out + (size_t)i * cuda_real_bytes(real));
}

/* What the library has no algorithm for (an output that is aligned to 4 bytes, say) is multiplied here if outputs are
 * float32, else it is cudaErrorNotSupported. */
static cudaError_t library_part(struct cuda_gemm *g, const struct cuda_product *p,
                                const struct cuda_part *part, enum cuda_real out_real,
                                cudaStream_t stream)
{
    struct cuda_gemm_choice shape = {};
    struct library_call call;
    const float one = 1, zero = 0;

    shape.real = p->in_real;
    shape.out_real = out_real;
    shape.m = part->w.rows;
    shape.n = p->rows;
    shape.k = part->w.cols;
    shape.in_stride = p->in_stride;
    shape.out_stride = part->out_stride;
    shape.weight_stride = part->w.stride;
    shape.out_alignment = alignment_of(part->out);
    cublasStatus_t rc = library_call_open(&call, &shape);
    if (rc == CUBLAS_STATUS_SUCCESS) rc = choose(g, &call, &shape);
    if (rc == CUBLAS_STATUS_SUCCESS)
        rc = cublasLtMatmul(g->lt, call.operation, &one, part->w.data, call.weights, p->in, call.in,
                            &zero, part->out, call.out, part->out, call.out, &shape.algorithm,
                            g->workspace, LIBRARY_WORKSPACE, stream);
    library_call_close(&call);
    if (rc == CUBLAS_STATUS_NOT_SUPPORTED) {
        if (out_real != CUDA_REAL_F32) return cudaErrorNotSupported;
        own_part(p, part, stream);
        return cudaSuccess;
    }
    if (rc != CUBLAS_STATUS_SUCCESS) return cudaErrorUnknown;
    cuda_add_bias(part->out, part->out_stride, part->bias, part->w.rows, p->rows, stream);
    return cudaSuccess;
}

/* Weight rows that become 16 bits at a time; 0: none. */
static int dequantised_rows(const struct cuda_gemm *g, const struct cuda_weight *w)
{
    int rows = (int)(g->dequantised_bytes / sizeof(uint16_t) / (size_t)w->stride);
    return rows > DEQUANTISED_ROWS_OF ? rows / DEQUANTISED_ROWS_OF * DEQUANTISED_ROWS_OF : rows;
}

/* The same behind dequantising, some weight rows at a time. */
static cudaError_t dequantised_part(struct cuda_gemm *g, const struct cuda_product *p,
                                    const struct cuda_part *part, enum cuda_real out_real,
                                    cudaStream_t stream)
{
    uint8_t *data = (uint8_t *)g->workspace + LIBRARY_WORKSPACE;
    int most = dequantised_rows(g, &part->w);
    cudaError_t rc = cudaSuccess;

    for (int row = 0; rc == cudaSuccess && row < part->w.rows; row += most) {
        struct cuda_part some = *part;
        some.w.form = cuda_form_of_real(p->in_real);
        some.w.rows = part->w.rows - row < most ? part->w.rows - row : most;
        some.w.data = data;
        some.w.scales = NULL;
        some.out = out_at(part->out, row, out_real);
        some.bias = part->bias ? part->bias + row : NULL;
        cuda_dequantise(&part->w, row, some.w.rows, p->in_real, data, stream);
        rc = library_part(g, p, &some, out_real, stream);
    }
    return rc;
}

/* ---- choice ---- */

typedef cudaError_t library_fn(struct cuda_gemm *g, const struct cuda_product *p,
                               const struct cuda_part *part, enum cuda_real out_real,
                               cudaStream_t stream);

/* How a library makes this part; NULL: it doesn't. */
static library_fn *library_for(const struct cuda_gemm *g, const struct cuda_product *p,
                               const struct cuda_weight *w)
{
    if (p->in_real == CUDA_REAL_F32 || p->experts || g->deterministic) return NULL;
    if (p->rows < g->library_rows_min) return NULL;
    if (w->form == cuda_form_of_real(p->in_real)) return library_part;
    if (cuda_form_is_in_blocks(w->form) && dequantised_rows(g, w) > 0) return dequantised_part;
    return NULL;
}

static bool is_wide(const struct cuda_gemm *g, const struct cuda_product *p)
{
    int rows = p->experts ? p->all_rows / p->experts : p->rows;

    return p->in_real != CUDA_REAL_F32 &&
           rows >= (p->experts ? g->wide_expert_rows : g->wide_rows) &&
           cuda_wide_fits(p->part[0].w.form);
}

/* Whether both are one product to a library: weights behind each other, outputs in neighbouring columns. */
static bool is_followed_by(const struct cuda_part *a, const struct cuda_part *b,
                           enum cuda_real out_real)
{
    size_t bytes = (size_t)a->w.rows * cuda_row_bytes(&a->w);

    if (a->w.form != b->w.form || a->w.cols != b->w.cols || cuda_form_is_in_blocks(a->w.form))
        return false;
    return (const uint8_t *)a->w.data + bytes == b->w.data &&
           out_at(a->out, a->w.rows, out_real) == b->out && a->out_stride == b->out_stride &&
           (a->bias ? a->bias + a->w.rows == b->bias : b->bias == NULL);
}

static cudaError_t run_library(struct cuda_gemm *g, library_fn *library,
                               const struct cuda_product *p, enum cuda_real out_real,
                               cudaStream_t stream)
{
    cudaError_t rc = cudaSuccess;

    for (int i = 0; rc == cudaSuccess && i < p->parts; i++) {
        struct cuda_part some = p->part[i];
        for (; i + 1 < p->parts && is_followed_by(&some, &p->part[i + 1], out_real); i++)
            some.w.rows += p->part[i + 1].w.rows;
        rc = library(g, p, &some, out_real, stream);
    }
    return rc;
}

/* One launch for all parts of a form. */
static cudaError_t run_same_form(struct cuda_gemm *g, const struct cuda_product *p,
                                 cudaStream_t stream)
{
    library_fn *library = library_for(g, p, &p->part[0].w);

    if (library) return run_library(g, library, p, CUDA_REAL_F32, stream);
    if (p->in_real == CUDA_REAL_F32 || (p->rows <= GEMV_ROWS_MAX && !g->deterministic))
        cuda_gemv(p, stream);
    else if (is_wide(g, p))
        cuda_wide(p, stream);
    else
        cuda_mma(p, stream);
    return cudaSuccess;
}

static cudaError_t run_parts(struct cuda_gemm *g, const struct cuda_product *p, cudaStream_t stream)
{
    cudaError_t rc = cudaSuccess;

    for (int form = 0; form < CUDA_FORMS && rc == cudaSuccess; form++) {
        struct cuda_product some = *p;
        some.parts = 0;
        for (int i = 0; i < p->parts; i++)
            if (p->part[i].w.form == form) some.part[some.parts++] = p->part[i];
        if (some.parts > 0) rc = run_same_form(g, &some, stream);
    }
    return rc;
}

static bool gates_itself(const struct cuda_gemm *g, const struct cuda_product *p)
{
    return p->part[0].w.form == p->part[1].w.form && !library_for(g, p, &p->part[0].w) &&
           (p->in_real == CUDA_REAL_F32 || p->rows <= CUDA_MMA_GATED_ROWS_MAX || is_wide(g, p));
}

/* Gate and up, which nobody reads but cuda_activate, in bfloat16, as the reference models have them: half of what a long
 * prompt would write and read of them. (Float16 has no room for their range.) cudaErrorNotSupported: as float32. */
static cudaError_t run_narrow(struct cuda_gemm *g, struct cuda_product *p, enum cuda_real *out_real,
                              cudaStream_t stream)
{
    library_fn *library = library_for(g, p, &p->part[0].w);
    struct cuda_product narrow = *p;

    if (!library || library_for(g, p, &p->part[1].w) != library || p->in_real != CUDA_REAL_BF16 ||
        p->part[0].bias || p->part[1].bias || p->part[0].out + p->part[0].w.rows != p->part[1].out)
        return cudaErrorNotSupported;
    narrow.part[1].out = out_at(p->part[0].out, p->part[0].w.rows, CUDA_REAL_BF16);
    cudaError_t rc = run_library(g, library, &narrow, CUDA_REAL_BF16, stream);
    if (rc != cudaSuccess) return rc;
    *p = narrow;
    *out_real = CUDA_REAL_BF16;
    return rc;
}

cudaError_t cuda_gemm_run(struct cuda_gemm *g, const struct cuda_product *p, cudaStream_t stream)
{
    CHECK(!p->gated.out || (p->parts == 2 && p->part[0].w.rows == p->part[1].w.rows));
    if (p->rows == 0) return cudaSuccess;
    if (!p->gated.out || gates_itself(g, p)) return run_parts(g, p, stream);
    struct cuda_product apart = *p;
    struct cuda_rows out = {p->gated.out, p->part[0].w.rows, p->gated.stride, p->in_real};
    enum cuda_real between = CUDA_REAL_F32;
    apart.gated.out = NULL;
    cudaError_t rc = run_narrow(g, &apart, &between, stream);
    if (rc == cudaErrorNotSupported) rc = run_parts(g, &apart, stream);
    if (rc == cudaSuccess)
        cuda_activate(&out, p->gated.kind, apart.part[0].out, apart.part[1].out, between,
                      p->part[0].out_stride, p->gated.rows, stream);
    return rc;
}
