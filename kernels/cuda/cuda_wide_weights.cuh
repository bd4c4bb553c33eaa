/* cuda_wide_weights.cuh - the tiles of cuda_wide.cu: where their rows are, and the way of inputs and weights of each form from
 * memory to a stage in shared memory. */
#ifndef LM_KERNELS_CUDA_WIDE_WEIGHTS_CUH
#define LM_KERNELS_CUDA_WIDE_WEIGHTS_CUH

#include "kernels/cuda/cuda_values.cuh"

#define WIDE_SIDE      128 // rows of a block's tile, of weights and of inputs
#define WIDE_WARP_SIDE 64
#define WIDE_THREADS   256
#define WIDE_DEPTH     64 // columns of a stage
#define WIDE_PIECES    (WIDE_DEPTH / 8)
#define WIDE_RUN       32  // that are neighbours, the half of what N2's four sums share
#define WIDE_SPAN      128 // columns that a stage takes its half of
#define WIDE_STAGES    3
#define WIDE_COPIES \
    (WIDE_SIDE * WIDE_PIECES / WIDE_THREADS) // pieces of each side, per thread and stage

template <typename T> struct wide_stage {
    T *weights, *in; // [WIDE_SIDE][WIDE_DEPTH], by cell()
    float *scales;   // [WIDE_DEPTH / 16][WIDE_SIDE], with scales_sums
};

template <typename T> __host__ __device__ __forceinline__ int stage_bytes(bool scales_sums)
{
    return 2 * WIDE_SIDE * WIDE_DEPTH * (int)sizeof(T) +
           (scales_sums ? WIDE_DEPTH / 16 * WIDE_SIDE * (int)sizeof(float) : 0);
}

template <typename T, typename W>
__device__ __forceinline__ wide_stage<T> stage_at(uint8_t *shared, int stage)
{
    wide_stage<T> s;
    s.weights = (T *)(shared + stage % WIDE_STAGES * stage_bytes<T>(W::scales_sums));
    s.in = s.weights + WIDE_SIDE * WIDE_DEPTH;
    s.scales = (float *)(s.in + WIDE_SIDE * WIDE_DEPTH);
    return s;
}

/* Where a piece of a row lies: eight rows' pieces of the same columns are in different banks. */
__device__ __forceinline__ int cell(int row, int piece)
{
    return row * WIDE_DEPTH + (piece ^ (row & 7)) * 8;
}

/* The column at which a stage's first run begins, its second is 64 behind; `stages`: of a pass. */
__device__ __forceinline__ int column_of(int stage, int stages)
{
    return stage < stages ? stage * WIDE_SPAN : (stage - stages) * WIDE_SPAN + WIDE_RUN;
}

/* ---- a tile ---- */

struct wide_tile {
    int part, row, rows; // weight rows [row, row + rows) of this part
    size_t first;        // the first of them in the part's stack of matrices
    int from, to;        // rows of the output
};

/* ---- from memory to a stage ---- */

/* A gated tile has eight rows of gate, the same eight of up, and so on. */
__device__ __forceinline__ int part_of(const struct cuda_product &p, const struct wide_tile &t,
                                       int tile_row)
{
    return p.gated.out ? tile_row >> 3 & 1 : t.part;
}

__device__ __forceinline__ int row_of(const struct cuda_product &p, int tile_row)
{
    return p.gated.out ? (tile_row >> 4) * 8 + (tile_row & 7) : tile_row;
}

/* What a thread copies: a piece of WIDE_COPIES rows that are WIDE_SIDE / WIDE_COPIES apart. */
struct wide_copies {
    const uint4 *base;
    const uint32_t *row; // of this thread's first: where it begins, in pieces behind `base`
    int k, cell, cols;
};

#define NO_ROW UINT32_MAX

__device__ __forceinline__ struct wide_copies copies_of(const void *base, const uint32_t *rows,
                                                        int cols)
{
    int row = threadIdx.x / WIDE_PIECES, piece = threadIdx.x % WIDE_PIECES;
    return {(const uint4 *)base, rows + row, piece / 4 * 64 + piece % 4 * 8, cell(row, piece),
            cols};
}

template <typename T>
__device__ __forceinline__ void copy_stage(const struct wide_copies &c, int column, T *cells)
{
    int k = column + c.k;

    LM_UNROLL
    for (int i = 0; i < WIDE_COPIES; i++) {
        uint32_t row = c.row[i * (WIDE_SIDE / WIDE_COPIES)];
        bool is_there = k < c.cols && row != NO_ROW;
        cp_async_zero16(cells + c.cell + i * (WIDE_SIDE / WIDE_COPIES) * WIDE_DEPTH,
                        c.base + (is_there ? row + k / 8 : 0), is_there ? 16 : 0);
    }
}

/* Weights of each form: begin() says what a thread brings; copy() has it copied into a stage; or fetch() brings it into
 * registers, from where put() stores it. */
template <typename T> struct wide_weights_16 {
    static const bool scales_sums = false;
    struct wide_copies c;

    __device__ void begin(const struct cuda_product &p, const struct wide_tile &t,
                          const uint32_t *rows)
    {
        /* All of a thread's rows are of one part. */
        const struct cuda_weight &w = p.part[part_of(p, t, threadIdx.x / WIDE_PIECES)].w;
        c = copies_of((const T *)w.data + t.first * w.stride, rows, w.stride);
    }
    __device__ void copy(int column, const wide_stage<T> &s) const
    {
        copy_stage(c, column, s.weights);
    }
    __device__ void fetch(int)
    {
    }
    __device__ void put(const wide_stage<T> &) const
    {
    }
};

