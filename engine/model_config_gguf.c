/* model_config_gguf.c - GGUF metadata to struct model_config.
 *
 * Every number is bounded here. What a file asks for and we don't have is refused by name: a model
 * that runs with a detail ignored answers nonsense fluently. */
#include "engine/gguf.h"
#include "engine/model_config.h"
#include "engine/tensor_names.h"
#include "shared/base/check.h"

#include <math.h>
#include <stdio.h>

/* What an architecture's name implies beyond what its file says. Sources: llama.cpp's
 * convert_hf_to_gguf.py (what is written) and llama-model.cpp (what is taken for granted). */
struct architecture {
    const char *name;
    enum rope_style rope_style; // llama-like files hold q and k rows permuted to pairs
    enum ffn_activation activation;
    enum qk_norm qk_norm;
    enum norm_placement norms;
    bool qkv_bias;
    bool scales_embedding; // by sqrt(hidden)
    int global_period; // every n-th layer attends to everything, the others in the window; 0: all alike
    int no_rope_period; // every n-th layer doesn't rotate; 0: all do
    bool has_experts;   // where the file counts some
    enum expert_scoring scoring;
    bool normalise; // the chosen experts' weights
};

static const struct architecture architectures[] = {
    {.name = "llama",
     .rope_style = ROPE_INTERLEAVED,
     .has_experts = true,
     .scoring = EXPERTS_SOFTMAX_SELECTED},
    {.name = "qwen2", .qkv_bias = true},
    {.name = "qwen2moe", .qkv_bias = true, .has_experts = true, .scoring = EXPERTS_SOFTMAX},
    {.name = "qwen3", .qk_norm = QK_NORM_PER_HEAD},
    {.name = "qwen3moe",
     .qk_norm = QK_NORM_PER_HEAD,
     .has_experts = true,
     .scoring = EXPERTS_SOFTMAX,
     .normalise = true},
    {.name = "olmo2", .qk_norm = QK_NORM_SPANS_HEADS, .norms = NORMS_AFTER},
    {.name = "granite", .rope_style = ROPE_INTERLEAVED},
    {.name = "smollm3", .rope_style = ROPE_INTERLEAVED, .no_rope_period = 4},
    {.name = "gemma3",
     .activation = FFN_GELU_TANH,
     .qk_norm = QK_NORM_PER_HEAD,
     .norms = NORMS_BOTH,
     .scales_embedding = true,
     .global_period = 6},
};

struct source {
    const struct gguf *gguf;
    const char *architecture;
};

static const char *key_of(const struct source *s, const char *suffix, char key[128])
{
    snprintf(key, 128, "%s.%s", s->architecture, suffix);
    return key;
}

/* *value keeps its default when the key is absent; required: no default. */
static int read_int(const struct source *s, const char *suffix, bool required, int64_t min,
                    int64_t max, int *value, struct error *err)
{
    char key[128];
    int64_t found;
    key_of(s, suffix, key);
    if (!gguf_has(s->gguf, key)) {
        if (!required) return 0;
        return error_set(err, E_FORMAT, "metadata key '%s' is missing", key);
    }
    if (!gguf_get_int(s->gguf, key, &found))
        return error_set(err, E_UNSUPPORTED, "metadata key '%s' is not one integer", key);
    if (found < min || found > max)
        return error_set(err, E_FORMAT, "metadata key '%s' is %lld, expected %lld to %lld", key,
                         (long long)found, (long long)min, (long long)max);
    *value = (int)found;
    return 0;
}

static int read_double(const struct source *s, const char *suffix, bool required, double min,
                       double max, double *value, struct error *err)
{
    char key[128];
    double found;
    key_of(s, suffix, key);
    if (!gguf_has(s->gguf, key)) {
        if (!required) return 0;
        return error_set(err, E_FORMAT, "metadata key '%s' is missing", key);
    }
    if (!gguf_get_float(s->gguf, key, &found) || !(found >= min && found <= max))
        return error_set(err, E_FORMAT, "metadata key '%s' is not a number from %g to %g", key, min,
                         max);
    *value = found;
    return 0;
}

static const struct architecture *find_architecture(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(architectures); i++)
        if (strcmp(architectures[i].name, name) == 0) return &architectures[i];
    return NULL;
}

static void list_architectures(char *out, size_t size)
{
    size_t at = 0;
    out[0] = 0;
    for (size_t i = 0; i < ARRAY_LEN(architectures) && at < size; i++)
        at += (size_t)snprintf(out + at, size - at, "%s%s", i ? ", " : "", architectures[i].name);
}

