/* cuda_peer.h - small sums over ranks in one kernel: each device writes its part into mailboxes that the others
 * have in their memory, and sums what came into its own. NCCL takes several times as long for few bytes, twice a
 * layer of every decode step. The protocol, and why it is right, stands in cuda_peer.cu.
 *
 * The parts are added in the order of ranks, as float32: every rank has the same bits, and those of an element don't
 * depend on its neighbours, so backend.h rule 3 holds across ranks for these sums whatever the options say.
 *
 * Rules
 *  1. All ranks make the same sums in the same order, each on one stream, and no two of its sums overlap: the kernels
 *     are launched without PDL, so each begins when all before it has ended.
 *  2. A rank that doesn't come leaves the others' kernels polling: until cuda_peer_stop, which any thread may call.
 *     What they then leave in x is worth nothing, and there must be no sum after that.
 *  3. A mailbox lives until no rank writes any more: whoever closes the last one frees them all.
 *
 * Launches depend on x and count only, so graphs may hold them. */
#ifndef LM_KERNELS_CUDA_PEER_H
#define LM_KERNELS_CUDA_PEER_H

#include "kernels/cuda/cuda_device.cuh"

#define CUDA_PEER_WORLD_MAX 8

/* A rank's end. Zeroed: no peers, and no sum. */
struct cuda_peer {
    int rank, world;
    uint4 *mailbox[CUDA_PEER_WORLD_MAX]; // of each rank, on its device; own: what offer() took
    uint32_t *stop;                      // pinned: 1 ends what polls
    size_t most;                         // floats in one sum; 0: NCCL only
    unsigned blocks_max;                 // that surely run at the same time
};

/* Bytes that a rank's mailbox takes on its device; 0: one rank, or LM_CUDA_PEER=0 in the environment. */
size_t cuda_peer_bytes(int world);

/* Takes this rank's mailbox, if its device, the current one, reaches all others: devices are 0 to world - 1, by rank.
 * If it doesn't, or something fails: most = 0, and nothing is taken. */
void cuda_peer_offer(struct cuda_peer *p, int rank, int world);
/* When all have offered: [world], by rank. With one that has no mailbox there are no peers: most = 0. */
void cuda_peer_accept(struct cuda_peer *p, const struct cuda_peer *offers);

/* x[i] = sum over ranks in their order, on every rank. count is at least 1 and at most p->most. */
cudaError_t cuda_peer_sum(const struct cuda_peer *p, float *x, size_t count, cudaStream_t stream);

void cuda_peer_stop(const struct cuda_peer *offer);
/* Rule 3. From any thread. */
void cuda_peer_free(struct cuda_peer *offer);

/* For tests: as if the last sum had had this number, 1 to 2^32 - 1; on all ranks, and before the first one. */
cudaError_t cuda_peer_count_from(const struct cuda_peer *p, uint32_t last);

#endif
