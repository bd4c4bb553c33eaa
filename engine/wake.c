#include "engine/wake.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

void wake_signal(struct wake *w)
{
    atomic_fetch_add(&w->epoch, 1);
    if (atomic_load(&w->waiting))
        syscall(SYS_futex, &w->epoch, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

unsigned wake_ticket(struct wake *w)
{
    return atomic_load(&w->epoch);
}

void wake_wait(struct wake *w, unsigned ticket)
{
    /* Sequentially consistent on both sides: either we see the new epoch, or the signal sees us. */
    atomic_fetch_add(&w->waiting, 1);
    while (atomic_load(&w->epoch) == ticket)
        syscall(SYS_futex, &w->epoch, FUTEX_WAIT_PRIVATE, ticket, NULL, NULL, 0);
    atomic_fetch_sub(&w->waiting, 1);
}