/* Of weights in blocks a thread has the run of 32 columns threadIdx.x / WIDE_SIDE of the row threadIdx.x % WIDE_SIDE. */
struct wide_run {
    const uint8_t *data, *scales; // of the run in the first stage
    int cols;                     // of the row behind where the run begins; 0 and less: no such row
    int shift;                    // columns with one scale, a power of two

    __device__ void begin_run(const struct cuda_product &p, const struct wide_tile &t, int bits,
                              int scale_bytes)
    {
        int tile_row = threadIdx.x % WIDE_SIDE, row = row_of(p, tile_row);
        const struct cuda_weight &w = p.part[part_of(p, t, tile_row)].w;
        int k = threadIdx.x / WIDE_SIDE * 64;
        shift = w.form == CUDA_F8 ? w.scale_shift : 5; // 32 columns
        size_t at = (t.first + row) * w.stride + k;
        data = (const uint8_t *)w.data + at / 8 * bits;
        scales = (const uint8_t *)w.scales + (at >> shift) * scale_bytes;
        cols = row < t.rows ? w.stride - k : 0;
    }
};

/* Eight elements into piece `i` of the run. */
template <typename T>
__device__ __forceinline__ void put_piece(const wide_stage<T> &s, int i, const float *v)
{
    int row = threadIdx.x % WIDE_SIDE, run = threadIdx.x / WIDE_SIDE;
    *(uint4 *)(s.weights + cell(row, 4 * run + i)) = make_uint4(
        pack2<T>(v[0], v[1]), pack2<T>(v[2], v[3]), pack2<T>(v[4], v[5]), pack2<T>(v[6], v[7]));
}

template <typename T> struct wide_weights_q4 : wide_run {
    static const bool scales_sums = false;
    uint4 words;
    uint32_t scale;

    __device__ void begin(const struct cuda_product &p, const struct wide_tile &t, const uint32_t *)
    {
        begin_run(p, t, 4, 4);
    }
    __device__ void copy(int, const wide_stage<T> &) const
    {
    }
    __device__ void fetch(int column)
    {
        words = make_uint4(0, 0, 0, 0);
        scale = 0;
        if (column >= cols) return;
        words = load_nc((const uint4 *)data + column / CUDA_BLOCK);
        scale = load_nc((const uint32_t *)scales + column / CUDA_BLOCK);
    }
    __device__ void put(const wide_stage<T> &s) const
    {
        const uint32_t word[4] = {words.x, words.y, words.z, words.w};
        float2 two = unpack2<__half>(scale);
        LM_UNROLL
        for (int i = 0; i < 4; i++) {
            float v[8];
            dequantize_q4x8(word[i], two, v);
            put_piece<T>(s, i, v);
        }
    }
};

/* 32 bytes, by halves of 16: the words of 8-bit forms. */
struct wide_run_8 : wide_run {
    uint4 words[2];

    __device__ bool has(int column, int half) const
    {
        return column + 16 * half < cols;
    }
    __device__ void fetch_words(int column)
    {
        LM_UNROLL
        for (int i = 0; i < 2; i++) {
            words[i] = make_uint4(0, 0, 0, 0);
            if (has(column, i)) words[i] = load_nc((const uint4 *)(data + column) + i);
        }
    }
};

template <typename T> struct wide_weights_q8 : wide_run_8 {
    static const bool scales_sums = false;
    uint16_t scale;

    __device__ void begin(const struct cuda_product &p, const struct wide_tile &t, const uint32_t *)
    {
        begin_run(p, t, 8, 2);
    }
    __device__ void copy(int, const wide_stage<T> &) const
    {
    }
    __device__ void fetch(int column)
    {
        fetch_words(column);
        scale = has(column, 0) ? ((const uint16_t *)scales)[column / CUDA_BLOCK] : 0;
    }
    __device__ void put(const wide_stage<T> &s) const
    {
        float d = half_bits_to_float(scale), v[8];
        LM_UNROLL
        for (int i = 0; i < 4; i++) {
            dequantize_q8x4(i % 2 ? words[i / 2].z : words[i / 2].x, d, v);
            dequantize_q8x4(i % 2 ? words[i / 2].w : words[i / 2].y, d, v + 4);
            put_piece<T>(s, i, v);
        }
    }
};

template <typename T> struct wide_weights_f8 : wide_run_8 {
    static const bool scales_sums = true; // the elements are exact without them

    __device__ void begin(const struct cuda_product &p, const struct wide_tile &t, const uint32_t *)
    {
        begin_run(p, t, 8, 4);
    }
    __device__ void copy(int column, const wide_stage<T> &s) const
    {
        float *cells = s.scales + threadIdx.x / WIDE_SIDE * 2 * WIDE_SIDE + threadIdx.x % WIDE_SIDE;
        LM_UNROLL
        for (int i = 0; i < 2; i++) // steps of the run
            if (has(column, i))
                cp_async4(cells + i * WIDE_SIDE,
                          (const float *)scales + ((column + 16 * i) >> shift));
            else
                cells[i * WIDE_SIDE] = 0;
    }
    __device__ void fetch(int column)
    {
        fetch_words(column);
    }
    __device__ void put(const wide_stage<T> &s) const
    {
        LM_UNROLL
        for (int i = 0; i < 4; i++) {
            float v[8];
            dequantize_f8x4(i % 2 ? words[i / 2].z : words[i / 2].x, 1.0f, v);
            dequantize_f8x4(i % 2 ? words[i / 2].w : words[i / 2].y, 1.0f, v + 4);
            put_piece<T>(s, i, v);
        }
    }
};

#endif
