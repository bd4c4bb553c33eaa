/* rank_runner.h - a model on one backend, cut over ranks as the executor does it, for comparing logits: no
 * scheduler, no sampler. World 1 is the whole model, uncut. */
#ifndef LM_TESTS_RANK_RUNNER_H
#define LM_TESTS_RANK_RUNNER_H

#include "engine/decoder.h"
#include "engine/tp_group.h"
#include "engine/tp_shard.h"
#include "engine/tp_sources.h"
#include "shared/base/arena.h"
#include "shared/base/check.h"
#include "tests/test.h"

#define RANK_RUNNER_MAX 8

struct rank_runner {
    const struct backend_ops *ops;
    const struct model_params *whole;
    struct step_limits limits;
    enum compute_type compute;
    enum kv_type kv_type;
    int world, pages;
    struct rank_share share[RANK_RUNNER_MAX];
    struct backend *backend[RANK_RUNNER_MAX];
    struct comm_group *comm;
    struct tp_group *threads;
    struct tp_sources *sources;
};

/* A step, or one of the ends: all of a backend's calls are its rank's. */
struct rank_runner_work {
    struct tp_work work;
    const struct step *step;
    void (*end)(struct rank_runner *r, int rank);
};

static inline void rank_runner_open_rank(struct rank_runner *r, int rank)
{
    struct backend_options options = {.threads = 1 + rank % 2,
                                      .compute = r->compute,
                                      .rank = rank,
                                      .world = r->world,
                                      .group = r->comm,
                                      .peer_timeout_ms = 600000}; // emulated devices are slow
    struct model_params params = *r->whole;
    struct arena arena;
    struct error err = {0};
    arena_init(&arena);
    if (r->world > 1) {
        tp_shard_params(r->whole, r->ops->split, rank, &r->share[rank], &arena, &params);
        params.on_source_done = tp_sources_done;
        params.on_source_done_arg = r->sources;
    }
    if (r->ops->open(&options, &r->backend[rank], &err) < 0 ||
        r->ops->load(r->backend[rank], &params, &r->limits, &err) < 0 ||
        r->ops->kv_open(r->backend[rank], r->kv_type, r->pages, &err) < 0) {
        printf("rank %d of %d: %s\n", rank, r->world, err.text);
        NEED(0);
    }
    arena_deinit(&arena);
}

static inline void rank_runner_run(struct tp_work *work, int rank, void *arg)
{
    struct rank_runner *r = arg;
    const struct rank_runner_work *w = (const struct rank_runner_work *)work;
    struct error err = {0};
    if (w->end) {
        w->end(r, rank);
        return;
    }
    decoder_forward(r->ops, r->backend[rank], r->whole->layers, w->step);
    if (r->ops->sync(r->backend[rank], &err) == 0) return;
    printf("rank %d of %d: %s\n", rank, r->world, err.text);
    NEED(0);
}

static inline void rank_runner_close_rank(struct rank_runner *r, int rank)
{
    r->ops->close(r->backend[rank]);
}

static inline void rank_runner_post(struct rank_runner *r, const struct step *step,
                                    void (*end)(struct rank_runner *r, int rank))
{
    struct rank_runner_work work = {.work.run = rank_runner_run, .step = step, .end = end};
    tp_group_post(r->threads, &work.work);
    tp_group_wait(r->threads, &work.work);
}

/* The caller has set ops, whole, limits, compute, kv_type, world and pages. False: this model can't be cut
 * so, *err says why. */
static inline bool rank_runner_open(struct rank_runner *r, struct error *err)
{
    struct backend_options options = {.world = r->world};
    CHECK(r->world <= RANK_RUNNER_MAX);
    if (r->world > 1 && tp_shard_plan(r->whole, r->ops->split, r->world, r->share, err) < 0)
        return false;
    NEED(r->world == 1 || r->ops->group_create(&options, &r->comm, err) == 0);
    r->sources = tp_sources_create(r->whole, r->world);
    NEED(tp_group_start(r->world, r, &r->threads, err) == 0);
    rank_runner_post(r, NULL, rank_runner_open_rank);
    return true;
}

/* [rows][vocab], valid until the next step. */
static inline const float *rank_runner_step(struct rank_runner *r, const struct step *step)
{
    rank_runner_post(r, step, NULL);
    return r->ops->logits_host(r->backend[0]);
}

static inline void rank_runner_close(struct rank_runner *r)
{
    rank_runner_post(r, NULL, rank_runner_close_rank);
    tp_group_stop(r->threads);
    r->ops->group_destroy(r->comm);
    tp_sources_destroy(r->sources);
}

#endif
