/* quant_iq_grids.h - the grids of GGUF's IQ types: lists of points whose coordinates are small
 * digits. Constants of the format. */
#ifndef LM_KERNELS_QUANT_IQ_GRIDS_H
#define LM_KERNELS_QUANT_IQ_GRIDS_H

#include <stdint.h>

/* Points and coordinates. IQ1_S and IQ1_M share a grid. Digits are 0..2 in eight dimensions and
 * 0..7 in four. */
enum quant_iq_grid {
    QUANT_IQ1,     // 2048 x 8
    QUANT_IQ2_XXS, // 256 x 8
    QUANT_IQ2_XS,  // 512 x 8
    QUANT_IQ2_S,   // 1024 x 8
    QUANT_IQ3_XXS, // 256 x 4
    QUANT_IQ3_S,   // 512 x 4
    QUANT_IQ_GRIDS
};

/* [points][coordinates] digits, forever. Any thread. */
const uint8_t *quant_iq_grid(enum quant_iq_grid grid);

#endif
