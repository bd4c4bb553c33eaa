/* emu_sanitizer.h - what AddressSanitizer has to be told: fiber switches, and which bytes of shared
 * memory nobody declared. Nothing in builds without it. */
#ifndef LM_CUDA_EMU_SANITIZER_H
#define LM_CUDA_EMU_SANITIZER_H

#include <stddef.h>

#ifdef LM_CUDA_EMU_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

/* Before a switch: where to keep this stack's fake stack (NULL: it ends), and the stack to come. */
static inline void sanitizer_leave(void **keep, const void *low, size_t bytes)
{
#ifdef LM_CUDA_EMU_ASAN
    __sanitizer_start_switch_fiber(keep, low, bytes);
#else
    (void)keep, (void)low, (void)bytes;
#endif
}

/* Behind a switch: what was kept, and the stack that was left (NULL: of no interest). */
static inline void sanitizer_enter(void *kept, const void **low, size_t *bytes)
{
#ifdef LM_CUDA_EMU_ASAN
    __sanitizer_finish_switch_fiber(kept, low, bytes);
#else
    (void)kept, (void)low, (void)bytes;
#endif
}

static inline void sanitizer_poison(const void *at, size_t bytes)
{
#ifdef LM_CUDA_EMU_ASAN
    __asan_poison_memory_region(at, bytes);
#else
    (void)at, (void)bytes;
#endif
}

static inline void sanitizer_unpoison(const void *at, size_t bytes)
{
#ifdef LM_CUDA_EMU_ASAN
    __asan_unpoison_memory_region(at, bytes);
#else
    (void)at, (void)bytes;
#endif
}

#endif
