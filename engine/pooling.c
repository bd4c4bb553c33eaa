#define LOG_MODULE "engine"
#include "engine/pooling.h"

#include "engine/gguf.h"
#include "engine/mapped_file.h"
#include "shared/base/check.h"
#include "shared/base/json.h"
#include "shared/base/log.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- vectors ---- */

void pooling_add(struct request *r, const float *hidden, int len)
{
    if (!r->pooled) r->pooled = xcalloc((size_t)len, sizeof *r->pooled);
    for (int i = 0; i < len; i++)
        r->pooled[i] += (double)hidden[i];
}

float *pooling_finish(struct request *r, const float *last, int len)
{
    double squares = 0;
    if (!r->pooled || r->pool == ENGINE_POOL_LAST) {
        free(r->pooled);
        r->pooled = NULL;
    }
    pooling_add(r, last, len); // the mean's divisor is lost in the length
    for (int i = 0; i < len; i++)
        squares += r->pooled[i] * r->pooled[i];
    if (!(squares > 0) || isinf(squares)) return NULL;
    float *out = xcalloc((size_t)len, sizeof *out);
    for (int i = 0; i < len; i++)
        out[i] = (float)(r->pooled[i] / sqrt(squares));
    return out;
}

/* ---- what the model's files say ---- */

static enum engine_pool unknown(const char *what)
{
    log_warn("the model's pooling is not built, so it gives no embeddings",
             "pooling=%s: --embedding mean or last takes one of these all the same", what);
    return ENGINE_POOL_NONE;
}

/* llama.cpp's enum. */
static enum engine_pool read_gguf(const struct gguf *g)
{
    struct str architecture;
    char key[160];
    int64_t type;
    if (!gguf_get_str(g, "general.architecture", &architecture) || architecture.len > 100)
        return ENGINE_POOL_NONE;
    snprintf(key, sizeof key, STR_FMT ".pooling_type", STR_ARG(architecture));
    if (!gguf_get_int(g, key, &type)) return ENGINE_POOL_NONE;
    switch (type) {
    case 0:
        return ENGINE_POOL_NONE;
    case 1:
        return ENGINE_POOL_MEAN;
    case 3:
        return ENGINE_POOL_LAST;
    default:
        return unknown(type == 2 ? "cls" : type == 4 ? "rank" : "unknown");
    }
}

/* NULL: there is none, and rc says whether that is an error. */
static struct json *read_json(const char *path, int *rc, struct error *err)
{
    struct mapped_file file;
    *rc = mapped_file_open(path, &file, err);
    if (*rc == -ENOENT || *rc == -ENOTDIR) {
        *rc = 0;
        return NULL;
    }
    if (*rc < 0) return NULL;
    struct json *root = json_parse((const char *)file.data, file.size, err);
    if (!root) *rc = error_prefix(err, E_FORMAT, "'%s'", path);
    mapped_file_close(&file);
    return root;
}

static struct str member(const struct json *module, const char *name)
{
    const struct json *v = json_get(module, name);
    return v && json_type(v) == JSON_STRING ? str_of(json_string(v, NULL)) : (struct str){0};
}

/* The module's folder; owned. NULL: modules.json names none. */
static char *pooling_folder(const struct json *modules)
{
    const struct json *v = json_type(modules) == JSON_ARRAY ? json_first(modules) : NULL;
    for (; v; v = json_next(v)) {
        struct str name = member(v, "path");
        bool is_plain = name.len > 0 && name.data[0] != '.' && !strchr(name.data, '/');
        if (str_ends_with(member(v, "type"), STR(".Pooling")) && is_plain)
            return xstrdup(name.data);
    }
    return NULL;
}

/* Layers behind the pooling, without which its vector isn't the model's. */
static bool has_dense(const struct json *modules)
{
    const struct json *v = json_type(modules) == JSON_ARRAY ? json_first(modules) : NULL;
    for (; v; v = json_next(v))
        if (str_ends_with(member(v, "type"), STR(".Dense"))) return true;
    return false;
}

static bool is_on(const struct json *config, const char *name)
{
    const struct json *v = json_get(config, name);
    return v && json_is_true(v);
}

static enum engine_pool pooling_of(const struct json *config)
{
    if (json_type(config) != JSON_OBJECT) return unknown("unknown");
    bool mean = is_on(config, "pooling_mode_mean_tokens");
    bool last = is_on(config, "pooling_mode_lasttoken");
    bool others = is_on(config, "pooling_mode_cls_token") ||
                  is_on(config, "pooling_mode_max_tokens") ||
                  is_on(config, "pooling_mode_mean_sqrt_len_tokens") ||
                  is_on(config, "pooling_mode_weightedmean_tokens");
    if (others || mean == last) return unknown("cls, max, weighted or several");
    return mean ? ENGINE_POOL_MEAN : ENGINE_POOL_LAST;
}

/* The files of the sentence-transformers library. */
static int read_folder(const char *folder, enum engine_pool *out, struct error *err)
{
    int rc;
    char *path = xasprintf("%s/modules.json", folder);
    struct json *modules = read_json(path, &rc, err);
    char *module = modules ? pooling_folder(modules) : NULL;
    bool is_more = modules && has_dense(modules);
    json_destroy(modules);
    free(path);
    if (rc < 0) return rc;
    if (is_more) {
        *out = unknown("with dense layers behind it");
        free(module);
        return 0;
    }
    path = xasprintf("%s/%s/config.json", folder, module ? module : "1_Pooling");
    struct json *config = read_json(path, &rc, err);
    if (config) *out = pooling_of(config);
    json_destroy(config);
    free(module);
    free(path);
    return rc;
}

int pooling_read(const struct weights *w, enum engine_pool *out, struct error *err)
{
    *out = ENGINE_POOL_NONE;
    if (w->folder) return read_folder(w->folder, out, err);
    *out = read_gguf(w->gguf);
    return 0;
}
