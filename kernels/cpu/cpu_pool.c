/* cpu_pool.c - hand a function to all threads, wait until its parts are done.
 *
 *   caller:  job, pending = parts; ticket = {run, parts, 0}; epoch++ ──► take parts ──► wait:
 * pending 0 worker:  wait until epoch moves ──► take parts ──► pending--, wake the caller if it
 * sleeps
 *
 * Rules
 *  1. A part is taken by advancing the ticket with one compare-and-swap over {run, parts, next
 *     part}. A worker that comes late finds the ticket used up, or that of a newer run; it can't
 *     take a part of a run that is over.
 *  2. `job` is written only while no part is pending, and read only behind a taken part: the
 *     ticket's release publishes it, the release of `pending` publishes what the parts wrote.
 *  3. Waiting = spin for CPU_SPIN_NS, then say so (a sleeper count or flag) and sleep on the futex. The
 *     announcement and the other side's change are both seq_cst, so either the waker sees the
 *     sleeper or the sleeper sees the change: no wake-up is lost.
 *  4. A waiter that was woken checks its condition again; spurious wake-ups are harmless. */
#include "kernels/cpu/cpu_pool.h"

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu_futex.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/cpu_list.h"

#define CACHE_LINE 64

struct cpu_pool {
    int threads;
    int cores[CPU_POOL_THREADS_MAX]; // by thread; used when pinned
    bool pinned, caller_pinned;
    pthread_t worker[CPU_POOL_THREADS_MAX]; // [0] unused: the caller
    atomic_bool stopping;
    uint32_t run; // counts calls of run
    struct {
        void (*fn)(void *arg, int part, int parts);
        void *arg;
    } job;

    _Alignas(CACHE_LINE) _Atomic uint32_t epoch;
    _Atomic int sleepers;                         // workers that sleep or are about to
    _Alignas(CACHE_LINE) _Atomic uint64_t ticket; // run << 32 | parts << 16 | next part
    _Alignas(CACHE_LINE) _Atomic uint32_t pending;
    _Atomic int caller_sleeps;
    _Alignas(CACHE_LINE) _Atomic int next_item;
};

static void wait_for_epoch(struct cpu_pool *p, uint32_t seen)
{
    if (cpu_spin_while(&p->epoch, seen)) return;
    atomic_fetch_add(&p->sleepers, 1);
    while (atomic_load(&p->epoch) == seen)
        cpu_futex_wait(&p->epoch, seen, NULL);
    atomic_fetch_sub(&p->sleepers, 1);
}

static void pin_thread(pthread_t thread, int core)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    pthread_setaffinity_np(thread, sizeof set, &set); // a hint: failing costs speed only
}

/* Take parts of whatever run is on, until there are none. */
static void take_parts(struct cpu_pool *p)
{
    uint64_t ticket = atomic_load_explicit(&p->ticket, memory_order_acquire);

    for (;;) {
        int parts = (int)(ticket >> 16 & 0xffff), part = (int)(ticket & 0xffff);
        if (part >= parts) return;
        if (!atomic_compare_exchange_weak_explicit(&p->ticket, &ticket, ticket + 1,
                                                   memory_order_acq_rel, memory_order_acquire))
            continue;
        p->job.fn(p->job.arg, part, parts);
        if (atomic_fetch_sub(&p->pending, 1) == 1 && atomic_load(&p->caller_sleeps))
            cpu_futex_wake(&p->pending, 1);
        ticket = atomic_load_explicit(&p->ticket, memory_order_acquire);
    }
}

static void *worker_main(void *arg)
{
    struct cpu_pool *p = arg;
    uint32_t seen = 0;

    for (;;) {
        wait_for_epoch(p, seen);
        seen = atomic_load(&p->epoch);
        if (atomic_load(&p->stopping)) return NULL;
        take_parts(p);
    }
}

static void publish(struct cpu_pool *p)
{
    atomic_fetch_add(&p->epoch, 1);
    if (atomic_load(&p->sleepers) > 0) cpu_futex_wake(&p->epoch, INT_MAX);
}

static void wait_for_parts(struct cpu_pool *p)
{
    uint64_t deadline = 0;
    uint32_t left;

    for (int i = 0; (left = atomic_load_explicit(&p->pending, memory_order_acquire)) != 0; i++) {
        cpu_relax();
        if (i % 16 != 15) continue;
        uint64_t now = clock_ns();
        if (!deadline) deadline = now + CPU_SPIN_NS;
        if (now < deadline) continue;
        atomic_store(&p->caller_sleeps, 1);
        while ((left = atomic_load(&p->pending)) != 0)
            cpu_futex_wait(&p->pending, left, NULL);
        atomic_store(&p->caller_sleeps, 0);
    }
}

