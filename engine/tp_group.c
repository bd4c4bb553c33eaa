/* tp_group.c - rank threads over a small ring of work pointers.
 *
 *     post:  ring[posted % QUEUE] = work; posted++
 *     rank:  wait until posted > mine; run ring[mine % QUEUE]; mine++; the last one reports
 *
 * A slot is written again only after its work is done by all ranks, which the poster guarantees by
 * having at most TP_GROUP_QUEUE works open. Ranks spin briefly before they sleep: between two steps
 * the engine thread needs some ten microseconds, less than falling asleep and waking up costs. */
#include "engine/tp_group.h"

#include "shared/base/check.h"
#include "shared/base/clock.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SPIN_NS 30000
#define POLL_MS 5 // for ranks that are late

struct rank_thread {
    struct tp_group *group;
    int rank;
    unsigned mine; // the work that it runs
    pthread_t thread;
};

struct tp_group {
    int world;
    void *arg; // for run()
    struct tp_work *ring[TP_GROUP_QUEUE];
    atomic_uint posted;
    atomic_bool stopping, abandoned;
    atomic_int failing; // ranks in tp_group_fail
    pthread_mutex_t lock;
    pthread_cond_t changed;     // posted, stopping, or a work is done
    void (*on_done)(void *arg); // called and changed under the lock
    void *on_done_arg;
    struct rank_thread *ranks;
};

static bool has_work(struct tp_group *g, unsigned mine)
{
    return atomic_load_explicit(&g->posted, memory_order_acquire) != mine;
}

/* False: stopping, and nothing is left to do, or abandoned. */
static bool wait_for_work(struct tp_group *g, unsigned mine)
{
    if (g->abandoned) return false;
    uint64_t deadline = clock_ns() + SPIN_NS;
    while (!has_work(g, mine) && clock_ns() < deadline)
        for (int i = 0; i < 32 && !has_work(g, mine); i++)
#if defined(__x86_64__)
            __builtin_ia32_pause();
#else
            atomic_signal_fence(memory_order_seq_cst);
#endif
    if (has_work(g, mine)) return true;
    pthread_mutex_lock(&g->lock);
    while (!has_work(g, mine) && !g->stopping && !g->abandoned)
        pthread_cond_wait(&g->changed, &g->lock);
    pthread_mutex_unlock(&g->lock);
    return has_work(g, mine) && !g->abandoned;
}

static void finish(struct tp_group *g, struct tp_work *work)
{
    /* Of an abandoned work it is 0 already. */
    if (atomic_fetch_sub_explicit(&work->ranks_left, 1, memory_order_acq_rel) != 1) return;
    /* From here on `work` may be gone: its owner may have seen that it is done. */
    pthread_mutex_lock(&g->lock);
    pthread_cond_broadcast(&g->changed);
    if (g->on_done) g->on_done(g->on_done_arg);
    pthread_mutex_unlock(&g->lock);
}

static void *rank_main(void *arg)
{
    struct rank_thread *t = arg;
    struct tp_group *g = t->group;
    char name[16];
    snprintf(name, sizeof name, "lm-rank-%d", t->rank);
    pthread_setname_np(pthread_self(), name);
    for (; wait_for_work(g, t->mine); t->mine++) {
        struct tp_work *work = g->ring[t->mine % TP_GROUP_QUEUE];
        work->run(work, t->rank, g->arg);
        finish(g, work);
    }
    return NULL;
}

/* What this rank has not finished can't be gone: it is in the ring still. */
static void abandon(struct tp_group *g, int rank)
{
    pthread_mutex_lock(&g->lock);
    bool first = !g->abandoned;
    g->abandoned = true;
    for (unsigned i = g->ranks[rank].mine; first && i != g->posted; i++)
        atomic_store(&g->ring[i % TP_GROUP_QUEUE]->ranks_left, 0);
    for (int i = 0; first && i < g->world; i++)
        pthread_detach(g->ranks[i].thread); // nobody joins them
    pthread_cond_broadcast(&g->changed);
    if (first && g->on_done) g->on_done(g->on_done_arg);
    pthread_mutex_unlock(&g->lock);
}

void tp_group_fail(struct tp_group *g, struct tp_work *work, int rank, int wait_ms)
{
    atomic_fetch_add(&g->failing, 1);
    for (int waited_ms = 0; atomic_load(&work->ranks_left) > atomic_load(&g->failing);
         waited_ms += POLL_MS) {
        if (waited_ms >= wait_ms) {
            abandon(g, rank);
            break;
        }
        nanosleep(&(struct timespec){.tv_nsec = POLL_MS * 1000000L}, NULL);
    }
    atomic_fetch_sub(&g->failing, 1);
}

bool tp_group_is_abandoned(const struct tp_group *g)
{
    return g->abandoned;
}

int tp_group_start(int world, void *arg, struct tp_group **out, struct error *err)
{
    CHECK(world >= 1);
    struct tp_group *g = xcalloc(1, sizeof *g);
    g->arg = arg;
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->changed, NULL);
    g->ranks = xcalloc((size_t)world, sizeof *g->ranks);
    for (g->world = 0; g->world < world; g->world++) {
        struct rank_thread *t = &g->ranks[g->world];
        *t = (struct rank_thread){.group = g, .rank = g->world};
        int rc = pthread_create(&t->thread, NULL, rank_main, t);
        if (rc == 0) continue;
        tp_group_stop(g);
        return error_set(err, -rc, "can't start a rank thread: %s", strerror(rc));
    }
    *out = g;
    return 0;
}

void tp_group_set_on_done(struct tp_group *g, void (*on_done)(void *arg), void *arg)
{
    pthread_mutex_lock(&g->lock);
    g->on_done = on_done;
    g->on_done_arg = arg;
    pthread_mutex_unlock(&g->lock);
}

void tp_group_stop(struct tp_group *g)
{
    if (!g || g->abandoned) return;
    pthread_mutex_lock(&g->lock);
    g->stopping = true;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
    for (int i = 0; i < g->world; i++)
        pthread_join(g->ranks[i].thread, NULL);
    pthread_cond_destroy(&g->changed);
    pthread_mutex_destroy(&g->lock);
    free(g->ranks);
    free(g);
}

void tp_group_post(struct tp_group *g, struct tp_work *work)
{
    CHECK(work->run);
    unsigned at = atomic_load_explicit(&g->posted, memory_order_relaxed);
    pthread_mutex_lock(&g->lock);
    atomic_store(&work->ranks_left, g->abandoned ? 0 : g->world);
    if (!g->abandoned) {
        g->ring[at % TP_GROUP_QUEUE] = work;
        atomic_store_explicit(&g->posted, at + 1, memory_order_release);
    }
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

bool tp_work_is_done(const struct tp_work *work)
{
    return atomic_load_explicit(&work->ranks_left, memory_order_acquire) <= 0;
}

void tp_group_wait(struct tp_group *g, struct tp_work *work)
{
    pthread_mutex_lock(&g->lock);
    while (!tp_work_is_done(work))
        pthread_cond_wait(&g->changed, &g->lock);
    pthread_mutex_unlock(&g->lock);
}
