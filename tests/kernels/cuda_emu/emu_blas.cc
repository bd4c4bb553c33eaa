/* emu_blas.cc - cuBLASLt's matmul by definition. Layouts that the library would refuse are refused, too, and an
 * algorithm takes only the shape, the alignment and the workspace that it was chosen for. */
#include "tests/kernels/cuda_emu/cuda_emu_blas.cuh"

#include <array>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/cuda_emu/cuda_emu.cuh"

struct cublasLtContext {
    int version;
};

struct cublasLtMatmulDescOpaque_t {
    cublasOperation_t transa, transb;
    cublasLtEpilogue_t epilogue;
    const void *bias;
    cudaDataType_t bias_type;
    bool bias_type_given;
};

struct cublasLtMatrixLayoutOpaque_t {
    cudaDataType_t type;
    uint64_t rows, columns;
    int64_t leading;
    cublasLtOrder_t order;
    int32_t batch;
    int64_t batch_stride; // elements
};

struct cublasLtMatmulPreferenceOpaque_t {
    size_t workspace;
    uint32_t alignment[4]; // of A, B, C, D
};

/* What an algorithm was chosen for, as it lies in cublasLtMatmulAlgo_t. */
struct emu_algorithm {
    uint64_t rows, columns, workspace;
    uint32_t alignment[4];
};
static_assert(sizeof(emu_algorithm) <= sizeof(cublasLtMatmulAlgo_t));

