/* ring.h - bounded queues between threads, C11 atomics, no locks, no waiting.
 * ring_mpsc: many producers, one consumer (Vyukov's bounded queue). Elements are copied.
 * Full is a result (false), never a wait: the producer decides what to do. */
#ifndef LM_BASE_RING_H
#define LM_BASE_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

struct ring {
    size_t mask;         // capacity - 1, capacity a power of two
    size_t element_size; // bytes
    char *cells;         // each: atomic sequence number, then the element
    size_t cell_size;
    _Alignas(64) atomic_size_t tail; // producers
    _Alignas(64) size_t head;        // consumer only
    atomic_size_t head_published;    // for ring_len, by anyone
};

/* capacity is rounded up to a power of two, at least 2. A struct that embeds a ring needs its
 * alignment: a static or local variable has it, memory from the heap comes from xaligned(). */
void ring_init(struct ring *r, size_t capacity, size_t element_size);
void ring_deinit(struct ring *r);

bool ring_push(struct ring *r, const void *element); // false: full
bool ring_pop(struct ring *r, void *element);        // false: empty
size_t ring_len(const struct ring *r);               // a moment's estimate

#endif
