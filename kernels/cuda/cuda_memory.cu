#include "kernels/cuda/cuda_memory.h"

#include "shared/base/check.h"

#define STAGING_HALF ((size_t)8 << 20)

int cuda_try(cudaError_t rc, const char *what, struct error *err)
{
    if (rc == cudaSuccess) return 0;
    return error_set(err, E_DEVICE, "%s: %s", what, cudaGetErrorString(rc));
}

/* ---- arenas ---- */

int cuda_arena_open(struct cuda_arena *a, const char *purpose, struct error *err)
{
    void *base = NULL;
    size_t bytes = a->used;

    CHECK(!a->base);
    if (bytes == 0) return 0;
    cudaError_t rc = cudaMalloc(&base, bytes);
    if (rc == cudaSuccess) rc = cudaMemset(base, 0, bytes);
    if (rc == cudaSuccess) rc = cudaStreamSynchronize(NULL); // no stream of ours waits for that one
    if (rc != cudaSuccess) {
        if (base) cudaFree(base);
        cudaGetLastError(); // a failed allocation is not an error of the stream
        return error_set(err, E_DEVICE, "can't get %zu MiB for %s: %s", bytes >> 20, purpose,
                         cudaGetErrorString(rc));
    }
    a->base = (uint8_t *)base;
    a->bytes = bytes;
    a->used = 0;
    return 0;
}

void cuda_arena_close(struct cuda_arena *a)
{
    if (a->base) cudaFree(a->base);
    *a = (struct cuda_arena){};
}

void *cuda_arena_take(struct cuda_arena *a, size_t bytes)
{
    void *p = a->base ? a->base + a->used : NULL;
    a->used += (bytes + CUDA_ALIGNMENT - 1) & ~(size_t)(CUDA_ALIGNMENT - 1);
    CHECK(!a->base || a->used <= a->bytes);
    return p;
}

/* ---- staging ---- */

int cuda_staging_open(struct cuda_staging *s, cudaStream_t stream, struct error *err)
{
    *s = (struct cuda_staging){};
    s->stream = stream;
    s->half_bytes = STAGING_HALF;
    for (int i = 0; i < 2; i++) {
        int rc = cuda_try(cudaMallocHost((void **)&s->half[i], STAGING_HALF), "pinned memory", err);
        if (rc == 0)
            rc = cuda_try(cudaEventCreateWithFlags(&s->sent[i], cudaEventDisableTiming), "event",
                          err);
        if (rc < 0) {
            cuda_staging_close(s);
            return rc;
        }
    }
    return 0;
}

void cuda_staging_close(struct cuda_staging *s)
{
    for (int i = 0; i < 2; i++) {
        if (s->sent[i]) {
            cudaEventSynchronize(s->sent[i]);
            cudaEventDestroy(s->sent[i]);
        }
        if (s->half[i]) cudaFreeHost(s->half[i]);
    }
    *s = (struct cuda_staging){};
}

int cuda_staging_take(struct cuda_staging *s, uint8_t **half, struct error *err)
{
    *half = s->half[s->next];
    return cuda_try(cudaEventSynchronize(s->sent[s->next]), "upload", err);
}

int cuda_staging_send(struct cuda_staging *s, const uint8_t *from, void *device, size_t bytes,
                      struct error *err)
{
    const uint8_t *half = s->half[s->next];

    CHECK(from >= half && bytes <= s->half_bytes - (size_t)(from - half));
    return cuda_try(cudaMemcpyAsync(device, from, bytes, cudaMemcpyHostToDevice, s->stream),
                    "upload", err);
}

int cuda_staging_give(struct cuda_staging *s, struct error *err)
{
    int i = s->next;
    s->next = 1 - i;
    return cuda_try(cudaEventRecord(s->sent[i], s->stream), "upload", err);
}
