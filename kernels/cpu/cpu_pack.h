/* cpu_pack.h - weights as the CPU kernels read them: 16 rows interleaved, one block of K after the
 * other.
 *
 * A matrix is cut into panels of 16 rows (the last one padded with rows that give 0). Inside a
 * panel the blocks of K follow each other, and inside a block each of 16 lanes owns a row, so a
 * kernel streams a panel front to back. AVX-512 takes a panel whole, AVX2 as two halves of 8 rows,
 * scalar lane by lane.
 *
 * A "word" is four consecutive k of one row in 4 bytes; word w of a 32-block holds k = 4 w .. 4 w
 * + 3. */
#ifndef LM_KERNELS_CPU_PACK_H
#define LM_KERNELS_CPU_PACK_H

#include "kernels/tensor.h"

#define PANEL_ROWS 16

struct cpu_packed {
    enum dtype type; // DTYPE_F32 for any source under COMPUTE_F32
    int rows, cols, panels;
    size_t panel_bytes; // a multiple of 64
    uint8_t *data;      // [panels][panel_bytes], 64-byte aligned, owned by the weight arena
};

/* Nibble word g (0..3) of a row: low nibbles are word g, high nibbles word g + 4. */
struct pack_q4_0 {
    uint8_t q[4][PANEL_ROWS][4];
    uint16_t d[PANEL_ROWS];
};

struct pack_q4_1 {
    uint8_t q[4][PANEL_ROWS][4];
    uint16_t d[PANEL_ROWS], m[PANEL_ROWS];
};

struct pack_q8_0 {
    uint8_t q[8][PANEL_ROWS][4]; // q + 128
    uint16_t d[PANEL_ROWS];
};

/* 256 k: eight 32-blocks. Block value = (d * scale) * q - (dmin * min). */
struct pack_q4_k {
    uint16_t d[PANEL_ROWS], dmin[PANEL_ROWS];
    struct pack_q4_k_block {
        uint8_t q[4][PANEL_ROWS][4];
        uint8_t scale[PANEL_ROWS], min[PANEL_ROWS];
    } block[8];
};

/* 256 k: eight 32-blocks, each two 16-groups with a scale of their own. Words 4 h .. 4 h + 3 belong
 * to group h; field g (2 bits) of top[h] completes word 4 h + g. Value = (d * scale) * (q - 32). */
struct pack_q6_k {
    uint16_t d[PANEL_ROWS];
    struct pack_q6_k_block {
        uint8_t low[4][PANEL_ROWS][4];
        uint8_t top[2][PANEL_ROWS][4];
        int8_t scale[2][PANEL_ROWS];
    } block[8];
};

/* F16, BF16 and F32 panels are [cols][16] elements. */

/* Bytes of the packed form of a rows x cols matrix of `type`; a multiple of 64. */
size_t cpu_pack_bytes(enum dtype type, int64_t rows, int64_t cols);

/* Describe at `data` the packed form of m as `type` (m->type, or DTYPE_F32). Writes no weights. */
void cpu_pack_init(struct cpu_packed *p, const struct matrix *m, enum dtype type, uint8_t *data);
/* Fill panels [first, last). Different ranges may be filled by different threads. */
void cpu_pack_panels(const struct cpu_packed *p, const struct matrix *m, int first, int last);

/* One row to float32, equal to quant_dequantize_row of the source row. dst holds cols floats. */
void cpu_pack_read_row(const struct cpu_packed *p, int row, float *dst);

#endif
