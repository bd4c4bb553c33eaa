/* executor.c - what a rank thread does with a batch:
 *
 *     resolve   ids that the previous batch sampled            (each rank, its own copy, or the backend)
 *     move      pages, as the prefix cache decided            (each rank, its own pages)
 *     forward   decoder_forward, sync
 *     sample    on rank 0: begun behind the forward, ended behind sync (engine/sampling.h)
 *
 * Rules
 *  1. A backend is opened, loaded, used and closed by its rank's thread alone (memory lands near
 *     it).
 *  2. Rank 0 publishes `sampled` when its tokens are written; other ranks wait for that before they
 *     resolve the next batch. Rank 0 itself comes from there.
 *  3. A failed row has token 0, a valid id: a batch planned on top of it runs and is dropped.
 *  4. Where the backend can, the next batch is begun, all but sync, while this one runs: it is ahead. What ranks
 *     are given doesn't depend on whether it was: links are the backend's wherever they might be.
 *  5. A batch that draws late is computed ahead, too, but its draws begin when the one before is taken
 *     (executor_take): penalties and grammars have its tokens then. Who takes it waits for nothing here.
 *  6. A rank that fails makes the others fail: it aborts the group that they meet in. If one of them
 *     doesn't come back from the batch or call then, it is lost: that counts as done and failed, and nothing
 *     that the lost rank can reach is ever freed. */
#include "engine/executor.h"

#include "engine/decoder.h"
#include "engine/sampling.h"
#include "engine/tp_group.h"
#include "engine/tp_shard.h"
#include "engine/tp_sources.h"
#include "engine/wake.h"
#include "shared/base/arena.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LOST_MS  2000     // a rank that isn't done that long after the others failed
#define AHEAD_NS 20000000 // how long a rank looks for the next batch while one runs
#define EAGER_NS 200000   // in which it doesn't sleep

/* A batch as the backend has it, until sync. */
struct rank_step {
    struct step step;
    int32_t *ids; // [tokens_max]; links are resolved, or the backend's
};

struct rank {
    struct backend *backend;
    struct rank_step step[2]; // batches take turns
    int turn;
    struct batch *ahead; // is begun, and comes next; NULL: none
    bool is_drawing;     // what was begun last has its draws, if it has any here
};

/* A call of one function on all ranks, for start-up and shutdown. On the heap: a lost rank may still be in it. */
struct rank_call {
    struct tp_work work;
    int (*function)(struct executor *x, int rank, const struct rank_call *call, struct error *err);
    enum kv_type kv_type;
    int kv_blocks;
    int rc;
    struct error error;
};

struct executor {
    struct executor_setup setup;
    int world, layers;
    struct rank_cores *cores; // [world]; NULL: as the backend says
    struct tp_group *group;
    struct comm_group *comm;    // what the ranks' backends meet in; NULL with one rank
    struct rank_share *share;   // [world], during executor_open; NULL: the model isn't cut
    struct tp_sources *sources; // likewise
    struct rank *ranks;
    pthread_mutex_t lock; // guards the errors of calls and batches
    struct wake sampled;  // rank 0 has written a batch's tokens
    struct wake taken;    // the engine has taken a batch
    struct sampling *sampling;
};

/* ---- ranks that fail ---- */

/* Rule 6. The first error of all is kept in *kept_rc and *kept. */
static void fail_work(struct executor *x, int rank, struct tp_work *work, int rc,
                      const struct error *error, int *kept_rc, struct error *kept)
{
    pthread_mutex_lock(&x->lock);
    if (*kept_rc == 0) {
        *kept_rc = rc;
        *kept = *error;
    }
    pthread_mutex_unlock(&x->lock);
    if (!x->comm) return;
    int timeout_ms = x->setup.backend.peer_timeout_ms;
    x->setup.ops->group_abort(x->comm, error->text);
    tp_group_fail(x->group, work, rank,
                  timeout_ms > 0 && timeout_ms < LOST_MS ? timeout_ms : LOST_MS);
}

/* ---- calls on all ranks ---- */

static void run_call(struct tp_work *work, int rank, void *arg)
{
    struct executor *x = arg;
    struct rank_call *call = (struct rank_call *)work;
    struct error error = {0};
    int rc = call->function(x, rank, call, &error);
    if (rc == 0) return;
    if (x->world > 1) rc = error_prefix(&error, rc, "rank %d", rank);
    fail_work(x, rank, work, rc, &error, &call->rc, &call->error);
}

