/* test_cuda_device.cu - cuda_device.cuh: layouts of mma and ldmatrix, copies, reductions. Compiles for the
 * emulator and for a GPU. */
#include <math.h>
#include <vector>

#include "kernels/cuda/cuda_device.cuh"
#include "tests/test.h"

__global__ void sum_rows(const float *x, float *sums, int columns)
{
    LM_SHARED(float, scratch, 32);
    const float *row = x + (size_t)blockIdx.x * columns;
    float sum = 0.0f;
    for (int i = (int)threadIdx.x; i < columns; i += (int)blockDim.x)
        sum += row[i];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

static void test_block_sum()
{
    const int rows = 3, columns = 100;
    for (unsigned threads : {32u, 64u, 128u, 1024u}) {
        std::vector<float> x(rows * columns), sums(rows);
        for (int i = 0; i < rows * columns; i++)
            x[(size_t)i] = (float)i;
        NEED(LM_LAUNCH(sum_rows, rows, threads, 0, nullptr, x.data(), sums.data(), columns) ==
             cudaSuccess);
        for (int r = 0; r < rows; r++)
            EXPECT(sums[(size_t)r] ==
                   (float)(columns * (columns * r) + columns * (columns - 1) / 2));
    }
}

int main(void)
{
    RUN(test_block_sum);
    return TEST_END();
}
