#include "engine/tp_sources.h"

#include "shared/base/check.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

struct source {
    const struct matrix *matrix;
    int ranks_left;
};

struct tp_sources {
    const struct model_params *whole;
    pthread_mutex_t lock;  // guards ranks_left, and makes on_source_done one at a time
    struct source *source; // by address; matrices don't overlap
    size_t count, cap;
};

static void add(struct tp_sources *s, const struct matrix *m)
{
    if (!m->data) return;
    if (s->count == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 256;
        s->source = xrealloc_array(s->source, s->cap, sizeof *s->source);
    }
    s->source[s->count++].matrix = m;
}

static void add_experts(struct tp_sources *s, const struct expert_params *x)
{
    add(s, &x->router);
    for (int e = 0; e < s->whole->expert_shape.experts; e++) {
        add(s, &x->gate[e]);
        add(s, &x->up[e]);
        add(s, &x->down[e]);
    }
    add(s, &x->shared_gate);
    add(s, &x->shared_up);
    add(s, &x->shared_down);
}

static void add_layer(struct tp_sources *s, const struct layer_params *l)
{
    const struct matrix *dense[] = {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down};
    for (size_t i = 0; i < ARRAY_LEN(dense); i++)
        add(s, dense[i]);
    if (l->latent) {
        add(s, &l->latent->q_a);
        add(s, &l->latent->q_b);
        add(s, &l->latent->kv_a);
        add(s, &l->latent->kv_b);
    }
    if (l->experts) add_experts(s, l->experts);
}

static int compare_sources(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t)((const struct source *)a)->matrix->data;
    uintptr_t y = (uintptr_t)((const struct source *)b)->matrix->data;
    return x < y ? -1 : x > y;
}

struct tp_sources *tp_sources_create(const struct model_params *whole, int world)
{
    struct tp_sources *s = xcalloc(1, sizeof *s);
    s->whole = whole;
    pthread_mutex_init(&s->lock, NULL);
    add(s, &whole->embedding);
    add(s, &whole->head);
    for (int i = 0; i < whole->layers; i++)
        add_layer(s, &whole->layer[i]);
    if (s->count > 0) qsort(s->source, s->count, sizeof *s->source, compare_sources);
    for (size_t i = 0; i < s->count; i++)
        s->source[i].ranks_left = world;
    return s;
}

void tp_sources_destroy(struct tp_sources *s)
{
    if (!s) return;
    pthread_mutex_destroy(&s->lock);
    free(s->source);
    free(s);
}

/* The matrix that the part lies in: the last one that doesn't begin behind it. */
static struct source *find(struct tp_sources *s, const struct matrix *part)
{
    size_t low = 0, high = s->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if ((uintptr_t)s->source[middle].matrix->data <= (uintptr_t)part->data)
            low = middle + 1;
        else
            high = middle;
    }
    CHECK(low > 0);
    return &s->source[low - 1];
}

void tp_sources_done(void *arg, const struct matrix *part)
{
    struct tp_sources *s = arg;
    pthread_mutex_lock(&s->lock);
    struct source *source = find(s, part);
    CHECK(source->ranks_left > 0);
    if (--source->ranks_left == 0 && s->whole->on_source_done)
        s->whole->on_source_done(s->whole->on_source_done_arg, source->matrix);
    pthread_mutex_unlock(&s->lock);
}
