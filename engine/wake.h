/* wake.h - threads sleep until something may have happened; any thread says so. A wake-up that
 * comes between looking and sleeping is not lost:
 *
 *     for (;;) {
 *         unsigned ticket = wake_ticket(w);
 *         if (look_for_work()) continue;
 *         wake_wait(w, ticket);           // returns at once if wake_signal came after the ticket
 *     }
 *
 * Nobody holds anything here: a thread that stops for ever, wherever it is, keeps no other one waiting, which
 * can't be said of a mutex, nor of a condition variable, whose signal may wait for threads that it has woken.
 */
#ifndef LM_ENGINE_WAKE_H
#define LM_ENGINE_WAKE_H

#include <stdatomic.h>

struct wake {
    atomic_uint epoch;   // futex word
    atomic_uint waiting; // threads that are in, or about to enter, the kernel
};

void wake_signal(struct wake *w); // wakes all
unsigned wake_ticket(struct wake *w);
void wake_wait(struct wake *w, unsigned ticket);

#endif
