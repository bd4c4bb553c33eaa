#include "engine/mapper.h"

#include "engine/tensor_names.h"
#include "kernels/quant.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void mapper_fail(struct mapper *m, int code, const char *fmt, ...)
{
    char text[sizeof m->err->text];
    va_list args;
    if (m->rc < 0) return;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    m->rc = error_set(m->err, code, "%s", text);
}

bool mapper_find(struct mapper *m, const char *name, enum presence presence,
                 struct tensor_view *out)
{
    if (m->rc < 0) return false;
    if (m->source->find(m->source->file, name, out)) {
        m->used[out->index] = true;
        return true;
    }
    if (presence == REQUIRED) mapper_fail(m, E_FORMAT, "tensor '%s' is missing", name);
    return false;
}

static void print_shape(const struct tensor_view *t, char *text, size_t size)
{
    size_t at = (size_t)snprintf(text, size, "[");
    for (int i = 0; i < t->dims && at < size; i++)
        at += (size_t)snprintf(text + at, size - at, "%s%lld", i ? ", " : "", (long long)t->dim[i]);
    if (at < size) snprintf(text + at, size - at, "]");
}

static void fail_shape(struct mapper *m, const char *name, const struct tensor_view *t,
                       int64_t rows, int64_t cols)
{
    char shape[128];
    print_shape(t, shape, sizeof shape);
    mapper_fail(m, E_FORMAT, "tensor '%s' has shape %s, expected [%lld, %lld]", name, shape,
                (long long)rows, (long long)cols);
}

bool mapper_find_typed(struct mapper *m, const char *name, enum presence presence,
                       const char *type_name, int64_t rows, int64_t cols, struct tensor_view *out)
{
    if (!mapper_find(m, name, presence, out)) return false;
    if (strcmp(out->type_name, type_name) != 0)
        mapper_fail(m, E_UNSUPPORTED, "tensor '%s' has type %s, expected %s", name, out->type_name,
                    type_name);
    else if (out->dims != 2 || out->dim[0] != rows || out->dim[1] != cols)
        fail_shape(m, name, out, rows, cols);
    return m->rc == 0;
}

static bool check_readable(struct mapper *m, const char *name, const struct tensor_view *t)
{
    if (t->readable) return true;
    mapper_fail(m, E_UNSUPPORTED, "tensor '%s' has type %s, which is not supported", name,
                t->type_name);
    return false;
}

void mapper_name(const struct mapper *m, const char *module, const char *suffix,
                 char name[TENSOR_NAME_MAX])
{
    if (m->layer >= 0)
        snprintf(name, TENSOR_NAME_MAX, "%s.%d.%s%s", m->weights->config.names->layers, m->layer,
                 module, suffix);
    else
        snprintf(name, TENSOR_NAME_MAX, "%s%s", module, suffix);
}

void *mapper_make_matrix(struct mapper *m, enum dtype type, int64_t rows, int64_t cols,
                         struct matrix *out)
{
    *out = (struct matrix){.type = type, .rows = rows, .cols = cols};
    void *data = weights_make(m->weights, matrix_bytes(out));
    out->data = data;
    return data;
}

static size_t element_alignment(enum dtype type)
{
    if (dtype_block_elements(type) > 1) return 1;
    return (size_t)dtype_block_bytes(type);
}

struct matrix mapper_view_matrix(struct mapper *m, const struct tensor_view *t, int64_t first_row,
                                 int64_t rows, int64_t cols)
{
    struct matrix out = {.type = t->type, .rows = rows, .cols = cols};
    size_t row_bytes = matrix_row_bytes(t->type, cols);
    const uint8_t *data = (const uint8_t *)t->data + (size_t)first_row * row_bytes;
    /* Old writers of safetensors don't pad the header; kernels want their elements aligned. */
    if ((uintptr_t)data % element_alignment(t->type))
        memcpy(mapper_make_matrix(m, t->type, rows, cols, &out), data, matrix_bytes(&out));
    else
        out.data = data;
    return out;
}

bool mapper_find_stacked(struct mapper *m, const char *name, int64_t count, int64_t rows,
                         int64_t cols, struct tensor_view *out)
{
    char shape[128];
    if (!mapper_find(m, name, REQUIRED, out) || !check_readable(m, name, out)) return false;
    if (out->dims == 3 && out->dim[0] == count && out->dim[1] == rows && out->dim[2] == cols) {
        m->weights->parameters += count * rows * cols;
        return true;
    }
    print_shape(out, shape, sizeof shape);
    mapper_fail(m, E_FORMAT, "tensor '%s' has shape %s, expected [%lld, %lld, %lld]", name, shape,
                (long long)count, (long long)rows, (long long)cols);
    return false;
}

struct matrix mapper_matrix(struct mapper *m, const char *module, enum presence presence,
                            int64_t rows, int64_t cols)
{
    char name[TENSOR_NAME_MAX];
    struct tensor_view t;
    struct matrix made = {0};
    if (m->rc < 0 || !module) return made;
    mapper_name(m, module, "", name);
    if (m->format && m->format->read && m->format->read(m, m->format, name, rows, cols, &made)) {
        m->format_found = true;
        m->weights->parameters += rows * cols;
        return made;
    }
    mapper_name(m, module, ".weight", name);
    if (!mapper_find(m, name, presence, &t) || !check_readable(m, name, &t)) return made;
    if (t.dims != 2 || t.dim[0] != rows || t.dim[1] != cols) {
        fail_shape(m, name, &t, rows, cols);
        return made;
    }
    m->weights->parameters += rows * cols;
    return mapper_view_matrix(m, &t, 0, rows, cols);
}

static bool is_vector(const struct tensor_view *t, int64_t size)
{
    int64_t elements = 1, largest = 1;
    for (int i = 0; i < t->dims; i++) {
        elements *= t->dim[i];
        if (t->dim[i] > largest) largest = t->dim[i];
    }
    return elements == size && largest == size;
}

const float *mapper_floats(struct mapper *m, const char *module, const char *suffix,
                           enum presence presence, int64_t rows, int64_t cols)
{
    char name[TENSOR_NAME_MAX];
    struct tensor_view t;
    if (m->rc < 0 || !module) return NULL;
    mapper_name(m, module, suffix, name);
    if (!mapper_find(m, name, presence, &t) || !check_readable(m, name, &t)) return NULL;
    if (!is_vector(&t, rows * cols) && (t.dims != 2 || t.dim[0] != rows || t.dim[1] != cols)) {
        fail_shape(m, name, &t, rows, cols);
        return NULL;
    }
    float *values = arena_alloc(&m->weights->arena, (size_t)(rows * cols) * sizeof *values);
    quant_dequantize_row(t.type, t.data, values, rows * cols);
    m->weights->parameters += rows * cols;
    return values;
}

const float *mapper_bias(struct mapper *m, const char *module, enum presence presence, int64_t size)
{
    return mapper_floats(m, module, ".bias", presence, 1, size);
}
