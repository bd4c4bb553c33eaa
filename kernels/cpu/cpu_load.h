/* cpu_load.h - what loading shares between cpu_load.c and cpu_load_experts.c: checks, and pieces of
 * the two regions. Sizes are added up by a first pass without memory, then handed out in the same
 * order by a second one, so a lay function must not depend on which pass it is. */
#ifndef LM_KERNELS_CPU_LOAD_H
#define LM_KERNELS_CPU_LOAD_H

#include "kernels/cpu/cpu_state.h"

#define DIM_MAX (1 << 24) // bound on any single dimension, so that products fit

/* E_UNSUPPORTED: the model's `name` is outside [min, max]. */
FALLIBLE int cpu_load_check_range(const char *name, int64_t value, int64_t min, int64_t max,
                                  struct error *err);
/* E_INVALID: the matrix is absent, has another shape, or columns that don't fill its blocks. */
FALLIBLE int cpu_load_check_matrix(const struct matrix *m, const char *name, int layer,
                                   int64_t rows, int64_t cols, struct error *err);

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

/* cpu_load_experts.c. Shape first, then layer by layer; `open` allocates, cpu_unload frees. */
FALLIBLE int cpu_load_experts_check_shape(const struct model_params *p, struct error *err);
FALLIBLE int cpu_load_experts_check(const struct model_params *p, const struct rank_share *share,
                                    int layer, struct error *err);
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
