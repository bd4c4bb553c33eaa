/* tp_group.c - rank threads over a small ring of work pointers.
 *
 *     post:  ring[posted % QUEUE] = work; posted++
 *     rank:  wait until posted > mine; run ring[mine % QUEUE]; mine++; the last one reports
 *
 * Rules
 *  1. A slot is written again only after its work is done by all ranks, which the poster guarantees
 *     by having at most TP_GROUP_QUEUE works open.
 *  2. Ranks spin briefly before they sleep: between two steps the engine thread needs some ten
 *     microseconds, less than falling asleep and waking up costs.
 *  3. There is no lock: a rank may stop for ever anywhere, and the others must get past it.
 *  4. Who posts and who abandons each write first and look then (both sequentially consistent), so a
 *     work that is posted meanwhile ends by one of them. */
#include "engine/tp_group.h"

#include "engine/wake.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"

#include <pthread.h>
#include <sched.h>
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
    struct tp_work *_Atomic ring[TP_GROUP_QUEUE];
    atomic_uint posted;
    atomic_bool stopping, abandoned;
    atomic_int failing;       // ranks in tp_group_fail
    struct wake work_changed; // posted, stopping, abandoned
    struct wake done_changed; // a work is done
    void (*_Atomic on_done)(void *arg);
    void *on_done_arg;    // written while on_done is NULL and nobody is reporting
    atomic_int reporting; // ranks that are about to call on_done
    struct rank_thread *ranks;
};

static bool has_work(struct tp_group *g, unsigned mine)
{
    return atomic_load_explicit(&g->posted, memory_order_acquire) != mine;
}

/* False: stopping, and nothing is left to do, or abandoned. */
static bool wait_for_work(struct tp_group *g, unsigned mine)
{
    uint64_t deadline = clock_ns() + SPIN_NS;
    while (!has_work(g, mine) && clock_ns() < deadline)
        for (int i = 0; i < 32 && !has_work(g, mine); i++)
#if defined(__x86_64__)
            __builtin_ia32_pause();
#else
            atomic_signal_fence(memory_order_seq_cst);
#endif
    for (;;) {
        unsigned ticket = wake_ticket(&g->work_changed);
        if (g->abandoned) return false;
        if (has_work(g, mine)) return true;
        if (g->stopping) return false;
        wake_wait(&g->work_changed, ticket);
    }
}

static void report_done(struct tp_group *g)
{
    wake_signal(&g->done_changed);
    atomic_fetch_add(&g->reporting, 1);
    void (*on_done)(void *arg) = atomic_load(&g->on_done);
    if (on_done) on_done(g->on_done_arg);
    atomic_fetch_sub(&g->reporting, 1);
}

static void finish(struct tp_group *g, struct tp_work *work)
{
    /* Of an abandoned work it is 0 already. From here on the work may be gone: its owner may have seen that it
     * is done. */
    if (atomic_fetch_sub(&work->ranks_left, 1) == 1) report_done(g);
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
    if (atomic_exchange(&g->abandoned, true)) return;
    unsigned posted = atomic_load(&g->posted);
    for (unsigned i = g->ranks[rank].mine; i != posted; i++)
        atomic_store(&g->ring[i % TP_GROUP_QUEUE]->ranks_left, 0);
    for (int i = 0; i < g->world; i++)
        pthread_detach(g->ranks[i].thread); // nobody joins them
    wake_signal(&g->work_changed);
    report_done(g);
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
    atomic_store(&g->on_done, NULL);
    while (atomic_load(&g->reporting) > 0)
        sched_yield();
    g->on_done_arg = arg;
    atomic_store(&g->on_done, on_done);
}

void tp_group_stop(struct tp_group *g)
{
    if (!g || g->abandoned) return;
    g->stopping = true;
    wake_signal(&g->work_changed);
    for (int i = 0; i < g->world; i++)
        pthread_join(g->ranks[i].thread, NULL);
    free(g->ranks);
    free(g);
}

struct tp_work *tp_group_next(struct tp_group *g, int rank)
{
    unsigned next = g->ranks[rank].mine + 1;
    return has_work(g, next) ? g->ring[next % TP_GROUP_QUEUE] : NULL;
}

void tp_group_post(struct tp_group *g, struct tp_work *work)
{
    CHECK(work->run);
    unsigned at = atomic_load_explicit(&g->posted, memory_order_relaxed);
    atomic_store(&work->ranks_left, g->world);
    atomic_store(&g->ring[at % TP_GROUP_QUEUE], work);
    atomic_store(&g->posted, at + 1);
    wake_signal(&g->work_changed);
    if (!g->abandoned) return;
    atomic_store(&work->ranks_left, 0); // rule 4
}

bool tp_work_is_done(const struct tp_work *work)
{
    return atomic_load_explicit(&work->ranks_left, memory_order_acquire) <= 0;
}

void tp_group_wait(struct tp_group *g, struct tp_work *work)
{
    for (;;) {
        unsigned ticket = wake_ticket(&g->done_changed);
        if (tp_work_is_done(work)) return;
        wake_wait(&g->done_changed, ticket);
    }
}
