/* model_config_hf.c - a Hugging Face config.json to struct model_config.
 *
 * A family is a row: what its code in transformers takes for granted. What a file says is read for
 * all families alike, and what it asks for and we don't have is refused by name. Source of the rows:
 * transformers, models/<family>/modeling_<family>.py. */
#include "engine/config_reader.h"
#include "engine/model_config.h"
#include "engine/model_config_rope.h"
#include "engine/tensor_names.h"
#include "shared/base/check.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Which layers have the window of `sliding_window`, when no `layer_types` says it. */
enum window_rule {
    WINDOW_NEVER,
    WINDOW_ALL,    // all layers
    WINDOW_PERIOD, // all but every n-th
    WINDOW_UPPER,  // from `max_window_layers` on, if `use_sliding_window`
};

enum family_experts {
    NO_EXPERTS,
    EXPERTS_IN_ALL,
    EXPERTS_SPARSE, // every n-th layer (Qwen)
    EXPERTS_UPPER,  // from `first_k_dense_replace` on (DeepSeek)
};

struct family {
    const char *architecture;
    const struct tensor_names *names;
    enum window_rule window;
    int window_period;
    enum qk_norm qk_norm;
    enum norm_placement norms;
    bool norm_plus_one, scales_embedding; // by sqrt(hidden)
    bool qkv_bias;                        // always, whatever the file says
    bool tied;                            // unless the file says otherwise
    bool is_gelu;                         // by tanh, whatever the file calls it
    bool is_clamped;                      // gpt-oss' own activation
    bool skips_rope;                      // some layers don't rotate
    bool is_latent;                       // multi-head latent attention
    enum family_experts experts;
    enum expert_scoring scoring;
    bool normalise; // chosen weights, where the file doesn't say
    bool shared_expert;
};

static const struct family families[] = {
    {.architecture = "LlamaForCausalLM", .names = &tensor_names_llama},
    {.architecture = "MistralForCausalLM", .names = &tensor_names_llama, .window = WINDOW_ALL},
    {.architecture = "InternLM2ForCausalLM", .names = &tensor_names_internlm2},
    {.architecture = "InternLM3ForCausalLM", .names = &tensor_names_llama},
    {.architecture = "Qwen2ForCausalLM",
     .names = &tensor_names_llama,
     .window = WINDOW_UPPER,
     .qkv_bias = true},
    {.architecture = "Qwen3ForCausalLM",
     .names = &tensor_names_llama,
     .window = WINDOW_UPPER,
     .qk_norm = QK_NORM_PER_HEAD},
    {.architecture = "Olmo2ForCausalLM",
     .names = &tensor_names_olmo2,
     .qk_norm = QK_NORM_SPANS_HEADS,
     .norms = NORMS_AFTER},
    {.architecture = "GraniteForCausalLM", .names = &tensor_names_llama},
    {.architecture = "Phi3ForCausalLM", .names = &tensor_names_phi3, .window = WINDOW_ALL},
    {.architecture = "SmolLM3ForCausalLM",
     .names = &tensor_names_llama,
     .tied = true,
     .skips_rope = true},
    {.architecture = "Gemma2ForCausalLM",
     .names = &tensor_names_gemma,
     .window = WINDOW_PERIOD,
     .window_period = 2,
     .norms = NORMS_BOTH,
     .norm_plus_one = true,
     .scales_embedding = true,
     .tied = true,
     .is_gelu = true},
    {.architecture = "Gemma3ForCausalLM",
     .names = &tensor_names_gemma,
     .window = WINDOW_PERIOD,
     .window_period = 6,
     .qk_norm = QK_NORM_PER_HEAD,
     .norms = NORMS_BOTH,
     .norm_plus_one = true,
     .scales_embedding = true,
     .tied = true,
     .is_gelu = true},
    {.architecture = "MixtralForCausalLM",
     .names = &tensor_names_mixtral,
     .window = WINDOW_ALL,
     .experts = EXPERTS_IN_ALL,
     .scoring = EXPERTS_SOFTMAX_SELECTED},
    {.architecture = "Qwen2MoeForCausalLM",
     .names = &tensor_names_qwen_moe,
     .window = WINDOW_UPPER,
     .qkv_bias = true,
     .experts = EXPERTS_SPARSE,
     .scoring = EXPERTS_SOFTMAX,
     .shared_expert = true},
    {.architecture = "Qwen3MoeForCausalLM",
     .names = &tensor_names_qwen_moe,
     .window = WINDOW_UPPER,
     .qk_norm = QK_NORM_PER_HEAD,
     .experts = EXPERTS_SPARSE,
     .scoring = EXPERTS_SOFTMAX},
    {.architecture = "GptOssForCausalLM",
     .names = &tensor_names_gpt_oss,
     .window = WINDOW_PERIOD,
     .window_period = 2,
     .is_clamped = true,
     .experts = EXPERTS_IN_ALL,
     .scoring = EXPERTS_SOFTMAX_SELECTED},
    {.architecture = "DeepseekV3ForCausalLM",
     .names = &tensor_names_deepseek,
     .is_latent = true,
     .experts = EXPERTS_UPPER,
     .scoring = EXPERTS_SIGMOID,
     .normalise = true},
};

