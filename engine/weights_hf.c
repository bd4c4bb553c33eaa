/* weights_hf.c - a Hugging Face folder as a source of tensors. */
#include "engine/weights_hf.h"

#include "engine/mapped_file.h"
#include "engine/safetensors.h"
#include "engine/tensor_names.h"
#include "engine/weights_map.h"
#include "engine/weights_quantized.h"
#include "shared/base/check.h"
#include "shared/base/json.h"

#include <stdlib.h>
#include <string.h>

static bool kernel_type(enum safetensors_type type, enum dtype *out)
{
    switch (type) {
    case SAFETENSORS_F32:
        *out = DTYPE_F32;
        return true;
    case SAFETENSORS_F16:
        *out = DTYPE_F16;
        return true;
    case SAFETENSORS_BF16:
        *out = DTYPE_BF16;
        return true;
    default:
        return false;
    }
}

static bool find(const void *file, const char *name, struct tensor_view *out)
{
    size_t index;
    static const char prefix[] = "model.";
    const struct safetensors_tensor *t = safetensors_find(file, name, &index);
    /* Saved without its head, as embedding models are, a model isn't a part of another one. */
    if (!t && strncmp(name, prefix, sizeof prefix - 1) == 0)
        t = safetensors_find(file, name + sizeof prefix - 1, &index);
    if (!t) return false;
    *out = (struct tensor_view){
        .index = index,
        .dims = t->dims,
        .data = t->data,
        .bytes = t->bytes,
    };
    str_copy(out->type_name, sizeof out->type_name, safetensors_type_name(t->type));
    out->readable = kernel_type(t->type, &out->type);
    for (int i = 0; i < t->dims; i++)
        out->dim[i] = t->dim[i];
    return true;
}

static struct str name_at(const void *file, size_t index)
{
    return safetensors_at(file, index)->name;
}

/* "model.layers.61.": behind the last layer are those that predict further tokens (DeepSeek-V3). */
static bool is_beyond_layers(const struct model_config *c, struct str name)
{
    size_t prefix = strlen(c->names->layers) + 1;
    struct str number;
    int64_t layer;
    if (!str_starts_with(name, str_of(c->names->layers)) || name.len < prefix) return false;
    name.data += prefix;
    name.len -= prefix;
    return str_split(&name, '.', &number) && str_to_int(number, &layer) == 0 && layer >= c->layers;
}

/* Tables that older files carry although they follow from the configuration, and the copy of the
 * embedding in models that tie the head to it. */
static bool is_spare(const struct model_config *c, struct str name)
{
    if (str_ends_with(name, STR(".rotary_emb.inv_freq")) || is_beyond_layers(c, name)) return true;
    return c->head == HEAD_TIED && str_starts_with(name, str_of(c->names->head)) &&
           str_ends_with(name, STR(".weight"));
}

/* *quantized: whether *format holds something. `asked`: a format's name, or NULL. */
static int read_config(struct weights *w, struct str text, const char *asked,
                       struct linear_format *format, bool *quantized, struct error *err)
{
    struct json *root = json_parse(text.data, text.len, err);
    if (!root) return error_prefix(err, E_FORMAT, "config.json");
    int rc = model_config_from_json(root, &w->arena, &w->config, err);
    if (rc == 0) rc = weights_quantized_format(root, asked, format, quantized, err);
    json_destroy(root);
    return rc < 0 ? error_prefix(err, rc, "config.json") : 0;
}

static int map_model(struct weights *w, struct str config, const struct weights_options *options,
                     struct error *err)
{
    struct tensor_source source = {w->safetensors, safetensors_count(w->safetensors), find, name_at,
                                   is_spare};
    struct linear_format format = {0};
    bool quantized;
    int rc = read_config(w, config, options->format, &format, &quantized, err);
    if (rc < 0) return rc;
    w->format = quantized ? format.name : "hf";
    return weights_map(w, &source, quantized ? &format : NULL, options, err);
}

/* The file has no name of its own; the hub's folders do. After the configuration was read. */
static void name_after_folder(struct weights *w)
{
    struct str path = str_of(w->folder), part;
    struct str last = path;
    while (str_split(&path, '/', &part))
        if (part.len > 0) last = part;
    model_config_copy_text(w->config.name, sizeof w->config.name, last);
}

int weights_hf_take(struct safetensors *s, struct str config, const char *folder,
                    const struct weights_options *options, struct weights **out, struct error *err)
{
    struct weights *w = weights_create();
    w->safetensors = s;
    w->folder = arena_strndup(&w->arena, folder, strlen(folder));
    int rc = map_model(w, config, options, err);
    name_after_folder(w);
    if (rc < 0) {
        weights_close(w);
        return rc;
    }
    *out = w;
    return 0;
}

int weights_hf_open(const char *folder, const struct weights_options *options, struct weights **out,
                    struct error *err)
{
    struct mapped_file config = {0};
    struct safetensors *s = NULL;
    char *path = xasprintf("%s/config.json", folder);
    int rc = mapped_file_open(path, &config, err);
    free(path);
    if (rc < 0) return error_prefix(err, rc, "'config.json'");
    rc = safetensors_open(folder, &s, err);
    if (rc == 0)
        rc = weights_hf_take(s, (struct str){(const char *)config.data, config.size}, folder,
                             options, out, err);
    mapped_file_close(&config);
    return rc;
}
