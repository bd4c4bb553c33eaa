/* cpu_comm.h - where the ranks of a model meet: shared memory between their threads.
 *
 * There is one operation. Every rank comes with an offer, memory of its own that others may read,
 * and goes on when all have come, with everybody's offers. What an offer points to must stay as it is
 * until its rank has come to the next meeting: then all others have read it. */
#ifndef LM_KERNELS_CPU_COMM_H
#define LM_KERNELS_CPU_COMM_H

#include "kernels/backend.h"

/* Columns [first, first + count) of some rows, `stride` floats apart. */
struct cpu_offer {
    const float *rows; // the first row's first column of those
    size_t stride;
    int first, count;
};

#define CPU_COMM_WORLD_MAX 64

/* E_LIMIT: more ranks than CPU_COMM_WORLD_MAX. */
FALLIBLE int cpu_comm_create(const struct backend_options *options, struct comm_group **out,
                             struct error *err);
void cpu_comm_destroy(struct comm_group *g); // NULL is fine
/* Any thread: all meetings fail from now on. Only the first `why` counts. */
void cpu_comm_abort(struct comm_group *g, const char *why);

/* Rank `rank`'s thread. offers[world], valid until this rank comes to the next meeting. NULL: the
 * group has failed, also because a rank didn't come in time; then nobody's memory may be counted on. */
const struct cpu_offer *cpu_comm_meet(struct comm_group *g, int rank,
                                      const struct cpu_offer *offer);

/* 0, or E_DEVICE with why the group has failed. Any thread. */
FALLIBLE int cpu_comm_check(struct comm_group *g, struct error *err);

#endif
