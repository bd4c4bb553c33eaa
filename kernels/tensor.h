/* tensor.h - element types and borrowed views of matrices. No ownership, no arithmetic. */
#ifndef LM_KERNELS_TENSOR_H
#define LM_KERNELS_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One row per type: name, GGUF type number (-1: no file of GGUF has it), elements per block, bytes per
 * block. A new format is a row here, its meaning in quant*.c and, where it pays, a kernel. */
#define DTYPES(X)           \
    X(F32, 0, 1, 4)         \
    X(F16, 1, 1, 2)         \
    X(BF16, 30, 1, 2)       \
    X(Q4_0, 2, 32, 18)      \
    X(Q4_1, 3, 32, 20)      \
    X(Q5_0, 6, 32, 22)      \
    X(Q5_1, 7, 32, 24)      \
    X(Q8_0, 8, 32, 34)      \
    X(Q2_K, 10, 256, 84)    \
    X(Q3_K, 11, 256, 110)   \
    X(Q4_K, 12, 256, 144)   \
    X(Q5_K, 13, 256, 176)   \
    X(Q6_K, 14, 256, 210)   \
    X(IQ1_S, 19, 256, 50)   \
    X(IQ1_M, 29, 256, 56)   \
    X(IQ2_XXS, 16, 256, 66) \
    X(IQ2_XS, 17, 256, 74)  \
    X(IQ2_S, 22, 256, 82)   \
    X(IQ3_XXS, 18, 256, 98) \
    X(IQ3_S, 21, 256, 110)  \
    X(IQ4_NL, 20, 32, 18)   \
    X(IQ4_XS, 23, 256, 136) \
    X(TQ1_0, 34, 256, 54)   \
    X(TQ2_0, 35, 256, 66)   \
    X(MXFP4, 39, 32, 17)    \
    X(F8_E4M3, -1, 1, 1)

enum dtype {
#define X(name, gguf, elements, bytes) DTYPE_##name,
    DTYPES(X)
#undef X
        DTYPE_COUNT
};

const char *dtype_name(enum dtype type); // "Q4_1"
int dtype_block_elements(enum dtype type);
int dtype_block_bytes(enum dtype type);
/* False: the GGUF type number is not one that we read. */
bool dtype_from_gguf(uint32_t gguf_type, enum dtype *type);
/* Name of any GGUF type, also those not read here, for error texts; NULL if unknown to us. */
const char *dtype_gguf_name(uint32_t gguf_type);

/* Scales that lie beside a matrix, one for each of its blocks; blocks at its ends may be cut. Borrowed. */
struct scale_grid {
    const float *scale; // [blocks of rows][across]
    int64_t across;     // blocks of columns
    int block_rows, block_cols;
};

/* rows x cols, row-major; a row is cols / block_elements blocks.
 * For a linear layer rows = outputs, cols = inputs: y[r] = sum_c W[r][c] x[c]. */
struct matrix {
    enum dtype type;
    int64_t rows, cols;
    const void *data; // borrowed (a mapped file); NULL: absent
    size_t
        row_stride; // bytes from row to row, of columns of a wider matrix; 0: rows are contiguous
    const struct scale_grid *grid; // F8_E4M3: what elements are multiplied by; NULL: other types
    int64_t grid_row, grid_col;    // where this part of the grid's matrix begins
};

size_t matrix_row_bytes(enum dtype type, int64_t cols); // cols must be a multiple of the block
size_t matrix_stride(const struct matrix *m);           // bytes from row to row
size_t matrix_bytes(const struct matrix *m); // from the first to behind the last, gaps included
float matrix_scale(const struct matrix *m, int64_t row, int64_t col); // of one with a grid

#ifdef __cplusplus
}
#endif

#endif
