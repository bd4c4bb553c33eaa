/* cpu_pool.h - a fixed team of threads that runs one function at a time, together with its caller.
 *
 * A run is cut into parts, and parts are taken, not assigned: a thread that is asleep or was
 * preempted between parts holds nothing up, the others do its share. Only one thread (the rank
 * thread) calls run, and it works too. Idle threads spin at most 50 us for the next run and then
 * sleep, so an idle process uses no CPU. */
#ifndef LM_KERNELS_CPU_POOL_H
#define LM_KERNELS_CPU_POOL_H

#include "shared/base/error.h"

#define CPU_POOL_THREADS_MAX 256

struct cpu_pool; // opaque

/* threads 0: as many as this process may use cores (or as cpu_list names). cpu_list "0-3,8" pins
 * thread i to the i-th core of the list (the caller on its first run), NULL doesn't pin. E_INVALID:
 * bad list; E_LIMIT: more than CPU_POOL_THREADS_MAX. */
FALLIBLE int cpu_pool_create(int threads, const char *cpu_list, struct cpu_pool **out,
                             struct error *err);
void cpu_pool_destroy(struct cpu_pool *p); // joins; NULL is fine

int cpu_pool_threads(const struct cpu_pool *p);

#define CPU_POOL_PARTS_MAX 4096

/* fn(arg, part, parts) once for each part 0 .. parts - 1, on any thread; returns when all are done.
 * What the parts wrote is visible to the caller. cpu_pool_run: as many parts as threads. */
void cpu_pool_run_parts(struct cpu_pool *p, int parts, void (*fn)(void *arg, int part, int parts),
                        void *arg);
void cpu_pool_run(struct cpu_pool *p, void (*fn)(void *arg, int part, int parts), void *arg);

/* Inside a run: the next of the items 0, 1, 2, ..., each given out once over all parts. */
int cpu_pool_next(struct cpu_pool *p);

/* The contiguous share of `count` items that belongs to a part: [*first, *last). */
void cpu_pool_share(int count, int part, int parts, int *first, int *last);

#endif
