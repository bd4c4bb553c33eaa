/* cuda_test.h - device memory for tests of CUDA kernels: the emulated device's or a real one's. */
#ifndef LM_TESTS_CUDA_TEST_H
#define LM_TESTS_CUDA_TEST_H

#include "kernels/cuda/cuda_device.cuh"
#include "tests/kernels/random_weights.h"
#include "tests/test.h"

/* Zeroed; cudaFree() it. */
static inline void *device_zeros(size_t bytes)
{
    void *p = NULL;
    NEED(cudaMalloc(&p, bytes ? bytes : 1) == cudaSuccess);
    NEED(cudaMemset(p, 0, bytes ? bytes : 1) == cudaSuccess);
    return p;
}

static inline void *device_copy(const void *host, size_t bytes)
{
    void *p = device_zeros(bytes);
    NEED(cudaMemcpy(p, host, bytes, cudaMemcpyHostToDevice) == cudaSuccess);
    return p;
}

/* Waits for all work first. */
static inline void device_read(void *host, const void *device, size_t bytes)
{
    NEED(cudaStreamSynchronize(NULL) == cudaSuccess);
    NEED(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost) == cudaSuccess);
}

#endif
