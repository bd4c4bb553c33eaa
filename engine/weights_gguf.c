/* weights_gguf.c - GGUF tensor names to struct model_params.
 *
 *     token_embd  output (absent: tied)  output_norm  rope_freqs (llama3 factors)
 *     blk.N.  attn_norm  attn_{q,k,v,output}(.bias)  attn_{q,k}_norm
 *             ffn_norm   ffn_{gate,up,down}
 *
 * Matrices stay where they are in the mapping; vectors become float32. */
#include "engine/weights_gguf.h"

#include "engine/gguf.h"
#include "engine/rope.h"
#include "kernels/quant.h"
#include "shared/base/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* What is being mapped: one failing look-up makes all later ones do nothing, so that mapping a
 * layer is a plain list of names with one check at its end. */
struct mapper {
    const struct gguf *gguf;
    struct arena *arena;
    struct error *err;
    int layer; // -1: outside the layers
    int rc;    // first failure, sticky
};

enum presence { REQUIRED, OPTIONAL };

static const struct gguf_tensor *find(struct mapper *m, const char *suffix, enum presence presence,
                                      char name[96])
{
    if (m->rc < 0) return NULL;
    if (m->layer >= 0)
        snprintf(name, 96, "blk.%d.%s", m->layer, suffix);
    else
        snprintf(name, 96, "%s", suffix);
    const struct gguf_tensor *t = gguf_tensor_find(m->gguf, name);
    if (!t && presence == REQUIRED)
        m->rc = error_set(m->err, E_FORMAT, "tensor '%s' is missing", name);
    return t;
}

static bool check_type(struct mapper *m, const struct gguf_tensor *t, const char *name,
                       enum dtype *type)
{
    if (dtype_from_gguf(t->gguf_type, type)) return true;
    const char *known = dtype_gguf_name(t->gguf_type);
    m->rc = error_set(m->err, E_UNSUPPORTED, "tensor '%s' has type %s (%u), which is not supported",
                      name, known ? known : "unknown", t->gguf_type);
    return false;
}

static bool check_shape(struct mapper *m, const struct gguf_tensor *t, const char *name,
                        int64_t count, int64_t rows, int64_t cols)
{
    if (t->dim[0] == cols && t->dim[1] == rows && t->dim[2] == count && t->dim[3] == 1) return true;
    m->rc = error_set(m->err, E_FORMAT,
                      "tensor '%s' has shape [%lld, %lld, %lld, %lld], expected [%lld, %lld, %lld]",
                      name, (long long)t->dim[0], (long long)t->dim[1], (long long)t->dim[2],
                      (long long)t->dim[3], (long long)cols, (long long)rows, (long long)count);
    return false;
}

/* `count` matrices of rows x cols behind each other in one tensor, as files hold the experts of a
 * layer (ffn_gate_exps): an array of views. NULL: absent or wrong. */
static const struct matrix *map_matrices(struct mapper *m, const char *suffix,
                                         enum presence presence, int count, int64_t rows,
                                         int64_t cols)
{
    char name[96];
    enum dtype type;
    const struct gguf_tensor *t = find(m, suffix, presence, name);
    if (!t || !check_type(m, t, name, &type) || !check_shape(m, t, name, count, rows, cols))
        return NULL;
    struct matrix *views = arena_alloc(m->arena, (size_t)count * sizeof *views);
    for (int i = 0; i < count; i++)
        views[i] = gguf_tensor_matrix(t, i);
    return views;
}

static struct matrix map_matrix(struct mapper *m, const char *suffix, enum presence presence,
                                int64_t rows, int64_t cols)
{
    const struct matrix *one = map_matrices(m, suffix, presence, 1, rows, cols);
    return one ? *one : (struct matrix){0};
}

static const float *map_vector(struct mapper *m, const char *suffix, enum presence presence,
                               int64_t size)
{
    char name[96];
    enum dtype type;
    const struct gguf_tensor *t = find(m, suffix, presence, name);
    if (!t || !check_type(m, t, name, &type) || !check_shape(m, t, name, 1, 1, size)) return NULL;
    float *values = arena_alloc(m->arena, (size_t)size * sizeof *values);
    quant_dequantize_row(type, t->data, values, size);
    return values;
}

static int map_layer(struct mapper *m, const struct model_config *c, struct layer_params *l)
{
    int64_t q_rows = (int64_t)c->heads * c->head_dim, kv_rows = (int64_t)c->kv_heads * c->head_dim;
    l->attn_norm = map_vector(m, "attn_norm.weight", REQUIRED, c->hidden);
    l->q = map_matrix(m, "attn_q.weight", REQUIRED, q_rows, c->hidden);
    l->k = map_matrix(m, "attn_k.weight", REQUIRED, kv_rows, c->hidden);
    l->v = map_matrix(m, "attn_v.weight", REQUIRED, kv_rows, c->hidden);
    l->o = map_matrix(m, "attn_output.weight", REQUIRED, c->hidden, q_rows);
    l->q_bias = map_vector(m, "attn_q.bias", OPTIONAL, q_rows);
    l->k_bias = map_vector(m, "attn_k.bias", OPTIONAL, kv_rows);
    l->v_bias = map_vector(m, "attn_v.bias", OPTIONAL, kv_rows);
    l->o_bias = map_vector(m, "attn_output.bias", OPTIONAL, c->hidden);
    l->q_norm = map_vector(m, "attn_q_norm.weight", OPTIONAL, c->head_dim);
    l->k_norm = map_vector(m, "attn_k_norm.weight", OPTIONAL, c->head_dim);
    l->ffn_norm = map_vector(m, "ffn_norm.weight", REQUIRED, c->hidden);
    l->gate = map_matrix(m, "ffn_gate.weight", REQUIRED, c->ffn, c->hidden);
    l->up = map_matrix(m, "ffn_up.weight", REQUIRED, c->ffn, c->hidden);
    l->down = map_matrix(m, "ffn_down.weight", REQUIRED, c->hidden, c->ffn);
    l->window = c->window;
    return m->rc;
}

