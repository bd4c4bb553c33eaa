#include "kernels/cpu/cpu_gather.h"

#include "kernels/cpu/cpu_comm.h"
#include "kernels/cpu/cpu_state.h"

#include <string.h>

#define POOL_FLOATS (1 << 16) // fewer are copied before other threads would have noticed

static const struct step nothing; // the step of a rank whose group has failed

void cpu_gather_begin(struct backend *b)
{
    if (b->group && cpu_comm_check(b->group, NULL) < 0) b->step = &nothing;
}

static const struct cpu_offer *meet(struct backend *b, const struct cpu_offer *own)
{
    const struct cpu_offer *offers = cpu_comm_meet(b->group, b->rank, own);
    if (!offers) b->step = &nothing;
    return offers;
}

struct copy_job {
    struct backend *b;
    const struct cpu_offer *offers; // [world]
    float *rows;
    size_t stride;
    int count;
    int skip; // a rank: its columns are there already; -1: none
};

static void copy_columns(const struct copy_job *job, int row)
{
    float *to = job->rows + (size_t)row * job->stride;
    for (int r = 0; r < job->b->world; r++) {
        const struct cpu_offer *o = &job->offers[r];
        if (r == job->skip) continue;
        memcpy(to + o->first, o->rows + (size_t)row * o->stride, (size_t)o->count * sizeof *to);
    }
}

static void run_copy(void *arg, int part, int parts)
{
    const struct copy_job *job = arg;
    int first, last;
    cpu_pool_share(job->count, part, parts, &first, &last);
    for (int row = first; row < last; row++)
        copy_columns(job, row);
}

static void copy(struct copy_job *job)
{
    if ((size_t)job->count * job->stride < POOL_FLOATS)
        run_copy(job, 0, 1);
    else
        cpu_pool_run(job->b->pool, run_copy, job);
}

void cpu_gather_columns(struct backend *b, float *rows, int count, const struct rank_range *range,
                        int width)
{
    if (b->world == 1) return;
    size_t stride = (size_t)range->whole * (size_t)width;
    int first = range->first * width;
    struct cpu_offer own = {rows + first, stride, first, range->count * width};
    struct copy_job job = {.b = b,
                           .offers = meet(b, &own),
                           .rows = rows,
                           .stride = stride,
                           .count = count,
                           .skip = b->rank};
    if (job.offers) copy(&job);
}

static void gather_spanned(struct backend *b, const struct cpu_spanned *s,
                           const struct rank_range *heads)
{
    int dim = b->model.head_dim;
    size_t each = (size_t)(heads->count * dim);
    struct cpu_offer own = {s->own, each, heads->first * dim, heads->count * dim};
    struct copy_job job = {.b = b,
                           .offers = meet(b, &own),
                           .rows = s->all,
                           .stride = (size_t)(heads->whole * dim),
                           .count = b->step->tokens,
                           .skip = -1};
    if (job.offers) copy(&job);
}

void cpu_gather_spanned(struct backend *b)
{
    gather_spanned(b, &b->q_spanned, &b->share.heads);
    gather_spanned(b, &b->k_spanned, &b->share.kv_heads);
}

void cpu_gather_embedded(struct backend *b)
{
    if (b->world == 1) return;
    size_t hidden = (size_t)b->model.hidden;
    struct cpu_offer own = {b->x, hidden, b->share.vocab.first, b->share.vocab.count};
    const struct cpu_offer *offers = meet(b, &own);
    for (int t = 0; offers && t < b->step->tokens; t++) {
        int id = b->step->ids[t], r = 0;
        while (id - offers[r].first >= offers[r].count)
            r++;
        if (r == b->rank) continue;
        memcpy(b->x + (size_t)t * hidden, offers[r].rows + (size_t)t * hidden,
               hidden * sizeof *b->x);
    }
}

void cpu_gather_logits(struct backend *b)
{
    if (b->world == 1) return;
    struct cpu_offer own = {b->logits + (b->rank == 0 ? b->share.vocab.first : 0), b->logits_stride,
                            b->share.vocab.first, b->share.vocab.count};
    struct copy_job job = {.b = b,
                           .offers = meet(b, &own),
                           .rows = b->logits,
                           .stride = b->logits_stride,
                           .count = b->step->rows};
    if (job.offers && b->rank == 0) copy(&job);
}
