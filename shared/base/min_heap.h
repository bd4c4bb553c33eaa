/* min_heap.h - a binary heap of 64-bit keys in an array of the caller's; the smallest comes first.
 * What belongs to a key goes into its low bits. */
#ifndef LM_BASE_MIN_HEAP_H
#define LM_BASE_MIN_HEAP_H

#include <stddef.h>
#include <stdint.h>

struct min_heap {
    uint64_t *keys; // borrowed; the caller knows how many can be in at once
    size_t count;
};

static inline void min_heap_push(struct min_heap *h, uint64_t key)
{
    size_t i = h->count++;
    for (; i > 0 && key < h->keys[(i - 1) / 2]; i = (i - 1) / 2)
        h->keys[i] = h->keys[(i - 1) / 2];
    h->keys[i] = key;
}

/* Not on an empty heap. */
static inline uint64_t min_heap_pop(struct min_heap *h)
{
    uint64_t top = h->keys[0], key = h->keys[--h->count];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < h->count) {
        if (child + 1 < h->count && h->keys[child + 1] < h->keys[child]) child++;
        if (key <= h->keys[child]) break;
        h->keys[i] = h->keys[child];
        i = child;
    }
    h->keys[i] = key;
    return top;
}

#endif
