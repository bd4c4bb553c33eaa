/* emu_mma.cc - instructions of a whole warp by their documented layouts: mma, ldmatrix. */
#include "tests/kernels/cuda_emu/cuda_emu_ptx.cuh"

namespace
{

using emu::place;
using emu::warp_operation;

/* ---- mma.m16n8k16 ---- */

struct mma_argument {
    float *d;
    const uint32_t *a, *b;
};

float bf16_half(uint32_t pair, int high)
{
    return __uint_as_float(high ? pair & 0xffff0000u : pair << 16);
}

float f16_half(uint32_t pair, int high)
{
    return __half2float({(uint16_t)(high ? pair >> 16 : pair & 0xffffu)});
}

template <float half_of(uint32_t, int)> void mma_apply(void **arguments, unsigned)
{
    float a[16][16], b[16][8];
    for (int lane = 0; lane < 32; lane++) {
        const auto *m = (const mma_argument *)arguments[lane];
        int g = lane / 4, t = lane % 4 * 2;
        for (int h = 0; h < 2; h++) {
            a[g][t + h] = half_of(m->a[0], h);
            a[g + 8][t + h] = half_of(m->a[1], h);
            a[g][t + 8 + h] = half_of(m->a[2], h);
            a[g + 8][t + 8 + h] = half_of(m->a[3], h);
            b[t + h][g] = half_of(m->b[0], h);
            b[t + 8 + h][g] = half_of(m->b[1], h);
        }
    }
    for (int lane = 0; lane < 32; lane++) {
        const auto *m = (const mma_argument *)arguments[lane];
        for (int i = 0; i < 4; i++) {
            int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            float sum = m->d[i];
            for (int k = 0; k < 16; k++)
                sum += a[row][k] * b[k][column];
            m->d[i] = sum;
        }
    }
}

/* ---- ldmatrix ---- */

struct ldmatrix_argument {
    uint32_t *r;
    const void *row;
};

template <int Matrices, bool Transposed> void ldmatrix_apply(void **arguments, unsigned)
{
    for (int i = 0; i < Matrices; i++) {
        uint16_t matrix[8][8];
        for (int row = 0; row < 8; row++)
            memcpy(matrix[row], ((const ldmatrix_argument *)arguments[i * 8 + row])->row, 16);
        for (int lane = 0; lane < 32; lane++) {
            int g = lane / 4, t = lane % 4 * 2;
            uint32_t low = Transposed ? matrix[t][g] : matrix[g][t];
            uint32_t high = Transposed ? matrix[t + 1][g] : matrix[g][t + 1];
            ((const ldmatrix_argument *)arguments[lane])->r[i] = low | high << 16;
        }
    }
}

template <int Matrices, bool Transposed> void ldmatrix(uint32_t *r, const void *row, place where)
{
    static const warp_operation operation = {"ldmatrix", ldmatrix_apply<Matrices, Transposed>, true,
                                             false};
    if (emu::current->lane < Matrices * 8) { // others' addresses are not looked at
        if ((uintptr_t)row % 16)
            emu::fail("%s:%u: ldmatrix: a row's address is not a multiple of 16", where.file_name(),
                      (unsigned)where.line());
        emu::shared_check(row, 16, where);
        if (emu::hooks) emu::hooks->access(row, 16, false);
    }
    ldmatrix_argument a = {r, row};
    emu::warp_meet(~0u, &a, &operation, where);
}

} // namespace

void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2], place where)
{
    static const warp_operation operation = {"mma.bf16", mma_apply<bf16_half>, true, false};
    mma_argument m = {d, a, b};
    emu::warp_meet(~0u, &m, &operation, where);
}

void mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2], place where)
{
    static const warp_operation operation = {"mma.f16", mma_apply<f16_half>, true, false};
    mma_argument m = {d, a, b};
    emu::warp_meet(~0u, &m, &operation, where);
}

void ldmatrix_x4(uint32_t r[4], const void *row, place where)
{
    ldmatrix<4, false>(r, row, where);
}

void ldmatrix_x4_trans(uint32_t r[4], const void *row, place where)
{
    ldmatrix<4, true>(r, row, where);
}

void ldmatrix_x2(uint32_t r[2], const void *row, place where)
{
    ldmatrix<2, false>(r, row, where);
}

void ldmatrix_x2_trans(uint32_t r[2], const void *row, place where)
{
    ldmatrix<2, true>(r, row, where);
}
