/* cuda_comm.h - where the ranks of a model meet: NCCL, found at run time, since one GPU needs none, and for small sums
 * the memory of each other (cuda_peer.h).
 *
 * A group is made before the ranks, each rank joins from its own thread when it opens, before it loads
 * anything. Operations are enqueued on the rank's stream.
 *
 * Rules
 *  1. Nobody waits in NCCL: communicators are non-blocking, so a call comes back at once, and what it began
 *     is asked about until it is done, the time limit is over or the group has failed.
 *  2. Only the rank's own thread touches its communicator, also to abort it: NCCL forbids that beside another
 *     call. Who aborts the group sets a flag, which every rank sees at its next question.
 *  3. A rank that doesn't come would leave the others waiting on their devices for ever: behind the time limit
 *     of cuda_comm_wait they abort their communicators, which ends that, and all fail with the first reason.
 *     Who aborts the group ends what polls for peers on all devices, at once.
 *
 * Sums of up to cuda_comm_peer_most() elements are made over peer memory, in the order of ranks. Larger ones, and all
 * where two GPUs don't reach each other or LM_CUDA_PEER=0 is set, are NCCL's, in an order of its own, which depends on
 * the number of ranks and of elements. `deterministic` gathers those instead, and sums in the order of ranks too: then
 * all sums of the same parts have the same bits, and backend.h rule 3 holds across ranks. */
#ifndef LM_KERNELS_CUDA_COMM_H
#define LM_KERNELS_CUDA_COMM_H

#include "kernels/backend.h"
#include "kernels/cuda/cuda_device.cuh"
#include "kernels/cuda/cuda_peer.h"

#define CUDA_COMM_WORLD_MAX CUDA_PEER_WORLD_MAX
#define CUDA_COMM_NCCL_MIN \
    21900 // ncclGetVersion: older ones hang when several ranks of a process abort

/* The slots group_create, group_destroy, group_abort of kernels/backend.h. */
FALLIBLE int cuda_comm_create(const struct backend_options *options, struct comm_group **out,
                              struct error *err);
void cuda_comm_destroy(struct comm_group *g);
void cuda_comm_abort(struct comm_group *g, const char *why);

/* A rank's end of it; zeroed with one rank, and then everything below does nothing. */
struct cuda_comm {
    struct comm_group *group;
    int rank, world, timeout_ms;
    bool deterministic;
    bool is_idle;    // nothing of this rank runs on its device any more: it has been drained
    ncclComm_t comm; // NULL: the group has failed, or one rank
    struct cuda_peer peer;
    float *
        gathered; // on the device, cuda_comm_gathered_bytes(), set by the caller before the first sum
};

/* Waits for all ranks, four times as long as for a step: the first use of a device may load its driver. The
 * rank's device is set. */
FALLIBLE int cuda_comm_join(struct cuda_comm *c, const struct backend_options *options,
                            struct error *err);
void cuda_comm_leave(struct cuda_comm *c);
/* E_DEVICE: the group has failed; err has why. */
FALLIBLE int cuda_comm_check(const struct cuda_comm *c, struct error *err);
size_t cuda_comm_gathered_bytes(const struct cuda_comm *c);
/* What joining has taken on the device; of a rank without a group, what it may take. */
size_t cuda_comm_peer_bytes(const struct cuda_comm *c);
size_t cuda_comm_peer_most(const struct cuda_comm *c); // elements; 0: all sums are NCCL's
/* What NCCL takes on the device of one of `world` ranks, most of it with its first sum: an estimate from its source,
 * never compared with a GPU. Where ranks don't reach each other's memory it is less. */
size_t cuda_comm_nccl_bytes(int world);

/* x[i] = sum over ranks, on every rank. What fails is told by the next wait. */
void cuda_comm_sum(struct cuda_comm *c, float *x, size_t count, cudaStream_t stream);
/* The same where each x[i] is 0 on all ranks but one: any order gives the same bits. */
void cuda_comm_merge(struct cuda_comm *c, float *x, size_t count, cudaStream_t stream);

/* Until the stream has come to an event, or, if that is NULL, is idle. E_DEVICE: the group failed; err has why. *rc:
 * the stream's own error. */
FALLIBLE int cuda_comm_wait(struct cuda_comm *c, cudaStream_t stream, cudaEvent_t until,
                            cudaError_t *rc, struct error *err);
/* Before leaving: until it is idle, or the device doesn't answer. Then the memory that ranks share is not freed. */
void cuda_comm_drain(struct cuda_comm *c, cudaStream_t stream);

#endif
