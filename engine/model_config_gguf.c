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
    const struct tensor_names *names; // NULL: tensor_names_gguf
    bool scales_embedding;            // by sqrt(hidden)
    bool has_softcaps;                // of scores and logits; otherwise they may be there
    bool is_latent;                   // multi-head latent attention
    bool ramps_exactly;               // yarn's ramp isn't cut to whole dimensions
    int window;                       // where the file says none; 0: there is none
    double local_base;                // of rope in layers with the window; 0: as elsewhere
    /* In a model of so many layers scores are divided by sqrt(hidden / heads), not by sqrt(head_dim):
     * the 27B ones of Gemma, whose files don't say it. */
    int wide_scale_layers;
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
    {.name = "internlm2", .rope_style = ROPE_INTERLEAVED},
    {.name = "phi3", .names = &tensor_names_gguf_phi3},
    {.name = "smollm3", .rope_style = ROPE_INTERLEAVED, .no_rope_period = 4},
    {.name = "gemma2",
     .activation = FFN_GELU_TANH,
     .norms = NORMS_BOTH,
     .scales_embedding = true,
     .has_softcaps = true,
     .window = 4096,
     .wide_scale_layers = 46,
     .global_period = 2},
    {.name = "gemma3",
     .activation = FFN_GELU_TANH,
     .qk_norm = QK_NORM_PER_HEAD,
     .norms = NORMS_BOTH,
     .scales_embedding = true,
     .local_base = 10000, // older files don't say it
     .wide_scale_layers = 62,
     .global_period = 6},
    {.name = "gpt-oss",
     .names = &tensor_names_gguf_gpt_oss,
     .activation = FFN_SWIGLU_CLAMPED,
     .ramps_exactly = true,
     .global_period = 2,
     .has_experts = true,
     .scoring = EXPERTS_SOFTMAX_SELECTED},
    {.name = "deepseek2",
     .rope_style = ROPE_INTERLEAVED,
     .is_latent = true,
     .has_experts = true,
     .scoring = EXPERTS_SOFTMAX},
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

/* Files for absorbed attention say the lengths of one wide key and value, and with _mla those of heads. */
static int read_latent(const struct source *s, struct model_config *c, struct error *err)
{
    struct latent_config *a = &c->latent;
    bool is_split;
    char key[128];
    int rc;
    is_split = gguf_has(s->gguf, key_of(s, "attention.key_length_mla", key));
    if ((rc = read_int(s, "attention.kv_lora_rank", true, 1, MODEL_WIDTH_MAX, &a->kv_rank, err)) <
            0 ||
        (rc = read_int(s, "attention.q_lora_rank", false, 0, MODEL_WIDTH_MAX, &a->q_rank, err)) <
            0 ||
        (rc = read_int(s, "rope.dimension_count", true, 2, MODEL_HEAD_DIM_MAX, &a->rope_dims,
                       err)) < 0 ||
        (rc = read_int(s, is_split ? "attention.key_length_mla" : "attention.key_length", true, 2,
                       MODEL_HEAD_DIM_MAX, &c->head_dim, err)) < 0)
        return rc;
    c->kv_heads = c->heads;
    return read_int(s, is_split ? "attention.value_length_mla" : "attention.value_length", true, 1,
                    MODEL_HEAD_DIM_MAX, &a->value_dim, err);
}

static int read_heads(const struct source *s, struct model_config *c, struct error *err)
{
    int rc, value_dim;
    c->kv_heads = c->heads;
    c->head_dim = c->hidden / c->heads;
    if ((rc = read_int(s, "attention.head_count_kv", false, 1, MODEL_HEADS_MAX, &c->kv_heads,
                       err)) < 0 ||
        (rc = read_int(s, "attention.key_length", false, 1, MODEL_HEAD_DIM_MAX, &c->head_dim,
                       err)) < 0)
        return rc;
    value_dim = c->head_dim;
    rc = read_int(s, "attention.value_length", false, 1, MODEL_HEAD_DIM_MAX, &value_dim, err);
    if (rc == 0 && value_dim != c->head_dim)
        rc = error_set(err, E_UNSUPPORTED, "keys of %d and values of %d elements per head",
                       c->head_dim, value_dim);
    return rc;
}

