/* model_config_rope.c - two generations of keys for the same thing.
 *
 *     older  "rope_theta": 1e6, "rope_scaling": {"rope_type" | "type": "yarn", "factor": 4, ...},
 *            "partial_rotary_factor": 0.75, "rope_local_base_freq": 1e4 (Gemma 3)
 *     newer  "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4,
 *            "partial_rotary_factor": 0.75, ...}, or one such object for each kind of layer:
 *            {"full_attention": {...}, "sliding_attention": {...}} */
#include "engine/model_config_rope.h"

#include "shared/base/check.h"

#include <math.h>
#include <string.h>

#define FACTOR_MAX 1e6

/* Keys of one scaling, beside `factor`. Lengths have to be 2 at least: logarithms divide by them. */
struct scaling {
    const char *name;
    enum rope_scaling scaling;
    void (*read)(struct config_reader *r, struct arena *arena, struct rope_source *out);
};

static void read_factor(struct config_reader *r, struct arena *arena, struct rope_source *out)
{
    (void)arena;
    config_require(r, "factor");
    config_double(r, "factor", 1e-3, FACTOR_MAX, &out->factor);
}

static void read_llama3(struct config_reader *r, struct arena *arena, struct rope_source *out)
{
    read_factor(r, arena, out);
    config_require(r, "low_freq_factor");
    config_require(r, "high_freq_factor");
    config_double(r, "low_freq_factor", 1e-3, FACTOR_MAX, &out->low_freq_factor);
    config_double(r, "high_freq_factor", 1e-3, FACTOR_MAX, &out->high_freq_factor);
    if (r->rc == 0 && out->high_freq_factor <= out->low_freq_factor)
        config_fail(r, E_FORMAT, "'high_freq_factor' is not above 'low_freq_factor'");
}

static void read_yarn(struct config_reader *r, struct arena *arena, struct rope_source *out)
{
    out->beta_fast = 32;
    out->beta_slow = 1;
    out->truncate = true;
    read_factor(r, arena, out);
    config_double(r, "beta_fast", 1e-3, FACTOR_MAX, &out->beta_fast);
    config_double(r, "beta_slow", 1e-3, FACTOR_MAX, &out->beta_slow);
    config_bool(r, "truncate", &out->truncate);
    config_double(r, "attention_factor", 0, FACTOR_MAX, &out->attention_factor);
    config_double(r, "mscale", 0, FACTOR_MAX, &out->mscale);
    config_double(r, "mscale_all_dim", 0, FACTOR_MAX, &out->mscale_all_dim);
}

static const float *read_list(struct config_reader *r, const char *key, struct arena *arena,
                              int count)
{
    const struct json *list = config_get(r, key);
    float *values = NULL;
    int i = 0;
    if (!list || json_type(list) != JSON_ARRAY || json_len(list) != (size_t)count) {
        config_fail(r, E_FORMAT, "key '%s' is not a list of %d numbers", key, count);
        return NULL;
    }
    values = arena_alloc(arena, (size_t)count * sizeof *values);
    for (const struct json *v = json_first(list); v; v = json_next(v), i++) {
        if (json_type(v) != JSON_NUMBER || !(json_number(v) >= 1e-3 && json_number(v) <= 1e6)) {
            config_fail(r, E_FORMAT, "key '%s' has a factor that can't be", key);
            return NULL;
        }
        values[i] = (float)json_number(v);
    }
    return values;
}

static void read_longrope(struct config_reader *r, struct arena *arena, struct rope_source *out)
{
    config_double(r, "attention_factor", 0, FACTOR_MAX, &out->attention_factor);
    out->short_factor = read_list(r, "short_factor", arena, out->dims / 2);
    out->long_factor = read_list(r, "long_factor", arena, out->dims / 2);
}

static void read_nothing(struct config_reader *r, struct arena *arena, struct rope_source *out)
{
    (void)r;
    (void)arena;
    (void)out;
}