static int read_shape(const struct source *s, struct model_config *c, struct error *err)
{
    int rc, value_dim;
    if ((rc = read_int(s, "block_count", true, 1, MODEL_LAYERS_MAX, &c->layers, err)) < 0 ||
        (rc = read_int(s, "embedding_length", true, 1, MODEL_WIDTH_MAX, &c->hidden, err)) < 0 ||
        (rc = read_int(s, "feed_forward_length", true, 1, MODEL_WIDTH_MAX, &c->ffn, err)) < 0 ||
        (rc = read_int(s, "attention.head_count", true, 1, MODEL_HEADS_MAX, &c->heads, err)) < 0)
        return rc;
    c->kv_heads = c->heads;
    c->head_dim = c->hidden / c->heads;
    if ((rc = read_int(s, "attention.head_count_kv", false, 1, MODEL_HEADS_MAX, &c->kv_heads,
                       err)) < 0 ||
        (rc = read_int(s, "attention.key_length", false, 1, MODEL_HEAD_DIM_MAX, &c->head_dim,
                       err)) < 0)
        return rc;
    value_dim = c->head_dim;
    rc = read_int(s, "attention.value_length", false, 1, MODEL_HEAD_DIM_MAX, &value_dim, err);
    if (rc < 0) return rc;
    if (value_dim != c->head_dim)
        return error_set(err, E_UNSUPPORTED, "keys of %d and values of %d elements per head",
                         c->head_dim, value_dim);
    if ((rc = read_int(s, "vocab_size", false, 1, MODEL_VOCAB_MAX, &c->vocab, err)) < 0) return rc;
    return read_int(s, "context_length", true, 1, MODEL_CONTEXT_MAX, &c->context_len, err);
}

/* Yarn as llama.cpp fixes it: the ramp ends at whole dimensions, betas 32 and 1. */
static int read_yarn(const struct source *s, const struct model_config *c, struct rope_source *r,
                     struct error *err)
{
    int original = c->context_len, rc;
    r->scaling = ROPE_SCALING_YARN;
    r->beta_fast = 32;
    r->beta_slow = 1;
    r->truncate = true;
    if ((rc = read_int(s, "rope.scaling.original_context_length", false, 2, MODEL_CONTEXT_MAX,
                       &original, err)) < 0)
        return rc;
    r->original_len = original;
    return read_double(s, "rope.scaling.factor", true, 1e-3, 1e6, &r->factor, err);
}

static int read_scaling(const struct source *s, const struct model_config *c, struct rope_source *r,
                        struct error *err)
{
    char key[128], name[32];
    struct str type = STR("none");
    gguf_get_str(s->gguf, key_of(s, "rope.scaling.type", key), &type);
    if (str_equal(type, STR("none"))) return 0;
    if (str_equal(type, STR("yarn"))) return read_yarn(s, c, r, err);
    if (str_equal(type, STR("linear"))) {
        r->scaling = ROPE_SCALING_LINEAR;
        return read_double(s, "rope.scaling.factor", true, 1e-3, 1e6, &r->factor, err);
    }
    model_config_copy_text(name, sizeof name, type);
    return error_set(err, E_UNSUPPORTED,
                     "rope scaling '%s' is not supported (linear, yarn and llama3 are)", name);
}

static int read_rope(const struct source *s, struct model_config *c, struct error *err)
{
    struct rope_source *r = &c->rope[0], *local = &c->rope[1];
    int rc;
    r->dims = c->head_dim;
    r->base = 10000;
    if ((rc = read_int(s, "rope.dimension_count", false, 2, c->head_dim, &r->dims, err)) < 0 ||
        (rc = read_double(s, "rope.freq_base", false, 1.001, 1e12, &r->base, err)) < 0 ||
        (rc = read_scaling(s, c, r, err)) < 0)
        return rc;
    *local = (struct rope_source){.dims = r->dims};
    if ((rc = read_double(s, "rope.freq_base_swa", false, 1.001, 1e12, &local->base, err)) < 0)
        return rc;
    if (local->base > 0) c->rope_count = 2;
    return 0;
}

