/* weights_gguf.c - the GGUF container as a source of tensors. */
#include "engine/weights_gguf.h"

#include "engine/gguf.h"
#include "engine/weights_map.h"
#include "shared/base/check.h"

#include <stdio.h>

static bool find(const void *file, const char *name, struct tensor_view *out)
{
    const struct gguf_tensor *t = gguf_tensor_find(file, name);
    if (!t) return false;
    const char *type_name = dtype_gguf_name(t->gguf_type);
    *out = (struct tensor_view){
        .index = (size_t)(t - gguf_tensor_at(file, 0)),
        .dims = t->dims,
        .data = t->data,
        .bytes = t->bytes,
    };
    snprintf(out->type_name, sizeof out->type_name, "%s (%u)", type_name ? type_name : "unknown",
             t->gguf_type);
    out->readable = dtype_from_gguf(t->gguf_type, &out->type);
    for (int i = 0; i < t->dims; i++)
        out->dim[i] = t->dim[t->dims - 1 - i];
    return true;
}

static struct str name_at(const void *file, size_t index)
{
    return gguf_tensor_at(file, index)->name;
}

static bool is_spare(const struct model_config *c, struct str name)
{
    (void)c;
    (void)name;
    return false;
}

static int map_model(struct weights *w, const struct weights_options *options, struct error *err)
{
    struct gguf *g = w->gguf;
    struct tensor_source source = {g, gguf_tensor_count(g), find, name_at, is_spare};
    int rc = model_config_from_gguf(g, &w->config, err);
    return rc < 0 ? rc : weights_map(w, &source, NULL, options, err);
}

int weights_gguf_take(struct gguf *g, const struct weights_options *options, struct weights **out,
                      struct error *err)
{
    struct weights *w = weights_create();
    w->gguf = g;
    w->format = "gguf";
    int rc = map_model(w, options, err);
    if (rc < 0) {
        weights_close(w);
        return rc;
    }
    *out = w;
    return 0;
}
