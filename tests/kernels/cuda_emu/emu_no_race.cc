/* emu_no_race.cc - in the place of emu_race.cc where kernels are not instrumented. */
#include "tests/kernels/cuda_emu/cuda_emu.cuh"

namespace emu
{

long race_count()
{
    return 0;
}

void forgive_races()
{
}

} // namespace emu