static int read_experts(const struct source *s, const struct architecture *a,
                        struct model_config *c, struct error *err)
{
    struct expert_shape *e = &c->experts;
    int rc = read_int(s, "expert_count", false, 0, MODEL_EXPERTS_MAX, &e->experts, err);
    if (rc < 0 || e->experts == 0) return rc;
    if (!a->has_experts)
        return error_set(err, E_UNSUPPORTED, "a mixture of %d experts in architecture '%s'",
                         e->experts, a->name);
    e->scoring = a->scoring;
    e->normalise = a->normalise;
    e->scale = 1;
    e->ffn = c->ffn;
    if ((rc = read_int(s, "expert_used_count", true, 1, e->experts, &e->used, err)) < 0 ||
        (rc = read_int(s, "expert_feed_forward_length", false, 1, MODEL_WIDTH_MAX, &e->ffn, err)) <
            0)
        return rc;
    return read_int(s, "expert_shared_feed_forward_length", false, 0, MODEL_WIDTH_MAX,
                    &e->shared_ffn, err);
}

static int read_layers(const struct source *s, const struct architecture *a, struct model_config *c,
                       struct error *err)
{
    int window = 0;
    int rc = read_int(s, "attention.sliding_window", false, 0, MODEL_CONTEXT_MAX, &window, err);
    if (rc < 0) return rc;
    for (int i = 0; i < c->layers; i++) {
        struct layer_config *l = &c->layer[i];
        bool is_global = a->global_period && (i + 1) % a->global_period == 0;
        l->window = is_global ? 0 : window;
        l->rope_table = !is_global && c->rope_count > 1;
        if (a->no_rope_period && (i + 1) % a->no_rope_period == 0) l->rope_table = ROPE_NONE;
        l->experts = c->experts.experts > 0;
    }
    return 0;
}

static int read_scales(const struct source *s, const struct architecture *a, struct model_config *c,
                       struct error *err)
{
    double eps = 0, attention = 1 / sqrt((double)c->head_dim), divisor = 1;
    double embedding = a->scales_embedding ? sqrt((double)c->hidden) : 1, residual = 1;
    int rc;
    if ((rc = read_double(s, "attention.layer_norm_rms_epsilon", true, 1e-12, 1, &eps, err)) < 0 ||
        (rc = read_double(s, "attention.scale", false, 1e-6, 1e6, &attention, err)) < 0 ||
        (rc = read_double(s, "embedding_scale", false, 1e-6, 1e6, &embedding, err)) < 0 ||
        (rc = read_double(s, "residual_scale", false, 1e-6, 1e6, &residual, err)) < 0 ||
        (rc = read_double(s, "logit_scale", false, 1e-6, 1e6, &divisor, err)) < 0)
        return rc;
    c->norm_eps = (float)eps;
    c->attention_scale = (float)attention;
    c->embedding_scale = (float)embedding;
    c->residual_scale = (float)residual;
    c->logit_scale = (float)(1 / divisor);
    return 0;
}

static int read_name(const struct gguf *g, struct model_config *c, const struct architecture **out,
                     struct error *err)
{
    struct str architecture = {0}, name = {0};
    if (!gguf_get_str(g, "general.architecture", &architecture))
        return error_set(err, E_FORMAT,
                         "metadata key 'general.architecture' is missing: not a model");
    model_config_copy_text(c->architecture, sizeof c->architecture, architecture);
    *out = find_architecture(c->architecture);
    if (!*out) {
        char list[256];
        list_architectures(list, sizeof list);
        return error_set(err, E_UNSUPPORTED, "architecture '%s' is not supported (supported: %s)",
                         c->architecture, list);
    }
    if (gguf_get_str(g, "general.name", &name))
        model_config_copy_text(c->name, sizeof c->name, name);
    return 0;
}

int model_config_from_gguf(const struct gguf *g, struct model_config *c, struct error *err)
{
    const struct architecture *a;
    int rc;
    model_config_init(c);
    if ((rc = read_name(g, c, &a, err)) < 0) return rc;
    c->names = &tensor_names_gguf;
    c->rope_style = a->rope_style;
    c->activation = a->activation;
    c->qk_norm = a->qk_norm;
    c->norms = a->norms;
    c->qkv_bias = a->qkv_bias;
    struct source s = {g, a->name};
    if ((rc = read_shape(&s, c, err)) < 0 || (rc = read_rope(&s, c, err)) < 0 ||
        (rc = read_experts(&s, a, c, err)) < 0 || (rc = read_layers(&s, a, c, err)) < 0 ||
        (rc = read_scales(&s, a, c, err)) < 0)
        return rc;
    return model_config_check(c, err);
}
