/* emu_race.cc - data races of emulated kernels. Kernels are compiled with -fsanitize=thread, but libtsan
 * is not linked: this file is what the instrumentation calls, for every access a kernel makes.
 *
 * Shadow memory keeps the last write and the last reads of each 2 bytes, and of which of them. Two accesses of one launch, one
 * of them a write, race unless something orders them:
 *
 *     threads of a block    a barrier that both warps took part in (vector clocks over warps)
 *     lanes of a warp       __syncwarp or a barrier; shuffles and votes order no memory
 *     blocks                a fence behind the first access, and an atomic of the second block
 *                           since then ("last block done"); shared memory has no others
 *     both atomic           nothing needed
 *     launches              the stream; but before its pdl_wait() a thread of a launch with PDL runs beside
 *                           earlier ones, back to the last that had none
 *
 * Approximate where it costs little: two earlier readers of different warps are remembered, not all; and
 * what an atomic acquires isn't followed by address. A report is right, except that unusual ways of
 * synchronising blocks are not known; silence is no proof. */
#include "tests/kernels/cuda_emu/cuda_emu.cuh"

#include <atomic>
#include <dlfcn.h>
#include <memory>
#include <stdio.h>
#include <unistd.h>
#include <unordered_map>
#include <vector>

namespace emu
{
namespace
{

enum { WARPS_MAX = 32, GRANULE = 2, PAGE_BYTES = 4096, REPORTS_PRINTED = 10 };

struct access_record {
    uint32_t launch; // 0: none
    uint32_t block, fences;
    uint32_t warp_clock, lane_clock; // of the accessing warp, when it accessed
    uint16_t thread;
    bool atomic;
    uint8_t bytes; // of the granule, a bit for each
};

struct cell {
    access_record write, read[2]; // read[1]: the latest by a warp other than read[0]'s
};

struct grid_state { // of the grid that runs on this OS thread
    const char *kernel = "";
    uint32_t launch = 0;
    uint32_t overlaps = 0; // the first launch that may still run when this one begins
    bool ended = true;     // what runs before the next launch ends before it
};

struct block_state {
    uint32_t block = 0;
    bool acquired = false; // has done an atomic
    const char *shared = nullptr;
    size_t shared_bytes = 0;
    uint32_t clock[WARPS_MAX][WARPS_MAX]; // [w][v]: what warp w knows of warp v's time
    uint32_t lane_clock[WARPS_MAX];       // __syncwarps and barriers of each warp
};

thread_local grid_state grid_now;
thread_local std::unordered_map<uint64_t, std::unique_ptr<block_state>>
    blocks;                                   // begun, of the grid
thread_local block_state *now;                // that runs
thread_local std::vector<uint32_t> fences_of; // [block] of this launch, so far
/* A shadow for each OS thread: grids of different ones are not checked against each other. */
thread_local std::unordered_map<uintptr_t, std::unique_ptr<cell[]>> pages;
thread_local uintptr_t last_page;
thread_local cell *last_cells;
std::atomic<long> races;
std::atomic<uint32_t> launches;

cell *find_cell(uintptr_t at)
{
    uintptr_t page = at / PAGE_BYTES;
    if (page != last_page || !last_cells) {
        std::unique_ptr<cell[]> &cells = pages[page];
        if (!cells) cells = std::make_unique<cell[]>(PAGE_BYTES / GRANULE);
        last_page = page;
        last_cells = cells.get();
    }
    return last_cells + at % PAGE_BYTES / GRANULE;
}

bool ordered(const access_record &before, const access_record &after, bool shared)
{
    if (before.launch != after.launch)
        return shared || current->waited || before.launch < grid_now.overlaps;
    if (before.block != after.block)
        return shared || (now->acquired && fences_of[before.block] > before.fences);
    if (before.thread == after.thread) return true;
    unsigned warp = after.thread / 32, other = before.thread / 32;
    if (warp == other) return before.lane_clock != after.lane_clock;
    return now->clock[warp][other] > before.warp_clock;
}

/* "program+0x1234", for addr2line. */
void print_place(const void *pc)
{
    Dl_info info;
    if (pc && dladdr(pc, &info) && info.dli_fname)
        fprintf(stderr, "%s+0x%zx", info.dli_fname,
                (size_t)((const char *)pc - (const char *)info.dli_fbase));
    else
        fprintf(stderr, "an asynchronous copy or ldmatrix");
}

void report(const char *what, uintptr_t at, const access_record &before, const access_record &after,
            const void *pc)
{
    if (races++ >= REPORTS_PRINTED) return;
    fprintf(
        stderr,
        "cuda_emu: race: %s: %s memory %p, thread %u of block %u in %s%s; thread %u of block %u "
        "%swas there before with nothing between: ",
        what, at - (uintptr_t)now->shared < now->shared_bytes ? "shared" : "global", (void *)at,
        after.thread, after.block, grid_now.kernel, current->waited ? "" : " before pdl_wait",
        before.thread, before.block, before.launch == after.launch ? "" : "of an earlier launch ");
    print_place(pc);
    fputc('\n', stderr);
}

/* What this access races with, and how; NULL: nothing. */
const char *find_race(const cell *c, const access_record &a, bool write, bool shared,
                      const access_record **with)
{
    *with = &c->write;
    if (c->write.launch && c->write.bytes & a.bytes && !(c->write.atomic && a.atomic) &&
        !ordered(c->write, a, shared))
        return write ? "write after write" : "read after write";
    for (const access_record &r : c->read) {
        *with = &r;
        if (write && r.launch && r.bytes & a.bytes && !(r.atomic && a.atomic) &&
            !ordered(r, a, shared))
            return "write after read";
    }
    return nullptr;
}

void remember(cell *c, const access_record &a, bool write)
{
    if (write) {
        c->write = a;
        c->read[0].launch = c->read[1].launch = 0;
        return;
    }
    bool other_warp = c->read[0].launch == a.launch && c->read[0].block == a.block &&
                      c->read[0].thread / 32 != a.thread / 32;
    c->read[other_warp] = a;
}

__attribute__((noinline)) void seen(const void *p, size_t bytes, bool write, bool atomic,
                                    const void *pc)
{
    if (!current || on_fiber_stack(p)) return;
    uintptr_t at = (uintptr_t)p;
    bool shared = at - (uintptr_t)now->shared < now->shared_bytes, told = false;
    if (shared) shared_check(p, bytes, place());
    access_record a = {grid_now.launch,
                       now->block,
                       fences_of[now->block],
                       now->clock[current->warp][current->warp],
                       now->lane_clock[current->warp],
                       (uint16_t)(current->warp * 32 + current->lane),
                       atomic,
                       0};
    for (uintptr_t b = at & ~(uintptr_t)(GRANULE - 1); b < at + bytes; b += GRANULE) {
        cell *c = find_cell(b);
        a.bytes = (uint8_t)((at <= b ? 1 : 0) | (at + bytes > b + 1 ? 2 : 0));
        const access_record *with;
        const char *what = told ? nullptr : find_race(c, a, write, shared, &with);
        if (what) report(what, b, *with, a, pc);
        told |= what != nullptr;
        remember(c, a, write);
    }
}

/* ---- what the emulator tells ---- */

void on_access(const void *at, size_t bytes, bool write)
{
    seen(at, bytes, write, false, nullptr);
}

void on_atomic(void *at, size_t bytes)
{
    if (current) now->acquired = true;
    seen(at, bytes, true, true, nullptr);
}

void on_fence()
{
    if (current) fences_of[now->block]++;
}

void on_barrier(const uint32_t *participants, unsigned warps)
{
    uint32_t joined[WARPS_MAX] = {0};
    for (unsigned w = 0; w < warps; w++)
        for (unsigned v = 0; participants[w] && v < warps; v++)
            joined[v] = max(joined[v], now->clock[w][v]);
    for (unsigned w = 0; w < warps; w++) {
        if (!participants[w]) continue;
        memcpy(now->clock[w], joined, sizeof joined);
        now->lane_clock[w]++;
    }
    for (unsigned w = 0; w < warps; w++)
        for (unsigned v = 0; participants[w] && v < warps; v++)
            if (participants[v]) now->clock[w][v]++;
}

void on_syncwarp(unsigned warp)
{
    now->lane_clock[warp]++;
}

void on_end_of_overlap()
{
    grid_now.ended = true;
}

void on_begin_grid(const char *kernel, bool pdl)
{
    grid_now.kernel = kernel;
    grid_now.launch = ++launches;
    if (!pdl || grid_now.ended) grid_now.overlaps = grid_now.launch;
    grid_now.ended = false;
    fences_of.clear();
    blocks.clear();
}

void on_resume_block(uint64_t block)
{
    now = blocks.at(block).get();
}

void on_end_block(uint64_t block)
{
    blocks.erase(block);
    now = nullptr;
}

void on_begin_block(uint64_t block, const char *shared, size_t bytes)
{
    std::unique_ptr<block_state> &state = blocks[block];
    if (fences_of.size() <= block) fences_of.resize(block + 1);
    state = std::make_unique<block_state>();
    now = state.get();
    now->block = (uint32_t)block;
    now->shared = shared;
    now->shared_bytes = bytes;
    memset(now->clock, 0, sizeof now->clock);
    memset(now->lane_clock, 0, sizeof now->lane_clock);
}

const race_hooks own_hooks = {on_access,       on_barrier,    on_syncwarp,       on_fence,
                              on_atomic,       on_begin_grid, on_end_of_overlap, on_begin_block,
                              on_resume_block, on_end_block};

struct at_exit {
    at_exit()
    {
        hooks = &own_hooks;
    }
    ~at_exit()
    {
        if (!races) return; // of which the first ten were printed
        fprintf(stderr, "cuda_emu: %ld races\n", (long)races);
        fflush(nullptr);
        _exit(66);
    }
} installed;

} // namespace

long race_count()
{
    return races;
}

void forgive_races()
{
    races = 0;
}

} // namespace emu

