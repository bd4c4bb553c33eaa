/* launcher_cores.h - the cores that a process may use, in an order that can be cut into shares: those
 * of a NUMA node stand together, and in there the threads of a core. */
#ifndef LM_AGENT_LAUNCHER_CORES_H
#define LM_AGENT_LAUNCHER_CORES_H

#include <stddef.h>

#define LAUNCHER_CORES_MAX 1024

struct core_place {
    int cpu;
    int node; // NUMA; 0 where it isn't known
    int core; // the first hardware thread of its core
};

void launcher_cores_sort(struct core_place *places, size_t count);
/* Of the calling thread, from sched_getaffinity and /sys; returns how many. */
size_t launcher_cores_read(int cores[LAUNCHER_CORES_MAX]);

#endif
