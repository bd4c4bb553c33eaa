/* cuda_memory.h - device memory of a backend: one allocation a purpose, handed out front to back.
 *
 * An arena without a base only counts, so a layout is run twice: to add up, then for real. Memory is
 * zeroed: padding between rows is read by kernels and must be 0. */
#ifndef LM_KERNELS_CUDA_MEMORY_H
#define LM_KERNELS_CUDA_MEMORY_H

#include "kernels/cuda/cuda_device.cuh"
#include "shared/base/error.h"

#define CUDA_ALIGNMENT 256 // of everything that an arena hands out

struct cuda_arena {
    uint8_t *base; // on the device; NULL: counting
    size_t bytes, used;
};

/* E_DEVICE: "can't get 812 MiB for weights: out of memory". Also takes `used` back to 0. */
FALLIBLE int cuda_arena_open(struct cuda_arena *a, const char *purpose, struct error *err);
void cuda_arena_close(struct cuda_arena *a);
void *cuda_arena_take(struct cuda_arena *a, size_t bytes); // NULL while counting

/* Uploads in order through two pinned halves: the host fills one while the other is on its way. */
struct cuda_staging {
    cudaStream_t stream;
    uint8_t *half[2];
    cudaEvent_t sent[2];
    size_t half_bytes;
    int next;
};

FALLIBLE int cuda_staging_open(struct cuda_staging *s, cudaStream_t stream, struct error *err);
void cuda_staging_close(struct cuda_staging *s); // waits for what is on its way
/* A half to be filled; pieces of it are then sent where they belong, and it is let go. */
FALLIBLE int cuda_staging_take(struct cuda_staging *s, uint8_t **half, struct error *err);
FALLIBLE int cuda_staging_send(struct cuda_staging *s, const uint8_t *from, void *device,
                               size_t bytes, struct error *err);
FALLIBLE int cuda_staging_give(struct cuda_staging *s, struct error *err);

/* 0, or E_DEVICE with "what: text of CUDA". */
FALLIBLE int cuda_try(cudaError_t rc, const char *what, struct error *err);

#endif