/* ---- what gcc's -fsanitize=thread calls ----
 *
 * By assembler names: the compiler declares the C ones itself. Atomics of kernels come through
 * cuda_emu.cuh, which has told the hooks already. */

#define PC __builtin_return_address(0)

#define HOOK(type, name, ...)                           \
    type hook_##name(__VA_ARGS__) asm("__tsan_" #name); \
    type hook_##name(__VA_ARGS__)

HOOK(void, init, void)
{
}
HOOK(void, func_entry, void *)
{
}
HOOK(void, func_exit, void)
{
}
HOOK(void, vptr_update, void *, void *)
{
}
HOOK(void, vptr_read, void *)
{
}
HOOK(void, atomic_thread_fence, int)
{
}
HOOK(void, atomic_signal_fence, int)
{
}

#define ACCESS(name, bytes, write)             \
    HOOK(void, name, void *p)                  \
    {                                          \
        emu::seen(p, bytes, write, false, PC); \
    }
#define ACCESSES(bytes)                         \
    ACCESS(read##bytes, bytes, false)           \
    ACCESS(write##bytes, bytes, true)           \
    ACCESS(unaligned_read##bytes, bytes, false) \
    ACCESS(unaligned_write##bytes, bytes, true) \
    ACCESS(volatile_read##bytes, bytes, false)  \
    ACCESS(volatile_write##bytes, bytes, true)
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)

HOOK(void, read_range, void *p, size_t bytes)
{
    emu::seen(p, bytes, false, false, PC);
}
HOOK(void, write_range, void *p, size_t bytes)
{
    emu::seen(p, bytes, true, false, PC);
}

#define ATOMICS(bits, T)                                                                        \
    HOOK(T, atomic##bits##_load, const volatile T *p, int)                                      \
    {                                                                                           \
        return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                            \
    }                                                                                           \
    HOOK(void, atomic##bits##_store, volatile T *p, T v, int)                                   \
    {                                                                                           \
        __atomic_store_n(p, v, __ATOMIC_SEQ_CST);                                               \
    }                                                                                           \
    HOOK(T, atomic##bits##_fetch_add, volatile T *p, T v, int)                                  \
    {                                                                                           \
        return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);                                      \
    }                                                                                           \
    HOOK(T, atomic##bits##_exchange, volatile T *p, T v, int)                                   \
    {                                                                                           \
        return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);                                     \
    }                                                                                           \
    HOOK(bool, atomic##bits##_compare_exchange_strong, volatile T *p, T *c, T v, int, int)      \
    {                                                                                           \
        return __atomic_compare_exchange_n(p, c, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
    }
ATOMICS(8, uint8_t)
ATOMICS(16, uint16_t)
ATOMICS(32, uint32_t)
ATOMICS(64, uint64_t)

HOOK(void *, memcpy, void *to, const void *from, size_t bytes)
{
    emu::seen(from, bytes, false, false, PC);
    emu::seen(to, bytes, true, false, PC);
    return memcpy(to, from, bytes);
}
HOOK(void *, memmove, void *to, const void *from, size_t bytes)
{
    emu::seen(from, bytes, false, false, PC);
    emu::seen(to, bytes, true, false, PC);
    return memmove(to, from, bytes);
}
HOOK(void *, memset, void *to, int value, size_t bytes)
{
    emu::seen(to, bytes, true, false, PC);
    return memset(to, value, bytes);
}