static int read_shape(const struct source *s, const struct architecture *a, struct model_config *c,
                      struct error *err)
{
    int rc;
    if ((rc = read_int(s, "block_count", true, 1, MODEL_LAYERS_MAX, &c->layers, err)) < 0 ||
        (rc = read_int(s, "embedding_length", true, 1, MODEL_WIDTH_MAX, &c->hidden, err)) < 0 ||
        (rc = read_int(s, "feed_forward_length", true, 1, MODEL_WIDTH_MAX, &c->ffn, err)) < 0 ||
        (rc = read_int(s, "attention.head_count", true, 1, MODEL_HEADS_MAX, &c->heads, err)) < 0)
        return rc;
    if ((rc = a->is_latent ? read_latent(s, c, err) : read_heads(s, c, err)) < 0) return rc;
    if ((rc = read_int(s, "vocab_size", false, 1, MODEL_VOCAB_MAX, &c->vocab, err)) < 0) return rc;
    return read_int(s, "context_length", true, 1, MODEL_CONTEXT_MAX, &c->context_len, err);
}

/* The multiplier of latent attention stands for an mscale that is mscale_all_dim, too: cos and sin keep
 * their size and the softmax is scaled instead. It is stored times 0.1 (conversion/deepseek.py). */
static int read_yarn(const struct source *s, const struct architecture *a,
                     const struct model_config *c, struct rope_source *r, struct error *err)
{
    double multiplier = 0;
    int original = c->context_len, rc;
    r->scaling = ROPE_SCALING_YARN;
    r->beta_fast = 32;
    r->beta_slow = 1;
    r->truncate = !a->ramps_exactly;
    if ((rc = read_double(s, "rope.scaling.yarn_beta_fast", false, 1e-3, 1e6, &r->beta_fast, err)) <
            0 ||
        (rc = read_double(s, "rope.scaling.yarn_beta_slow", false, 1e-3, 1e6, &r->beta_slow, err)) <
            0 ||
        (rc = read_double(s, "rope.scaling.yarn_log_multiplier", a->is_latent, 1e-6, 1e6,
                          &multiplier, err)) < 0)
        return rc;
    if (a->is_latent) r->mscale = r->mscale_all_dim = multiplier / 0.1;
    if ((rc = read_int(s, "rope.scaling.original_context_length", false, 2, MODEL_CONTEXT_MAX,
                       &original, err)) < 0)
        return rc;
    r->original_len = original;
    return read_double(s, "rope.scaling.factor", true, 1e-3, 1e6, &r->factor, err);
}

/* It has no name in a file: its factors are there, or they aren't. */
static int read_longrope(const struct source *s, const struct model_config *c,
                         struct rope_source *r, struct error *err)
{
    int original = 0;
    int rc = read_int(s, "rope.scaling.original_context_length", true, 2, MODEL_CONTEXT_MAX,
                      &original, err);
    if (rc < 0) return rc;
    r->scaling = ROPE_SCALING_LONGROPE;
    r->original_len = original;
    r->factor = (double)c->context_len / original;
    return read_double(s, "rope.scaling.attn_factor", false, 1e-6, 1e6, &r->attention_factor, err);
}

static bool has_tensor(const struct gguf *g, const char *module)
{
    char name[128];
    snprintf(name, sizeof name, "%s.weight", module);
    return gguf_tensor_find(g, name) != NULL;
}