static int find_family(const struct json *root, struct model_config *c, const struct family **out,
                       struct error *err)
{
    const struct json *list = json_get_set(root, "architectures"), *first = json_first(list);
    if (!first || json_type(list) != JSON_ARRAY || json_type(first) != JSON_STRING)
        return error_set(err, E_FORMAT, "key 'architectures' names no architecture: not a model");
    model_config_copy_text(c->architecture, sizeof c->architecture,
                           str_of(json_string(first, NULL)));
    for (size_t i = 0; i < ARRAY_LEN(families); i++) {
        if (strcmp(families[i].architecture, c->architecture) != 0) continue;
        *out = &families[i];
        return 0;
    }
    char known[400];
    size_t at = 0;
    for (size_t i = 0; i < ARRAY_LEN(families) && at < sizeof known; i++)
        at += (size_t)snprintf(known + at, sizeof known - at, "%s%.*s", i ? ", " : "",
                               (int)(strlen(families[i].architecture) - strlen("ForCausalLM")),
                               families[i].architecture);
    return error_set(err, E_UNSUPPORTED,
                     "architecture '%s' is not supported (supported, each ...ForCausalLM: %s)",
                     c->architecture, known);
}

static void read_shape(struct config_reader *r, struct model_config *c)
{
    static const char *const required[] = {"num_hidden_layers", "hidden_size",
                                           "intermediate_size", "num_attention_heads",
                                           "vocab_size",        "max_position_embeddings"};
    for (size_t i = 0; i < ARRAY_LEN(required); i++)
        config_require(r, required[i]);
    config_int(r, "num_hidden_layers", 1, MODEL_LAYERS_MAX, &c->layers);
    config_int(r, "hidden_size", 1, MODEL_WIDTH_MAX, &c->hidden);
    config_int(r, "intermediate_size", 1, MODEL_WIDTH_MAX, &c->ffn);
    config_int(r, "num_attention_heads", 1, MODEL_HEADS_MAX, &c->heads);
    config_int(r, "vocab_size", 1, MODEL_VOCAB_MAX, &c->vocab);
    config_int(r, "max_position_embeddings", 1, MODEL_CONTEXT_MAX, &c->context_len);
    if (r->rc < 0) return;
    c->kv_heads = c->heads;
    c->head_dim = c->hidden / c->heads;
    config_int(r, "num_key_value_heads", 1, MODEL_HEADS_MAX, &c->kv_heads);
    config_int(r, "head_dim", 1, MODEL_HEAD_DIM_MAX, &c->head_dim);
}

