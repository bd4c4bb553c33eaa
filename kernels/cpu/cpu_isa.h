/* cpu_isa.h - one instruction set's kernels, as a table. Chosen once at open, by cpuid.
 *
 * A new instruction set is a file cpu_isa_NAME.c (which compiles the bodies of cpu_*_body.h and may
 * bring integer kernels of its own) and a row in cpu_isa.c. A new form of packed weights is a
 * row in cpu_pack.c and kernels in the tables below. All sets agree bit for bit: kernels/cpu/README.md is
 * the arithmetic. */
#ifndef LM_KERNELS_CPU_ISA_H
#define LM_KERNELS_CPU_ISA_H

#include <stdbool.h>

#include "kernels/backend.h"
#include "kernels/cpu/cpu_pack.h"

/* ---- activations, as GEMM kernels read them ---- */

enum act_layout { ACT_F32, ACT_INT8, ACT_INT16, ACT_LAYOUTS };

/* 32 consecutive k of one token: x ~ scale * q, |q| <= 127 (README rules A1-A4). */
struct act_int8 {
    int8_t q[32];
    float scale;
    float scaled_sum;    // scale * sum(q)
    int32_t offset8;     // -8 * sum(q): turns a dot with q + 8 into one with q
    int32_t offset32[2]; // -32 * sum(q) of either 16
};

/* scale * sum(q) of 16-group h. */
static inline float act_scaled_sum16(const struct act_int8 *x, int h)
{
    return x->scale * (float)(x->offset32[h] / -32);
}

/* Likewise with 16 bits, |q| <= 32767, for 8-bit weights, which deserve it. Word w of the weights
 * meets q[w][0] (its even bytes, k = 4 w and 4 w + 2) and q[w][1] (its odd ones). */
struct act_int16 {
    int16_t q[8][2][2];
    float scale;
    int32_t offset128; // -128 * sum(q)
};

/* Bytes of one token's activations of `cols` elements (a multiple of 32 unless ACT_F32). */
size_t cpu_act_bytes(enum act_layout layout, int cols);

/* out[t * out_stride + 16 * i + lane] = row 16 * (panel + i) + lane of W times token t, for i <
 * panels, t < tokens. x: first token's activations in the layout that the table names; x_bytes:
 * from token to token. Whole panels are written, padding rows included. */
typedef void cpu_gemm_kernel(const struct cpu_packed *w, int panel, int panels, const void *x,
                             size_t x_bytes, int tokens, float *out, size_t out_stride);

/* ---- pointwise ---- */

struct cpu_pointwise {
    void (*rms_norm)(float *y, const float *x, const float *weight, int n, float eps); // y may be x
    void (*quantize_int8)(struct act_int8 *out, const float *x, int n);
    void (*quantize_int16)(struct act_int16 *out, const float *x, int n);
    void (*remainder_int8)(float *r, const struct act_int8 *q, const float *x,
                           int n); // x - scale * q
    void (*activate)(enum ffn_activation kind, float *gate, const float *up, int n); // into gate
    void (*softcap)(float *x, int n, float cap);                      // cap * tanh(x / cap)
    void (*softmax)(float *x, int n);                                 // n > 0, in place
    void (*sigmoid)(float *x, int n);                                 // in place
    void (*add_scaled)(float *x, const float *y, float scale, int n); // x += scale * y
    void (*add)(float *x, const float *y, int n);
    void (*scale)(float *x, float factor, int n);
    /* Turn the first `dims` elements of a head by angles whose cos and sin are given [dims / 2]. */
    void (*rope)(float *head, const float *cosine, const float *sine, int dims,
                 enum rope_style style);
    /* x ~ scale * q, |q| <= 127 (README rules K1-K2); the scale is returned. */
    float (*quantize_head)(int8_t *q, const float *x, int n);
    void (*to_half)(uint16_t *dst, const float *src, int n); // round to nearest even
    void (*to_bf16)(uint16_t *dst, const float *src, int n);
};

/* ---- attention ---- */

#define ATTENTION_ROWS_MAX 32
#define HEAD_DIM_MAX       1024 // what load accepts

/* One layer and head in one page: K [head_dim][64], so that a lane is a position; its scales [64]
 * where it has any; V's scales [64]; V [64][value_stride]: the order in which attention reads them.
 */
struct kv_layout {
    enum kv_type type;
    int head_dim, value_dim, value_stride; // value_stride: value_dim rounded up to 16
    size_t element_bytes;
    size_t key_scales, value_scales, values; // byte offsets; float32 scales, KV_INT8 only
    size_t bytes;
};

void cpu_kv_layout_init(struct kv_layout *l, enum kv_type type, int head_dim, int value_dim);

/* Query rows that share one KV head of one sequence. A row is one query head of one token; it sees
 * the positions first[row] .. last[row]. */
struct attention_tile {
    int rows;                           // <= ATTENTION_ROWS_MAX
    float softcap;                      // 0: none
    const float *q[ATTENTION_ROWS_MAX]; // [head_dim], scaled already
    float *o[ATTENTION_ROWS_MAX];       // [value_dim]
    float sink[ATTENTION_ROWS_MAX];     // one more logit, with no value; -INFINITY: none
    int first[ATTENTION_ROWS_MAX], last[ATTENTION_ROWS_MAX];
    const int32_t *blocks;          // page numbers of the sequence
    const struct kv_layout *layout; // of what `pages` leads to
    const uint8_t *pages;           // this layer and head in page 0
    size_t page_bytes;              // from page to page
    float *scratch;                 // cpu_attention_scratch_floats()
};

/* ---- the table ---- */

struct cpu_isa {
    const char *name;        // as --cpu-isa takes it
    const char *description; // for people: "avx512+vnni"
    bool (*available)(void); // this processor and operating system can run it
    struct {
        cpu_gemm_kernel *kernel;
        enum act_layout layout;
    } gemm[PACK_FORMS];
    const struct cpu_pointwise *pointwise;
    void (*attend)(const struct attention_tile *tile);
};

static inline size_t cpu_attention_scratch_floats(int value_dim)
{
    return (size_t)ATTENTION_ROWS_MAX * (size_t)(KV_BLOCK_TOKENS + ((value_dim + 15) & ~15));
}

/* "auto" or NULL: the best available. E_INVALID: no such name; E_UNSUPPORTED: not on this machine.
 */
FALLIBLE int cpu_isa_choose(const char *name, const struct cpu_isa **isa, struct error *err);
/* Walk the table, best first; NULL at its end. */
const struct cpu_isa *cpu_isa_at(int index);

extern const struct cpu_isa cpu_isa_scalar;
#if defined(__x86_64__)
extern const struct cpu_isa cpu_isa_avx2;
extern const struct cpu_isa cpu_isa_avx512;
#endif

#endif