namespace
{

using layout = cublasLtMatrixLayoutOpaque_t;

size_t element_bytes(cudaDataType_t type)
{
    return type == CUDA_R_32F ? 4 : 2;
}

float load(const void *at, size_t index, cudaDataType_t type)
{
    switch (type) {
    case CUDA_R_32F:
        return ((const float *)at)[index];
    case CUDA_R_16F:
        return __half2float(((const __half *)at)[index]);
    case CUDA_R_16BF:
        return __bfloat162float(((const __nv_bfloat16 *)at)[index]);
    }
    emu::fail("cublasLt: data type %d", (int)type);
}

void store(void *at, size_t index, cudaDataType_t type, float value)
{
    switch (type) {
    case CUDA_R_32F:
        ((float *)at)[index] = value;
        return;
    case CUDA_R_16F:
        ((__half *)at)[index] = __float2half(value);
        return;
    case CUDA_R_16BF:
        ((__nv_bfloat16 *)at)[index] = __float2bfloat16(value);
        return;
    }
    emu::fail("cublasLt: data type %d", (int)type);
}

size_t index_of(const layout &m, uint64_t row, uint64_t column)
{
    return m.order == CUBLASLT_ORDER_COL ? row + column * (uint64_t)m.leading
                                         : row * (uint64_t)m.leading + column;
}

struct matmul {
    cublasLtMatmulDescOpaque_t desc;
    float alpha, beta;
    const void *a, *b, *c;
    void *d;
    layout a_layout, b_layout, c_layout, d_layout;
    uint64_t k;
};

const void *batch_of(const void *at, const layout &m, int batch)
{
    return (const char *)at + (size_t)(batch * m.batch_stride) * element_bytes(m.type);
}

float element(const matmul &m, const void *a, const void *b, uint64_t row, uint64_t column)
{
    float sum = 0.0f;
    for (uint64_t k = 0; k < m.k; k++) {
        size_t ai = m.desc.transa == CUBLAS_OP_N ? index_of(m.a_layout, row, k)
                                                 : index_of(m.a_layout, k, row);
        size_t bi = m.desc.transb == CUBLAS_OP_N ? index_of(m.b_layout, k, column)
                                                 : index_of(m.b_layout, column, k);
        sum = fmaf(load(a, ai, m.a_layout.type), load(b, bi, m.b_layout.type), sum);
    }
    return sum;
}

void run_matmul(const matmul &m)
{
    for (int batch = 0; batch < m.d_layout.batch; batch++) {
        const void *a = batch_of(m.a, m.a_layout, batch), *b = batch_of(m.b, m.b_layout, batch);
        const void *c = batch_of(m.c, m.c_layout, batch);
        void *d = const_cast<void *>(batch_of(m.d, m.d_layout, batch));
        for (uint64_t column = 0; column < m.d_layout.columns; column++)
            for (uint64_t row = 0; row < m.d_layout.rows; row++) {
                float sum = m.alpha * element(m, a, b, row, column);
                if (m.beta != 0.0f)
                    sum += m.beta * load(c, index_of(m.c_layout, row, column), m.c_layout.type);
                if (m.desc.epilogue == CUBLASLT_EPILOGUE_BIAS)
                    sum += load(m.desc.bias, row, m.desc.bias_type);
                store(d, index_of(m.d_layout, row, column), m.d_layout.type, sum);
            }
    }
}

bool shapes_agree(const cublasLtMatmulDescOpaque_t &desc, const layout &a, const layout &b,
                  const layout &c, const layout &d)
{
    uint64_t m = desc.transa == CUBLAS_OP_N ? a.rows : a.columns;
    uint64_t k = desc.transa == CUBLAS_OP_N ? a.columns : a.rows;
    uint64_t k_of_b = desc.transb == CUBLAS_OP_N ? b.rows : b.columns;
    uint64_t n = desc.transb == CUBLAS_OP_N ? b.columns : b.rows;
    return k == k_of_b && d.rows == m && d.columns == n && c.rows == m && c.columns == n &&
           a.type == b.type && c.type == d.type && (d.type == a.type || d.type == CUDA_R_32F) &&
           a.batch == d.batch && b.batch == d.batch && c.batch == d.batch;
}

bool leading_fits(const layout &m)
{
    return (uint64_t)m.leading >= (m.order == CUBLASLT_ORDER_COL ? m.rows : m.columns);
}

template <class T> cublasStatus_t take(T *to, const void *value, size_t bytes)
{
    if (bytes != sizeof *to) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(to, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

void check_algorithm(const cublasLtMatmulAlgo_t &algo, const layout &d,
                     std::array<const void *, 4> matrix, const void *workspace, size_t bytes)
{
    emu_algorithm chosen;
    memcpy(&chosen, &algo, sizeof chosen);
    if (chosen.rows != d.rows || chosen.columns != d.columns)
        emu::fail("cublasLtMatmul: the algorithm was chosen for another shape");
    for (size_t i = 0; i < matrix.size(); i++)
        if ((uintptr_t)matrix[i] % chosen.alignment[i])
            emu::fail(
                "cublasLtMatmul: the algorithm was chosen for %u bytes of alignment, matrix %c "
                "at %p has less",
                chosen.alignment[i], "ABCD"[i], matrix[i]);
    if (bytes < chosen.workspace || (chosen.workspace && (uintptr_t)workspace % 256))
        emu::fail("cublasLtMatmul: a workspace of %zu bytes at %p for %zu", bytes, workspace,
                  (size_t)chosen.workspace);
}

} // namespace

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    *handle = new cublasLtContext{130000};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

const char *cublasLtGetStatusString(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_SUCCESS ? "CUBLAS_STATUS_SUCCESS" : "a cuBLAS status of failure";
}

size_t cublasLtGetVersion()
{
    return 130000;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, cublasComputeType_t,
                                        cudaDataType_t scale)
{
    if (scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
    *desc = new cublasLtMatmulDescOpaque_t{CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT,
                                           nullptr,     CUDA_R_32F,  false};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc)
{
    delete desc;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t bytes)
{
    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return take(&desc->transa, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return take(&desc->transb, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return take(&desc->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        return take(&desc->bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        desc->bias_type_given = true;
        return take(&desc->bias_type, value, bytes);
    }
    return CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *m, cudaDataType_t type,
                                          uint64_t rows, uint64_t columns, int64_t leading)
{
    *m = new layout{type, rows, columns, leading, CUBLASLT_ORDER_COL, 1, 0};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t m)
{
    delete m;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t m,
                                                cublasLtMatrixLayoutAttribute_t attribute,
                                                const void *value, size_t bytes)
{
    switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
        return take(&m->order, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
        return take(&m->batch, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
        return take(&m->batch_stride, value, bytes);
    }
    return CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference)
{
    *preference = new cublasLtMatmulPreferenceOpaque_t{0, {256, 256, 256, 256}};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    delete preference;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t bytes)
{
    if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
        return take(&preference->workspace, value, bytes);
    return take(&preference->alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES],
                value, bytes);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t *results, int *found)
{
    *found = 0;
    if (wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
    if (!shapes_agree(*desc, *a, *b, *c, *d)) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (getenv("LM_CUDA_EMU_LT_WIDE") && preference->alignment[3] < 16)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    results[0] = cublasLtMatmulHeuristicResult_t{};
    emu_algorithm chosen = {d->rows, d->columns, preference->workspace, {}};
    memcpy(chosen.alignment, preference->alignment, sizeof chosen.alignment);
    memcpy(&results[0].algo, &chosen, sizeof chosen);
    results[0].workspaceSize = preference->workspace;
    *found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t a_layout, const void *b,
                              cublasLtMatrixLayout_t b_layout, const void *beta, const void *c,
                              cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algo,
                              void *workspace, size_t workspace_bytes, cudaStream_t stream)
{
    if (!shapes_agree(*desc, *a_layout, *b_layout, *c_layout, *d_layout))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (!leading_fits(*a_layout) || !leading_fits(*b_layout) || !leading_fits(*d_layout))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (algo) check_algorithm(*algo, *d_layout, {a, b, c, d}, workspace, workspace_bytes);
    matmul m = {*desc,
                *(const float *)alpha,
                *(const float *)beta,
                a,
                b,
                c,
                d,
                *a_layout,
                *b_layout,
                *c_layout,
                *d_layout,
                0};
    m.k = desc->transa == CUBLAS_OP_N ? a_layout->columns : a_layout->rows;
    if (!m.desc.bias_type_given) m.desc.bias_type = d_layout->type;
    cudaError_t error = emu::enqueue(stream, [m] { run_matmul(m); });
    return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
