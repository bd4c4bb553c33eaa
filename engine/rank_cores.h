/* rank_cores.h - which cores the compute threads of each rank get. */
#ifndef LM_ENGINE_RANK_CORES_H
#define LM_ENGINE_RANK_CORES_H

#include <stdbool.h>

#include "shared/base/error.h"

#define RANK_CORES_MAX 1024 // of all ranks

struct rank_cores_request {
    int world;
    int threads;          // of all ranks together; 0: one for each core
    const char *cpu_list; // "0-3,8"; NULL: all that this process may use
    /* For tests: what stands before "/sys", and the cores that this process may use. */
    const char *root;   // NULL: ""
    const int *allowed; // [allowed_count]; NULL: ask the system
    int allowed_count;
};

struct rank_cores {
    int threads;                       // 0: as many as cores
    char cpu_list[5 * RANK_CORES_MAX]; // to pin them to; "": they aren't pinned
};

/* One rank gets what was asked for. More ranks share the list in its order, or, without a list, the
 * machine: where it has several NUMA nodes and ranks divide by them, every rank is pinned to its part of
 * one node, for memory is near the thread that first touches it; elsewhere threads are divided and
 * stay free. E_INVALID: no such list, or one with fewer cores than ranks. */
FALLIBLE int rank_cores_divide(const struct rank_cores_request *request,
                               struct rank_cores *out /* [world] */, struct error *err);
/* Whether the threads that were divided so leave no core that this process may use. */
bool rank_cores_take_all(const struct rank_cores_request *request,
                         const struct rank_cores *cores /* [world] */);

#endif
