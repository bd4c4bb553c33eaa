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

/* What a panel looks like. Types whose weights are sixteen integers times a scale (quant_codes.h)
 * share two forms. */
enum pack_form {
    PACK_F32, // of F32, and of any type under COMPUTE_F32; the next two of all floats likewise
    PACK_F16,
    PACK_BF16,
    PACK_Q4_0,
    PACK_Q4_1,
    PACK_Q4_K,
    PACK_Q5_0,
    PACK_Q5_1,
    PACK_Q5_K,
    PACK_Q8_0,
    PACK_Q2_K,
    PACK_Q6_K,
    PACK_CODES,      // scales change every 32 k
    PACK_CODES_FINE, // every 16 k
    PACK_FORMS
};

struct cpu_packed {
    enum pack_form form;
    const int8_t *codes; // [16], of PACK_CODES and PACK_CODES_FINE
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

/* Bit w of byte i of top is the fifth bit of element 4 w + i. */
struct pack_q5_0 {
    uint8_t low[4][PANEL_ROWS][4];
    uint8_t top[PANEL_ROWS][4];
    uint16_t d[PANEL_ROWS];
};

struct pack_q5_1 {
    uint8_t low[4][PANEL_ROWS][4];
    uint8_t top[PANEL_ROWS][4];
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

struct pack_q5_k {
    uint16_t d[PANEL_ROWS], dmin[PANEL_ROWS];
    struct pack_q5_k_block {
        uint8_t low[4][PANEL_ROWS][4];
        uint8_t top[PANEL_ROWS][4];
        uint8_t scale[PANEL_ROWS], min[PANEL_ROWS];
    } block[8];
};

/* 256 k: eight 32-blocks, each two 16-groups. Field g (2 bits) of q[h] is word 4 h + g; scale[h] has
 * group h's scale in its low nibble and its min in the high one. */
struct pack_q2_k {
    uint16_t d[PANEL_ROWS], dmin[PANEL_ROWS];
    struct pack_q2_k_block {
        uint8_t q[2][PANEL_ROWS][4];
        uint8_t scale[2][PANEL_ROWS];
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

/* 32 k. Value = d * codes[q]; d is the block's whole scale. */
struct pack_codes {
    uint8_t q[4][PANEL_ROWS][4];
    float d[PANEL_ROWS];
};

/* 256 k: eight 32-blocks, each two 16-groups. Value = (d * scale) * codes[q]. */
struct pack_codes_fine {
    float d[PANEL_ROWS];
    struct pack_codes_fine_block {
        uint8_t q[4][PANEL_ROWS][4];
        int8_t scale[2][PANEL_ROWS];
    } block[8];
};

/* F16, BF16 and F32 panels are [cols][16] elements. */

/* Bytes of the packed form of a rows x cols matrix of `type`; a multiple of 64. */
size_t cpu_pack_bytes(enum dtype type, int64_t rows, int64_t cols);

/* Describe at `data` the packed form of m as `type`: m->type, DTYPE_F32, or for a matrix of floats
 * any type of floats. Writes no weights. */
void cpu_pack_init(struct cpu_packed *p, const struct matrix *m, enum dtype type, uint8_t *data);
/* Fill panels [first, last). Different ranges may be filled by different threads. False: a finite weight
 * is too large for the packed type, and is infinite there. */
bool cpu_pack_panels(const struct cpu_packed *p, const struct matrix *m, int first, int last);

/* One row to float32, equal to quant_dequantize_row of the source row, rounded where the packed type is
 * a narrower one of floats. dst holds cols floats. */
void cpu_pack_read_row(const struct cpu_packed *p, int row, float *dst);

#endif