/* A head is what doesn't rotate and what does; `head_dim`, if there is one, is something else. */
static void read_latent(struct config_reader *r, const struct family *f, struct model_config *c)
{
    static const char *const required[] = {"kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim",
                                           "v_head_dim"};
    struct latent_config *a = &c->latent;
    int nope = 0;
    bool interleaved = true;
    if (!f->is_latent) return;
    for (size_t i = 0; i < ARRAY_LEN(required); i++)
        config_require(r, required[i]);
    config_int(r, "q_lora_rank", 1, MODEL_WIDTH_MAX, &a->q_rank);
    config_int(r, "kv_lora_rank", 1, MODEL_WIDTH_MAX, &a->kv_rank);
    config_int(r, "qk_nope_head_dim", 1, MODEL_HEAD_DIM_MAX, &nope);
    config_int(r, "qk_rope_head_dim", 2, MODEL_HEAD_DIM_MAX, &a->rope_dims);
    config_int(r, "v_head_dim", 1, MODEL_HEAD_DIM_MAX, &a->value_dim);
    config_bool(r, "rope_interleave", &interleaved);
    c->head_dim = nope + a->rope_dims;
    c->kv_heads = c->heads;
    c->rope_style = interleaved ? ROPE_INTERLEAVED : ROPE_HALF_SPLIT;
}

static void read_activation(struct config_reader *r, const struct family *f, struct model_config *c)
{
    static const struct {
        const char *name;
        enum ffn_activation activation;
    } known[] = {{"silu", FFN_SILU},
                 {"swish", FFN_SILU},
                 {"gelu_pytorch_tanh", FFN_GELU_TANH},
                 {"gelu_new", FFN_GELU_TANH}};
    const char *name = "silu";
    config_string(r, "hidden_act", &name);
    if (f->is_gelu || f->is_clamped) {
        c->activation = f->is_gelu ? FFN_GELU_TANH : FFN_SWIGLU_CLAMPED;
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        if (strcmp(known[i].name, name) != 0) continue;
        c->activation = known[i].activation;
        return;
    }
    config_fail(r, E_UNSUPPORTED, "activation '%.40s' is not supported", name);
}

/* The clamped activation has its numbers in its definition. */
static void check_clamp(struct config_reader *r, const struct family *f)
{
    double limit = 7, alpha = 1.702;
    if (!f->is_clamped) return;
    config_double(r, "swiglu_limit", 0, 1e6, &limit);
    config_double(r, "swiglu_alpha", 0, 1e6, &alpha);
    if (r->rc == 0 && (limit != 7 || fabs(alpha - 1.702) > 1e-6))
        config_fail(r, E_UNSUPPORTED,
                    "swiglu_limit %g, swiglu_alpha %g (7 and 1.702 are supported)", limit, alpha);
}

/* All of these keys mean the same in every family that has them. */
static void read_scales(struct config_reader *r, const struct family *f, struct model_config *c)
{
    double eps = 1e-6, query = c->head_dim, attention = 0, divisor = 1, residual = 1;
    double embedding = f->scales_embedding ? sqrt((double)c->hidden) : 1;
    double attention_cap = 0, logit_cap = 0;
    config_double(r, "rms_norm_eps", 0, 1, &eps);
    config_double(r, "query_pre_attn_scalar", 1e-3, 1e6, &query);
    config_double(r, "attention_multiplier", 1e-6, 1e6, &attention);
    config_double(r, "logits_scaling", 1e-6, 1e6, &divisor);
    config_double(r, "residual_multiplier", 1e-6, 1e6, &residual);
    config_double(r, "embedding_multiplier", 1e-6, 1e6, &embedding);
    config_double(r, "attn_logit_softcapping", 1e-3, 1e6, &attention_cap);
    config_double(r, "final_logit_softcapping", 1e-3, 1e6, &logit_cap);
    c->norm_eps = (float)eps;
    attention = attention > 0 ? attention : 1 / sqrt(query);
    if (f->is_latent && c->rope[0].mscale_all_dim > 0) {
        double mscale = rope_yarn_mscale(c->rope[0].factor, c->rope[0].mscale_all_dim);
        attention *= mscale * mscale;
    }
    c->attention_scale = (float)attention;
    c->embedding_scale = (float)embedding;
    c->residual_scale = (float)residual;
    c->logit_scale = (float)(1 / divisor);
    c->attention_softcap = (float)attention_cap;
    c->logit_softcap = (float)logit_cap;
}

