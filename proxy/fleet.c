#include "proxy/fleet.h"

#include "proxy/rendezvous.h"
#include "shared/base/check.h"
#include "shared/base/hash.h"

#include <stdlib.h>

#define SLOTS_NOMINAL 32 // of an agent that doesn't say how many it has
#define REMEMBER_FROM 33 // agents of a model from which the first of each key are remembered

/* ---- agents ---- */

struct fleet_agent *fleet_agent_create(const struct fleet_agent *facts, const char *const *models)
{
    size_t count = (size_t)facts->model_count;
    struct fleet_agent *a = xmalloc(sizeof *a + count * sizeof a->models[0]);
    memcpy(a, facts, sizeof *a);
    atomic_init(&a->refs, 1);
    a->id = xstrdup(facts->id);
    a->stable_hash = hash_bytes(a->id, strlen(a->id));
    a->url = xstrdup(facts->url);
    a->host = xstrdup(facts->host);
    a->path = xstrdup(facts->path);
    a->incarnation = xstrdup(facts->incarnation ? facts->incarnation : "");
    a->cell = fleet_cell_ref(facts->cell);
    for (size_t i = 0; i < count; i++)
        a->models[i] = xstrdup(models[i]);
    return a;
}

struct fleet_agent *fleet_agent_ref(struct fleet_agent *a)
{
    atomic_fetch_add(&a->refs, 1);
    return a;
}

void fleet_agent_unref(struct fleet_agent *a)
{
    if (!a || atomic_fetch_sub(&a->refs, 1) != 1) return;
    free((char *)a->id);
    free((char *)a->url);
    free((char *)a->host);
    free((char *)a->path);
    free((char *)a->incarnation);
    for (int i = 0; i < a->model_count; i++)
        free((char *)a->models[i]);
    fleet_cell_unref(a->cell);
    free(a);
}

double fleet_agent_slots(const struct fleet_agent *a)
{
    if (a->capacity > 0) return a->capacity;
    return SLOTS_NOMINAL * (a->speed > 0 ? a->speed : 1);
}

/* ---- pictures ---- */

static int compare_agents(const void *a, const void *b)
{
    return strcmp((*(struct fleet_agent *const *)a)->id, (*(struct fleet_agent *const *)b)->id);
}

/* One model at one agent, while the index is being made. */
struct pair {
    const char *model;
    uint16_t agent;
};

static int compare_pairs(const void *a, const void *b)
{
    const struct pair *left = a, *right = b;
    int order = strcmp(left->model, right->model);
    return order ? order : (int)left->agent - (int)right->agent;
}

static void build_index(struct fleet *f)
{
    size_t count = 0;
    for (int i = 0; i < f->count; i++)
        count += (size_t)f->agents[i]->model_count;
    struct pair *pairs = xcalloc(count + 1, sizeof *pairs);
    size_t n = 0;
    for (int i = 0; i < f->count; i++) {
        for (int m = 0; m < f->agents[i]->model_count; m++)
            pairs[n++] = (struct pair){f->agents[i]->models[m], (uint16_t)i};
    }
    qsort(pairs, count, sizeof *pairs, compare_pairs);

    f->slots = xcalloc(count + 1, sizeof *f->slots);
    f->models = xcalloc(count + 1, sizeof *f->models);
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        struct fleet_model *last = f->model_count ? &f->models[f->model_count - 1] : NULL;
        if (!last || strcmp(last->name.data, pairs[i].model) != 0) {
            last = &f->models[f->model_count++];
            *last = (struct fleet_model){.name = str_of(pairs[i].model), .agents = &f->slots[used]};
        } else if (last->agents[last->count - 1] == pairs[i].agent) {
            continue; // an agent that lists a model twice
        }
        f->slots[used++] = pairs[i].agent;
        last->count++;
    }
    free(pairs);
    for (int m = 0; m < f->model_count; m++) {
        struct fleet_model *model = &f->models[m];
        if (model->count >= REMEMBER_FROM) {
            model->first = xcalloc(RENDEZVOUS_BUCKETS, sizeof *model->first);
        }
    }
}

