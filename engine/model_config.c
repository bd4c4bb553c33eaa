/* model_config.c - GGUF metadata to struct model_config.
 *
 * Every number is bounded here, so that later products of two of them fit an int64 and later arrays
 * have a sane size. What a file asks for and we don't have is refused by name: a model that runs
 * with a detail ignored answers nonsense fluently. */
#include "engine/model_config.h"

#include "engine/gguf.h"
#include "shared/base/check.h"

#include <math.h>
#include <stdio.h>

#define LAYERS_MAX   1024
#define WIDTH_MAX    (1 << 20) // hidden, ffn
#define HEADS_MAX    4096
#define HEAD_DIM_MAX 1024
#define VOCAB_MAX    (1 << 22)
#define CONTEXT_MAX  (1 << 28)

/* What an architecture's name implies beyond what its file says. */
struct architecture {
    const char *name;
    enum rope_style rope_style; // llama-like GGUF files hold q and k rows permuted to pairs
    enum ffn_activation activation;
};

static const struct architecture architectures[] = {
    {"llama", ROPE_INTERLEAVED, FFN_SILU},
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

static void copy_text(char *out, size_t size, struct str text)
{
    size_t n = text.len < size - 1 ? text.len : size - 1;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text.data[i];
        out[i] = c >= 0x20 && c < 0x7f ? (char)c : '?'; // goes to logs and terminals
    }
    out[n] = 0;
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
    int rc;
    if ((rc = read_int(s, "block_count", true, 1, LAYERS_MAX, &c->layers, err)) < 0) return rc;
    if ((rc = read_int(s, "embedding_length", true, 1, WIDTH_MAX, &c->hidden, err)) < 0) return rc;
    if ((rc = read_int(s, "feed_forward_length", true, 1, WIDTH_MAX, &c->ffn, err)) < 0) return rc;
    if ((rc = read_int(s, "attention.head_count", true, 1, HEADS_MAX, &c->heads, err)) < 0)
        return rc;
    c->kv_heads = c->heads;
    if ((rc = read_int(s, "attention.head_count_kv", false, 1, HEADS_MAX, &c->kv_heads, err)) < 0)
        return rc;
    if (c->heads % c->kv_heads)
        return error_set(err, E_FORMAT, "%d attention heads can't share %d key-value heads",
                         c->heads, c->kv_heads);
    c->head_dim = c->hidden / c->heads;
    if ((rc = read_int(s, "attention.key_length", false, 1, HEAD_DIM_MAX, &c->head_dim, err)) < 0)
        return rc;
    int value_dim = c->head_dim;
    if ((rc = read_int(s, "attention.value_length", false, 1, HEAD_DIM_MAX, &value_dim, err)) < 0)
        return rc;
    if (value_dim != c->head_dim)
        return error_set(err, E_UNSUPPORTED, "keys of %d and values of %d elements per head",
                         c->head_dim, value_dim);
    if (c->head_dim < 2 || c->head_dim > HEAD_DIM_MAX || c->head_dim % 2)
        return error_set(err, E_FORMAT, "attention heads have %d elements", c->head_dim);
    if ((rc = read_int(s, "vocab_size", false, 1, VOCAB_MAX, &c->vocab, err)) < 0) return rc;
    return read_int(s, "context_length", true, 1, CONTEXT_MAX, &c->context_len, err);
}

static int read_rope(const struct source *s, struct model_config *c, struct error *err)
{
    char key[128];
    struct str type = STR("none");
    int rc;
    c->rope_dims = c->head_dim;
    if ((rc = read_int(s, "rope.dimension_count", false, 2, c->head_dim, &c->rope_dims, err)) < 0)
        return rc;
    if (c->rope_dims % 2)
        return error_set(err, E_FORMAT, "%d rotary dimensions: not even", c->rope_dims);
    c->rope_base = 10000;
    if ((rc = read_double(s, "rope.freq_base", false, 1, 1e12, &c->rope_base, err)) < 0) return rc;
    c->rope_linear_factor = 1;
    gguf_get_str(s->gguf, key_of(s, "rope.scaling.type", key), &type);
    if (str_equal(type, STR("linear")))
        return read_double(s, "rope.scaling.factor", true, 1e-3, 1e6, &c->rope_linear_factor, err);
    if (str_equal(type, STR("none"))) return 0;
    char name[32];
    copy_text(name, sizeof name, type);
    return error_set(err, E_UNSUPPORTED,
                     "rope scaling '%s' is not supported (linear and llama3 are)", name);
}

static int refuse_experts(const struct source *s, struct error *err)
{
    int experts = 0;
    int rc = read_int(s, "expert_count", false, 0, 1 << 16, &experts, err);
    if (rc < 0 || experts == 0) return rc;
    return error_set(err, E_UNSUPPORTED, "a mixture of %d experts is not supported", experts);
}

int model_config_from_gguf(const struct gguf *g, struct model_config *out, struct error *err)
{
    struct str architecture = {0}, name = {0};
    struct model_config c = {0};
    int rc;
    if (!gguf_get_str(g, "general.architecture", &architecture))
        return error_set(err, E_FORMAT,
                         "metadata key 'general.architecture' is missing: not a model");
    copy_text(c.architecture, sizeof c.architecture, architecture);
    const struct architecture *known = find_architecture(c.architecture);
    if (!known) {
        char list[256];
        list_architectures(list, sizeof list);
        return error_set(err, E_UNSUPPORTED, "architecture '%s' is not supported (supported: %s)",
                         c.architecture, list);
    }
    if (gguf_get_str(g, "general.name", &name)) copy_text(c.name, sizeof c.name, name);
    c.rope_style = known->rope_style;
    c.activation = known->activation;

    struct source s = {g, known->name};
    double eps = 0;
    if ((rc = refuse_experts(&s, err)) < 0 || (rc = read_shape(&s, &c, err)) < 0 ||
        (rc = read_rope(&s, &c, err)) < 0)
        return rc;
    rc = read_int(&s, "attention.sliding_window", false, 0, CONTEXT_MAX, &c.window, err);
    if (rc < 0) return rc;
    rc = read_double(&s, "attention.layer_norm_rms_epsilon", true, 1e-12, 1, &eps, err);
    if (rc < 0) return rc;
    c.norm_eps = (float)eps;
    c.attention_scale = (float)(1 / sqrt((double)c.head_dim));
    *out = c;
    return 0;
}