static const struct scaling scalings[] = {
    {"default", ROPE_SCALING_NONE, read_nothing},
    {"linear", ROPE_SCALING_LINEAR, read_factor},
    {"dynamic", ROPE_SCALING_DYNAMIC, read_factor},
    {"llama3", ROPE_SCALING_LLAMA3, read_llama3},
    {"yarn", ROPE_SCALING_YARN, read_yarn},
    {"longrope", ROPE_SCALING_LONGROPE, read_longrope},
    {"su", ROPE_SCALING_LONGROPE, read_longrope}, // what the first Phi-3 files call it
};

/* One table. `top` holds what older files keep outside of the object. */
static void read_table(struct config_reader *r, const struct config_reader *top,
                       struct arena *arena, const struct model_config *c, struct rope_source *out)
{
    const char *type = "default";
    double partial = 1, original = c->context_len;
    struct config_reader outer = *top;
    config_double(&outer, "rope_theta", 1.001, 1e12, &out->base);
    config_double(&outer, "partial_rotary_factor", 0, 1, &partial);
    config_double(&outer, "original_max_position_embeddings", 2, MODEL_CONTEXT_MAX, &original);
    if (outer.rc < 0) r->rc = outer.rc;
    config_double(r, "rope_theta", 1.001, 1e12, &out->base);
    config_double(r, "partial_rotary_factor", 0, 1, &partial);
    config_double(r, "original_max_position_embeddings", 2, MODEL_CONTEXT_MAX, &original);
    config_string(r, "type", &type);
    config_string(r, "rope_type", &type);
    int width = c->latent.kv_rank > 0 ? c->latent.rope_dims : c->head_dim;
    out->dims = (int)(width * partial);
    out->original_len = original < 2 ? 2 : original;
    out->factor = 1;
    if (r->rc == 0 && (out->dims < 2 || out->dims % 2))
        config_fail(r, E_FORMAT, "%d rotary dimensions", out->dims);
    for (size_t i = 0; r->rc == 0 && i < ARRAY_LEN(scalings); i++) {
        if (strcmp(scalings[i].name, type) != 0) continue;
        out->scaling = scalings[i].scaling;
        scalings[i].read(r, arena, out);
        if (out->scaling == ROPE_SCALING_LONGROPE) out->factor = c->context_len / out->original_len;
        if (out->scaling == ROPE_SCALING_DYNAMIC)
            out->original_len = c->context_len < 2 ? 2 : c->context_len;
        return;
    }
    config_fail(r, E_UNSUPPORTED, "rope scaling '%.40s' is not supported", type);
}

static int fail_in(const struct config_reader *r, const char *key)
{
    return r->rc < 0 ? error_prefix(r->err, r->rc, "'%s'", key) : 0;
}

static int read_newer(const struct json *parameters, const struct config_reader *top,
                      struct arena *arena, struct model_config *c, struct error *err)
{
    const struct json *global = json_get_set(parameters, "full_attention");
    const struct json *local = json_get_set(parameters, "sliding_attention");
    struct config_reader r = {global ? global : parameters, err, 0};
    read_table(&r, top, arena, c, &c->rope[0]);
    if (r.rc == 0 && global && local) {
        r.object = local;
        read_table(&r, top, arena, c, &c->rope[1]);
        c->rope_count = 2;
    }
    return fail_in(&r, "rope_parameters");
}

static int read_older(const struct config_reader *top, struct arena *arena, struct model_config *c,
                      struct error *err)
{
    struct config_reader r = {config_get(top, "rope_scaling"), err, 0}, outer = *top;
    double local_base = 0;
    read_table(&r, top, arena, c, &c->rope[0]);
    if (r.rc < 0) return fail_in(&r, "rope_scaling");
    config_double(&outer, "rope_local_base_freq", 1.001, 1e12, &local_base);
    if (local_base > 0) {
        c->rope[1] = (struct rope_source){.dims = c->rope[0].dims, .base = local_base};
        c->rope_count = 2;
    }
    return outer.rc;
}

int model_config_read_rope(const struct json *root, struct arena *arena, struct model_config *c,
                           struct error *err)
{
    struct config_reader top = {root, err, 0};
    const struct json *parameters = config_get(&top, "rope_parameters");
    c->rope[0].base = c->rope[1].base = 10000;
    if (parameters) return read_newer(parameters, &top, arena, c, err);
    return read_older(&top, arena, c, err);
}
