/* cuda_pdl.h - whether a driver takes early launches the way steps use them. Documents of CUDA say that capture makes
 * programmatic edges of them, and not what happens behind a memset or at the head of a graph; a driver that refuses
 * breaks the first decode step that is recorded. So it is tried before. */
#ifndef LM_KERNELS_CUDA_PDL_H
#define LM_KERNELS_CUDA_PDL_H

#include "kernels/cuda/cuda_device.cuh"

/* Records some such launches on this stream of the calling thread's device, replays them and looks at what they
 * made. If that fails, nothing of this process is launched early from now on. Waits for the stream. */
void cuda_pdl_try(cudaStream_t stream);

#endif
