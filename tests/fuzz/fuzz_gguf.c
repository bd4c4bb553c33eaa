/* A model file from anywhere: the container, everything in it, the weights' values, the tokenizer and
 * the mapping to a model. What the loader accepts must be readable to its last byte. */
#include "engine/gguf.h"
#include "engine/weights_gguf.h"
#include "kernels/quant.h"
#include "shared/base/check.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/tokenizer_use.h"
#include "tests/fuzz/walk_model.h"

#include <stdlib.h>
#include <string.h>

static void walk_array(const struct gguf *g, const char *key)
{
    size_t len;
    if (!gguf_array_len(g, key, &len)) return;
    for (size_t i = 0; i < len && i < 100; i++) {
        struct str text;
        int64_t integer;
        double number;
        if (gguf_array_str(g, key, i, &text)) walk_bytes(text.data, text.len);
        (void)gguf_array_int(g, key, i, &integer);
        (void)gguf_array_float(g, key, i, &number);
    }
    CHECK(!gguf_array_str(g, key, len, &(struct str){0}));
}

static void walk_keys(const struct gguf *g)
{
    for (size_t i = 0; i < gguf_key_count(g); i++) {
        struct str name = gguf_key_at(g, i), text;
        int64_t integer;
        double number;
        bool flag;
        char *key = xstrndup(name.data, name.len);
        if (strlen(key) == name.len) {
            CHECK(gguf_has(g, key));
            if (gguf_get_str(g, key, &text)) walk_bytes(text.data, text.len);
            (void)gguf_get_int(g, key, &integer);
            (void)gguf_get_float(g, key, &number);
            (void)gguf_get_bool(g, key, &flag);
            walk_array(g, key);
        }
        free(key);
    }
}

/* The last row of the last matrix: blocks are as hostile as everything else. */
static void walk_tensor(const struct gguf_tensor *t)
{
    enum dtype type;
    walk_bytes(t->data, t->bytes);
    if (!dtype_from_gguf(t->gguf_type, &type)) return;
    struct matrix m = gguf_tensor_matrix(t, t->dim[2] * t->dim[3] - 1);
    if (m.cols > 1 << 16) return;
    float *row = xmalloc((size_t)m.cols * sizeof *row);
    const char *last = (const char *)m.data + matrix_bytes(&m) - matrix_row_bytes(type, m.cols);
    quant_dequantize_row(type, last, row, m.cols);
    walk_bytes(row, (size_t)m.cols * sizeof *row);
    free(row);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf *g;
    struct weights *w;
    struct tokenizer *tokenizer = NULL;
    struct error err = {0};
    struct weights_options options = {.compute = size % 2 ? COMPUTE_F32 : COMPUTE_AUTO};
    if (gguf_open_memory(data, size, &g, &err) < 0) {
        CHECK(err.code < 0 && err.text[0]);
        return 0;
    }
    walk_keys(g);
    for (size_t i = 0; i < gguf_tensor_count(g); i++)
        walk_tensor(gguf_tensor_at(g, i));
    int rc = tokenizer_load_gguf(g, &tokenizer, &err);
    tokenizer_use(rc, tokenizer, &err, data, size);
    if (weights_gguf_take(g, &options, &w, &err) == 0) {
        walk_model(w);
        weights_close(w);
    } else {
        CHECK(err.code < 0 && err.text[0]);
    }
    return 0;
}