static int map_rope(struct mapper *m, struct weights *w)
{
    const struct model_config *c = &w->config;
    int pairs = c->rope_dims / 2;
    const float *factors = map_vector(m, "rope_freqs.weight", OPTIONAL, pairs);
    for (int i = 0; factors && i < pairs; i++)
        if (!(factors[i] > 0 && isfinite(factors[i])))
            return error_set(m->err, E_FORMAT, "tensor 'rope_freqs.weight' has a factor of %g",
                             (double)factors[i]);
    struct rope_source source = {c->rope_dims, c->rope_base, c->rope_linear_factor, factors};
    float *inv_freq = arena_alloc(m->arena, (size_t)pairs * sizeof *inv_freq);
    rope_inv_freq(&source, inv_freq);
    w->params.rope_tables[0] = (struct rope_table){inv_freq, 1};
    w->params.rope_table_count = 1;
    return m->rc;
}

/* The number of rows of the embedding decides the vocabulary; the file may say it too. */
static int find_vocab(const struct gguf *g, struct model_config *c, struct error *err)
{
    const struct gguf_tensor *t = gguf_tensor_find(g, "token_embd.weight");
    if (!t) return error_set(err, E_FORMAT, "tensor 'token_embd.weight' is missing");
    if (c->vocab && c->vocab != t->dim[1])
        return error_set(err, E_FORMAT, "vocabulary of %d tokens, but the embedding has %lld rows",
                         c->vocab, (long long)t->dim[1]);
    if (t->dim[1] > 1 << 22)
        return error_set(err, E_FORMAT, "the embedding has %lld rows", (long long)t->dim[1]);
    c->vocab = (int)t->dim[1];
    return 0;
}

static void fill_scalars(const struct model_config *c, struct model_params *p)
{
    p->layers = c->layers;
    p->hidden = c->hidden;
    p->heads = c->heads;
    p->kv_heads = c->kv_heads;
    p->head_dim = c->head_dim;
    p->ffn = c->ffn;
    p->vocab = c->vocab;
    p->rope_dims = c->rope_dims;
    p->rope_style = c->rope_style;
    p->activation = c->activation;
    p->norm_eps = c->norm_eps;
    p->attention_scale = c->attention_scale;
    p->embedding_scale = p->residual_scale = p->logit_scale = 1;
}

static void drop_source(void *arg, const struct matrix *m)
{
    const struct weights *w = arg;
    gguf_drop_pages(w->gguf, m->data, matrix_bytes(m));
}

static int map_model(struct weights *w, struct error *err)
{
    struct model_config *c = &w->config;
    struct model_params *p = &w->params;
    struct mapper m = {w->gguf, &w->arena, err, -1, 0};
    int rc;
    if ((rc = model_config_from_gguf(w->gguf, c, err)) < 0) return rc;
    if ((rc = find_vocab(w->gguf, c, err)) < 0) return rc;
    fill_scalars(c, p);
    p->embedding = map_matrix(&m, "token_embd.weight", REQUIRED, c->vocab, c->hidden);
    p->head = map_matrix(&m, "output.weight", OPTIONAL, c->vocab, c->hidden);
    p->final_norm = map_vector(&m, "output_norm.weight", REQUIRED, c->hidden);
    if (m.rc < 0) return m.rc;
    if ((rc = map_rope(&m, w)) < 0) return rc;
    struct layer_params *layers = arena_alloc(&w->arena, (size_t)c->layers * sizeof *layers);
    for (m.layer = 0; m.layer < c->layers; m.layer++)
        if ((rc = map_layer(&m, c, &layers[m.layer])) < 0) return rc;
    p->layer = layers;
    p->on_source_done = drop_source;
    p->on_source_done_arg = w;
    for (size_t i = 0; i < gguf_tensor_count(w->gguf); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(w->gguf, i);
        w->parameters += t->dim[0] * t->dim[1] * t->dim[2] * t->dim[3];
    }
    return 0;
}

int weights_gguf_take(struct gguf *g, struct weights **out, struct error *err)
{
    struct weights *w = xcalloc(1, sizeof *w);
    w->gguf = g;
    arena_init(&w->arena);
    int rc = map_model(w, err);
    if (rc < 0) {
        weights_close(w);
        return rc;
    }
    *out = w;
    return 0;
}