static int read_scaling(const struct source *s, const struct architecture *a,
                        const struct model_config *c, struct rope_source *r, struct error *err)
{
    char key[128], name[32];
    struct str type = STR("none");
    gguf_get_str(s->gguf, key_of(s, "rope.scaling.type", key), &type);
    if (c->names->rope_long && has_tensor(s->gguf, c->names->rope_long))
        return read_longrope(s, c, r, err);
    if (str_equal(type, STR("none"))) return 0;
    if (str_equal(type, STR("yarn"))) return read_yarn(s, a, c, r, err);
    if (str_equal(type, STR("linear"))) {
        r->scaling = ROPE_SCALING_LINEAR;
        return read_double(s, "rope.scaling.factor", true, 1e-3, 1e6, &r->factor, err);
    }
    model_config_copy_text(name, sizeof name, type);
    return error_set(err, E_UNSUPPORTED,
                     "rope scaling '%s' is not supported (linear, yarn and llama3 are)", name);
}

static int read_rope(const struct source *s, const struct architecture *a, struct model_config *c,
                     struct error *err)
{
    struct rope_source *r = &c->rope[0], *local = &c->rope[1];
    int rc;
    r->dims = a->is_latent ? c->latent.rope_dims : c->head_dim;
    r->base = 10000;
    if ((rc = read_int(s, "rope.dimension_count", false, 2, c->head_dim, &r->dims, err)) < 0 ||
        (rc = read_double(s, "rope.freq_base", false, 1.001, 1e12, &r->base, err)) < 0 ||
        (rc = read_scaling(s, a, c, r, err)) < 0)
        return rc;
    *local = (struct rope_source){.dims = r->dims, .base = a->local_base};
    if ((rc = read_double(s, "rope.freq_base_swa", false, 1.001, 1e12, &local->base, err)) < 0)
        return rc;
    if (local->base > 0) c->rope_count = 2;
    return 0;
}

/* expert_gating_func: llama.cpp's numbers, llama-hparams.h. */
static int read_scoring(const struct source *s, const struct architecture *a,
                        struct expert_shape *e, struct error *err)
{
    static const enum expert_scoring scorings[] = {EXPERTS_SOFTMAX, EXPERTS_SIGMOID,
                                                   EXPERTS_SOFTMAX_SELECTED};
    int number = 0;
    int rc = read_int(s, "expert_gating_func", false, 0, ARRAY_LEN(scorings), &number, err);
    e->scoring = number > 0 ? scorings[number - 1] : a->scoring;
    if (rc == 0 && a->is_latent && e->scoring != EXPERTS_SIGMOID)
        rc = error_set(
            err, E_UNSUPPORTED,
            "architecture '%s' with a softmax over experts (DeepSeek V2) is not supported",
            a->name);
    return rc;
}

/* Shared experts are counted, or their whole size is said. */
static int read_shared(const struct source *s, struct expert_shape *e, struct error *err)
{
    int count = 0, rc;
    if ((rc = read_int(s, "expert_shared_count", false, 0, MODEL_EXPERTS_MAX, &count, err)) < 0)
        return rc;
    if ((int64_t)count * e->ffn > MODEL_WIDTH_MAX)
        return error_set(err, E_FORMAT, "%d shared experts of %d", count, e->ffn);
    e->shared_ffn = count * e->ffn;
    return read_int(s, "expert_shared_feed_forward_length", false, 0, MODEL_WIDTH_MAX,
                    &e->shared_ffn, err);
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
    double scale = 1;
    int normalise = a->normalise;
    e->ffn = c->ffn;
    if ((rc = read_scoring(s, a, e, err)) < 0 ||
        (rc = read_double(s, "expert_weights_scale", false, 1e-6, 1e6, &scale, err)) < 0 ||
        (rc = read_int(s, "expert_weights_norm", false, 0, 1, &normalise, err)) < 0 ||
        (rc = read_int(s, "expert_group_count", false, 0, e->experts, &e->groups, err)) < 0 ||
        (rc = read_int(s, "expert_group_used_count", false, 0, e->experts, &e->groups_used, err)) <
            0)
        return rc;
    e->scale = scale == 0 ? 1 : (float)scale;
    e->normalise = normalise;
    if ((rc = read_int(s, "expert_used_count", true, 1, e->experts, &e->used, err)) < 0 ||
        (rc = read_int(s, "expert_feed_forward_length", false, 1, MODEL_WIDTH_MAX, &e->ffn, err)) <
            0)
        return rc;
    return read_shared(s, e, err);
}

