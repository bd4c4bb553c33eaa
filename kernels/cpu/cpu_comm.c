/* cpu_comm.c - a barrier at which offers are laid out.
 *
 *     rank:  offer[turn % 2][rank] = mine; seen = epoch; arrived++ ──► wait until epoch moves
 *     last:  arrived = 0; epoch += 2; wake all
 *     abort: reason; epoch |= 1; wake all
 *
 * Rules
 *  1. Offers have two places in turn: a rank that is already at the next meeting writes the other
 *     one, and can't be two meetings ahead.
 *  2. The epoch's lowest bit says that the group has failed. It changes the word that others sleep
 *     on, so no wake-up is lost, and it never goes away.
 *  3. A wait is cut into slices that are counted, not measured: a process that was stopped for
 *     minutes has lost one slice.
 *  4. A rank whose wait is over aborts the group and names those that it missed. */
#include "kernels/cpu/cpu_comm.h"

#include "kernels/cpu/cpu_futex.h"
#include "shared/base/check.h"

#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TIMEOUT_MS 30000
#define SLICE_MS   100
#define CACHE_LINE 64

struct comm_group {
    int world, timeout_ms;
    struct cpu_offer offer[2][CPU_COMM_WORLD_MAX];
    pthread_mutex_t lock; // guards why
    char why[160];        // "": nothing has failed
    _Alignas(CACHE_LINE) _Atomic uint32_t arrived;
    _Alignas(CACHE_LINE) _Atomic uint32_t epoch;
    struct {
        _Alignas(CACHE_LINE) _Atomic uint32_t meetings; // that the rank has come to
    } rank[CPU_COMM_WORLD_MAX];
};

int cpu_comm_create(const struct backend_options *options, struct comm_group **out,
                    struct error *err)
{
    if (options->world < 1 || options->world > CPU_COMM_WORLD_MAX)
        return error_set(err, E_LIMIT, "%d ranks; the cpu backend takes 1 to %d", options->world,
                         CPU_COMM_WORLD_MAX);
    struct comm_group *g = xaligned(sizeof *g);
    g->world = options->world;
    g->timeout_ms = options->peer_timeout_ms > 0 ? options->peer_timeout_ms : TIMEOUT_MS;
    pthread_mutex_init(&g->lock, NULL);
    *out = g;
    return 0;
}

void cpu_comm_destroy(struct comm_group *g)
{
    if (!g) return;
    pthread_mutex_destroy(&g->lock);
    free(g);
}

void cpu_comm_abort(struct comm_group *g, const char *why)
{
    pthread_mutex_lock(&g->lock);
    if (!g->why[0]) snprintf(g->why, sizeof g->why, "%s", why);
    pthread_mutex_unlock(&g->lock);
    atomic_fetch_or(&g->epoch, 1);
    cpu_futex_wake(&g->epoch, INT_MAX);
}

int cpu_comm_check(struct comm_group *g, struct error *err)
{
    if (!(atomic_load(&g->epoch) & 1)) return 0;
    pthread_mutex_lock(&g->lock);
    int rc = error_set(err, E_DEVICE, "%s", g->why);
    pthread_mutex_unlock(&g->lock);
    return rc;
}

/* Rule 4. */
static void miss_ranks(struct comm_group *g, uint32_t meeting)
{
    char why[sizeof g->why];
    int at = 0, room = (int)sizeof why;
    for (int r = 0; r < g->world && at < room; r++)
        if (atomic_load(&g->rank[r].meetings) != meeting)
            at += snprintf(why + at, (size_t)(room - at), "%s %d", at ? "," : "rank", r);
    if (at == 0) return; // it came just now
    if (at < room)
        snprintf(why + at, (size_t)(room - at), " did not answer the other ranks for %g s",
                 g->timeout_ms / 1000.0);
    cpu_comm_abort(g, why);
}

/* True: all have come. */
static bool wait_for_all(struct comm_group *g, uint32_t seen, uint32_t meeting)
{
    int slice_ms = g->timeout_ms < SLICE_MS ? g->timeout_ms : SLICE_MS, waited_ms = 0;
    struct timespec slice = {.tv_nsec = slice_ms * 1000000L};
    if (!cpu_spin_while(&g->epoch, seen)) {
        while (atomic_load(&g->epoch) == seen) {
            if (!cpu_futex_wait(&g->epoch, seen, &slice)) continue;
            waited_ms += slice_ms;
            if (waited_ms >= g->timeout_ms) miss_ranks(g, meeting);
        }
    }
    return !(atomic_load(&g->epoch) & 1);
}

const struct cpu_offer *cpu_comm_meet(struct comm_group *g, int rank, const struct cpu_offer *offer)
{
    uint32_t meeting = atomic_load_explicit(&g->rank[rank].meetings, memory_order_relaxed) + 1;
    struct cpu_offer *offers = g->offer[meeting % 2];
    uint32_t seen = atomic_load(&g->epoch);
    if (seen & 1) return NULL;
    offers[rank] = *offer;
    atomic_store(&g->rank[rank].meetings, meeting);
    if (atomic_fetch_add(&g->arrived, 1) == (uint32_t)g->world - 1) {
        atomic_store(&g->arrived, 0);
        seen = atomic_fetch_add(&g->epoch, 2);
        cpu_futex_wake(&g->epoch, INT_MAX);
        return seen & 1 ? NULL : offers;
    }
    return wait_for_all(g, seen, meeting) ? offers : NULL;
}
