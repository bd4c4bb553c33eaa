/* cpu_futex.h - how threads of this backend wait: spin a little, then sleep on a word. */
#ifndef LM_KERNELS_CPU_FUTEX_H
#define LM_KERNELS_CPU_FUTEX_H

#include "shared/base/clock.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define CPU_SPIN_NS 50000

/* Sleep while *word has that value; timeout NULL: for ever. True: the time was up. */
static inline bool cpu_futex_wait(_Atomic uint32_t *word, uint32_t while_value,
                                  const struct timespec *timeout)
{
    return syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, while_value, timeout, NULL, 0) < 0 &&
           errno == ETIMEDOUT;
}

static inline void cpu_futex_wake(_Atomic uint32_t *word, int count)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

static inline void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* Spin until *word differs from `from`, or until the time is up. True: it differs. */
static inline bool cpu_spin_while(_Atomic uint32_t *word, uint32_t from)
{
    uint64_t deadline = 0;
    for (int i = 0;; i++) {
        if (atomic_load_explicit(word, memory_order_acquire) != from) return true;
        cpu_relax();
        if (i % 16 != 15) continue;
        uint64_t now = clock_ns();
        if (!deadline) deadline = now + CPU_SPIN_NS;
        if (now >= deadline) return false;
    }
}

#endif
