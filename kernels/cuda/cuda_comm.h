/* cuda_comm.h - where the ranks of a model meet: NCCL, found at run time, since one GPU needs none.
 *
 * A group is made before the ranks, each rank joins from its own thread when it opens. Operations are
 * enqueued on the rank's stream. A rank that doesn't come would leave the others waiting on their
 * devices for ever, so cuda_comm_wait looks at the clock: behind the time limit, or when the group was
 * aborted, communicators are torn down and every rank's wait fails with the first reason.
 *
 * NCCL sums in an order of its own that depends on the number of ranks and the size, not on who else is in
 * a step's rows only: backend.h rule 3 holds for own sums, not for those across ranks. */
#ifndef LM_KERNELS_CUDA_COMM_H
#define LM_KERNELS_CUDA_COMM_H

#include "kernels/backend.h"
#include "kernels/cuda/cuda_device.cuh"

#define CUDA_COMM_WORLD_MAX 8

/* The slots group_create, group_destroy, group_abort of kernels/backend.h. */
FALLIBLE int cuda_comm_create(const struct backend_options *options, struct comm_group **out,
                              struct error *err);
void cuda_comm_destroy(struct comm_group *g);
void cuda_comm_abort(struct comm_group *g, const char *why);

/* A rank's end of it; zeroed with one rank, and then everything below does nothing. */
struct cuda_comm {
    struct comm_group *group;
    int rank, world, timeout_ms;
};

/* Waits for all ranks. The rank's device is set. */
FALLIBLE int cuda_comm_join(struct cuda_comm *c, const struct backend_options *options,
                            struct error *err);
void cuda_comm_leave(struct cuda_comm *c);

/* x[i] = sum over ranks, on every rank. What fails is told by the next wait. */
void cuda_comm_sum(const struct cuda_comm *c, float *x, size_t count, cudaStream_t stream);

/* Until the stream is idle. E_DEVICE: the group failed; err has why. *rc: the stream's own error. */
FALLIBLE int cuda_comm_wait(const struct cuda_comm *c, cudaStream_t stream, cudaError_t *rc,
                            struct error *err);

#endif
