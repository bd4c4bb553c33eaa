#include "tests/kernels/cuda_emu/emu_block.cuh"

#include <stdlib.h>
#include <string.h>

#include "tests/kernels/cuda_emu/emu_sanitizer.h"

namespace emu
{

enum { ARENA_ALIGN = 1024, GAP = 256 };

shared_arena::shared_arena() : memory_((char *)aligned_alloc(ARENA_ALIGN, SHARED_ARENA))
{
    if (!memory_) abort();
    sanitizer_poison(memory_, SHARED_ARENA);
}

shared_arena::~shared_arena()
{
    sanitizer_unpoison(memory_, SHARED_ARENA);
    free(memory_);
}

void shared_arena::reset(size_t dynamic_bytes)
{
    for (const piece &p : pieces_)
        sanitizer_poison(p.at, p.bytes);
    pieces_.clear();
    used_ = declared_ = static_ = 0;
    add(nullptr, dynamic_bytes, ARENA_ALIGN);
}

char *shared_arena::add(const void *tag, size_t bytes, size_t align)
{
    declared_ += bytes;
    if (declared_ > SHARED_BYTES)
        fail("%zu bytes of shared memory; a block may have %u", declared_, (unsigned)SHARED_BYTES);
    if (declared_ > SHARED_STATIC_BYTES && declared_ - static_ <= SHARED_STATIC_BYTES)
        fail("%zu bytes of shared memory, but the launch raises the limit of %u for dynamic ones "
             "only",
             declared_, (unsigned)SHARED_STATIC_BYTES);
    used_ = (used_ + align - 1) / align * align;
    if (used_ + bytes + GAP > SHARED_ARENA) fail("too many pieces of shared memory");
    char *at = memory_ + used_;
    used_ += bytes + GAP;
    sanitizer_unpoison(at, bytes);
    memset(at, 0xff, bytes);
    pieces_.push_back({tag, at, bytes});
    return at;
}

void *shared_arena::find_or_add(const void *tag, size_t bytes, size_t align)
{
    for (const piece &p : pieces_)
        if (p.tag == tag) return p.at;
    static_ += bytes;
    if (static_ > SHARED_STATIC_BYTES)
        fail("%zu bytes of static shared memory; %u are the most, take LM_SHARED_DYNAMIC", static_,
             (unsigned)SHARED_STATIC_BYTES);
    return add(tag, bytes, align < 16 ? 16 : align);
}

void *shared_arena::dynamic()
{
    return pieces_[0].at;
}

bool shared_arena::is_declared(const void *at, size_t bytes) const
{
    for (const piece &p : pieces_)
        if ((const char *)at >= p.at && (const char *)at + bytes <= p.at + p.bytes) return true;
    return false;
}

void shared_arena::check(const void *at, size_t bytes, place where) const
{
    if (!is_declared(at, bytes))
        fail("%s:%u: %zu bytes at %p are not shared memory of this block", where.file_name(),
             (unsigned)where.line(), bytes, at);
}

void cp_async_queue::add(void *to, const void *from, unsigned bytes, unsigned valid, place where)
{
    if (((uintptr_t)to | (uintptr_t)from) % bytes)
        fail("%s:%u: cp.async of %u bytes needs addresses that are multiples of it",
             where.file_name(), (unsigned)where.line(), bytes);
    if (valid > bytes) fail("cp.async reads %u of %u bytes", valid, bytes);
    if (hooks) hooks->access(to, bytes, true);
    if (hooks)
        hooks->access(from, valid, false); // it may be read at once, or as late as at the wait
    memset(to, 0xff, bytes);
    open_.push_back({to, from, bytes, valid});
}

void cp_async_queue::commit()
{
    groups_.push_back(std::move(open_));
    open_.clear();
}

void cp_async_queue::wait(unsigned pending_groups)
{
    while (groups_.size() > pending_groups) {
        for (const copy &c : groups_.front()) {
            if (hooks) {
                hooks->access(c.from, c.valid, false);
                hooks->access(c.to, c.bytes, true);
            }
            memcpy(c.to, c.from, c.valid);
            memset((char *)c.to + c.valid, 0, c.bytes - c.valid);
        }
        groups_.erase(groups_.begin());
    }
}

void cp_async_queue::clear()
{
    open_.clear();
    groups_.clear();
}

} // namespace emu
