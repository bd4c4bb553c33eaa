/* cuda_product.h - products of activations with weights: what the kernels are given.
 *
 * A launch multiplies the same rows of activations by up to three matrices (q, k and v; gate and
 * up). Sums are float32, and so are outputs. Activations are of a type of cuda_real.cuh.
 *
 * Rows of everything are padded with zeros to whole 16-byte (float32: 32-byte) pieces of 8 elements,
 * weights in blocks to whole blocks, so kernels read 16 bytes at a time and look at no end. */
#ifndef LM_KERNELS_CUDA_PRODUCT_H
#define LM_KERNELS_CUDA_PRODUCT_H

#include "kernels/backend.h"
#include "kernels/cuda/cuda_real.cuh"

/* How the device holds a matrix. */
enum cuda_form {
    CUDA_F32,  // of every type under COMPUTE_F32
    CUDA_BF16, // of every type without a form of its own; inputs are bfloat16
    CUDA_F16,  // likewise, where inputs are float16
    /* 4 bits, w = d q + m: words of 8 elements; nibble s of a word's low half is its element 2 s, of
     * the high half 2 s + 1, so that one mask gives a pair of neighbours. Scales are {half d, half m}
     * for 32 elements. Q4_0 and Q4_1 keep their values; products d * scale of Q4_K are rounded. */
    CUDA_Q4,
    CUDA_Q8, // signed bytes in order, w = d q; scales are {half d} for 32 elements
    /* E4M3 in order, w = d q; scales are {float d} for 2^scale_shift elements. A NaN among them is one of d. */
    CUDA_F8,
    CUDA_FORMS
};

#define CUDA_BLOCK 32 // elements with one scale, but of CUDA_F8

struct cuda_weight {
    enum cuda_form form;
    int rows, cols;
    int stride;         // elements from row to row, cols padded
    const void *data;   // [rows][stride], in the bits of the form; NULL: absent
    const void *scales; // [rows][stride / elements with one]; NULL where the form has none
    int scale_shift;    // CUDA_F8: 4 or more, what a lane reads at a time has one scale
};

struct cuda_part {
    struct cuda_weight w;
    float *out;        // [rows of the input][out_stride]; w.rows of a row are written
    const float *bias; // [w.rows] or NULL; of experts [experts][w.rows]
    int out_stride;
};

#define CUDA_PARTS_MAX 3

struct cuda_product {
    const void *in; // [rows][in_stride] of in_real
    int in_stride;  // a multiple of 8
    enum cuda_real in_real;
    int rows; // of the input and of the outputs
    int parts;
    struct cuda_part part[CUDA_PARTS_MAX]; // all with the same cols

    /* Experts: part[].w is the first of `experts` matrices that lie behind each other. Expert e makes
     * output rows first[e] .. first[e + 1] - 1, and output row r comes from input row in_row[r]
     * (NULL: r). Both are on the device, so `rows` is only the most that one can have. */
    int experts;  // 0: none of this
    int all_rows; // the most that all of them have together
    const int *first, *in_row;

    /* Gated: part[0] is gate, part[1] is up, of one form and shape. Only act(gate) * up is written, in the
     * type of the input; its bits are those of both products and cuda_activate behind them. */
    struct {
        void *out;        // [rows][stride]; NULL: not gated
        int rows, stride; // of experts all rows of all of them
        enum ffn_activation kind;
    } gated;
};

/* Bytes of a row's data and of its scales; stride is a multiple of what the form needs. */
static inline size_t cuda_row_bytes(const struct cuda_weight *w)
{
    static const int bits[CUDA_FORMS] = {32, 16, 16, 4, 8, 8};
    return (size_t)w->stride * (size_t)bits[w->form] / 8;
}

static inline size_t cuda_row_scale_bytes(const struct cuda_weight *w)
{
    static const int bytes[CUDA_FORMS] = {0, 0, 0, 4, 2, 4};
    int elements = w->form == CUDA_F8 ? 1 << w->scale_shift : CUDA_BLOCK;
    return (size_t)(w->stride / elements) * (size_t)bytes[w->form];
}

static inline int cuda_form_stride(enum cuda_form form, int cols)
{
    static const int pieces[CUDA_FORMS] = {8, 8, 8, CUDA_BLOCK, CUDA_BLOCK, 16};
    int piece = pieces[form];
    return (cols + piece - 1) / piece * piece;
}

/* Of every type without a form of its own. */
static inline enum cuda_form cuda_form_of_real(enum cuda_real real)
{
    return real == CUDA_REAL_F32 ? CUDA_F32 : real == CUDA_REAL_BF16 ? CUDA_BF16 : CUDA_F16;
}

/* A row is blocks of few bits: not what a library multiplies. */
static inline bool cuda_form_is_in_blocks(enum cuda_form form)
{
    return form == CUDA_Q4 || form == CUDA_Q8 || form == CUDA_F8;
}

/* Inputs meet weights of their own type, those of 16 bits also weights in blocks. */
static inline bool cuda_form_meets(enum cuda_form form, enum cuda_real real)
{
    return form == cuda_form_of_real(real) ||
           (real != CUDA_REAL_F32 && cuda_form_is_in_blocks(form));
}

/* cuda_gemv.cu: one warp a weight row, for any number of input rows, best for few. A result has the same bits
 * whatever the number of rows. Takes all that meet. */
void cuda_gemv(const struct cuda_product *p, cudaStream_t stream);

/* cuda_mma.cu: tensor cores, inputs of 16 bits. The same bits for any number of rows;
 * not those of cuda_gemv. Gated only up to CUDA_MMA_GATED_ROWS_MAX rows. */
#define CUDA_MMA_GATED_ROWS_MAX 32
void cuda_mma(const struct cuda_product *p, cudaStream_t stream);

/* cuda_wide.cu: the same with the same bits, best for many rows, gated for any number. cuda_wide_fits: the
 * process's devices have shared memory enough. */
bool cuda_wide_fits(enum cuda_form form);
void cuda_wide(const struct cuda_product *p, cudaStream_t stream);

/* cuda_dequantise.cu: rows [first, first + rows) of weights in blocks as `real` of 16 bits, [rows][w->stride]: the
 * values that cuda_mma makes of them, but of CUDA_F8, which it doesn't round: these are. */
void cuda_dequantise(const struct cuda_weight *w, int first, int rows, enum cuda_real real,
                     void *out, cudaStream_t stream);

#endif