static int call_ranks(struct executor *x, const struct rank_call *what, struct error *err)
{
    struct rank_call *call = xmemdup(what, sizeof *what);
    call->work.run = run_call;
    tp_group_post(x->group, &call->work);
    tp_group_wait(x->group, &call->work);
    pthread_mutex_lock(&x->lock);
    int rc = call->rc;
    if (rc < 0 && err) *err = call->error;
    pthread_mutex_unlock(&x->lock);
    if (!executor_has_lost_rank(x)) free(call);
    return rc;
}

static int load_rank(struct executor *x, int rank, struct error *err)
{
    const struct backend_ops *ops = x->setup.ops;
    struct backend *backend = x->ranks[rank].backend;
    struct model_params params;
    struct arena arena;
    if (!x->share) return ops->load(backend, x->setup.params, &x->setup.limits, err);
    arena_init(&arena);
    tp_shard_params(x->setup.params, ops->split, rank, &x->share[rank], &arena, &params);
    params.on_source_done = tp_sources_done;
    params.on_source_done_arg = x->sources;
    int rc = ops->load(backend, &params, &x->setup.limits, err);
    arena_deinit(&arena);
    return rc;
}

static int open_rank(struct executor *x, int rank, const struct rank_call *call, struct error *err)
{
    (void)call;
    const struct backend_ops *ops = x->setup.ops;
    struct backend_options options = x->setup.backend;
    options.rank = rank;
    options.world = x->world;
    options.group = x->comm;
    if (x->cores) {
        const struct rank_cores *cores = &x->cores[rank];
        options.threads = cores->threads;
        options.cpu_list = cores->cpu_list[0] ? cores->cpu_list : NULL;
    }
    int rc = ops->open(&options, &x->ranks[rank].backend, err);
    if (rc < 0) return rc;
    for (int i = 0; i < 2; i++)
        x->ranks[rank].step[i].ids = xcalloc((size_t)x->setup.limits.tokens_max, sizeof(int32_t));
    return load_rank(x, rank, err);
}

static int open_kv_rank(struct executor *x, int rank, const struct rank_call *call,
                        struct error *err)
{
    return x->setup.ops->kv_open(x->ranks[rank].backend, call->kv_type, call->kv_blocks, err);
}

/* No rank closes while another may still read what it offered. */
static int finish_rank(struct executor *x, int rank, const struct rank_call *call,
                       struct error *err)
{
    (void)x;
    (void)rank;
    (void)call;
    (void)err;
    return 0;
}

static int close_rank(struct executor *x, int rank, const struct rank_call *call, struct error *err)
{
    (void)call;
    (void)err;
    x->setup.ops->close(x->ranks[rank].backend);
    for (int i = 0; i < 2; i++)
        free(x->ranks[rank].step[i].ids);
    x->ranks[rank] = (struct rank){0};
    return 0;
}

/* ---- batches ---- */

static void wait_sampled(struct executor *x, const struct batch *b)
{
    for (;;) {
        unsigned ticket = wake_ticket(&x->sampled);
        if (b->sampled) return;
        wake_wait(&x->sampled, ticket);
    }
}

/* Rule 4. The same for all ranks, at any time. */
static bool may_be_followed(const struct executor *x, const struct batch *b)
{
    return x->setup.ops->has_ended && b->host_rows == 0;
}

static void resolve_ids(struct executor *x, int rank, const struct batch *b, struct step *step,
                        int32_t *ids)
{
    memcpy(ids, b->ids, (size_t)b->tokens * sizeof *ids);
    if (b->links == 0) return;
    if (may_be_followed(x, b->previous)) {
        step->links = b->links;
        step->link = b->link;
        return;
    }
    if (rank > 0) wait_sampled(x, b->previous);
    for (int i = 0; i < b->links; i++)
        ids[b->link[i].token] = b->previous->row_info[b->link[i].row].token;
}

