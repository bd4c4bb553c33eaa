/* cpu_load.h - what loading shares between cpu_load.c and cpu_load_experts.c: pieces of the two
 * regions. Sizes are added up by a first pass without memory, then handed out in the same
 * order by a second one, so a lay function must not depend on which pass it is. */
#ifndef LM_KERNELS_CPU_LOAD_H
#define LM_KERNELS_CPU_LOAD_H

#include "kernels/cpu/cpu_state.h"

#define DIM_MAX (1 << 24) // bound on any single dimension, so that products fit

/* Weights. The type is the source's or what the backend's compute_type makes of it. */
void cpu_load_lay_matrix(struct backend *b, const struct matrix *m, struct cpu_packed *out);
void cpu_load_lay_matrix_as(struct backend *b, const struct matrix *m, enum dtype type,
                            struct cpu_packed *out);
float *cpu_load_lay_floats(struct backend *b, const float *source, int64_t count); // NULL of NULL
/* Fills the panels, on the pool, and sets weights_beyond where a weight doesn't fit; cpu_load_pack
 * then says that the source is done. */
void cpu_load_pack_panels(struct backend *b, const struct matrix *source,
                          const struct cpu_packed *packed);
void cpu_load_pack(struct backend *b, const struct model_params *p, const struct matrix *source,
                   const struct cpu_packed *packed);

/* Activations. Float rows of an input are those of `shared`, or its own if that is NULL. */
void *cpu_load_lay_bytes(struct backend *b, size_t bytes);
float *cpu_load_lay_rows(struct backend *b, int cols, int rows);
void cpu_load_lay_input(struct backend *b, struct cpu_input *in, int cols, int rows,
                        unsigned layouts, int terms, const struct cpu_input *shared);

/* cpu_load_experts.c, layer by layer; `open` allocates, cpu_unload frees. */
struct cpu_experts *cpu_load_experts_open(const struct model_params *p, int layer);
void cpu_load_experts_close(struct cpu_experts *x); // NULL is fine
void cpu_load_experts_lay(struct backend *b, const struct model_params *p, int layer);
void cpu_load_experts_pack(struct backend *b, const struct model_params *p, int layer);
/* What a layer's inputs ask for: bits for h, and for the experts' own inputs. */
struct expert_layouts {
    unsigned h; // all that multiplies h
    unsigned in, g, shared_g;
};
void cpu_load_experts_layouts(const struct backend *b, int layer, struct expert_layouts *add_to);
void cpu_load_experts_lay_routes(struct backend *b, const struct expert_layouts *layouts);

#endif