static void read_flags(struct config_reader *r, const struct family *f, struct model_config *c)
{
    bool attention_bias = false, qkv_bias = false, tied = f->tied;
    config_bool(r, "attention_bias", &attention_bias);
    config_bool(r, "qkv_bias", &qkv_bias);
    c->qkv_bias = f->qkv_bias || attention_bias || qkv_bias;
    bool is_said = config_get(r, "tie_word_embeddings") != NULL;
    config_bool(r, "tie_word_embeddings", &tied);
    c->head = tied ? HEAD_TIED : is_said ? HEAD_OWN : HEAD_TIED_IF_ABSENT;
}

/* ---- experts ---- */

/* DeepSeek's keys. */
static void read_groups(struct config_reader *r, struct expert_shape *e)
{
    const char *scoring = "sigmoid", *method = "noaux_tc";
    double scale = 1;
    int shared = 0;
    config_int(r, "n_routed_experts", 1, MODEL_EXPERTS_MAX, &e->experts);
    config_int(r, "n_shared_experts", 0, 64, &shared);
    config_int(r, "n_group", 1, MODEL_EXPERTS_MAX, &e->groups);
    config_int(r, "topk_group", 1, MODEL_EXPERTS_MAX, &e->groups_used);
    config_double(r, "routed_scaling_factor", 1e-6, 1e6, &scale);
    config_string(r, "scoring_func", &scoring);
    config_string(r, "topk_method", &method);
    if (r->rc == 0 && (strcmp(scoring, "sigmoid") != 0 || strcmp(method, "noaux_tc") != 0))
        config_fail(r, E_UNSUPPORTED, "experts by scoring_func '%.20s', topk_method '%.20s'",
                    scoring, method);
    e->scale = (float)scale;
    e->shared_ffn = shared * e->ffn;
}

static void read_experts(struct config_reader *r, const struct family *f, struct model_config *c)
{
    struct expert_shape *e = &c->experts;
    if (f->experts == NO_EXPERTS) return;
    e->scoring = f->scoring;
    e->normalise = f->normalise;
    e->scale = 1;
    e->ffn = c->ffn;
    config_int(r, "num_local_experts", 1, MODEL_EXPERTS_MAX, &e->experts);
    config_int(r, "num_experts", 1, MODEL_EXPERTS_MAX, &e->experts);
    config_require(r, "num_experts_per_tok");
    config_int(r, "num_experts_per_tok", 1, MODEL_EXPERTS_MAX, &e->used);
    config_int(r, "moe_intermediate_size", 1, MODEL_WIDTH_MAX, &e->ffn);
    config_bool(r, "norm_topk_prob", &e->normalise);
    if (f->experts == EXPERTS_UPPER) read_groups(r, e);
    if (f->shared_expert)
        config_int(r, "shared_expert_intermediate_size", 1, MODEL_WIDTH_MAX, &e->shared_ffn);
    if (r->rc == 0 && e->experts == 0) config_fail(r, E_FORMAT, "key 'num_experts' is missing");
}

static bool lists(const struct json *list, int value)
{
    for (const struct json *v = json_first(list); v; v = json_next(v))
        if (json_type(v) == JSON_NUMBER && json_number(v) == value) return true;
    return false;
}

/* Qwen: every n-th layer has experts, except those that are listed. DeepSeek: all but the first. */
static void place_experts(struct config_reader *r, const struct family *f, struct model_config *c)
{
    const struct json *dense = config_get(r, "mlp_only_layers");
    int step = 1, first = 0;
    config_int(r, "decoder_sparse_step", 1, MODEL_LAYERS_MAX, &step);
    config_int(r, "first_k_dense_replace", 0, MODEL_LAYERS_MAX, &first);
    for (int i = 0; i < c->layers; i++)
        c->layer[i].experts =
            f->experts == EXPERTS_IN_ALL || (f->experts == EXPERTS_UPPER && i >= first) ||
            (f->experts == EXPERTS_SPARSE && (i + 1) % step == 0 && !lists(dense, i));
}

/* ---- windows and rotation of layers ---- */

