/* emu_block.cuh - what a block and its threads own besides their stacks: shared memory, cp.async. */
#ifndef LM_CUDA_EMU_BLOCK_CUH
#define LM_CUDA_EMU_BLOCK_CUH

#include <memory>
#include <vector>

#include "tests/kernels/cuda_emu/cuda_emu.cuh"

namespace emu
{

enum {
    SHARED_BYTES = 227 << 10,       // a block may have on sm_90 and sm_100
    SHARED_STATIC_BYTES = 48 << 10, // of them statically
    SHARED_ARENA = 512 << 10,       // with the gaps
};

/* The dynamic part first, then each static array when a thread first comes to its declaration, with
 * gaps that nobody may touch. All bytes are 0xff, NaN in every float type, when a block begins. */
class shared_arena
{
  public:
    shared_arena();
    ~shared_arena();
    void reset(size_t dynamic_bytes);
    void *find_or_add(const void *tag, size_t bytes, size_t align);
    void *dynamic();
    /* Fails unless all bytes belong to one declared piece. */
    void check(const void *at, size_t bytes, place where) const;
    bool contains(const void *at) const
    {
        return (const char *)at >= memory_ && (const char *)at < memory_ + SHARED_ARENA;
    }
    bool is_declared(const void *at, size_t bytes) const;
    const char *base() const
    {
        return memory_;
    }
    size_t capacity() const
    {
        return SHARED_ARENA;
    }

  private:
    struct piece {
        const void *tag;
        char *at;
        size_t bytes;
    };
    char *add(const void *tag, size_t bytes, size_t align);

    char *memory_;
    size_t used_, declared_, static_;
    std::vector<piece> pieces_;
};

/* A thread's copies in flight. They land when the thread waits for their group, not before; until
 * then the target reads as NaN. Copies never waited for never land. */
class cp_async_queue
{
  public:
    void add(void *to, const void *from, unsigned bytes, unsigned valid, place where);
    void commit();
    void wait(unsigned pending_groups);
    void clear();

  private:
    struct copy {
        void *to;
        const void *from;
        unsigned bytes, valid;
    };
    std::vector<copy> open_;
    std::vector<std::vector<copy>> groups_;
};

} // namespace emu

#endif
