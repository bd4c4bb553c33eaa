#include "tests/kernels/cuda_emu/emu_memory.cuh"

#include <errno.h>
#include <map>
#include <mutex>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/kernels/cuda_emu/emu_sanitizer.h"

namespace emu
{
namespace
{

enum { PAGE = 4096, ALIGNMENT = 256 };

size_t rounded(size_t bytes, size_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

/* Pages of an allocation, without the guard behind them; what is used lies at their end. */
struct mappings {
    std::mutex lock;
    std::map<char *, size_t> of;
    long open = 0; // device_access objects
};

mappings *the_mappings()
{
    static mappings *m = new mappings();
    return m;
}

void protect_all(const mappings *m, int protection)
{
    for (auto [at, bytes] : m->of)
        if (mprotect(at, bytes, protection)) {
            perror("cuda_emu: device memory");
            abort();
        }
}

/* ---- the host was there ---- */

struct sigaction before;

void on_fault(int, siginfo_t *info, void *)
{
    mappings *m = the_mappings();
    bool ours = false;
    if (m->lock.try_lock()) {
        for (auto [at, bytes] : m->of)
            ours |= (uintptr_t)info->si_addr - (uintptr_t)at < bytes + PAGE;
        m->lock.unlock();
    }
    static const char words[] =
        "cuda_emu: device memory is touched by the host, or behind its end\n";
    if (ours && write(2, words, sizeof words - 1) < 0) abort();
    sigaction(SIGSEGV, &before, nullptr); // and the access happens again
}

void watch_faults()
{
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, &before);
}

} // namespace

/* ---- mapping ---- */

void *device_map(size_t bytes)
{
    mappings *m = the_mappings();
    size_t pages = rounded(bytes, PAGE), used = rounded(bytes, ALIGNMENT);
    std::lock_guard<std::mutex> hold(m->lock);
    void *memory = mmap(nullptr, pages + PAGE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    char *first = (char *)memory, *at = first + pages - used;
    memset(at, 0xff, bytes);
    sanitizer_poison(first, pages - used);
    sanitizer_poison(at + bytes, used - bytes);
    if (mprotect(first + pages, PAGE, PROT_NONE) ||
        (!m->open && mprotect(first, pages, PROT_NONE))) {
        perror("cuda_emu: device memory");
        abort();
    }
    static std::once_flag once;
    std::call_once(once, watch_faults);
    m->of[first] = pages;
    return at;
}

void device_unmap(void *at, size_t bytes)
{
    mappings *m = the_mappings();
    size_t pages = rounded(bytes, PAGE), used = rounded(bytes, ALIGNMENT);
    char *first = (char *)at - (pages - used);
    std::lock_guard<std::mutex> hold(m->lock);
    m->of.erase(first);
    sanitizer_unpoison(first, pages);
    munmap(first, pages + PAGE);
}

device_access::device_access()
{
    mappings *m = the_mappings();
    std::lock_guard<std::mutex> hold(m->lock);
    if (m->open++ == 0) protect_all(m, PROT_READ | PROT_WRITE);
}

device_access::~device_access()
{
    mappings *m = the_mappings();
    std::lock_guard<std::mutex> hold(m->lock);
    if (--m->open == 0) protect_all(m, PROT_NONE);
}

/* Two neighbouring integers seldom make an address of where Linux puts code, heap and stacks, and even more
 * seldom one that is in use. */
bool looks_like_pointer(unsigned long word)
{
    if (word < 0x500000000000ul || word >= 0x800000000000ul) return false;
    if ((unsigned)word < 1u << 20) return false; // a number, and padding behind it
    unsigned char resident;
    return mincore((void *)(word & ~(unsigned long)(PAGE - 1)), 1, &resident) == 0;
}

} // namespace emu