static void move_pages(struct executor *x, int rank, const struct batch *b)
{
    const struct backend_ops *ops = x->setup.ops;
    struct backend *backend = x->ranks[rank].backend;
    for (int i = 0; i < b->moves.count; i++) {
        const struct kv_move *m = &b->moves.move[i];
        char *host = m->page ? m->page->bytes + (size_t)rank * m->page->rank_bytes : NULL;
        if (m->kind == KV_MOVE_COPY)
            ops->kv_copy(backend, m->from, m->to, m->tokens);
        else if (m->kind == KV_MOVE_SAVE)
            ops->kv_save(backend, m->from, m->tokens, host);
        else
            ops->kv_restore(backend, m->to, m->tokens, host);
    }
}

static void publish_sampled(struct executor *x, struct batch *b)
{
    b->sampled = true;
    wake_signal(&x->sampled);
}

/* Rule 5. */
static void wait_taken(struct executor *x, const struct batch *b)
{
    for (;;) {
        unsigned ticket = wake_ticket(&x->taken);
        if (b->taken) return;
        wake_wait(&x->taken, ticket);
    }
}

void executor_take(struct executor *x, struct batch *b)
{
    b->taken = true;
    wake_signal(&x->taken);
}

static void begin_draws(struct executor *x, int rank, struct batch *b)
{
    struct rank *r = &x->ranks[rank];
    if (r->is_drawing) return;
    if (b->draws_late) wait_taken(x, b->previous);
    sampling_begin(x->sampling, r->backend, b);
    r->is_drawing = true;
}

static void begin_batch(struct executor *x, int rank, struct batch *b, bool is_ahead)
{
    struct rank *r = &x->ranks[rank];
    struct rank_step *s = &r->step[r->turn];
    r->turn = !r->turn;
    s->step = batch_step(b, s->ids);
    s->step.is_ahead = is_ahead;
    s->step.is_sampled = rank == 0 && sampling_is_on_device(x->sampling, b);
    resolve_ids(x, rank, b, &s->step, s->ids);
    move_pages(x, rank, b);
    decoder_forward(x->setup.ops, r->backend, x->layers, &s->step);
    r->is_drawing = !s->step.is_sampled;
    if (!b->draws_late) begin_draws(x, rank, b);
}

static void run_batch(struct tp_work *work, int rank, void *arg);

/* While b runs, the next batch usually comes: the engine has just seen the one before b. */
static void begin_next(struct executor *x, int rank, const struct batch *b)
{
    struct rank *r = &x->ranks[rank];
    if (!may_be_followed(x, b)) return;
    uint64_t begun = clock_ns(), now = begun;
    for (; now - begun < AHEAD_NS && !x->setup.ops->has_ended(r->backend); now = clock_ns()) {
        struct tp_work *next = tp_group_next(x->group, rank);
        if (next && next->run == run_batch) {
            r->ahead = (struct batch *)next;
            if (rank == 0) r->ahead->was_ahead = true;
            begin_batch(x, rank, r->ahead, true);
            return;
        }
        if (now - begun < EAGER_NS)
            sched_yield();
        else
            nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    }
}

static void run_batch(struct tp_work *work, int rank, void *arg)
{
    struct executor *x = arg;
    struct batch *b = (struct batch *)work;
    struct rank *r = &x->ranks[rank];
    const struct backend_ops *ops = x->setup.ops;
    struct backend *backend = r->backend;
    struct error error = {0};
    if (rank == 0) b->begun_ns = clock_ns();
    if (r->ahead != b) begin_batch(x, rank, b, false);
    r->ahead = NULL;
    begin_draws(x, rank, b);
    begin_next(x, rank, b);
    int rc = ops->sync(backend, &error);
    if (rank == 0) {
        if (rc == 0 && b->draws_late) wait_taken(x, b->previous); // the host may draw, too
        if (rc == 0) sampling_end(x->sampling, backend, b);
        b->done_ns = clock_ns();
        publish_sampled(x, b);
    }
    if (rc < 0) fail_work(x, rank, work, rc, &error, &b->status, &b->error);
}

void executor_set_on_done(struct executor *x, void (*on_done)(void *arg), void *arg)
{
    tp_group_set_on_done(x->group, on_done, arg);
}

void executor_submit(struct executor *x, struct batch *b)
{
    b->work.run = run_batch;
    for (int i = 0; i < b->rows; i++) {
        b->row_info[i].token = 0;
        b->row_info[i].status = 0;
    }
    tp_group_post(x->group, &b->work);
}