static int read_layers(const struct source *s, const struct architecture *a, struct model_config *c,
                       struct error *err)
{
    int window = a->window, dense = 0, rc;
    if ((rc = read_int(s, "attention.sliding_window", false, 0, MODEL_CONTEXT_MAX, &window, err)) <
            0 ||
        (rc = read_int(s, "leading_dense_block_count", false, 0, c->layers, &dense, err)) < 0)
        return rc;
    for (int i = 0; i < c->layers; i++) {
        struct layer_config *l = &c->layer[i];
        bool is_global = a->global_period && (i + 1) % a->global_period == 0;
        l->window = is_global ? 0 : window;
        l->rope_table = !is_global && c->rope_count > 1;
        if (a->no_rope_period && (i + 1) % a->no_rope_period == 0) l->rope_table = ROPE_NONE;
        l->experts = c->experts.experts > 0 && i >= dense;
    }
    return 0;
}

static int read_scales(const struct source *s, const struct architecture *a, struct model_config *c,
                       struct error *err)
{
    double eps = 0, attention = 1 / sqrt((double)c->head_dim), divisor = 1;
    double embedding = a->scales_embedding ? sqrt((double)c->hidden) : 1, residual = 1;
    double score_cap = 0, logit_cap = 0;
    int rc;
    if (a->wide_scale_layers && c->layers == a->wide_scale_layers)
        attention = 1 / sqrt((double)c->hidden / c->heads);
    if (a->is_latent && c->rope[0].scaling == ROPE_SCALING_YARN) {
        double mscale = rope_yarn_mscale(c->rope[0].factor, c->rope[0].mscale_all_dim);
        attention *= mscale * mscale;
    }
    if ((rc = read_double(s, "attention.layer_norm_rms_epsilon", true, 1e-12, 1, &eps, err)) < 0 ||
        (rc = read_double(s, "attention.scale", false, 1e-6, 1e6, &attention, err)) < 0 ||
        (rc = read_double(s, "embedding_scale", false, 1e-6, 1e6, &embedding, err)) < 0 ||
        (rc = read_double(s, "residual_scale", false, 1e-6, 1e6, &residual, err)) < 0 ||
        (rc = read_double(s, "logit_scale", false, 1e-6, 1e6, &divisor, err)) < 0 ||
        (rc = read_double(s, "attn_logit_softcapping", a->has_softcaps, 0, 1e6, &score_cap, err)) <
            0 ||
        (rc = read_double(s, "final_logit_softcapping", a->has_softcaps, 0, 1e6, &logit_cap, err)) <
            0)
        return rc;
    c->attention_softcap = (float)score_cap;
    c->logit_softcap = (float)logit_cap;
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
    c->names = a->names ? a->names : &tensor_names_gguf;
    c->rope_style = a->rope_style;
    c->activation = a->activation;
    c->qk_norm = a->qk_norm;
    c->norms = a->norms;
    c->qkv_bias = a->qkv_bias;
    struct source s = {g, a->name};
    if ((rc = read_shape(&s, a, c, err)) < 0 || (rc = read_rope(&s, a, c, err)) < 0 ||
        (rc = read_experts(&s, a, c, err)) < 0 || (rc = read_layers(&s, a, c, err)) < 0 ||
        (rc = read_scales(&s, a, c, err)) < 0)
        return rc;
    return model_config_check(c, err);
}
