/* mapper.h - looking up a model's tensors by name, whatever container holds them. What differs
 * between containers is behind struct tensor_source, what differs between ways of storing a linear
 * layer is behind struct linear_format. */
#ifndef LM_ENGINE_MAPPER_H
#define LM_ENGINE_MAPPER_H

#include "engine/weights.h"
#include "shared/base/str.h"

#define TENSOR_DIMS_MAX 8
#define TENSOR_NAME_MAX 160

/* A tensor of any container. */
struct tensor_view {
    size_t index;  // 0..count-1 in its source
    bool readable; // `type` says how: one of the types that kernels read
    enum dtype type;
    char type_name[24]; // as the container says it, for messages
    int dims;
    int64_t dim[TENSOR_DIMS_MAX]; // slowest first
    const void *data;             // borrowed, any alignment
    size_t bytes;
};

struct tensor_source {
    const void *file;
    size_t count;
    bool (*find)(const void *file, const char *name, struct tensor_view *out); // false: absent
    struct str (*name_at)(const void *file, size_t index);
    /* Tensors that a file may hold although no part of the model reads them. */
    bool (*is_spare)(const struct model_config *c, struct str name);
};

/* The order in which the matrices of one input have their columns (struct layer_params.qkv_order, ...). The
 * first one that is made of a quantised format decides it for all. */
struct input_order {
    bool is_decided;
    const int32_t *order; // [cols], in the arena; NULL: as the input is
};

/* What is being mapped: one failing look-up makes all later ones do nothing, so that mapping a
 * layer is a plain list of names with one check at its end. */
struct mapper {
    struct weights *weights;
    const struct tensor_source *source;
    const struct linear_format *format; // NULL: matrices are stored as such
    bool *used;                         // [source->count]
    struct error *err;
    bool plain_inputs; // no matrix gets its input in another order
    bool keeps_grids;  // matrices may have scales beside them
    bool exact;        // what is made has the values of its format's definition, whatever it costs
    bool format_found; // a linear layer was stored in `format`
    int layer;         // -1: outside the layers
    struct input_order *input; // of what is being mapped; NULL: it has to be taken as it is
    int rc;                    // first failure, sticky
};

/* A format in which a linear layer is more than one tensor (AWQ, GPTQ, block-scaled FP8). `read`
 * looks for the tensors of `module` (no suffix, with the layer's number) and, if they are there,
 * makes its matrix; false: it isn't stored in this format. Failures go to m->rc. NULL: no linear layer
 * is. */
struct linear_format {
    const char *name;
    bool (*read)(struct mapper *m, const struct linear_format *format, const char *module,
                 int64_t rows, int64_t cols, struct matrix *out);
    bool is_asked; // not the folder but the operator says it
    int group; // AWQ, GPTQ: elements of a row with one scale; -1: the whole row; 0: as scales say
    int zero_offset;            // GPTQ: what its zeros are stored less
    int block_rows, block_cols; // FP8: elements with one scale
};

enum presence { REQUIRED, OPTIONAL };

void mapper_fail(struct mapper *m, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* "model.layers.3.mlp.down_proj" + suffix, for the layer that is being mapped. */
void mapper_name(const struct mapper *m, const char *module, const char *suffix,
                 char name[TENSOR_NAME_MAX]);

/* A tensor by its whole name, and mark it as used. False: absent (an error if REQUIRED), or an
 * earlier failure. */
bool mapper_find(struct mapper *m, const char *name, enum presence presence,
                 struct tensor_view *out);
/* One that must have this type name and these two dimensions. */
bool mapper_find_typed(struct mapper *m, const char *name, enum presence presence,
                       const char *type_name, int64_t rows, int64_t cols, struct tensor_view *out);
/* One of a readable type with three dimensions. */
bool mapper_find_stacked(struct mapper *m, const char *name, int64_t count, int64_t rows,
                         int64_t cols, struct tensor_view *out);

/* The matrix of a module of the layer; data is NULL where it is absent or module is NULL. */
struct matrix mapper_matrix(struct mapper *m, const char *module, enum presence presence,
                            int64_t rows, int64_t cols);
/* module + suffix as float32, rows * cols of them, in the arena. */
const float *mapper_floats(struct mapper *m, const char *module, const char *suffix,
                           enum presence presence, int64_t rows, int64_t cols);
const float *mapper_bias(struct mapper *m, const char *module, enum presence presence,
                         int64_t size);

/* Rows of a readable tensor, taken as rows of `cols` elements. */
struct matrix mapper_view_matrix(struct mapper *m, const struct tensor_view *t, int64_t first_row,
                                 int64_t rows, int64_t cols);
/* Memory for a matrix that is made; zeroed, dropped when a backend has packed it. */
void *mapper_make_matrix(struct mapper *m, enum dtype type, int64_t rows, int64_t cols,
                         struct matrix *out);

#endif
