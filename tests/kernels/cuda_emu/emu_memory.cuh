/* emu_memory.cuh - memory of emulated devices: closed to the host, open while streams run.
 *
 * Host code that reads or writes it dies as it would with a GPU, with a message before the signal. An
 * allocation ends at a page that nobody may touch, and under ASan at its last byte. */
#ifndef LM_CUDA_EMU_MEMORY_CUH
#define LM_CUDA_EMU_MEMORY_CUH

#include <stddef.h>

namespace emu
{

void *device_map(size_t bytes); // full of 0xff, aligned to 256; NULL: none left
void device_unmap(void *at, size_t bytes);

/* While one exists, in any thread, device memory is open. */
class device_access
{
  public:
    device_access();
    ~device_access();
    device_access(const device_access &) = delete;
};

/* Is something mapped there in this process, so that a kernel's argument may be a pointer to it? */
bool looks_like_pointer(unsigned long word);

} // namespace emu

#endif
