/* A model folder from anywhere: config.json, a NUL, then the bytes of model.safetensors. What the
 * loader accepts must be readable to its last byte. */
#include "engine/safetensors.h"
#include "engine/weights_hf.h"
#include "shared/base/check.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/walk_model.h"

#include <string.h>

static void walk_tensors(const struct safetensors *s)
{
    for (size_t i = 0; i < safetensors_count(s); i++) {
        const struct safetensors_tensor *t = safetensors_at(s, i);
        size_t index;
        walk_bytes(t->data, t->bytes);
        CHECK(t->dims <= SAFETENSORS_DIMS_MAX);
        if (memchr(t->name.data, 0, t->name.len)) continue;
        CHECK(safetensors_find(s, t->name.data, &index) == t && index == i);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *end = size > 0 ? memchr(data, 0, size) : NULL;
    struct safetensors *s;
    struct weights *w;
    struct error err = {0};
    if (!end) return 0;
    struct str config = {(const char *)data, (size_t)(end - data)};
    static const char *const formats[] = {NULL, "hf", "awq", "gptq", "fp8", "mxfp4"};
    struct weights_options options = {.compute = size % 2 ? COMPUTE_F32 : COMPUTE_AUTO,
                                      .format = formats[size / 2 % ARRAY_LEN(formats)],
                                      .plain_inputs = size % 3 == 0,
                                      .scale_grids = size / 2 % 2 == 0};
    if (safetensors_open_memory(end + 1, size - config.len - 1, &s, &err) < 0) {
        CHECK(err.code < 0 && err.text[0]);
        return 0;
    }
    walk_tensors(s);
    if (weights_hf_take(s, config, "folder", &options, &w, &err) == 0) {
        walk_model(w);
        weights_close(w);
    } else {
        CHECK(err.code < 0 && err.text[0]);
    }
    return 0;
}
