/* cpu_gemm.h - matrix products of a stage, spread over the pool.
 *
 * Up to 16 tokens the panels are shared out statically: the same thread reads the same weights at
 * every step. Beyond that, tiles of (panels x tokens) are handed out as threads get free. Neither
 * changes a bit of any result: a lane's sum is made inside one kernel call. Several jobs, as those
 * of the experts of a layer, go as one run: their tiles are handed out from one row. */
#ifndef LM_KERNELS_CPU_GEMM_H
#define LM_KERNELS_CPU_GEMM_H

#include "kernels/cpu/cpu_isa.h"
#include "kernels/cpu/cpu_pool.h"

/* The rows of activations that a stage multiplies, in every layout that its matrices ask for. */
struct cpu_input {
    int cols;
    unsigned layouts; // bit per enum act_layout that is kept; ACT_F32 where rows are made here
    int terms;        // rows of ACT_INT8 per token: x, and with 2 also what rounding left of it
    void *data[ACT_LAYOUTS];       // [tokens_max][row_bytes], owned by the activation arena
    size_t row_bytes[ACT_LAYOUTS]; // all terms
};

/* Which layouts `isa` needs for w; for cpu_input.layouts. */
unsigned cpu_gemm_layouts(const struct cpu_isa *isa, const struct cpu_packed *w);

static inline float *cpu_input_row(const struct cpu_input *in, int token)
{
    return (float *)(void *)((char *)in->data[ACT_F32] + (size_t)token * in->row_bytes[ACT_F32]);
}

/* Make the other layouts of one row from its floats, element order[i] in place i; NULL: as they are. */
void cpu_input_quantize(const struct cpu_isa *isa, const struct cpu_input *in, int token,
                        const int32_t *order);

struct cpu_gemm_part {
    const struct cpu_packed *w;
    float *out; // [rows of in][out_stride]; exactly w->rows of a row are written
    size_t out_stride;
    const float *bias; // [w->rows] or NULL
};

#define GEMM_PARTS_MAX 3

struct cpu_gemm_job {
    const struct cpu_isa *isa;
    struct cpu_pool *pool;
    const struct cpu_input *in;
    int first, tokens; // rows [first, first + tokens) of `in` give the same rows of every out
    int parts;
    struct cpu_gemm_part part[GEMM_PARTS_MAX]; // all with in->cols columns
    /* Gated: part 0 is the gate, part 1 the up projection (same rows); part 0's out gets
     * act(gate) * up and part 1's out is not used. */
    bool gated;
    enum ffn_activation activation;
};

/* One more part, whose rows of `out` lie w->rows apart. */
void cpu_gemm_job_add(struct cpu_gemm_job *job, const struct cpu_packed *w, float *out,
                      const float *bias);

void cpu_gemm_run(const struct cpu_gemm_job *job);
/* All of them, in any order; they share isa and pool and write to different places. */
void cpu_gemm_run_all(const struct cpu_gemm_job *jobs, int count);

#endif