bool executor_is_done(const struct batch *b)
{
    return tp_work_is_done(&b->work);
}

void executor_wait(struct executor *x, struct batch *b)
{
    tp_group_wait(x->group, &b->work);
}

/* ---- open and close ---- */

/* Several ranks: what each gets of the model, and what they meet in. */
static int cut_model(struct executor *x, struct error *err)
{
    const struct executor_setup *s = &x->setup;
    struct backend_options options = s->backend;
    if (x->world > TP_WORLD_MAX)
        return error_set(err, E_LIMIT, "%d ranks; the limit is %d", x->world, TP_WORLD_MAX);
    if (!s->ops->group_create)
        return error_set(err, E_UNSUPPORTED, "the %s backend runs one rank, not %d", s->ops->name,
                         x->world);
    x->share = xcalloc((size_t)x->world, sizeof *x->share);
    int rc = tp_shard_plan(s->params, s->ops->split, x->world, x->share, err);
    if (rc < 0 || s->backend.measure_only) return rc;
    x->sources = tp_sources_create(s->params, x->world);
    options.world = x->world;
    return s->ops->group_create(&options, &x->comm, err);
}

static void forget_model(struct executor *x)
{
    tp_sources_destroy(x->sources);
    free(x->share);
    x->sources = NULL;
    x->share = NULL;
}

int executor_open(const struct executor_setup *setup, struct executor **out, struct error *err)
{
    struct executor *x = xcalloc(1, sizeof *x);
    x->setup = *setup;
    x->layers = setup->params->layers;
    x->sampling =
        sampling_create(setup->ops, setup->limits.rows_max, setup->vocab, setup->params->vocab);
    x->world = setup->backend.world > 0 ? setup->backend.world : 1;
    x->ranks = xcalloc((size_t)x->world, sizeof *x->ranks);
    if (setup->cores) x->cores = xmemdup(setup->cores, (size_t)x->world * sizeof *x->cores);
    pthread_mutex_init(&x->lock, NULL);
    int rc = x->world > 1 ? cut_model(x, err) : 0;
    if (rc == 0) rc = tp_group_start(x->world, x, &x->group, err);
    if (rc == 0) rc = call_ranks(x, &(struct rank_call){.function = open_rank}, err);
    *out = x;
    if (executor_has_lost_rank(x)) return rc;
    forget_model(x);
    if (rc == 0) return 0;
    *out = NULL;
    executor_close(x);
    return rc;
}

void executor_close(struct executor *x)
{
    if (!x || executor_has_lost_rank(x)) return;
    if (x->group) {
        int rc = call_ranks(x, &(struct rank_call){.function = finish_rank}, NULL);
        if (rc == 0) rc = call_ranks(x, &(struct rank_call){.function = close_rank}, NULL);
        CHECK(rc == 0);
        tp_group_stop(x->group);
    }
    if (x->comm) x->setup.ops->group_destroy(x->comm);
    sampling_destroy(x->sampling);
    pthread_mutex_destroy(&x->lock);
    free(x->ranks);
    free(x->cores);
    free(x);
}

int executor_open_kv(struct executor *x, enum kv_type type, int blocks, struct error *err)
{
    struct rank_call call = {.function = open_kv_rank, .kv_type = type, .kv_blocks = blocks};
    return call_ranks(x, &call, err);
}

bool executor_has_lost_rank(const struct executor *x)
{
    return x->group && tp_group_is_abandoned(x->group);
}

int executor_world(const struct executor *x)
{
    return x->world;
}

size_t executor_kv_block_bytes(const struct executor *x, enum kv_type type, int rank)
{
    return x->setup.ops->kv_block_bytes(x->ranks[rank].backend, type);
}

const char *executor_describe(const struct executor *x)
{
    return x->setup.ops->describe(x->ranks[0].backend);
}

bool executor_memory_free(const struct executor *x, int rank, size_t *bytes)
{
    if (!x->setup.ops->memory_free) return false;
    *bytes = x->setup.ops->memory_free(x->ranks[rank].backend);
    return true;
}

void executor_memory(const struct executor *x, int rank, size_t *weights, size_t *activations)
{
    x->setup.ops->memory(x->ranks[rank].backend, weights, activations);
}
