#include "kernels/tensor.h"

#include "shared/base/check.h"

static const struct dtype_row {
    const char *name;
    int64_t gguf_type; // -1: none
    int elements, bytes;
} dtype_rows[DTYPE_COUNT] = {
#define X(name, gguf, elements, bytes) [DTYPE_##name] = {#name, gguf, elements, bytes},
    DTYPES(X)
#undef X
};

/* Every type number that a GGUF file may carry; gaps are numbers that were withdrawn. */
static const char *const gguf_names[] = {
    [0] = "F32",     [1] = "F16",      [2] = "Q4_0",   [3] = "Q4_1",    [6] = "Q5_0",
    [7] = "Q5_1",    [8] = "Q8_0",     [9] = "Q8_1",   [10] = "Q2_K",   [11] = "Q3_K",
    [12] = "Q4_K",   [13] = "Q5_K",    [14] = "Q6_K",  [15] = "Q8_K",   [16] = "IQ2_XXS",
    [17] = "IQ2_XS", [18] = "IQ3_XXS", [19] = "IQ1_S", [20] = "IQ4_NL", [21] = "IQ3_S",
    [22] = "IQ2_S",  [23] = "IQ4_XS",  [24] = "I8",    [25] = "I16",    [26] = "I32",
    [27] = "I64",    [28] = "F64",     [29] = "IQ1_M", [30] = "BF16",   [34] = "TQ1_0",
    [35] = "TQ2_0",  [39] = "MXFP4",   [40] = "NVFP4", [41] = "Q1_0",
};

static const struct dtype_row *row_of(enum dtype type)
{
    CHECK((unsigned)type < DTYPE_COUNT);
    return &dtype_rows[type];
}

const char *dtype_name(enum dtype type)
{
    return row_of(type)->name;
}

int dtype_block_elements(enum dtype type)
{
    return row_of(type)->elements;
}

int dtype_block_bytes(enum dtype type)
{
    return row_of(type)->bytes;
}

bool dtype_from_gguf(uint32_t gguf_type, enum dtype *type)
{
    for (int i = 0; i < DTYPE_COUNT; i++) {
        if (dtype_rows[i].gguf_type != gguf_type) continue;
        *type = (enum dtype)i;
        return true;
    }
    return false;
}

const char *dtype_gguf_name(uint32_t gguf_type)
{
    return gguf_type < ARRAY_LEN(gguf_names) ? gguf_names[gguf_type] : NULL;
}

size_t matrix_row_bytes(enum dtype type, int64_t cols)
{
    const struct dtype_row *row = row_of(type);
    CHECK(cols >= 0 && cols % row->elements == 0);
    return (size_t)(cols / row->elements) * (size_t)row->bytes;
}

size_t matrix_stride(const struct matrix *m)
{
    return m->row_stride ? m->row_stride : matrix_row_bytes(m->type, m->cols);
}

float matrix_scale(const struct matrix *m, int64_t row, int64_t col)
{
    const struct scale_grid *g = m->grid;
    return g->scale[(m->grid_row + row) / g->block_rows * g->across +
                    (m->grid_col + col) / g->block_cols];
}

size_t matrix_bytes(const struct matrix *m)
{
    size_t row_bytes = matrix_row_bytes(m->type, m->cols);
    return m->rows > 0 ? (size_t)(m->rows - 1) * matrix_stride(m) + row_bytes : 0;
}
