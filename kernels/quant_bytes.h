/* quant_bytes.h - loads from packed blocks, which have no alignment. For quant*.c. */
#ifndef LM_KERNELS_QUANT_BYTES_H
#define LM_KERNELS_QUANT_BYTES_H

#include <string.h>

#include "kernels/quant.h"

static inline uint16_t quant_load16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint32_t quant_load32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline float quant_load_half(const uint8_t *p)
{
    return quant_half_to_float(quant_load16(p));
}

/* Element i (0..31) of 16 bytes: low nibbles are elements 0..15, high ones 16..31. */
static inline int quant_nibble(const uint8_t *q, int i)
{
    return i < 16 ? q[i] & 15 : q[i - 16] >> 4;
}

#endif