static void build_columns(struct fleet *f)
{
    f->by_column = xcalloc(FLEET_AGENTS_MAX, sizeof *f->by_column);
    for (int i = 0; i < f->count; i++) {
        int column = f->agents[i]->cell->column;
        CHECK(column < FLEET_AGENTS_MAX);
        if (column >= 0) f->by_column[column] = (uint16_t)(i + 1);
    }
}

struct fleet *fleet_create_take(struct fleet_agent **agents, int count)
{
    CHECK(count >= 0 && count <= FLEET_AGENTS_MAX);
    struct fleet *f = xcalloc(1, sizeof *f);
    atomic_init(&f->refs, 1);
    f->count = count;
    f->agents = xcalloc((size_t)count + 1, sizeof *f->agents);
    if (count) memcpy(f->agents, agents, (size_t)count * sizeof *agents);
    qsort(f->agents, (size_t)count, sizeof *f->agents, compare_agents);
    build_index(f);
    build_columns(f);
    return f;
}

struct fleet *fleet_ref(struct fleet *f)
{
    atomic_fetch_add(&f->refs, 1);
    return f;
}

void fleet_unref(struct fleet *f)
{
    if (!f || atomic_fetch_sub(&f->refs, 1) != 1) return;
    for (int i = 0; i < f->count; i++)
        fleet_agent_unref(f->agents[i]);
    for (int m = 0; m < f->model_count; m++)
        free(f->models[m].first);
    free(f->agents);
    free(f->models);
    free(f->by_column);
    free(f->slots);
    free(f);
}

const struct fleet_model *fleet_find_model(const struct fleet *f, struct str name)
{
    int low = 0, high = f->model_count;
    while (low < high) {
        int middle = low + (high - low) / 2;
        const struct fleet_model *m = &f->models[middle];
        size_t common = m->name.len < name.len ? m->name.len : name.len;
        int order = common ? memcmp(m->name.data, name.data, common) : 0;
        if (order == 0) order = (m->name.len > name.len) - (m->name.len < name.len);
        if (order == 0) return m;
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return NULL;
}

int fleet_find_column(const struct fleet *f, int column)
{
    return column >= 0 && column < FLEET_AGENTS_MAX ? f->by_column[column] - 1 : -1;
}

int fleet_find_cell(const struct fleet *f, const struct fleet_cell *cell)
{
    int at = fleet_find_column(f, cell->column);
    if (at >= 0 && f->agents[at]->cell == cell) return at;
    if (cell->column >= 0) return -1; // another one has the column now
    for (int i = 0; i < f->count; i++) {
        if (f->agents[i]->cell == cell) return i;
    }
    return -1;
}

bool fleet_model_has(const struct fleet_model *m, int agent)
{
    int low = 0, high = m->count;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (m->agents[middle] == agent) return true;
        if (m->agents[middle] < agent) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return false;
}

bool fleet_is_empty(const struct fleet *f)
{
    return f->count == 0;
}

void fleet_check(const struct fleet *f)
{
    CHECK(atomic_load(&f->refs) > 0);
    for (int i = 0; i < f->count; i++) {
        CHECK(atomic_load(&f->agents[i]->refs) > 0 && atomic_load(&f->agents[i]->cell->refs) > 0);
        CHECK(i == 0 || strcmp(f->agents[i - 1]->id, f->agents[i]->id) < 0);
        CHECK(atomic_load(&f->agents[i]->cell->in_flight) >= 0);
    }
    for (int m = 0; m < f->model_count; m++) {
        const struct fleet_model *model = &f->models[m];
        CHECK(m == 0 || strcmp(f->models[m - 1].name.data, model->name.data) < 0);
        CHECK(model->count > 0);
        for (int i = 0; i < model->count; i++) {
            CHECK(model->agents[i] < f->count);
            CHECK(i == 0 || model->agents[i - 1] < model->agents[i]);
        }
    }
}