void cpu_pool_run_parts(struct cpu_pool *p, int parts, void (*fn)(void *arg, int part, int parts),
                        void *arg)
{
    CHECK(parts > 0 && parts <= CPU_POOL_PARTS_MAX);
    if (p->pinned && !p->caller_pinned) {
        pin_thread(pthread_self(), p->cores[0]);
        p->caller_pinned = true;
    }
    atomic_store_explicit(&p->next_item, 0, memory_order_relaxed);
    if (p->threads == 1) {
        for (int part = 0; part < parts; part++)
            fn(arg, part, parts);
        return;
    }
    p->job.fn = fn;
    p->job.arg = arg;
    atomic_store_explicit(&p->pending, (uint32_t)parts, memory_order_relaxed);
    uint64_t ticket = (uint64_t)++p->run << 32 | (uint64_t)parts << 16;
    atomic_store_explicit(&p->ticket, ticket, memory_order_release);
    publish(p);
    take_parts(p);
    wait_for_parts(p);
}

void cpu_pool_run(struct cpu_pool *p, void (*fn)(void *arg, int part, int parts), void *arg)
{
    cpu_pool_run_parts(p, p->threads, fn, arg);
}

int cpu_pool_next(struct cpu_pool *p)
{
    return atomic_fetch_add_explicit(&p->next_item, 1, memory_order_relaxed);
}

void cpu_pool_share(int count, int part, int parts, int *first, int *last)
{
    *first = (int)((int64_t)count * part / parts);
    *last = (int)((int64_t)count * (part + 1) / parts);
}

int cpu_pool_threads(const struct cpu_pool *p)
{
    return p->threads;
}

/* ---- cores ---- */

static int cores_allowed(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) < 0) return 1;
    int count = CPU_COUNT(&set);
    return count < 1 ? 1 : count > CPU_POOL_THREADS_MAX ? CPU_POOL_THREADS_MAX : count;
}

static int start_workers(struct cpu_pool *p, struct error *err)
{
    sigset_t all, before;
    int wanted = p->threads, rc = 0;

    /* Signals belong to the threads of the program, not to these. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    p->threads = 1;
    for (int i = 1; i < wanted && rc == 0; i++) {
        rc = pthread_create(&p->worker[i], NULL, worker_main, p);
        if (rc != 0) break;
        if (p->pinned) pin_thread(p->worker[i], p->cores[i]);
        p->threads = i + 1;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc == 0 ? 0 : error_set(err, -rc, "can't start compute thread %d", p->threads);
}

int cpu_pool_create(int threads, const char *cpu_list, struct cpu_pool **out, struct error *err)
{
    int cores[CPU_POOL_THREADS_MAX], listed = 0;

    if (cpu_list) {
        listed = cpu_list_parse(cpu_list, cores, CPU_POOL_THREADS_MAX);
        for (int i = 0; i < listed; i++)
            if (cores[i] >= CPU_SETSIZE) listed = E_INVALID;
        if (listed < 0) {
            return error_set(err, E_INVALID, "cpu list '%s' is not like '0-3,8'", cpu_list);
        }
    }
    if (threads < 0) return error_set(err, E_INVALID, "%d threads make no sense", threads);
    if (threads > CPU_POOL_THREADS_MAX) {
        return error_set(err, E_LIMIT, "%d threads; the limit is %d", threads,
                         CPU_POOL_THREADS_MAX);
    }
    if (threads == 0) threads = listed > 0 ? listed : cores_allowed();

    struct cpu_pool *p = xaligned(sizeof *p);
    p->threads = threads;
    p->pinned = listed > 0;
    for (int i = 0; i < threads && listed > 0; i++)
        p->cores[i] = cores[i % listed];
    int rc = start_workers(p, err);
    if (rc < 0) {
        cpu_pool_destroy(p);
        return rc;
    }
    *out = p;
    return 0;
}

void cpu_pool_destroy(struct cpu_pool *p)
{
    if (!p) return;
    atomic_store(&p->stopping, true);
    publish(p);
    for (int i = 1; i < p->threads; i++)
        pthread_join(p->worker[i], NULL);
    free(p);
}
