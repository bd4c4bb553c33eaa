/* ring.c - Dmitry Vyukov's bounded queue. Each cell's sequence number says whose turn it is:
 *
 *     sequence == position          free, the producer that claims `position` may fill it
 *     sequence == position + 1      filled, the consumer at `position` may take it
 *     sequence == position + cap    free again, one lap later (so cap 1 would make these two alike)
 *
 * Producers claim positions by compare-and-swap on tail; a release store of the sequence publishes
 * the element. A producer that was stopped between claim and publication makes the consumer see
 * "empty" there, although later cells are filled: elements come out in the order of their claims.
 */
#include "shared/base/ring.h"

#include "shared/base/check.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct cell {
    atomic_size_t sequence;
    char element[];
};

static struct cell *cell_at(const struct ring *r, size_t position)
{
    return (struct cell *)(r->cells + (position & r->mask) * r->cell_size);
}

void ring_init(struct ring *r, size_t capacity, size_t element_size)
{
    CHECK(capacity > 0 && capacity <= SIZE_MAX / 4);
    size_t cap = 2;
    while (cap < capacity)
        cap *= 2;
    size_t align = _Alignof(struct cell);
    size_t cell_size = (sizeof(struct cell) + element_size + align - 1) / align * align;
    CHECK(cap <= SIZE_MAX / cell_size - 64);
    *r = (struct ring){.mask = cap - 1, .element_size = element_size, .cell_size = cell_size};
    r->cells = xaligned(cap * cell_size);
    for (size_t i = 0; i < cap; i++)
        atomic_init(&cell_at(r, i)->sequence, i);
    atomic_init(&r->tail, 0);
    atomic_init(&r->head_published, 0);
}

void ring_deinit(struct ring *r)
{
    free(r->cells);
    r->cells = NULL;
}

bool ring_push(struct ring *r, const void *element)
{
    size_t position = atomic_load_explicit(&r->tail, memory_order_relaxed);
    for (;;) {
        struct cell *cell = cell_at(r, position);
        size_t sequence = atomic_load_explicit(&cell->sequence, memory_order_acquire);
        intptr_t turn = (intptr_t)(sequence - position);
        if (turn < 0) return false; // still holds the element of the last lap
        if (turn > 0) {             // another producer took it
            position = atomic_load_explicit(&r->tail, memory_order_relaxed);
        } else if (atomic_compare_exchange_weak_explicit(&r->tail, &position, position + 1,
                                                         memory_order_relaxed,
                                                         memory_order_relaxed)) {
            memcpy(cell->element, element, r->element_size);
            atomic_store_explicit(&cell->sequence, position + 1, memory_order_release);
            return true;
        }
    }
}

bool ring_pop(struct ring *r, void *element)
{
    struct cell *cell = cell_at(r, r->head);
    size_t sequence = atomic_load_explicit(&cell->sequence, memory_order_acquire);
    if (sequence != r->head + 1) return false;
    memcpy(element, cell->element, r->element_size);
    atomic_store_explicit(&cell->sequence, r->head + r->mask + 1, memory_order_release);
    r->head++;
    atomic_store_explicit(&r->head_published, r->head, memory_order_relaxed);
    return true;
}

size_t ring_len(const struct ring *r)
{
    size_t head = atomic_load_explicit(&r->head_published, memory_order_relaxed);
    size_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
    size_t len = tail - head;
    return len <= r->mask + 1 ? len : r->mask + 1; // head read late: the difference may be off
}