static bool is_windowed(struct config_reader *r, const struct family *f, int layer)
{
    int from = 28, period = f->window_period; // 28: the families' default
    switch (f->window) {
    case WINDOW_NEVER:
        return false;
    case WINDOW_ALL:
        return true;
    case WINDOW_PERIOD:
        config_int(r, "_sliding_window_pattern", 1, MODEL_LAYERS_MAX, &period);
        config_int(r, "sliding_window_pattern", 1, MODEL_LAYERS_MAX, &period);
        return (layer + 1) % period != 0;
    case WINDOW_UPPER:
        config_int(r, "max_window_layers", 0, MODEL_LAYERS_MAX, &from);
        return layer >= from;
    }
    UNREACHABLE();
}

static bool is_type_windowed(struct config_reader *r, const struct json *type)
{
    const char *name = type && json_type(type) == JSON_STRING ? json_string(type, NULL) : "";
    if (strcmp(name, "sliding_attention") == 0) return true;
    if (strcmp(name, "full_attention") != 0)
        config_fail(r, E_UNSUPPORTED, "layer type '%.40s' is not supported", name);
    return false;
}

static void place_windows(struct config_reader *r, const struct family *f, struct model_config *c)
{
    const struct json *types = config_get(r, "layer_types"), *type = json_first(types);
    bool is_on = f->window != WINDOW_UPPER;
    int window = 0;
    config_int(r, "sliding_window", 0, MODEL_CONTEXT_MAX, &window);
    config_bool(r, "use_sliding_window", &is_on);
    if (types && (json_type(types) != JSON_ARRAY || json_len(types) < (size_t)c->layers))
        config_fail(r, E_FORMAT, "key 'layer_types' doesn't name %d layers", c->layers);
    for (int i = 0; r->rc == 0 && i < c->layers; i++) {
        struct layer_config *l = &c->layer[i];
        bool windowed = types ? is_type_windowed(r, type) : is_windowed(r, f, i);
        if (types) type = json_next(type);
        l->window = windowed && is_on ? window : 0;
        l->rope_table = windowed && c->rope_count > 1;
    }
}

/* SmolLM3: a list with 0 for layers that don't rotate, or every n-th. */
static void place_rotation(struct config_reader *r, const struct family *f, struct model_config *c)
{
    const struct json *list = config_get(r, "no_rope_layers"), *v = json_first(list);
    int period = 4;
    if (!f->skips_rope) return;
    config_int(r, "no_rope_layer_interval", 1, MODEL_LAYERS_MAX, &period);
    if (list && (json_type(list) != JSON_ARRAY || json_len(list) < (size_t)c->layers))
        config_fail(r, E_FORMAT, "key 'no_rope_layers' doesn't name %d layers", c->layers);
    for (int i = 0; r->rc == 0 && i < c->layers; i++) {
        bool rotates = (i + 1) % period != 0;
        if (list) {
            rotates = json_type(v) != JSON_NUMBER || json_number(v) != 0;
            v = json_next(v);
        }
        if (!rotates) c->layer[i].rope_table = ROPE_NONE;
    }
}

int model_config_from_json(const struct json *root, struct arena *arena, struct model_config *c,
                           struct error *err)
{
    struct config_reader r = {root, err, 0};
    const struct family *f;
    int rc;
    model_config_init(c);
    if ((rc = find_family(root, c, &f, err)) < 0) return rc;
    c->names = f->names;
    c->rope_style = ROPE_HALF_SPLIT;
    c->qk_norm = f->qk_norm;
    c->norms = f->norms;
    c->norm_plus_one = f->norm_plus_one;
    read_shape(&r, c);
    read_latent(&r, f, c);
    if (r.rc < 0) return r.rc;
    if ((rc = model_config_read_rope(root, arena, c, err)) < 0) return rc;
    read_activation(&r, f, c);
    check_clamp(&r, f);
    read_scales(&r, f, c);
    read_flags(&r, f, c);
    read_experts(&r, f, c);
    place_experts(&r, f, c);
    place_windows(&r, f, c);
    place_rotation(&r, f, c);
    return r.rc < 0 ? r.rc : model_config_check(c, err);
}
